"""Compare strategies of multi-task unlearning: images forgotten for all tasks of a model, or for some of them.

    python scripts/study_tasks.py --setting glyphs
    python scripts/study_tasks.py --setting fashion_groups --scopes partial --methods interference_aware,salun,scrub

It writes OUTPUT_DIR/table.md, results.json and impact.png/.svg. Interrupt it whenever you like: the same command
continues it and repeats no finished trial, also with more seeds, scopes or methods.
"""

import os

# Every process trains one small network with one thread, and tells its progress by one line a trial.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")


from hf_dtl.cli.terminal import console, run_script
from study.tables.tasks import table
from study.tasks import TaskStudyOptions, study_tasks


def main(options: TaskStudyOptions) -> None:
    scopes = study_tasks(options, lambda line: print(line, flush=True))
    terminal = console(width=180)
    terminal.print(*(table(one).rich() for one in scopes))


if __name__ == "__main__":
    run_script(TaskStudyOptions, main)
