"""Pictures of the leakage report, readable in colour, by colour-blind readers, and printed in grey."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from hf_dtl.audit.leakage import PLAccuracy
from hf_dtl.audit.report import LeakageReport
from hf_dtl.audit.tables import AXIS_TITLES, MODELS
from hf_dtl.errors import DataError

# Okabe and Ito's colours: told apart with every common colour blindness.
STYLES = {
    "undisposed": ("#D55E00", "o", "-"),
    "scrubbed": ("#0072B2", "s", "-"),
    "scratch": ("#000000", "v", ":"),
    "retrained": ("#009E73", "D", "--"),
}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")


def _save(figure: Figure, path: str | Path) -> list[Path]:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [path.with_name(f"{path.name}.png"), path.with_name(f"{path.name}.svg")]
    for file in files:
        # No date and no random ids: the same report gives the same bytes.
        metadata = {"Date": None} if file.suffix == ".svg" else {"Software": None}
        with rc_context({"svg.hashsalt": "hf_dtl"}):
            figure.savefig(file, dpi=150, metadata=metadata)
    return files


def plot_piggyback(report: LeakageReport, path: str | Path) -> list[Path]:
    """Draw PL accuracy over budgets: four models, mean and deviation over seeds, one panel an attacked data set.

    Args:
        report: the report.
        path: the files' path without suffix.

    Returns:
        The files written: a PNG (150 dots an inch) and an SVG.
    """
    panels = [
        (axis, dataset, [p for p in found.pl_accuracy if p.dataset == dataset])
        for axis, found in report.axes.items()
        for dataset in dict.fromkeys(p.dataset for p in found.pl_accuracy)
    ]
    if not panels:
        raise DataError("The report holds no attack on the scrubbed model, so there is nothing to draw.")
    figure = Figure(figsize=(4.6 * len(panels) + 0.4, 4.6), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for panel, (axis, dataset, points) in zip(axes, panels, strict=True):
        _draw_panel(panel, points)
        panel.set_title(f"{AXIS_TITLES[axis]}: {dataset}", fontsize=10)
        if dataset in report.chance:
            panel.axhline(report.chance[dataset], color="0.55", linewidth=1, dashes=(1, 2), label="chance")
    axes[0].set_ylabel("accuracy on the test split")
    figure.suptitle(f"Piggyback learning after {report.method}", fontsize=12)
    handles = {
        label: handle for panel in axes for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    if "chance" in handles:
        handles["chance"] = handles.pop("chance")
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), frameon=False)
    return _save(figure, path)


def _draw_panel(panel: Axes, points: Sequence[PLAccuracy]) -> None:
    budgets = sorted({point.budget for point in points})
    for position, model in enumerate(MODELS):
        own = [point for point in points if point.model == model]
        if not own:
            continue
        colour, marker, line = STYLES[model]
        # Moved aside a little, so that error bars at one budget do not hide each other.
        x, y = [point.budget * 1.025 ** (position - 1.5) for point in own], [point.mean for point in own]
        deviation = [point.deviation or 0.0 for point in own]
        panel.errorbar(x, y, deviation, color=colour, marker=marker, linestyle=line, capsize=3, label=model)
        low, high = zip(*((m - d, m + d) for m, d in zip(y, deviation, strict=True)), strict=True)
        panel.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(FixedLocator(budgets))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xticklabels([str(budget) for budget in budgets])
    panel.set_xlabel("training images per class")
    panel.set_xlim(budgets[0] / 1.25, budgets[-1] * 1.25)
    panel.set_ylim(0, 1)
    panel.grid(axis="y", color="0.9", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def plot_comparison(reports: Sequence[LeakageReport], path: str | Path) -> list[Path]:
    """Draw target accuracy against leakage, one labelled point a method; the best place is the upper left.

    Methods whose leakage is undefined have no place in this picture; they are named above it.

    Args:
        reports: one report a method.
        path: the files' path without suffix.

    Returns:
        The files written: a PNG (150 dots an inch) and an SVG.
    """
    if not reports:
        raise DataError("There is no report to draw.")
    figure = Figure(figsize=(7.2, 5.4), layout="constrained")
    panel = figure.subplots()
    before = reports[0].target_accuracy["undisposed"]
    panel.axhline(before, color="0.55", linewidth=1, linestyle="--", label="target accuracy before disposal")
    for leakage, label in ((0, "leaks nothing"), (1, "leaks all")):
        panel.axvline(leakage, color="0.75", linewidth=1, linestyle=":")
        panel.annotate(
            label,
            (leakage, 0.01),
            xycoords=("data", "axes fraction"),
            fontsize=8,
            color="0.35",
            xytext=(3, 0),
            textcoords="offset points",
        )
    undefined = []
    for i, report in enumerate(reports):
        ratio, name = report.leakage, report.method + (" †" if report.target_destroyed else "")
        if ratio.mean is None:
            undefined.append(name)
            continue
        panel.errorbar(
            ratio.mean,
            report.target_accuracy["scrubbed"],
            xerr=ratio.deviation,
            capsize=3,
            markersize=7,
            color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[i % len(MARKERS)],
            linestyle="none",
            label=name,
        )
    panel.set_xlabel("leakage of the source task, ± deviation over seeds")
    panel.set_ylabel("target accuracy on the test split")
    figure.suptitle("What is kept against what is left", fontsize=12)
    panel.margins(0.1)
    # At least the margin that counts as destroyed, so that differences of one image do not look large.
    margin = max(report.target_margin for report in reports)
    low, high = panel.get_ylim()
    panel.set_ylim(min(low, before - 1.2 * margin), max(high, before + 0.2 * margin))
    panel.axhspan(before - margin, before, color="0.95", zorder=0, label=f"drop of up to {margin:g}: not destroyed")
    panel.set_axisbelow(True)
    panel.grid(color="0.93", linewidth=0.8)
    panel.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    notes = ["† target destroyed"] if any(report.target_destroyed for report in reports) else []
    notes += [f"leakage undefined: {', '.join(undefined)}"] if undefined else []
    if notes:
        panel.set_title("; ".join(notes), fontsize=9, color="0.35")
    return _save(figure, path)
