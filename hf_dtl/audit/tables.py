"""The report as tables, for the terminal and for Markdown; both show the same cells."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from hf_dtl.audit.leakage import PLAccuracy, Ratio
from hf_dtl.audit.report import LeakageReport
from hf_dtl.errors import DataError

AXIS_TITLES = {"source_subset": "source subset", "novel_downstream": "novel task"}
MODELS = ("undisposed", "scrubbed", "scratch", "retrained")


@dataclass(frozen=True)
class Cells:
    """A table as text: a title, column headings, rows, and notes below it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def rich(self) -> Table:
        """Give the table for a terminal of 100 columns."""
        # As `Text`: in a plain string, Rich would take class names in brackets for markup and swallow them.
        table = Table(
            title=Text(self.title),
            caption=Text("\n".join(self.notes)) if self.notes else None,
            caption_justify="left",
            box=SIMPLE_HEAD,
            show_edge=False,
            padding=(0, 1, 0, 0),
        )
        # Up to 7 columns leave room for the first one, so only that is wrapped; no cell is ever cut.
        for i, column in enumerate(self.columns):
            whole = 0 < i and len(self.columns) <= 7
            heading = column.replace(" ", "\n", 1) if i else column
            table.add_column(heading, justify="right" if i else "left", no_wrap=whole, overflow="fold")
        for row in self.rows:
            table.add_row(*map(Text, row))
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


def _pl(point: PLAccuracy | None) -> str:
    return "–" if point is None else with_deviation(point.mean, point.deviation)


def _ratio(ratio: Ratio) -> str:
    return with_deviation(ratio.mean, ratio.deviation)


def accuracy_cells(report: LeakageReport) -> Cells:
    """Accuracy of both tasks before and after disposal, and the leakage."""
    target, source = report.target_accuracy, report.source_accuracy
    rows = (
        ("target accuracy", f"{target['undisposed']:.3f}", f"{target['scrubbed']:.3f}"),
        ("source accuracy", f"{source['undisposed']:.3f}", f"{source['scrubbed']:.3f}"),
        ("leakage over scratch", "1.000", _ratio(report.leakage)),
        ("leakage over retrained", "1.000", _ratio(report.leakage_over_retrained)),
    )
    return Cells(f"{report.method}, seed {report.seed}", ("", "undisposed", "scrubbed"), rows, _notes(report))


def _notes(report: LeakageReport) -> tuple[str, ...]:
    notes = []
    if report.target_destroyed:
        notes.append(f"Target destroyed: its accuracy fell by more than {report.target_margin:.3f}.")
    for floor, ratio in (("scratch", report.leakage), ("retrained", report.leakage_over_retrained)):
        if ratio.undefined is not None:
            notes.append(f"Leakage over {floor} is undefined: {ratio.undefined}.")
        elif ratio.mean is not None and ratio.mean > 1:
            notes.append(f"Leakage over {floor} above 1: relearned at least as well as the undisposed model.")
        elif ratio.mean is not None and ratio.mean < 0:
            notes.append(f"Leakage over {floor} below 0: relearned worse than the {floor} model.")
    return tuple(notes)


def piggyback_cells(report: LeakageReport) -> Cells:
    """PL accuracy of the four models at every budget under the strongest attack, mean ± deviation over seeds."""
    rows = []
    for axis, found in report.axes.items():
        points = {(p.dataset, p.budget, p.model): p for p in found.pl_accuracy}
        for dataset, budget in dict.fromkeys((p.dataset, p.budget) for p in found.pl_accuracy):
            cells = [_pl(points.get((dataset, budget, model))) for model in MODELS]
            rows.append((f"{AXIS_TITLES[axis]}: {dataset}", str(budget), *cells))
    columns = ("PL accuracy", "images/class", *MODELS)
    seeds = len({record.seed for record in report.piggyback})
    note = f"Mean ± deviation over {seeds} seeds; strongest attack and learning rate chosen on validation images."
    return Cells("Piggyback learning", columns, tuple(rows), (note,))


def table(report: LeakageReport) -> list[Table]:
    """Give the report as tables for the terminal, readable at 100 columns."""
    return [accuracy_cells(report).rich(), piggyback_cells(report).rich()]


def markdown_table(report: LeakageReport) -> str:
    """Give the report as Markdown tables."""
    return f"{accuracy_cells(report).markdown()}\n\n{piggyback_cells(report).markdown()}\n"


def comparison_cells(reports: Sequence[LeakageReport]) -> Cells:
    """Several methods side by side, and the references of the first report as rows below them.

    Raises:
        DataError: there is no report, or the reports attacked different data sets or budgets.
    """
    places = [
        tuple(dict.fromkeys((p.dataset, p.budget) for p in r.axes["source_subset"].pl_accuracy))
        if "source_subset" in r.axes
        else ()
        for r in reports
    ]
    if not reports or len(set(places)) > 1 or not places[0]:
        raise DataError(
            f"Only reports with the same attacked source data and budgets compare side by side, got {places}."
        )
    several = len({dataset for dataset, _ in places[0]}) > 1
    rows = []
    for report in reports:
        scrubbed = {
            (p.dataset, p.budget): p for p in report.axes["source_subset"].pl_accuracy if p.model == "scrubbed"
        }
        mark = " †" if report.target_destroyed else ""
        rows.append(
            (
                report.method + mark,
                f"{report.target_accuracy['scrubbed']:.3f}",
                f"{report.source_accuracy['scrubbed']:.3f}",
                *(_pl(scrubbed.get(place)) for place in places[0]),
                _ratio(report.leakage),
                _ratio(report.leakage_over_retrained),
            )
        )
    references = {(p.model, p.dataset, p.budget): p for p in reports[0].axes["source_subset"].pl_accuracy}
    before = (f"{reports[0].target_accuracy['undisposed']:.3f}", f"{reports[0].source_accuracy['undisposed']:.3f}")
    for model in ("undisposed", "scratch", "retrained"):
        cells = [_pl(references.get((model, *place))) for place in places[0]]
        rows.append((f"({model})", *(before if model == "undisposed" else ("", "")), *cells, "", ""))
    headings = [f"PL at {budget}" + (f", {dataset}" if several else "") for dataset, budget in places[0]]
    columns = ("method", "target after", "source after", *headings, "leakage", "leakage over retrained")
    notes = [
        "Accuracy of target and source task after disposal; before it in the row (undisposed).",
        "PL at k: source task relearned from k images a class. Leakage: 1 leaks all, 0 leaks nothing.",
    ]
    if any(report.target_destroyed for report in reports):
        margin = max(report.target_margin for report in reports)
        notes.append(f"† Target destroyed: its accuracy fell by more than {margin:.3f}.")
    return Cells("Methods compared", columns, tuple(rows), tuple(notes))


def comparison_table(reports: Sequence[LeakageReport]) -> Table:
    """Give several methods side by side for the terminal."""
    return comparison_cells(reports).rich()


def comparison_markdown(reports: Sequence[LeakageReport]) -> str:
    """Give several methods side by side as Markdown."""
    return comparison_cells(reports).markdown() + "\n"
