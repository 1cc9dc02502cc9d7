"""Compare ways to remove a task where the weights matter: what each keeps of transfer's benefit, and what it leaks.

    python scripts/study_removal.py --setting families
    python scripts/study_removal.py --setting families --parallel 15 --minutes 7
    python scripts/study_removal.py --setting cifar --data_dir outputs/cifar --seeds 1,2 --finalists labels,labels@100

It writes OUTPUT_DIR/table.md, results.json and removal.png/.svg. A piece is one model of one seed, trained and then
attacked. Interrupt it whenever you like: the same command continues it and repeats no finished piece.
"""

import os

# Every process trains one small network with one thread, and tells its progress by one line a trial.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")


from hf_dtl.cli.terminal import console, run_script
from study.removal import RemovalOptions, study_removal
from study.tables.removal import gate_line, main_table, rows_table


def main(options: RemovalOptions) -> None:
    summary = study_removal(options, lambda line: print(line, flush=True))
    if summary is not None:
        terminal = console(width=200)
        terminal.print(gate_line(summary.gate))
        if summary.screened:
            terminal.print(rows_table("Screening", summary.screened).rich())
        if summary.rows:
            terminal.print(main_table(summary).rich())


if __name__ == "__main__":
    run_script(RemovalOptions, main)
