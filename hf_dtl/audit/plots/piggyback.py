"""PL accuracy over budgets."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hf_dtl.audit.axis_leakage import PLAccuracy
from hf_dtl.audit.plots.look import STYLES, accuracy_over, defaults, handles_of, save, target_line, wrapped
from hf_dtl.audit.report import LeakageReport
from hf_dtl.audit.text_table import AXIS_TITLES, MODELS
from hf_dtl.errors import DataError


def plot_piggyback(report: LeakageReport, path: str | Path) -> list[Path]:
    """Draw PL accuracy over budgets: every model, mean and deviation over seeds, one panel an attacked data set.

    Args:
        report: the report.
        path: the files' path without suffix.

    Returns:
        The files written: a PNG (150 dots an inch) and an SVG.

    Raises:
        DataError: the scrubbed model was not attacked.
    """
    return save(draw_piggyback(report), path, f"PL accuracy over budgets after {report.method}")


@defaults
def draw_piggyback(report: LeakageReport, only: str | None = None) -> Figure:
    """The figure of `plot_piggyback`, of one axis alone where it is given."""
    panels = [
        (axis, dataset, [p for p in found.pl_accuracy if p.dataset == dataset])
        for axis, found in report.axes.items()
        if only in (None, axis)
        for dataset in found.datasets
    ]
    if not panels:
        raise DataError("The report holds no attack on the scrubbed model, so there is nothing to draw.")
    figure = Figure(figsize=(4.6 * len(panels) + 0.8, 4.9), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for panel, (axis, dataset, points) in zip(axes, panels, strict=True):
        _draw_panel(panel, points)
        panel.set_title(wrapped(f"{AXIS_TITLES[axis]}: {dataset}", 46), fontsize=10)
        if dataset in report.chance:
            panel.axhline(report.chance[dataset], color="0.55", linewidth=1, dashes=(1, 2), label="chance")
    axes[0].set_ylabel("accuracy on the test split")
    title = wrapped(f"Piggyback learning after {report.method}", 46 * len(panels), lines=2)
    figure.suptitle(f"{title}\n{target_line(report)}", fontsize=11)
    handles = handles_of(axes)
    if "chance" in handles:
        handles["chance"] = handles.pop("chance")
    title = "mean ± deviation over seeds" if report.seeds > 1 else "one seed"
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", frameon=False, title=title,
                  ncols=len(handles) if len(panels) > 1 else 3, title_fontsize=9, fontsize=9)  # fmt: skip
    return figure


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
    accuracy_over(panel, budgets, "training images per class")
    panel.set_xlim(budgets[0] / 1.25, budgets[-1] * 1.25)
