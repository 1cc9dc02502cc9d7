"""Attack six development models with every attack, to see which of them a suite needs.

    python scripts/study_suites.py

It writes OUTPUT_DIR/choice.json. Interrupt it whenever you like: the same command continues it.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from hf_dtl.cli.terminal import console, run_script
from study.suites import SuiteOptions, choose_suite
from study.tables.suites import suite_table


def main(options: SuiteOptions) -> None:
    console(width=160).print(suite_table(choose_suite(options)).rich())


if __name__ == "__main__":
    run_script(SuiteOptions, main)
