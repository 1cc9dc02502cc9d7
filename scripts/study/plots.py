"""The trade between what a method leaks and what it costs the target."""

import re
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from hf_dtl.audit.plots.look import COLOURS, GUIDE, MARKERS, STYLES, plain, save
from study.summary import GOAL_LEAKAGE, GOAL_POINTS, Row, Summary

_TICKS = (-5, -2, -1, 0, 1, 2, 5, 10, 20, 50, 100)


def plot_tradeoff(summary: Summary, path: str | Path, title: str) -> list[Path]:
    """Draw every method at its leakage over the retrained model and the points of target accuracy it lost.

    Bars are deviations over training seeds; the box is the goal, and a ring marks the methods in it. Methods whose
    leakage or target accuracy is undefined are named below.

    Args:
        summary: the numbers.
        path: of the picture without its ending; `.png` and `.svg` are added.
        title: of the picture.

    Returns:
        The files.
    """
    figure = Figure(figsize=(8, 6.2), layout="constrained")
    panel = figure.add_subplot()
    plain(panel)
    panel.grid(color="0.93", linewidth=0.8)
    placed = [
        row for row in summary.rows if row.over_retrained.over.mean is not None and row.loss_points.mean is not None
    ]
    handles = [_draw_row(panel, row, number) for number, row in enumerate(placed)]
    handles += _draw_references(panel, summary)
    _set_limits(panel, summary, placed)
    low = panel.get_xlim()[0], panel.get_ylim()[0]
    box = Rectangle(
        low, GOAL_LEAKAGE - low[0], GOAL_POINTS - low[1], facecolor="#009E73", alpha=0.13, zorder=0,
        label=f"goal: leakage ≤ {GOAL_LEAKAGE:g}, loss ≤ {GOAL_POINTS:g}",
    )  # fmt: skip
    handles.append(panel.add_patch(box))
    for value in (0, 1):
        panel.axvline(value, color=GUIDE, linewidth=1, linestyle=":", zorder=1)
    panel.set_xlabel("leakage over the retrained model (0 nothing, 1 all)")
    panel.set_ylabel("target accuracy lost, points")
    panel.set_title(title, fontsize=11)
    missing = [_short(row) for row in summary.rows if row not in placed]
    handles += [Line2D([], [], linestyle="none", label=f"undefined: {name}") for name in missing]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=8.5)
    return save(figure, path, title)


def _draw_row(panel: Any, row: Row, number: int) -> Line2D:
    leaked, lost = row.over_retrained.over, row.loss_points
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
    panel.errorbar(leaked.mean, lost.mean, xerr=leaked.deviation or 0, yerr=lost.deviation or 0, color=colour,
                   elinewidth=1.2, capsize=3)  # fmt: skip
    panel.plot(leaked.mean, lost.mean, color=colour, marker=marker, markersize=9, markeredgecolor="white", zorder=3)
    if row.goal:
        panel.plot(leaked.mean, lost.mean, color="black", marker="o", markersize=16, markerfacecolor="none", zorder=4)
    label = _short(row) + (" (goal met)" if row.goal else "") + (" †" if row.chosen.kept is False else "")
    return Line2D([], [], color=colour, marker=marker, linestyle="none", label=label)


def _short(row: Row) -> str:
    """The method without its steps, batches and learning rate, which the table gives."""
    return re.sub(r":(max_steps|per_device_\w+|learning_rate)=[^:]+", "", row.name)


def _draw_references(panel: Any, summary: Summary) -> list[Line2D]:
    handles = []
    for reference in summary.references:
        place = {"undisposed": 1.0, "retrained": 0.0}.get(reference.name)
        if place is None or reference.loss_points is None:
            continue
        colour, marker, _ = STYLES[reference.name]
        handles += panel.plot(place, reference.loss_points.mean, color=colour, marker=marker, markersize=9,
                              markerfacecolor="white", linestyle="none", label=f"{reference.name} model")  # fmt: skip
    return handles


def _set_limits(panel: Any, summary: Summary, placed: list[Row]) -> None:
    """Hold every point with its bars, the goal box, and both lines."""
    across, up = [-0.05, 1.05], [-0.5, 1.0]
    for row in placed:
        for ends, average in ((across, row.over_retrained.over), (up, row.loss_points)):
            assert average.mean is not None
            ends += [average.mean - (average.deviation or 0), average.mean + (average.deviation or 0)]
    up += [
        r.loss_points.mean for r in summary.references if r.loss_points is not None and r.loss_points.mean is not None
    ]
    space = 0.05 * (max(across) - min(across))
    panel.set_xlim(min(across) - space, max(across) + space)
    low, high = min(up), max(up)
    panel.set_ylim(low - 0.2 * max(1.0, abs(low)), high + 0.3 * max(1.0, abs(high)))
    if high - low <= 20:
        return
    panel.set_yscale("symlog", linthresh=1.0)  # a method that destroyed the target must not squeeze the others
    left, right = panel.get_ylim()
    ticks = [tick for tick in _TICKS if left <= tick <= right]
    panel.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    panel.minorticks_off()
