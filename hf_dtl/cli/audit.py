"""`hf-dtl audit`: attack a scrubbed classifier beside the one before disposal."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from hf_dtl.audit.attacks.registry import attack_summaries
from hf_dtl.cli.parsing import Command
from hf_dtl.cli.terminal import CLAIM, end_processes, run_command, say, show_names, show_reports, spelled
from hf_dtl.options import option
from hf_dtl.pipeline.audit_options import AuditOptions
from hf_dtl.pipeline.options import ANY_SUITE, AUDIT, RUN

COMMAND = Command(
    "hf-dtl audit",
    AuditOptions,
    description="""\
Audit a scrubbed classifier: how well can it be taught again what it was to forget?
The models are Hub ids or folders with safetensors weights; they need not be made by this library.
A finished attack is stored at once: the same command with --resume continues an interrupted audit.
--list names the attacks. --example audits two small models that come with the package, in a minute.
""",
    examples="""\
hf-dtl audit user/scrubbed --undisposed user/original --forget "cifar10[cat]" --retain "cifar10[car]"
hf-dtl audit ./scrubbed --undisposed ./original --forget "mnist[0-5]" --attacks all --resume
hf-dtl audit ./scrubbed --undisposed ./original --forget class=3 --retain fashion_mnist
accelerate launch -m hf_dtl.cli audit ./scrubbed --undisposed ./original --forget "mnist[0-5]"
""",
    places=("scrubbed",),
)


@dataclass(kw_only=True)
class ExampleOptions:
    """Options of the audit of the example."""

    output_dir: str = option(
        "hf_dtl_example", "Folder of reports, pictures and finished attacks; continued.", group=RUN
    )
    suite: str = option("quick-1", "Suite of attacks: quick-1, standard-1 or full-1.", group=AUDIT)


EXAMPLE_COMMAND = Command(
    "hf-dtl audit --example",
    ExampleOptions,
    description="Audit two small scrubbed models that come with the package.",
)


def start(words: Sequence[str], **changed: Any) -> None:
    """Run the command.

    Args:
        words: of the command line.
        **changed: of `COMMAND`, for a script with defaults or a name of its own.
    """
    if "--list" in words:
        show_names(attack_summaries())
    elif "--example" in words:
        run_command(EXAMPLE_COMMAND, work_example, [word for word in words if word != "--example"])
    else:
        run_command(replace(COMMAND, **changed), work, words, again="Start the same command with --resume")


def work(options: AuditOptions) -> None:
    """Attack and print."""
    from accelerate import PartialState

    from hf_dtl.pipeline.audit import run

    if options.retrained is None and options.base_model is None and not options.retrain:
        say(
            "Neither --retrained nor --base_model is given, so there will be numbers and no verdict; --retrain trains "
            "that reference here, on the data to keep."
        )
    report, state = run(options), PartialState()
    if state.is_main_process:
        # in the same folder: what is finished is not repeated
        harder = spelled(COMMAND.prog, options, **ANY_SUITE, suite=CLAIM, resume=True)
        show_reports(
            [report],
            f"Report, tables, plots and finished attacks: {options.output_dir}",
            ({} if options.suite in (CLAIM, "full-1") else {"what a claim takes": harder})
            | {
                "scrub a model yourself": "hf-dtl forget --help",
                "every option": "hf-dtl audit --help",
            },
        )
    end_processes(state)


def work_example(options: ExampleOptions) -> None:
    """Audit the models that come with the package, and print."""
    from hf_dtl.audit.suites import find_suite
    from hf_dtl.pipeline.example import audit_example

    find_suite(options.suite)  # before a word that names it
    say(
        "Two scrubbed models were to forget the family of a font, and to keep telling N, Q, R and T. "
        f"They are attacked by {options.suite}."
    )
    leaking, holding = audit_example(options.output_dir, options.suite)
    show_reports(
        [holding, leaking],
        f"Picture of both: {options.output_dir}/comparison.png; reports, tables and more pictures beside it",
        {
            "what a claim takes": f"{EXAMPLE_COMMAND.prog} --suite {CLAIM}",
            "your own two models": 'hf-dtl audit SCRUBBED --undisposed ORIGINAL --forget "DATA[CLASS,CLASS]"',
            "make a model forget, attack it, and write its card": "hf-dtl forget",
            "what else a command can do": "hf-dtl audit --help",
        },
    )
