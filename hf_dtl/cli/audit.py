"""`hf-dtl audit`: attack a scrubbed classifier beside the one before disposal."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_dtl.audit.attacks.registry import attack_summaries
from hf_dtl.cli.parsing import Command
from hf_dtl.cli.terminal import end_processes, run_command, show_names, show_reports
from hf_dtl.pipeline.audit_options import AuditOptions

COMMAND = Command(
    "hf-dtl audit",
    AuditOptions,
    description="""\
Audit a scrubbed classifier: how well can it be taught again what it was to forget?
The models are Hub ids or folders with safetensors weights; they need not be made by this library.
A finished attack is stored at once: the same command with --resume continues an interrupted audit.
--list names the attacks.
""",
    examples="""\
hf-dtl audit user/scrubbed --undisposed user/original --forget "cifar10[cat]" --retain "cifar10[car]"
hf-dtl audit ./scrubbed --undisposed ./original --forget "mnist[0-5]" --attacks all --resume
hf-dtl audit ./scrubbed --undisposed ./original --forget class=3 --retain fashion_mnist
accelerate launch -m hf_dtl.cli audit ./scrubbed --undisposed ./original --forget "mnist[0-5]"
""",
    places=("scrubbed",),
)


def start(words: Sequence[str], **changed: Any) -> None:
    """Run the command.

    Args:
        words: of the command line.
        **changed: of `COMMAND`, for a script with defaults or a name of its own.
    """
    if "--list" in words:
        show_names(attack_summaries())
    else:
        run_command(replace(COMMAND, **changed), work, words, again="Start the same command with --resume")


def work(options: AuditOptions) -> None:
    """Attack and print."""
    from accelerate import PartialState

    from hf_dtl.pipeline.audit import run

    report, state = run(options), PartialState()
    if state.is_main_process:
        show_reports([report], Path(options.output_dir), "Report, tables, plots and finished attacks")
    end_processes(state)
