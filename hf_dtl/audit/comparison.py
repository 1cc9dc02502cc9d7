"""Several methods side by side."""

from collections.abc import Sequence

from rich.table import Table

from hf_dtl.audit.axis_leakage import AxisLeakage
from hf_dtl.audit.report import LeakageReport
from hf_dtl.audit.tables import floors, halving_note, interval_note, models_of
from hf_dtl.audit.task_tables import task_table
from hf_dtl.audit.text_table import TextTable, accuracy_pair, average, mark, number, with_interval
from hf_dtl.audit.unlearning import GAP_SPLITS
from hf_dtl.errors import DataError


def methods_table(reports: Sequence[LeakageReport], *, narrow: bool = False) -> TextTable:
    """Several methods side by side, and the references of the first report as rows below them.

    Args:
        reports: one report a method.
        narrow: leave room for four budgets and the methods' names on 100 columns: without SLC-AUC, deviations of
            PL accuracy, and the interval of the leakage over the other floor than the headline's.

    Returns:
        The table.

    Raises:
        DataError: there is no report, or the reports attacked different data sets or budgets.
    """
    if reports and all(report.tasks is not None for report in reports):
        return task_table(reports)
    if reports and all(report.unlearning is not None for report in reports):
        return unlearning_methods_table(reports)
    axes = [report.axes.get("source_subset") for report in reports]
    places = [found.places if found else () for found in axes]
    if not axes or axes[0] is None or len(set(places)) > 1:
        raise DataError(
            f"Only reports with the same attacked source data and budgets compare side by side, got {places}."
        )

    def learned(axis: AxisLeakage, model: str) -> list[str]:
        """PL accuracy of one model at every place, and its SLC-AUC unless the table is narrow."""
        points = axis.points(model)
        cells = [average(points.get(place), deviation=not narrow) for place in places[0]]
        return cells if narrow else [*cells, average(axis.slc_auc.get(model))]

    rows, shown = [], floors(reports)
    shown = shown[:2] if narrow else shown
    for report in reports:
        target, source = accuracy_pair(report, "scrubbed")
        first = (report.method + mark(report), target + mark(report), source)
        ratios = [report.over(floor) for floor in shown]
        last = [number(r.mean, "undefined") if narrow else with_interval(r) for r in ratios[1:]]
        scrubbed = learned(report.axes["source_subset"], "scrubbed")
        rows.append((*first, *scrubbed, with_interval(ratios[0]), *last))
    for model in (m for m in models_of(reports) if m != "scrubbed"):
        measured = accuracy_pair(reports[0], model) if model == "undisposed" else ("", "")
        rows.append((f"({model})", *measured, *learned(axes[0], model), *[""] * len(shown)))
    if narrow:
        rows = [tuple(cell.replace(" [", "\n[").replace("not measured", "not\nmeasured") for cell in r) for r in rows]
    several = len(axes[0].datasets) > 1
    headings = [f"PL at {budget}" + (f", {dataset}" if several else "") for dataset, budget in places[0]]
    headings += [] if narrow else ["SLC-AUC"]
    last = [f"over {floor}" if narrow else f"leakage over {floor}" for floor in shown[1:]]
    columns = ("method", "target after", "source after", *headings, f"leakage over {shown[0]}", *last)
    return TextTable("Methods compared", columns, tuple(rows), _notes(reports, narrow))


def unlearning_methods_table(reports: Sequence[LeakageReport]) -> TextTable:
    """Several methods that unlearned the same images side by side, and the references below them."""
    if len({report.unlearning.request for report in reports if report.unlearning}) != 1:
        raise DataError("Only reports on the same request compare side by side.")
    rows = [_unlearning_row(report, "scrubbed", report.method + mark(report)) for report in reports]
    rows += [_unlearning_row(reports[0], model, f"({model})") for model in ("undisposed", "retrained")]
    notes = [
        "Accuracy on forget and retain (training images) and test images; gap: their mean distance to retrained.",
        "MIA: AUC of telling forgotten from unseen images by their loss; 0.5 is guessing, retrained is the goal.",
        "PL: mean accuracy after relearning, strongest attack; leakage: 1 leaks all, 0 as the best floor.",
    ]
    notes += dict.fromkeys(report.attacked_by for report in reports)
    if any(report.target_destroyed for report in reports):
        notes.append("† The retained task is destroyed: its accuracy fell by more than the margin.")
    columns = ("method", "forget", "retain", "test", "gap", "MIA", "PL", "leakage", "CPU s")
    rows = [row for row in rows if any(cell != "–" for cell in row[1:])]
    return TextTable("Methods compared", columns, tuple(rows), tuple(notes))


def _unlearning_row(report: LeakageReport, model: str, title: str) -> tuple[str, ...]:
    found = report.unlearning
    assert found is not None
    measured = [found.accuracy[split].get(model) for split in GAP_SPLITS]
    gap = found.average_gap(model) if model in found.accuracy["forget"] else None
    auc = [row["auc"] for row in report.membership if (row["model"], row["attack"]) == (model, "loss")]
    points = [point.mean for point in report.axes["source_subset"].points(model).values()]
    numbers = (*measured, gap, auc[-1] if auc else None, sum(points) / len(points) if points else None)
    leakage, cost = report.headline.mean if model == "scrubbed" else None, found.cost.get(model)
    return (title, *map(number, (*numbers, leakage)), "–" if cost is None else f"{cost['cpu']:.1f}")


def _notes(reports: Sequence[LeakageReport], narrow: bool) -> tuple[str, ...]:
    notes: list[str | None] = [
        "Accuracy of target and source task after disposal; before it in the row (undisposed).",
        "PL at k: source task relearned from k images a class. Leakage: 1 leaks all, 0 no more than what it is over.",
        None if narrow else "SLC-AUC: the mean height of PL accuracy over log(images/class).",
        interval_note(reports),
        *dict.fromkeys(report.attacked_by for report in reports),
    ]
    if any(report.target_destroyed for report in reports):
        margins = sorted({f"{report.target_margin:.3f}" for report in reports})
        notes.append(
            f"† Target destroyed: its accuracy fell by more than {' or '.join(margins)}; a low leakage is no merit."
        )
    if any(report.target_destroyed is None for report in reports):
        notes.append("Target accuracy not measured: that model may be destroyed, so a low leakage alone is no merit.")
    if len({frozenset(report.axes["source_subset"].by_attack) for report in reports}) > 1:
        notes.append("Not every method was attacked in the same ways; the one with fewer attacks may look better.")
    return tuple(note for note in (*notes, halving_note(reports)) if note)


def comparison_table(reports: Sequence[LeakageReport]) -> Table:
    """Give several methods side by side for a terminal of 100 columns."""
    return methods_table(reports, narrow=True).rich()


def comparison_markdown(reports: Sequence[LeakageReport]) -> str:
    """Give several methods side by side as Markdown."""
    return methods_table(reports).markdown() + "\n"
