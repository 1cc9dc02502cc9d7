"""`hf-dtl verify`: does a published model hold what its own report says?"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hf_dtl.cli.parsing import Command
from hf_dtl.cli.terminal import console, end_processes, run_command, say
from hf_dtl.pipeline.audit_options import VerifyOptions

COMMAND = Command(
    "hf-dtl verify",
    VerifyOptions,
    description="""\
Verify a published model: its files are compared with its report by hash, and the report's suite
attacks it anew. What nobody checked is listed.
It ends with status 0 when the report holds, 1 when it does not, and 2 on bad input.
Finished attacks are kept: the same command continues an interrupted verification.
""",
    examples="""\
hf-dtl verify user/scrubbed
hf-dtl verify user/scrubbed --undisposed ./undisposed --retrained ./retrained
hf-dtl verify ./scrubbed --attacks full --budgets 5 --forget "./photos[cat,dog]"
""",
    places=("model",),
)


def start(words: Sequence[str], **changed: Any) -> None:
    """Run the command.

    Args:
        words: of the command line.
        **changed: of `COMMAND`, for a script with defaults or a name of its own.
    """
    run_command(replace(COMMAND, **changed), work, words, failed=2)


def work(options: VerifyOptions) -> None:
    """Verify, print, and end with the status that says whether the report holds."""
    from accelerate import PartialState

    from hf_dtl.models.loading import quiet
    from hf_dtl.pipeline.verify import run

    quiet()
    found, state = run(options), PartialState()
    if state.is_main_process:
        console().print(found.table().rich())
        say(*found.sentences())
    end_processes(state)
    sys.exit(0 if found.holds else 1)
