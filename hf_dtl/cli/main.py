"""`hf-dtl COMMAND`: the first word says what is done, and the module of that name does it."""

import sys
from collections.abc import Sequence
from importlib import import_module

from hf_dtl.cli.parsing import refuse
from hf_dtl.options import nearest

COMMANDS = {
    "forget": "Make an image classifier forget, attack the result, and save it with its report.",
    "audit": "Audit a scrubbed classifier: how well can it be taught again what it was to forget?",
    "verify": "Verify a published model against its own report.",
    "publish": "Publish a scrubbed model on the Hub, with its card, report and plots.",
    "metrics": "Make the metrics loadable by name in `evaluate`.",
}


def main(words: Sequence[str] | None = None) -> None:
    """Run a command.

    Args:
        words: of the command line; default: those of this process.
    """
    words = sys.argv[1:] if words is None else words
    if not words or words[0] in ("-h", "--help"):
        print("usage: hf-dtl COMMAND [OPTIONS]\n\nScrub a task out of an image classifier, and prove how much is left.\n")
        print(*(f"  {name:<8}  {about}" for name, about in COMMANDS.items()), sep="\n")
        print("\n`hf-dtl COMMAND --help` tells the options of each.")
        return
    if words[0] == "--version":
        from hf_dtl import __version__

        print(__version__)
        return
    if words[0] not in COMMANDS:
        refuse(f"There is no command {words[0]!r}.{nearest(words[0], COMMANDS)} There are: {', '.join(COMMANDS)}.")
    import_module(f"hf_dtl.cli.{words[0]}").start(words[1:])
