"""What commands print."""

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from hf_dtl.audit import LeakageReport


def console(width: int = 120) -> "Console":
    """The terminal; for a file or pipe Rich would take 80 columns and break the tables.

    Args:
        width: columns where there is no terminal.
    """
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=width)


def show_reports(reports: Sequence["LeakageReport"]) -> None:
    """Print verdict, tables and notes of every report, and the methods side by side where there are several."""
    from hf_dtl.audit import comparison_table, table

    shown = console()
    for report in reports:
        say(report.verdict)
        shown.print(*table(report))
        say(*report.settings.get("notes", ()))
    if len(reports) > 1:
        shown.print(comparison_table(reports))


def say(*sentences: str) -> None:
    """Print sentences as they are, wrapped at the width of the terminal."""
    for sentence in sentences:
        console().print(sentence, highlight=False, markup=False)


def show_names(about: Mapping[str, str]) -> None:
    """Print names, each with one line about it."""
    width = max(map(len, about))
    for name, line in about.items():
        print(f"{name:<{width}}  {line}".rstrip())


def end_processes() -> None:
    """Wait for all processes, and leave their group."""
    import torch
    from accelerate import PartialState

    PartialState().wait_for_everyone()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
