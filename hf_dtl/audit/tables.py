"""The report as tables, for the terminal and for Markdown; both show the same cells."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from hf_dtl.audit.bootstrap import CONFIDENCE
from hf_dtl.audit.leakage import Average, AxisLeakage, PLAccuracy, Ratio
from hf_dtl.audit.report import MEMBERSHIP_SHARES, LeakageReport

AXIS_TITLES = {"source_subset": "source subset", "novel_downstream": "novel task"}
MODELS = ("undisposed", "scrubbed", "scratch", "retrained")
NOT_MEASURED = "not measured"


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
        # Where the numbers leave room for the first column, only that is wrapped; no cell is ever cut.
        headings = [self.columns[0], *(column.replace(" ", "\n", 1) for column in self.columns[1:])]
        lines = [
            [line for cell in column for line in cell.split("\n")] for column in zip(headings, *self.rows, strict=True)
        ]
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
    """Write the bootstrap interval of a leakage, ∞ where there is no bound; nothing when it is undefined."""
    if ratio.mean is None:
        return ""
    low = "-∞" if ratio.low is None else f"{ratio.low:.3f}"
    return f"[{low}, {'∞' if ratio.high is None else f'{ratio.high:.3f}'}]"


def with_interval(ratio: Ratio, *, deviation: bool = True) -> str:
    """Write a leakage with its interval, and its deviation unless that is not wanted."""
    return f"{with_deviation(ratio.mean, ratio.deviation if deviation else None)} {interval(ratio)}".strip()


def measured(accuracy: float | None) -> str:
    """Write an accuracy, or that it was not measured."""
    return NOT_MEASURED if accuracy is None else f"{accuracy:.3f}"


def average(found: PLAccuracy | Average | None, *, deviation: bool = True) -> str:
    """Write an accuracy over seeds, or a dash where there is none."""
    return "–" if found is None else with_deviation(found.mean, found.deviation if deviation else None)


def mark(report: LeakageReport) -> str:
    """The sign that stands behind a method or a target accuracy when the target is destroyed."""
    return " †" if report.target_destroyed else ""


def accuracy_cells(report: LeakageReport) -> Cells:
    """Accuracy of both tasks before and after disposal, and the leakage."""
    target, source = report.target_accuracy, report.source_accuracy
    rows = (
        ("target accuracy", measured(target["undisposed"]), measured(target["scrubbed"]) + mark(report)),
        ("source accuracy", measured(source["undisposed"]), measured(source["scrubbed"])),
        ("leakage over scratch", "1.000", with_interval(report.leakage)),
        ("leakage over retrained", "1.000", with_interval(report.leakage_over_retrained)),
    )
    title = f"{report.method}{mark(report)}, seed {report.seed}"
    return Cells(title, ("", "undisposed", "scrubbed"), rows, _notes(report))


def target_note(report: LeakageReport) -> str | None:
    """Say what makes a low leakage worthless: a destroyed target, or one that nobody measured."""
    before, after = report.target_accuracy["undisposed"], report.target_accuracy["scrubbed"]
    if before is None or after is None:
        return "Target accuracy not measured: the model may be destroyed, so a low leakage alone is no merit."
    if not report.target_destroyed:
        return None
    return (
        f"† Target destroyed: its accuracy fell from {before:.3f} to {after:.3f}, by more than "
        f"{report.target_margin:.3f}; a low leakage is no merit."
    )


def interval_note(reports: Sequence[LeakageReport]) -> str | None:
    """Say what the brackets behind a leakage are, and how far to trust them; nothing when there are none."""
    ratios = [ratio for report in reports for ratio in (report.leakage, report.leakage_over_retrained)]
    if all(ratio.mean is None for ratio in ratios):
        return None
    seeds = min(report.seeds for report in reports)
    few = "; coarse and optimistic with so few" if seeds < 10 else ""
    return f"[low, high]: {100 * CONFIDENCE:.0f} % bootstrap interval over {seeds} seeds{few}."


def halving_note(reports: Sequence[LeakageReport]) -> str | None:
    """Say that hopeless learning rates were dropped early, when they were."""
    if not any(report.successive_halving for report in reports):
        return None
    return "Learning rates were chosen by successive halving: the attacker may have dropped a good one early."


def _notes(report: LeakageReport) -> tuple[str, ...]:
    notes = [target_note(report), interval_note([report])]
    for floor, ratio in (("scratch", report.leakage), ("retrained", report.leakage_over_retrained)):
        if ratio.undefined is not None:
            notes.append(f"Leakage over {floor} is undefined: {ratio.undefined}.")
        elif ratio.mean is not None and ratio.mean > 1:
            notes.append(f"Leakage over {floor} above 1: relearned at least as well as the undisposed model.")
        elif ratio.mean is not None and ratio.mean < 0:
            notes.append(f"Leakage over {floor} below 0: relearned worse than the {floor} model.")
    return tuple(note for note in (*notes, halving_note([report])) if note)


def piggyback_cells(report: LeakageReport) -> Cells:
    """PL accuracy of the four models at every budget under the strongest attack, and the area under it."""
    rows = []
    for axis, found in report.axes.items():
        points = {(p.dataset, p.budget, p.model): p for p in found.pl_accuracy}
        for dataset, budget in dict.fromkeys((p.dataset, p.budget) for p in found.pl_accuracy):
            cells = [average(points.get((dataset, budget, model))) for model in MODELS]
            rows.append((f"{AXIS_TITLES[axis]}: {dataset}", str(budget), *cells))
        areas = [average(found.slc_auc.get(model)) for model in MODELS]
        rows.append((f"{AXIS_TITLES[axis]}: {' and '.join(_datasets(found))}", "SLC-AUC", *areas))
    columns = ("PL accuracy", "images/class", *MODELS)
    notes = (
        (f"Mean ± deviation over {report.seeds} seeds" if report.seeds > 1 else "One seed")
        + "; strongest attack and learning rate chosen on validation images.",
        "SLC-AUC: area under PL accuracy over log(images/class), divided by its width: the mean height.",
    )
    return Cells("Piggyback learning", columns, tuple(rows), notes)


def _datasets(found: AxisLeakage) -> list[str]:
    return list(dict.fromkeys(point.dataset for point in found.pl_accuracy))


def attack_cells(report: LeakageReport, axis: str) -> Cells:
    """Each attack on one axis: PL accuracy of the four models averaged over budgets, and its leakage."""
    found = report.axes[axis]
    rows, runs = [], []
    for attack, ratio in found.by_attack.items():
        averages = found.accuracy_by_attack[attack]
        cells = []
        for model in MODELS:
            diverged = report.diverged.get((axis, attack, model))
            if diverged:
                runs.append(f"{diverged} of {attack} on {model}")
            cells.append(average(averages.get(model), deviation=False) + (" ‡" if diverged else ""))
        whole = {"undisposed", "scrubbed", report.floor} <= averages.keys()
        strongest = " (strongest)" if attack == found.strongest_by_attack else ""
        leakage = with_interval(ratio, deviation=False) if whole else "–"
        rows.append((attack + strongest, *cells, leakage))
    budgets = ", ".join(map(str, sorted({point.budget for point in found.pl_accuracy})))
    notes = [
        f"PL accuracy averaged over {budgets} images a class; leakage over {report.floor} under the same attack.",
        "Strongest: best validation accuracy on the scrubbed model, averaged likewise.",
    ]
    if any("–" in row for row in rows):
        notes.append("–: not run on that model at every budget.")
    if runs:
        notes.append(f"‡ Diverged with every learning rate, counted as guessing: {', '.join(runs)}.")
    columns = (f"attack ({AXIS_TITLES[axis]})", *MODELS, "leakage")
    return Cells(f"Attacks on the {AXIS_TITLES[axis]}", columns, tuple(rows), tuple(notes))


def membership_cells(report: LeakageReport) -> Cells:
    """Membership inference against the forget data, one row an attack on a model."""
    rows = []
    for row in report.membership:
        calibration = f" ({str(row['calibration']).replace('_', ' ')})" if row.get("calibration") else ""
        rows.append((row["attack"] + calibration, row["model"], *(_share(row.get(k)) for k in MEMBERSHIP_SHARES)))
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
    return Cells("Membership inference on the forget data", columns, tuple(rows), notes)


def unlearning_cells(report: LeakageReport) -> Cells:
    """Accuracy on what was forgotten and kept, of the models before, after, and trained again without it."""
    found = report.unlearning
    assert found is not None
    counts = {split: f"{n:,} training images" for split, n in found.images.items()}
    titles = {"test": "test images of what is retained", "forgotten_test": "test images of the forgotten classes"}
    roles = ("undisposed", "scrubbed", "retrained")
    rows = [
        (f"{split}: {counts[split]}" if split in counts else titles[split], *(_share(values.get(r)) for r in roles))
        for split, values in found.accuracy.items()
    ]
    gaps = [found.average_gap(role) if role in found.accuracy["forget"] else None for role in roles]
    rows.append(("average gap to retrained", *map(_share, gaps)))
    costs = [found.cost.get(role) for role in roles]
    rows.append(("CPU seconds", *("–" if cost is None else f"{cost['cpu']:.1f}" for cost in costs)))
    notes = ["Average gap: mean distance of the accuracies on forget, retain and test; lower is better."]
    if not found.has_retrained:
        notes = [
            "Without a retrained model the right forget accuracy is not known; for single images 0 is not the goal."
        ]
    if found.relative_cost is not None:
        notes.append(f"Unlearning took {100 * found.relative_cost:.1f} % of retraining's CPU time.")
    return Cells(f"Unlearning {found.request}", ("accuracy", *roles), tuple(rows), tuple(notes))


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def report_cells(report: LeakageReport) -> list[Cells]:
    """Every table of one report, in the order they are shown."""
    before = [] if report.unlearning is None else [unlearning_cells(report)]
    cells = [
        *before,
        accuracy_cells(report),
        piggyback_cells(report),
        *(attack_cells(report, axis) for axis in report.axes),
    ]
    return [*cells, membership_cells(report)] if report.membership else cells


def table(report: LeakageReport) -> list[Table]:
    """Give the report as tables for the terminal, readable at 100 columns."""
    return [cells.rich() for cells in report_cells(report)]


def markdown_table(report: LeakageReport) -> str:
    """Give the report as Markdown tables."""
    return "\n\n".join(cells.markdown() for cells in report_cells(report)) + "\n"
