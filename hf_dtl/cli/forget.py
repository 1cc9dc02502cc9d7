"""`hf-dtl forget`: scrub a task, a part of one or some of several out of a classifier, and attack the result."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any

from hf_dtl.cli.parsing import Command
from hf_dtl.cli.terminal import CLAIM, end_processes, run_command, say, show_names, show_reports, spelled
from hf_dtl.methods.registry import method_summaries
from hf_dtl.pipeline.forget_options import ForgetOptions
from hf_dtl.pipeline.options import ANY_SUITE

COMMAND = Command(
    "hf-dtl forget",
    ForgetOptions,
    description="""\
Make an image classifier forget, attack the result, and save it with its leakage report and card.
Without options it runs offline: the style of rendered glyphs is forgotten, four letters are kept.
--retain is fashion_mnist where a part is forgotten (class=3), and glyphs with --method multitask.
Start it again with the same options to continue an interrupted run. --list names the methods.
""",
    examples="""\
hf-dtl forget
hf-dtl forget user/classifier --forget "photos[cat,dog]" --retain "photos[car,ship]" --method scrub
hf-dtl forget ./classifier --retain ./photos --forget person=ann --reference retrain
hf-dtl forget --retain glyphs --method multitask --forget random=5% --forget_tasks letter,case
accelerate launch --num_processes 2 -m hf_dtl.cli forget --use_cpu
""",
    places=("model",),
)


def start(words: Sequence[str], **changed: Any) -> None:
    """Run the command.

    Args:
        words: of the command line.
        **changed: of `COMMAND`, for a script with defaults or a name of its own.
    """
    if "--list" in words:
        show_names(method_summaries())
    else:
        run_command(replace(COMMAND, **changed), work, words)


def work(options: ForgetOptions) -> None:
    """Say what will be done, forget, audit and print."""
    from hf_dtl.pipeline.forget import open_job, scrubbed_by
    from hf_dtl.pipeline.outlook import outlook

    job = open_job(options)
    if job.state.is_main_process:
        say(outlook(job))
    result = scrubbed_by(job)
    reports = result.audit_all()
    if job.state.is_main_process:
        show_reports(
            reports, f"Scrubbed model, card, report and plots: {result.folder}", _next(options, result.folder)
        )
    end_processes(job.state)


def _next(options: ForgetOptions, folder: Path) -> dict[str, str]:
    """Commands to try on what a run left, by what each is for."""
    from hf_dtl.data.selection import is_there
    from hf_dtl.pipeline.part_job import LAYER_INPUTS

    data = [(name, getattr(options, name) or "") for name in ("forget", "retain", "novel")]
    own = "".join(f" --{name} {quote(text)}" for name, text in data if text and is_there(text.partition("[")[0]))
    found, place = {}, quote(str(folder))
    if options.kind != "tasks" and options.suite not in (CLAIM, "full-1"):
        # in the same folder: what is finished is not repeated
        found["what a claim takes"] = spelled(
            COMMAND.prog, options, options.plain(), **ANY_SUITE, suite=CLAIM, output_dir=str(folder)
        )
    found["run the report's attacks again and compare"] = f"hf-dtl verify {place}/scrubbed{own}"
    found["see what would be published"] = f"hf-dtl publish {place} USER/NAME --dry_run"
    if (folder / LAYER_INPUTS).exists():
        found["a later request on the scrubbed model, without retain images"] = (
            f"hf-dtl forget {place}/scrubbed --retain {quote(str(options.retain))} --forget REQUEST "
            f"--method projected_gradient:subspace_file={place}/{LAYER_INPUTS}"
        )
    return found
