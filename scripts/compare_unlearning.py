"""Compare unlearning methods on one data set and model, with the same tuning budget for each, over several seeds.

    python scripts/compare_unlearning.py --setting fashion_vit
    python scripts/compare_unlearning.py --setting fashion_resnet --seeds 0,1 --methods salun,ssd
    python scripts/compare_unlearning.py --setting cifar_vit --data_dir cifar10/ --requests "class=cat;random=500"

It writes OUTPUT_DIR/table.md, results.json and gap.png/.svg. Interrupt it whenever you like: the same command
continues it and repeats no finished trial, also with more seeds, methods or requests.
"""

import os

# Every process trains one small network with one thread, and tells its progress by one line a trial.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")


from hf_dtl.cli.terminal import console, run_script
from study.tables.unlearning import table
from study.unlearning import ComparisonOptions, compare


def main(options: ComparisonOptions) -> None:
    comparisons = compare(options, lambda line: print(line, flush=True))
    terminal = console(width=180)
    terminal.print(*(table(one).rich() for one in comparisons))


if __name__ == "__main__":
    run_script(ComparisonOptions, main)
