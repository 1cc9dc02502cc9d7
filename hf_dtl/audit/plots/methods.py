"""Target accuracy against leakage, one point a method."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hf_dtl.audit.axis_leakage import Ratio
from hf_dtl.audit.plots import look
from hf_dtl.audit.plots.labels import label_points
from hf_dtl.audit.report import LeakageReport
from hf_dtl.audit.tables import floors
from hf_dtl.audit.text_table import mark
from hf_dtl.errors import DataError

NAME_WIDTH = 44


def plot_comparison(reports: Sequence[LeakageReport], path: str | Path) -> list[Path]:
    """Draw target accuracy against leakage, one point a method; the best place is the upper left.

    Names stand beside their points where there is room, else in a legend. A method whose target accuracy was not
    measured stands in a panel below, and one whose leakage is undefined is named in the legend: neither has a height.

    Args:
        reports: one report a method; the references are those of the first one.
        path: the files' path without suffix.

    Returns:
        The files written: a PNG (150 dots an inch) and an SVG.

    Raises:
        DataError: there is no report.
    """
    return look.save(draw_comparison(reports), path, "Target accuracy against leakage")


@look.defaults
def draw_comparison(reports: Sequence[LeakageReport]) -> Figure:
    """The figure of `plot_comparison`."""
    if not reports:
        raise DataError("There is no report to draw.")
    styles = {
        id(r): (look.COLOURS[i % len(look.COLOURS)], look.MARKERS[i % len(look.MARKERS)])
        for i, r in enumerate(reports)
    }
    floor = floors(reports)[0]
    ratios = {id(report): report.over(floor) for report in reports}
    defined = [report for report in reports if ratios[id(report)].mean is not None]
    placed = [report for report in defined if report.target_destroyed is not None]
    unmeasured = [report for report in defined if report.target_destroyed is None]
    heights = ([4.0] if placed or not unmeasured else []) + ([0.3 + 0.3 * len(unmeasured)] if unmeasured else [])
    figure = Figure(figsize=(7.4, 1.8 + sum(heights)), layout="constrained")
    attacked_by = "\n".join(dict.fromkeys(report.attacked_by for report in reports))
    figure.suptitle(f"What is kept against what is left\n{attacked_by}", fontsize=11)
    panels = list(figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0])
    panels[0].set_xlim(*look.limits(list(ratios.values())))

    handles = _draw_references(panels[0], reports) if placed or not unmeasured else []
    places = [(panels[0], r, r.target_accuracy["scrubbed"] or 0.0) for r in placed]
    places += [(panels[-1], r, y) for y, r in enumerate(unmeasured)]
    points = [_draw_point(panel, ratios[id(r)], height, styles[id(r)]) for panel, r, height in places]
    if unmeasured:
        panels[-1].set_ylim(len(unmeasured) - (0.4 if placed else 0.0), -0.6)
        panels[-1].set_yticks([])
        panels[-1].set_ylabel("target accuracy\nnot measured", rotation=0, ha="right", va="center", fontsize=9)
    for panel in panels:
        look.draw_guides(panel, floor if panel is panels[0] else None)
        panel.grid(axis="x", color="0.93", linewidth=0.8)
        look.plain(panel)
    request = reports[0].unlearning
    what = "of the source task" if request is None else f"of {request.request}"
    seeds = " or ".join(str(seeds) for seeds in sorted({report.seeds for report in defined}))
    with_interval = f", 95 % bounds over {seeds} draws" if defined else ""
    panels[-1].set_xlabel(f"leakage {what} over {floor}{with_interval}")
    if not defined:
        panels[0].text(0.5, 0.5, "no leakage is defined", transform=panels[0].transAxes, ha="center", style="italic")

    if any(point.arrow for point in points):
        handles.append(Line2D([], [], color="0.3", marker=">", label="interval goes on beyond the picture"))
    if any(report.target_destroyed for report in reports):
        handles.append(look.note("† target destroyed: low leakage is no merit"))
    for report in reports:
        if ratios[id(report)].mean is None:
            handles.append(look.note(look.wrapped(f"leakage undefined: {report.method}", NAME_WIDTH) + mark(report)))
    options: dict[str, Any] = {"loc": "outside lower center", "ncols": 2, "frameon": False, "fontsize": 8.5}
    legend = figure.legend(handles=handles, **options)
    names = [report.method + mark(report) for report in placed]
    whiskers = [(point.left, point.right, point.height) for point in points]
    if unmeasured or not label_points(figure, panels[0], names, whiskers, [0.0, 1.0], options["fontsize"]):
        legend.remove()
        signs = []
        for report in (*placed, *unmeasured):
            colour, marker = styles[id(report)]
            label = look.wrapped(report.method, NAME_WIDTH) + mark(report)
            signs.append(Line2D([], [], color=colour, marker=marker, label=label))
        for report, point in zip(placed, points, strict=False):
            if report.target_destroyed:
                panels[0].annotate("†", (point.right, point.height), xytext=(5, 0), textcoords="offset points",
                                   va="center", fontsize=11, path_effects=look.HALO)  # fmt: skip
        figure.legend(handles=signs + handles, **options)
    return figure


class _Point(NamedTuple):
    """A drawn leakage: the visible ends of its whisker, its height, and whether an end is an arrow."""

    left: float
    right: float
    height: float
    arrow: bool


def _draw_point(panel: Axes, ratio: Ratio, height: float, style: tuple[str, str]) -> _Point:
    left, right = panel.get_xlim()
    arrow = look.draw_ratio(panel, ratio, height, colour=style[0], marker=style[1])
    low, high = (left if ratio.low is None else ratio.low), (right if ratio.high is None else ratio.high)
    return _Point(max(left, low), min(right, high), height, arrow)


def _draw_references(panel: Axes, reports: Sequence[LeakageReport]) -> list[Line2D]:
    """The undisposed model, and the band of a target that is not destroyed."""
    panel.set_ylabel("target accuracy on the test split")
    panel.grid(axis="y", color="0.93", linewidth=0.8)
    before = reports[0].target_accuracy["undisposed"]
    after = [report.target_accuracy["scrubbed"] for report in reports]
    heights = [height for height in (before, *after) if height is not None]
    # At least the margin that counts as destroyed, so that differences of one image do not look large.
    margin = max(report.target_margin for report in reports)
    if not heights:
        panel.set_yticks([])
    low, high = min(heights, default=0.0), max(heights, default=1.0)
    if before is not None:
        low = min(low, before - margin)
    space = max(0.14 * (high - low), 0.3 * margin)
    panel.set_ylim(low - space, high + space)
    handles: list[Line2D] = []
    if before is not None:
        handles.append(panel.axhline(before, color=look.GUIDE, linewidth=1, linestyle="--", label="before disposal"))
        label = f"drop of up to {margin:g}: not destroyed"
        handles.append(panel.axhspan(before - margin, before, color="0.945", zorder=0, label=label))  # type: ignore[arg-type]
        colour, marker, _ = look.STYLES["undisposed"]
        handles += panel.plot(1, before, color=colour, marker=marker, markersize=9, markerfacecolor="white",
                              linestyle="none", label="undisposed model", zorder=2)  # fmt: skip
    return handles
