"""What every command does around its work: read the options, and end with a message instead of a traceback."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hf_dtl.cli.parsing import Command
from hf_dtl.errors import DTLError


def run_command(
    command: Command,
    work: Callable[[Any], None],
    words: Sequence[str],
    again: str = "Start the same command again",
    failed: int = 1,
) -> None:
    """Read the words of a command line and do the work; an error of the library ends it with its text.

    Args:
        command: what the words may say.
        work: is called with the options.
        words: without the name of the program.
        again: what continues it after Ctrl-C, as the beginning of a sentence.
        failed: status after an error of the library.
    """
    try:
        work(command.parse(words))
    except DTLError as error:
        text = f"{type(error).__name__}: {error}"
        if failed == 1:
            sys.exit(text)
        print(text, file=sys.stderr)
        sys.exit(failed)
    except KeyboardInterrupt:
        sys.exit(f"Interrupted. {again} to continue.")


def run_script(options: type, main: Callable[[Any], None], again: str = "Start the same command again") -> None:
    """The same for a program of its own: the command line of this process, read into its dataclass.

    Args:
        options: dataclass whose fields are made by `hf_dtl.options.option`.
        main: the program's work.
        again: see `run_command`.
    """
    about = sys.modules[main.__module__].__doc__ or ""
    run_command(Command(Path(sys.argv[0]).name, options, about.strip()), main, sys.argv[1:], again)
