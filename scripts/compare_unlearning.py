"""Compare unlearning methods on one data set and model, with the same tuning budget for each, over several seeds.

    python scripts/compare_unlearning.py --setting fashion_vit
    python scripts/compare_unlearning.py --setting fashion_resnet --seeds 0,1 --methods salun,ssd
    python scripts/compare_unlearning.py --setting cifar_vit --data_dir cifar10/ --requests "class=cat;random=500"

It writes OUTPUT_DIR/table.md, results.json and gap.png/.svg. Interrupt it whenever you like: the same command
continues it and repeats no finished cell, also with more seeds, methods or requests.
"""

import os

# Every process trains one small network with one thread, and tells its progress by one line a cell.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")


from hf_dtl.cli.terminal import console, run_script
from study.tables.unlearning import cells
from study.unlearning import ComparisonOptions, compare


def main(options: ComparisonOptions) -> None:
    found = compare(options, lambda line: print(line, flush=True))
    shown = console(width=180)
    shown.print(*(cells(one).rich() for one in found))


if __name__ == "__main__":
    run_script(ComparisonOptions, main)
