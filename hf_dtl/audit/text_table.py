"""A table as text, for the terminal and for Markdown, and how its numbers are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from hf_dtl.audit.axis_leakage import FLOORS, Average, PLAccuracy, Ratio

if TYPE_CHECKING:
    from hf_dtl.audit.report import LeakageReport

AXIS_TITLES = {"source_subset": "source subset", "novel_downstream": "novel task"}
MODELS = ("undisposed", "scrubbed", *FLOORS)
NOT_MEASURED = "not measured"


class _Whole(Table):
    """A table that breaks its cells where the terminal is too narrow for them: Rich would cut them."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.__rich_measure__(console, options.update(width=10_000)).minimum > options.max_width:
            for column in self.columns:
                column.no_wrap = False
        yield from super().__rich_console__(console, options)


@dataclass(frozen=True)
class TextTable:
    """A table as text: a title, column headings, rows, and notes below it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def rich(self) -> Table:
        """Give the table for a terminal of 100 columns."""
        # As `Text`: in a plain string, Rich would take class names in brackets for markup and swallow them.
        caption = Text("\n".join(self.notes)) if self.notes else None
        look: dict[str, Any] = {"box": SIMPLE_HEAD, "show_edge": False, "padding": (0, 1, 0, 0)}
        table = _Whole(title=Text(self.title), caption=caption, caption_justify="left", **look)
        # Where the numbers leave room for the first column, only that is wrapped; no cell is ever cut.
        headings = [self.columns[0], *(column.replace(" ", "\n", 1) for column in self.columns[1:])]
        lines = ["\n".join(column).split("\n") for column in zip(headings, *self.rows, strict=True)]
        whole = sum(1 + max(map(len, cells)) for cells in lines[1:]) <= 88
        for i, heading in enumerate(headings):
            table.add_column(heading, justify="right" if i else "left", no_wrap=whole and i > 0, overflow="fold")
        above = ""
        for first, *rest in self.rows:
            table.add_row(Text(first if first != above else ""), *map(Text, rest))
            above = first
        return table

    def markdown(self) -> str:
        """Give the table as GitHub Markdown, the notes as a paragraph below it."""
        rule = [":--", *["--:"] * (len(self.columns) - 1)]
        rows = [self.columns, rule, *self.rows]
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        return "\n".join([*lines, *(f"\n{note}" for note in self.notes)])


def with_deviation(mean: float | None, deviation: float | None) -> str:
    """Write a number with its deviation, three decimals each; `undefined` when there is none."""
    if mean is None:
        return "undefined"
    return f"{mean:.3f}" if deviation is None else f"{mean:.3f} ± {deviation:.3f}"


def interval(ratio: Ratio) -> str:
    """Write the bounds of a leakage; nothing when it is undefined."""
    return "" if ratio.mean is None else f"[{number(ratio.low)}, {number(ratio.high)}]"


def with_interval(ratio: Ratio) -> str:
    """Write a leakage with its bounds."""
    return f"{number(ratio.mean, 'undefined')} {interval(ratio)}".strip()


def number(value: float | None, missing: str = "–") -> str:
    """Write a number with three decimals, or what stands where there is none."""
    return missing if value is None else f"{value:.3f}"


def average(value: PLAccuracy | Average | None, *, deviation: bool = True) -> str:
    """Write an accuracy over seeds, or a dash where there is none."""
    return number(None) if value is None else with_deviation(value.mean, value.deviation if deviation else None)


def accuracy_pair(report: LeakageReport, role: str) -> tuple[str, str]:
    """Write the accuracies of a model on the target and the source task."""
    return number(report.target_accuracy[role], NOT_MEASURED), number(report.source_accuracy[role], NOT_MEASURED)


def mark(report: LeakageReport) -> str:
    """The sign that stands behind a method or a target accuracy when the target is destroyed."""
    return " †" if report.target_destroyed else ""
