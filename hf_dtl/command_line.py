"""What every script does around its work: read the options, and end with a message instead of a traceback."""

import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from rich.console import Console
from transformers import HfArgumentParser

from hf_dtl.audit import LeakageReport, comparison_table, table
from hf_dtl.errors import DTLError


def run_script(options: type, main: Callable[[Any], None], again: str = "Start the same command again") -> None:
    """Read the command line into a dataclass and call `main` with it; an error of the library ends it with its text.

    Args:
        options: dataclass whose fields have help texts.
        main: the script's work.
        again: what continues it after Ctrl-C, as the beginning of a sentence.
    """
    try:
        parser = HfArgumentParser(options)
        arguments, unknown = parser.parse_args_into_dataclasses(return_remaining_strings=True)  # may refuse a value
        if unknown:
            print(_unknown(unknown[0], parser), file=sys.stderr)
            sys.exit(2)
        main(arguments)
    except DTLError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"Interrupted. {again} to continue.")


def _unknown(word: str, parser: HfArgumentParser) -> str:
    """What is wrong with a word that no option takes."""
    name, known = word.partition("=")[0], [name for action in parser._actions for name in action.option_strings]
    near = get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    what = "option" if word.startswith("-") else "argument"
    return f"There is no {what} {name!r}. {hint}--help lists all options."


def console(width: int = 120) -> Console:
    """The terminal; for a file or pipe Rich would take 80 columns and break the tables.

    Args:
        width: columns where there is no terminal.
    """
    return Console() if sys.stdout.isatty() else Console(width=width)


def show_reports(reports: Sequence[LeakageReport], folder: Path) -> None:
    """Print the tables of every report, the methods side by side where there are several, and where it all lies."""
    shown = console()
    for report in reports:
        shown.print(*table(report))
    if len(reports) > 1:
        shown.print(comparison_table(reports))
    shown.print(f"Scrubbed model, card, report and plots: {folder}", highlight=False)


def end_processes(state: PartialState) -> None:
    """Wait for all processes, and leave their group."""
    state.wait_for_everyone()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
