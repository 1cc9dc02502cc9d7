"""Study how well single images are forgotten with nothing but the model and the images, over k and over variants.

    python scripts/study_instances.py --setting fashion_vit
    python scripts/study_instances.py --setting fashion_resnet --sizes 16,64 --variants none,both,both:epsilon=1
    python scripts/study_instances.py --setting cifar_vit --data_dir cifar10/

It writes OUTPUT_DIR/table.md, results.json and instances.png/.svg. Interrupt it whenever you like: the same command
continues it and repeats no finished trial, also with more seeds, sizes or variants. The folder also holds the
adversarial examples, which look like what is to be forgotten.
"""

import os

# Every process trains one small network with one thread, and tells its progress by one line a trial.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")


from hf_dtl.cli.terminal import console, run_script
from study.instances import InstanceStudyOptions, study_instances
from study.tables.instances import table


def main(options: InstanceStudyOptions) -> None:
    requests = study_instances(options, lambda line: print(line, flush=True))
    terminal = console(width=180)
    terminal.print(*(table(one).rich() for one in requests))


if __name__ == "__main__":
    run_script(InstanceStudyOptions, main)
