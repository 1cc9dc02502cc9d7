"""`hf-dtl audit`: attack a scrubbed classifier beside the one before disposal."""

from collections.abc import Sequence

from hf_dtl.cli.attacks import attack_summaries, check_attacks
from hf_dtl.cli.parsing import Command
from hf_dtl.cli.running import run_command
from hf_dtl.cli.terminal import end_processes, say, show_names, show_reports
from hf_dtl.pipeline.audit_options import AuditOptions

ABOUT = "Audit a scrubbed classifier: how well can it be taught again what it was to forget?"
DESCRIPTION = f"""{ABOUT}
The models are Hub ids or folders with safetensors weights; they need not be made by this library. A finished attack
is stored at once: the same command with --resume continues an interrupted audit. --list names the attacks."""
EXAMPLES = """\
hf-dtl audit user/scrubbed --undisposed user/original --forget "cifar10[cat,dog]" --retain "cifar10[car,ship]"
hf-dtl audit ./scrubbed --undisposed ./undisposed --forget "mnist[0-5]" --attacks all --resume
hf-dtl audit ./scrubbed --undisposed ./undisposed --forget class=3 --retain fashion_mnist --retrained ./retrained
accelerate launch --num_processes 2 -m hf_dtl.cli audit ./scrubbed --undisposed ./undisposed --forget "mnist[0-5]\""""


def start(words: Sequence[str], prog: str = "hf-dtl audit") -> None:
    """Run the command.

    Args:
        words: of the command line.
        prog: the words that start it.
    """
    if "--list" in words:
        show_names(attack_summaries())
        return
    command = Command(prog, AuditOptions, DESCRIPTION, EXAMPLES, ("scrubbed",))
    run_command(command, work, words, again="Start the same command with --resume")


def work(options: AuditOptions) -> None:
    """Attack and print."""
    check_attacks(options.attacks)
    from accelerate import PartialState

    from hf_dtl.pipeline.audit import run

    report = run(options)
    if PartialState().is_main_process:
        show_reports([report])
        say(f"Report, tables, plots and finished attacks: {options.output_dir}")
    end_processes()
