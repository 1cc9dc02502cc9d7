"""`hf-dtl COMMAND`: the first word says what is done, and the module of that name does it."""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from hf_dtl.cli.parsing import refuse
from hf_dtl.cli.terminal import piped, show_names
from hf_dtl.options import nearest

COMMANDS = ("forget", "audit", "verify", "publish", "metrics")


@piped()
def main(words: Sequence[str] | None = None) -> None:
    """Run a command.

    Args:
        words: of the command line; default: those of this process.
    """
    words = sys.argv[1:] if words is None else words
    if not words or words[0] in ("-h", "--help"):
        print("usage: hf-dtl COMMAND [OPTIONS]\n\nScrub a task out of a classifier, and prove how much is left.\n")
        show_names({f"  {name}": _module(name).__doc__.partition(": ")[2].partition("\n")[0] for name in COMMANDS})
        print("\n`hf-dtl COMMAND --help` tells the options of each.")
        return
    if words[0] == "--version":
        from hf_dtl import __version__

        print(__version__)
        return
    if words[0] not in COMMANDS:
        refuse(f"There is no command {words[0]!r}.{nearest(words[0], COMMANDS)} There are: {', '.join(COMMANDS)}.")
    _module(words[0]).start(words[1:])


def _module(name: str) -> Any:
    return import_module(f"hf_dtl.cli.{name}")
