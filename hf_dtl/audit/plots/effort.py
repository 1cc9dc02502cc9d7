"""PL accuracy over effort: what an attacker who stops earlier gets."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hf_dtl.audit.axis_leakage import FLOORS, AxisLeakage, Place
from hf_dtl.audit.plots.look import STYLES, accuracy_over, defaults, handles_of, save, target_line, wrapped
from hf_dtl.audit.report import LeakageReport
from hf_dtl.audit.text_table import AXIS_TITLES, MODELS
from hf_dtl.errors import DataError


def plot_effort(report: LeakageReport, path: str | Path) -> list[Path]:
    """Draw PL accuracy over training steps, one panel a data set and budget; a line for each model.

    A floor that no fine-tuning has, such as `no_model`, is a level line.

    Args:
        report: the report.
        path: the files' path without suffix.

    Returns:
        The files written: a PNG (150 dots an inch) and an SVG.

    Raises:
        DataError: no attack tells its efforts.
    """
    return save(draw_effort(report), path, f"PL accuracy over effort after {report.method}")


@defaults
def draw_effort(report: LeakageReport) -> Figure:
    """The figure of `plot_effort`."""
    panels = [
        (axis, place) for axis, found in report.axes.items() if found.by_effort
        for place in found.places
    ]  # fmt: skip
    if not panels:
        raise DataError("No attack of the report tells its accuracy at several efforts, so there is nothing to draw.")
    figure = Figure(figsize=(3.6 * len(panels) + 1.0, 4.9), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for panel, (axis, place) in zip(axes, panels, strict=True):
        _draw_panel(panel, report.axes[axis], place)
        title = f"{AXIS_TITLES[axis]}: {place[0]}, {place[1]} image{'s' * (place[1] > 1)} a class"
        panel.set_title(wrapped(title, 36), fontsize=9)
    axes[0].set_ylabel("accuracy on the test split")
    title = wrapped(f"Relearning over effort after {report.method}", 36 * len(panels), lines=2)
    figure.suptitle(f"{title}\n{target_line(report)}", fontsize=11)
    handles = handles_of(axes)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", frameon=False, fontsize=9,
                  ncols=min(len(handles), 3 if len(panels) == 1 else 6))  # fmt: skip
    return figure


def _draw_panel(panel: Axes, found: AxisLeakage, place: Place) -> None:
    efforts = list(found.by_effort)
    for model in MODELS:
        colour, marker, line = STYLES[model]
        curve = [(e, p.mean) for e in efforts for p in found.pl_accuracy_by_effort[e]
                 if (p.model, p.place) == (model, place)]  # fmt: skip
        if curve:
            panel.plot(*zip(*curve, strict=True), color=colour, marker=marker, linestyle=line, label=model)
        elif model in FLOORS and place in found.points(model):
            level = found.points(model)[place].mean
            panel.axhline(level, color=colour, linestyle=line, linewidth=1.2, label=f"{model}, without steps")
    accuracy_over(panel, efforts, "training steps")
