"""The report as tables, for the terminal and for Markdown; both show the same cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from hf_dtl.audit.axis_leakage import BEST_FLOOR, FLOORS, Average
from hf_dtl.audit.estimate import CONFIDENCE
from hf_dtl.audit.report_fields import MEMBERSHIP_SHARES
from hf_dtl.audit.task_tables import task_table
from hf_dtl.audit.text_table import AXIS_TITLES, MODELS, TextTable, accuracy_pair, average, mark, number, with_interval
from hf_dtl.audit.unlearning import ROLES

if TYPE_CHECKING:
    from hf_dtl.audit.report import LeakageReport


def accuracy_table(report: LeakageReport) -> TextTable:
    """Accuracy of both tasks before and after disposal, and the leakage."""
    roles = ("undisposed", "scrubbed")
    target, source = zip(*(accuracy_pair(report, role) for role in roles), strict=True)
    leakage = {floor: report.over(floor) for floor in floors([report])}
    rows = (
        ("target accuracy", target[0], target[1] + mark(report)),
        ("source accuracy", *source),
        *(
            (f"leakage over {floor}", "undefined" if ratio.mean is None else "1.000", with_interval(ratio))
            for floor, ratio in leakage.items()
        ),
    )
    title = f"{report.method}{mark(report)}, seed {report.seed}"
    return TextTable(title, ("", *roles), rows, _notes(report))


def floors(reports: Sequence[LeakageReport]) -> tuple[str, ...]:
    """The best floor, and then each that some report has."""
    there = {floor for report in reports for axis in report.axes.values() for floor in axis.by_floor}
    names = {report.floor for report in reports}
    first = names.pop() if len(names) == 1 else BEST_FLOOR
    return (first, *(floor for floor in FLOORS if floor in there and floor != first))


def models_of(reports: Sequence[LeakageReport]) -> tuple[str, ...]:
    """The models that some report attacked, in one order."""
    there = {record.model for report in reports for record in report.piggyback}
    return tuple(model for model in MODELS if model in there)


def interval_note(reports: Sequence[LeakageReport]) -> str | None:
    """Say what the brackets behind a leakage are; nothing when there are none."""
    if all(report.over(floor).mean is None for report in reports for floor in floors(reports)):
        return None
    seeds = min(report.seeds for report in reports)
    return f"[low, high]: {100 * CONFIDENCE:.0f} % bounds (Fieller) over {seeds} draws of images."


def floor_note(report: LeakageReport) -> str | None:
    """Which floor counts at each budget, where it is not one."""
    found = report.axes.get("source_subset")
    if found is None or report.floor != BEST_FLOOR:
        return None
    said = [f"{floor} at {budget}" for (_, budget), floor in found.floors.items()]
    return f"The best floor, by validation: {', '.join(dict.fromkeys(said))}."


def halving_note(reports: Sequence[LeakageReport]) -> str | None:
    """Say that hopeless learning rates were dropped early, when they were."""
    if not any(report.successive_halving for report in reports):
        return None
    return "Learning rates were chosen by successive halving: the attacker may have dropped a good one early."


def _notes(report: LeakageReport) -> tuple[str, ...]:
    before, after = report.target_accuracy["undisposed"], report.target_accuracy["scrubbed"]
    notes: list[str | None] = []
    if before is None or after is None:
        notes.append("Target accuracy not measured: the model may be destroyed, so a low leakage alone is no merit.")
    elif report.target_destroyed:
        fell = f"its accuracy fell from {before:.3f} to {after:.3f}, by more than {report.target_margin:.3f}"
        notes.append(f"† Target destroyed: {fell}; a low leakage is no merit.")
    notes.append(interval_note([report]))
    for floor in floors([report]):
        ratio = report.over(floor)
        if ratio.undefined is not None:
            notes.append(f"Leakage over {floor} is undefined: {ratio.undefined}.")
        elif ratio.mean is not None and ratio.mean > 1:
            notes.append(f"Leakage over {floor} above 1: relearned at least as well as the undisposed model.")
        elif ratio.mean is not None and ratio.mean < 0:
            notes.append(f"Leakage over {floor} below 0: relearned worse than from there.")
    if any(ratio.undefined for ratio in (report.over(floor) for floor in floors([report]))):
        notes = list(dict.fromkeys(notes))
    return tuple(note for note in (*notes, floor_note(report), halving_note([report]), report.attacked_by) if note)


def piggyback_table(report: LeakageReport) -> TextTable:
    """PL accuracy of every model at every budget under the strongest attack, and the area under it."""
    rows, models = [], models_of([report])
    for axis, found in report.axes.items():
        points = [found.points(model) for model in models]
        for dataset, budget in found.places:
            cells = [average(own.get((dataset, budget))) for own in points]
            rows.append((f"{AXIS_TITLES[axis]}: {dataset}", str(budget), *cells))
        areas = [average(found.slc_auc.get(model)) for model in models]
        rows.append((f"{AXIS_TITLES[axis]}: {' and '.join(found.datasets)}", "SLC-AUC", *areas))
    columns = ("PL accuracy", "images/class", *models)
    notes = (
        (f"Mean ± deviation over {report.seeds} seeds" if report.seeds > 1 else "One seed")
        + f"; strongest attack and learning rate chosen on validation images. {report.attacked_by}",
        "SLC-AUC: area under PL accuracy over log(images/class), divided by its width: the mean height.",
    )
    return TextTable("Piggyback learning", columns, tuple(rows), notes)


def attack_table(report: LeakageReport, axis: str) -> TextTable:
    """Each attack on one axis: PL accuracy of every model averaged over budgets, and its leakage."""
    found = report.axes[axis]
    rows, runs, models = [], [], models_of([report])
    for attack, ratio in found.by_attack.items():
        averages = found.accuracy_by_attack[attack]
        cells = []
        for model in models:
            diverged = report.diverged.get((axis, attack, model))
            if diverged:
                runs.append(f"{diverged} of {attack} on {model}")
            cells.append(average(averages.get(model), deviation=False) + (" ‡" if diverged else ""))
        whole = {"undisposed", "scrubbed"} <= averages.keys() and averages.keys() & set(FLOORS)
        strongest = " (strongest)" if attack == found.strongest_by_attack else ""
        leakage = with_interval(ratio) if whole else "–"
        rows.append((attack + strongest, *cells, leakage))
    budgets = ", ".join(map(str, sorted({budget for _, budget in found.places})))
    notes = [
        f"PL accuracy averaged over {budgets} images a class; leakage over the best floor under the same attack.",
        f"Strongest: best validation accuracy on the scrubbed model, averaged likewise. {report.attacked_by}",
    ]
    if any("–" in row for row in rows):
        notes.append("–: not run on that model at every budget.")
    if runs:
        notes.append(f"‡ Diverged with every learning rate, counted as guessing: {', '.join(runs)}.")
    columns = (f"attack ({AXIS_TITLES[axis]})", *models, "leakage")
    return TextTable(f"Attacks on the {AXIS_TITLES[axis]}", columns, tuple(rows), tuple(notes))


def effort_table(report: LeakageReport, axis: str) -> TextTable:
    """PL accuracy when every attack stops after so many steps, averaged over budgets, and the leakage then."""
    found, rows = report.axes[axis], []
    models = [model for model in models_of([report]) if model != "no_model"]
    for effort, ratio in found.by_effort.items():
        points = found.pl_accuracy_by_effort[effort]
        own = [[point for point in points if point.model == model] for model in models]
        cells = [average(Average.over(p) if p else None, deviation=False) for p in own]
        rows.append((str(effort), *cells, with_interval(ratio)))
    notes = ("Attacks that train, stopped after so many steps; PL accuracy averaged over budgets.",)
    columns = (f"steps ({AXIS_TITLES[axis]})", *models, "leakage")
    return TextTable(f"Effort on the {AXIS_TITLES[axis]}", columns, tuple(rows), notes)


def membership_table(report: LeakageReport) -> TextTable:
    """Membership inference against the forget data, one row an attack on a model."""
    rows = []
    for row in report.membership:
        calibration = f" ({str(row['calibration']).replace('_', ' ')})" if row.get("calibration") else ""
        task = f", {row['task']}" if row.get("task") else ""
        rows.append(
            (row["attack"] + calibration + task, row["model"], *(number(row.get(k)) for k in MEMBERSHIP_SHARES))
        )
    noise = [noise for row in report.membership if isinstance(noise := row.get("auc_noise"), (int, float))]
    columns = (
        *("membership inference", "model", "AUC", "balanced accuracy", "TPR at 1 % FPR"),
        *("forget members", "held-out members"),
    )
    notes = (
        "Members: share of the images that the attack takes for training images.",
        f"Guessing gives AUC 0.5{f' ± {max(noise):.3f}' if noise else ''}, balanced accuracy 0.5, TPR 0.01.",
        "An honest removal equals a model that never saw the forget images; a difference in either direction shows.",
    )
    return TextTable("Membership inference on the forget data", columns, tuple(rows), notes)


def unlearning_table(report: LeakageReport) -> TextTable:
    """Accuracy on what was forgotten and kept, of the models before, after, and trained again without it."""
    found = report.unlearning
    assert found is not None
    counts = {split: f"{n:,} training images" for split, n in found.images.items()}
    titles = {"test": "test images of what is retained", "forgotten_test": "test images of the forgotten classes"}
    rows = [
        (f"{split}: {counts[split]}" if split in counts else titles[split], *(number(values.get(r)) for r in ROLES))
        for split, values in found.accuracy.items()
    ]
    gaps = [found.average_gap(role) if role in found.accuracy["forget"] else None for role in ROLES]
    rows.append(("average gap to retrained", *map(number, gaps)))
    costs = [found.cost.get(role) for role in ROLES]
    rows.append(("CPU seconds", *("–" if cost is None else f"{cost['cpu']:.1f}" for cost in costs)))
    notes = ["Average gap: mean distance of the accuracies on forget, retain and test; lower is better."]
    if not found.has_retrained:
        notes = [
            "Without a retrained model the right forget accuracy is not known; for single images 0 is not the goal."
        ]
    if found.relative_cost is not None:
        notes.append(f"Unlearning took {100 * found.relative_cost:.1f} % of retraining's CPU time.")
    return TextTable(f"Unlearning {found.request}", ("accuracy", *ROLES), tuple(rows), tuple(notes))


def report_tables(report: LeakageReport) -> list[TextTable]:
    """Every table of one report, in the order they are shown."""
    tables = [] if report.tasks is None else [task_table([report])]
    tables += [] if report.unlearning is None else [unlearning_table(report)]
    tables.append(accuracy_table(report))
    if report.axes:
        tables += [piggyback_table(report), *(attack_table(report, axis) for axis in report.axes)]
        tables += [effort_table(report, axis) for axis, found in report.axes.items() if found.by_effort]
    return [*tables, membership_table(report)] if report.membership else tables


def table(report: LeakageReport) -> list[Table]:
    """Give the report as tables for the terminal, readable at 100 columns."""
    return [one.rich() for one in report_tables(report)]


def markdown_table(report: LeakageReport) -> str:
    """Give the report as Markdown tables."""
    return "\n\n".join(one.markdown() for one in report_tables(report)) + "\n"
