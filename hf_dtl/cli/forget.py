"""`hf-dtl forget`: scrub a task, a part of one or some of several out of a classifier, and attack the result."""

from collections.abc import Mapping, Sequence
from typing import Any

from hf_dtl.cli.attacks import check_attacks
from hf_dtl.cli.parsing import Command, check_choices
from hf_dtl.cli.running import run_command
from hf_dtl.cli.terminal import end_processes, say, show_names, show_reports
from hf_dtl.methods.registry import method_names, method_summaries
from hf_dtl.pipeline.forget_options import ForgetOptions

ABOUT = "Make an image classifier forget, attack the result, and save it with its leakage report and card."
DESCRIPTION = f"""{ABOUT}
Without options it runs offline on embedded data: MNIST digits 0-5 are forgotten, 6-9 are kept. Start it again with
the same options to continue an interrupted run. --list names the methods."""
EXAMPLES = """\
hf-dtl forget
hf-dtl forget user/classifier --forget "photos[cat,dog]" --retain "photos[car,ship]" --method scrub
hf-dtl forget ./classifier --retain ./photos --forget person=ann --reference retrain
hf-dtl forget --retain glyphs --method multitask --forget random=5% --forget_tasks letter,case
accelerate launch --num_processes 2 -m hf_dtl.cli forget --use_cpu"""


def start(
    words: Sequence[str],
    prog: str = "hf-dtl forget",
    defaults: Mapping[str, Any] | None = None,
    required: tuple[str, ...] = (),
) -> None:
    """Run the command.

    Args:
        words: of the command line.
        prog: the words that start it.
        defaults: options in place of the usual ones.
        required: options that must be given.
    """
    if "--list" in words:
        show_names(method_summaries())
        return
    command = Command(prog, ForgetOptions, DESCRIPTION, EXAMPLES, ("model",), defaults or {}, required)
    run_command(command, work, words)


def work(options: ForgetOptions) -> None:
    """Forget, audit and print."""
    check_choices("method", options.method, method_names(), "method")
    check_attacks(options.attacks)
    from hf_dtl.pipeline.forget import run
    from hf_dtl.pipeline.part_job import LAYER_INPUTS

    result = run(options)
    reports = result.audit_all()
    if result.job.state.is_main_process:
        show_reports(reports)
        say(f"Scrubbed model, card, report and plots: {result.folder}")
        kept = result.folder / LAYER_INPUTS
        if kept.exists():
            say(
                "For a later request on the scrubbed model, without retain images: "
                f"--method projected_gradient:subspace_file={kept}"
            )
    end_processes()
