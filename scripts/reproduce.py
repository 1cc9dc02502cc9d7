"""Compare all methods on one setting, with the same tuning budget for each, over several seeds.

    python scripts/reproduce.py --setting mnist_vit
    python scripts/reproduce.py --setting mnist_resnet --seeds 0,1 --methods gradient_collision,negative_ce:cap=5
    python scripts/reproduce.py --setting cifar_dinov2 --data_dir cifar10/ --model facebook/dinov2-small --workers 1

It writes OUTPUT_DIR/table.md, results.json and tradeoff.png/.svg. Interrupt it whenever you like: the same command
continues it and repeats no finished trial, also with more seeds, methods, attacks or budgets.
"""

import os

# Every process trains one small network with one thread, and tells its progress by one line a trial.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")


from hf_dtl.cli.terminal import console, run_script
from study.main_job import StudyOptions, reproduce
from study.tables.main_job import main_table


def main(options: StudyOptions) -> None:
    summary = reproduce(options, lambda line: print(line, flush=True))
    terminal = console(width=160)
    terminal.print(main_table(summary).rich())


if __name__ == "__main__":
    run_script(StudyOptions, main)
