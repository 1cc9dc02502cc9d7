"""Audit any two image classifiers: how well can the scrubbed one be taught again what it was to forget?

    python scripts/audit.py --scrubbed user/scrubbed --undisposed user/original --source_dataset "cifar10[cat,dog]" \
        --target_dataset "cifar10[car,ship]" --output_dir outputs/audit
    python scripts/audit.py --scrubbed ./scrubbed --undisposed ./undisposed --source_dataset "mnist[0-5]" \
        --attacks all --retrained ./retrained --resume

Two processes on a machine without a GPU:

    accelerate launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no \
        scripts/audit.py --use_cpu True --scrubbed ./scrubbed --undisposed ./undisposed --source_dataset "mnist[0-5]"

Does a published model hold what its own report says? The weights are compared by hash, the attacks are run again:

    python scripts/audit.py --verify user/scrubbed
    python scripts/audit.py --verify ./scrubbed --attacks full --budgets 5 --source_dataset "./photos[cat,dog]"

It ends with status 0 when the report holds, 1 when it does not, and 2 on bad input.

The models are Hub ids or folders with safetensors weights; they need not be made by this library. A finished attack is
stored at once: the same command with --resume continues an interrupted audit.
"""

import sys

import torch
import transformers
from accelerate import PartialState

from hf_dtl.audit import LeakageReport, table
from hf_dtl.audit_job import AuditJob
from hf_dtl.audit_options import AuditOptions
from hf_dtl.audit_results import leakage_report, write_outputs
from hf_dtl.command_line import console, run_script
from hf_dtl.errors import DTLError
from hf_dtl.processes import together
from hf_dtl.verify import VerifyOptions, verify


def main(options: AuditOptions) -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()  # of reading weights
    job = AuditJob(options)
    records = job.attack()

    def finish() -> None:
        if job.state.is_main_process:
            report = leakage_report(job, records)
            write_outputs(report, job.run.folder)
            show(report)
            print(f"Report, tables, plots and finished attacks: {job.run.folder}")

    together(finish)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def show(report: LeakageReport) -> None:
    shown = console()
    shown.print(*table(report))
    for note in report.settings["notes"]:
        shown.print(note, highlight=False, markup=False)


def check(options: VerifyOptions) -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()  # of reading weights
    try:
        found = verify(options)
    except DTLError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)  # 1 says that the report does not hold
    if PartialState().is_main_process:
        shown = console()
        shown.print(found.cells().rich())
        for sentence in found.sentences():
            shown.print(sentence, highlight=False, markup=False)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    sys.exit(0 if found.holds else 1)


if __name__ == "__main__":
    if any(word.partition("=")[0] == "--verify" for word in sys.argv[1:]):
        run_script(VerifyOptions, check)
    else:
        run_script(AuditOptions, main, again="Start the same command with --resume")
