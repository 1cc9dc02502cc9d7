"""`hf-dtl verify`: does a published model hold what its own report says?"""

import sys
from collections.abc import Sequence

from hf_dtl.cli.attacks import check_attacks
from hf_dtl.cli.parsing import Command
from hf_dtl.cli.running import run_command
from hf_dtl.cli.terminal import console, end_processes, say
from hf_dtl.pipeline.audit_options import VerifyOptions

ABOUT = "Verify a published model: its weights are compared with its report by hash, its attacks are run again."
DESCRIPTION = f"""{ABOUT}
It ends with status 0 when the report holds, 1 when it does not, and 2 on bad input. Finished attacks are kept: the
same command continues an interrupted verification."""
EXAMPLES = """\
hf-dtl verify user/scrubbed
hf-dtl verify ./scrubbed --attacks full --budgets 5 --forget "./photos[cat,dog]\""""


def start(words: Sequence[str], prog: str = "hf-dtl verify") -> None:
    """Run the command.

    Args:
        words: of the command line.
        prog: the words that start it.
    """
    run_command(Command(prog, VerifyOptions, DESCRIPTION, EXAMPLES, ("model",)), work, words, failed=2)


def work(options: VerifyOptions) -> None:
    """Verify, print, and end with the status that says whether the report holds."""
    check_attacks(options.attacks)
    from accelerate import PartialState

    from hf_dtl.models.loading import quiet
    from hf_dtl.pipeline.verify import run

    quiet()
    found = run(options)
    if PartialState().is_main_process:
        console().print(found.cells().rich())
        say(*found.sentences())
    end_processes()
    sys.exit(0 if found.holds else 1)
