"""A picture for each study: what a method leaves against what it costs."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from hf_dtl.audit.plots.look import COLOURS, GUIDE, MARKERS, STYLES, note, plain, save, wrapped
from study.settings.instances import RATES
from study.settings.removal import GOAL_KEPT
from study.settings.tasks import OURS
from study.tables import Average
from study.tables.instances import Requests, VariantRow
from study.tables.main_job import GOAL_LEAKAGE, GOAL_POINTS, MethodRow, Summary
from study.tables.removal import GOAL_LEAKAGE as GOAL_REMOVAL
from study.tables.removal import Summary as RemovalSummary
from study.tables.removal import height as height_of
from study.tables.tasks import Scope
from study.tables.unlearning import GOAL_GAP, Comparison
from study.tuning import without_option

_TICKS = (-5, -2, -1, 0, 1, 2, 5, 10, 20, 50, 100)


def _panel(panel: Any, *, x: str, y: str, title: str = "") -> Any:
    """A plain panel with a grid and labels."""
    plain(panel)
    panel.grid(color="0.93", linewidth=0.8)
    panel.set_xlabel(x)
    panel.set_ylabel(y)
    panel.set_title(title, fontsize=10)
    return panel


def _look(number: int) -> dict[str, str]:
    return {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}


def _bars(panel: Any, x: Average, y: Average, colour: str, *, place: tuple[float, float], factor: float = 1) -> None:
    """Deviations over training seeds, at the place of a point."""
    across, up = factor * (x.deviation or 0), y.deviation or 0
    panel.errorbar(*place, xerr=across, yerr=up, color=colour, elinewidth=1.2, capsize=3)


def plot_tradeoff(summary: Summary, path: Path, title: str) -> list[Path]:
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
    across, up = "leakage over the retrained model (0 nothing, 1 all)", "target accuracy lost, points"
    panel = _panel(figure.add_subplot(), x=across, y=up, title=title)
    placed = [r for r in summary.rows if r.over_retrained.over.mean is not None and r.loss_points.mean is not None]
    handles = [_draw_row(panel, row, number) for number, row in enumerate(placed)]
    for reference in summary.references:
        at = {"undisposed": 1.0, "retrained": 0.0}.get(reference.name)
        if at is not None and reference.loss_points is not None:
            colour, marker, _ = STYLES[reference.name]
            look = {
                "color": colour,
                "marker": marker,
                "markersize": 9,
                "markerfacecolor": "white",
                "linestyle": "none",
            }
            handles += panel.plot(at, reference.loss_points.mean, label=f"{reference.name} model", **look)
    _set_limits(panel, summary, placed)
    low = panel.get_xlim()[0], panel.get_ylim()[0]
    box = Rectangle(
        low, GOAL_LEAKAGE - low[0], GOAL_POINTS - low[1], facecolor="#009E73", alpha=0.13, zorder=0,
        label=f"goal: leakage ≤ {GOAL_LEAKAGE:g}, loss ≤ {GOAL_POINTS:g}",
    )  # fmt: skip
    handles.append(panel.add_patch(box))
    for value in (0, 1):
        panel.axvline(value, color=GUIDE, linewidth=1, linestyle=":", zorder=1)
    handles += [note(f"undefined: {_short(row)}") for row in summary.rows if row not in placed]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=8.5)
    return save(figure, path, title)


def _draw_row(panel: Any, row: MethodRow, number: int) -> Line2D:
    leaked, lost, look = row.over_retrained.over, row.loss_points, _look(number)
    assert leaked.mean is not None and lost.mean is not None
    _bars(panel, leaked, lost, look["color"], place=(leaked.mean, lost.mean))
    panel.plot(leaked.mean, lost.mean, markersize=9, markeredgecolor="white", zorder=3, **look)
    if row.goal:
        panel.plot(leaked.mean, lost.mean, color="black", marker="o", markersize=16, markerfacecolor="none", zorder=4)
    label = _short(row) + (" (goal met)" if row.goal else "") + (" †" if row.chosen.kept is False else "")
    return Line2D([], [], linestyle="none", label=label, **look)


def _short(row: MethodRow) -> str:
    """The method without its steps, batches and learning rate, which the table gives."""
    return re.sub(r":(max_steps|per_device_\w+|learning_rate)=[^:]+", "", row.name)


def _set_limits(panel: Any, summary: Summary, placed: list[MethodRow]) -> None:
    """Hold every point with its bars, the goal box, and both lines."""
    lost = [r.loss_points.mean for r in summary.references if r.loss_points is not None]
    across = [-0.05, 1.05, *_ends(row.over_retrained.over for row in placed)]
    up = [-0.5, 1.0, *_ends(row.loss_points for row in placed), *(value for value in lost if value is not None)]
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


def _ends(averages: Iterable[Average]) -> list[float]:
    """Where the bars of averages end."""
    return [a.mean + side * (a.deviation or 0) for a in averages if a.mean is not None for side in (-1, 1)]


def plot_gap(comparisons: Sequence[Comparison], path: Path, title: str) -> list[Path]:
    """Draw every method at its gap to the retrained model and its leakage after relearning, one panel a request.

    Bars are deviations over training seeds. A method whose leakage is undefined stands below the panel's zero line.
    See `plot_tradeoff`.
    """
    figure = Figure(figsize=(1.2 + 4.4 * len(comparisons), 5.2), layout="constrained")
    figure.suptitle(title, fontsize=12)
    across, up = "average gap to the retrained model, points", "leakage over the retrained model"
    handles: dict[str, Any] = {}
    for panel, one in zip(figure.subplots(1, len(comparisons), squeeze=False)[0], comparisons, strict=True):
        _panel(panel, x=across, y=up, title=f"forget {one.request}")
        panel.axvspan(0, 100 * GOAL_GAP, color="#009E73", alpha=0.1, zorder=0)
        for height in (0, 1):
            panel.axhline(height, color=GUIDE, linewidth=1, linestyle=":", zorder=1)
        for number, row in enumerate(one.rows):
            if row.gap.mean is None:
                continue
            look, undefined = _look(number), row.leakage.mean is None
            place = 100 * row.gap.mean, -0.15 if row.leakage.mean is None else row.leakage.mean
            _bars(panel, row.gap, row.leakage, look["color"], place=place, factor=100)
            (point,) = panel.plot(*place, markersize=8, linestyle="none", **look,
                                  markerfacecolor="none" if undefined else look["color"])  # fmt: skip
            handles.setdefault(row.name.split(":")[0], point)
        panel.set_xlim(left=0)
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return save(figure, path, title)


def plot_instances(requests: Sequence[Requests], path: Path, title: str) -> list[Path]:
    """Draw a line a variant over the size of single requests: D_f before and after relearning, and what is lost.

    Bars are deviations over training seeds; the dotted line is the undisposed model. A hollow marker stands where not
    everything was forgotten. See `plot_tradeoff`.
    """
    single = sorted((one for one in requests if len(one.sizes) == 1), key=lambda one: one.sizes)
    sizes = [one.sizes[0] for one in single]
    figure = Figure(figsize=(14, 5.4), layout="constrained")
    figure.suptitle(title, fontsize=12)
    panels = figure.subplots(1, 3)
    names = list(dict.fromkeys(_variant(row) for one in single for row in one.rows))
    panel_values = {
        "accuracy on D_f, 0 is wanted": lambda row: row.accuracy["forget"],
        "test accuracy lost, points": lambda row: row.lost,
        "accuracy on D_f after relearning": lambda row: row.relearned,
    }
    for panel, label in zip(panels, panel_values, strict=True):
        _panel(panel, x="images to forget, k", y=label)
        panel.set_xscale("log", base=2)
        panel.set_xticks(sizes, [str(size) for size in sizes])
        panel.minorticks_off()
    handles = []
    for position, name in enumerate(names):
        look = _look(position) | {"linestyle": "-" if position < len(COLOURS) else "--"}
        chosen = [(one.sizes[0], row) for one in single for row in one.rows if _variant(row) == name]
        chosen = [(k, row) for k, row in chosen if row.lost.mean is not None]
        side = 2 ** (0.03 * (position - len(names) / 2))  # side by side
        for panel, value in zip(panels, panel_values.values(), strict=True):
            points = [(k * side, value(row)) for k, row in chosen]
            line = panel.errorbar(
                [x for x, _ in points], [y.mean for _, y in points], [y.deviation or 0 for _, y in points], capsize=3,
                linewidth=1.3, elinewidth=1, markersize=6, **look,
            )  # fmt: skip
            left = [point for point, (_, row) in zip(points, chosen, strict=True) if row.accuracy["forget"].mean]
            hollow = {**look, "linestyle": "none", "markerfacecolor": "white", "zorder": 3}
            panel.plot([x for x, _ in left], [y.mean for _, y in left], markersize=6, **hollow)
        handles.append(line)
    panels[1].axhline(0, color=GUIDE, linewidth=1, linestyle=":")
    panels[0].plot(sizes, [one.undisposed.accuracy["forget"].mean for one in single], color=GUIDE, linestyle=":")
    before = [one.undisposed.relearned.mean for one in single]
    handles += panels[2].plot(sizes, before, color=GUIDE, linestyle=":")
    for panel in (panels[0], panels[2]):  # a bar may leave what an accuracy can be
        low, high = panel.get_ylim()
        panel.set_ylim(max(low, -0.03), min(high, 1.05))
    handles.append(note("hollow: not all forgotten"))
    labels = [*names, "undisposed", "hollow: not all forgotten"]
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return save(figure, path, title)


def _variant(row: VariantRow) -> str:
    """The variant without its strength, which differs from k to k."""
    return without_option(row.name, RATES.option)


def plot_impact(scopes: Sequence[Scope], path: Path, title: str) -> list[Path]:
    """Draw the UIS of every method, one panel a scope: a mark a training seed, and a bar to their mean.

    See `plot_tradeoff`.
    """
    names = [*dict.fromkeys(row.strategy for one in scopes for row in one.rows), "(retrained)", "(undisposed)"]
    figure = Figure(figsize=(3.4 + 3.6 * len(scopes), 1.6 + 0.46 * len(names)), layout="constrained")
    figure.suptitle(wrapped(title, 30 + 30 * len(scopes)), fontsize=12)
    panels = figure.subplots(1, len(scopes), sharey=True, squeeze=False)[0]
    for panel, one in zip(panels, scopes, strict=True):
        _panel(panel, x="UIS, mean over tasks (0 is ideal)", y="", title=wrapped(one.title, 44))
        panel.grid(visible=False, axis="y")
        row_of = {row.strategy: row for row in one.rows} | {row.heading: row for row in one.references}
        for place, name in enumerate(names):
            if name not in row_of or row_of[name].uis.mean is None:
                continue
            colour = GUIDE if name.startswith("(") else COLOURS[0 if name.startswith(OURS) else 1]
            values = [value for value in row_of[name].uis.values if value is not None]
            panel.barh(place, row_of[name].uis.mean, height=0.62, color=colour, alpha=0.85 if name == OURS else 0.4)
            panel.plot(values, [place] * len(values), color=colour, marker="o", markersize=4, linestyle="none")
        panel.set_xlim(left=0)
    panels[0].set_yticks(range(len(names)), [wrapped(name, 38) for name in names], fontsize=9)
    panels[0].invert_yaxis()
    return save(figure, path, title)


def plot_removal(summary: RemovalSummary, path: Path, title: str) -> list[Path]:
    """Draw every finalist at what it keeps and leaks, and beside it where all models and floors stand.

    On the left bars are 95 % bounds over draws, a hollow mark is the leakage over the retrained model alone, and a
    label tells the bytes of the bound; the box is the goal. See `plot_tradeoff`.
    """
    figure = Figure(figsize=(13, 5.6), layout="constrained")
    figure.suptitle(title, fontsize=12)
    left, right = figure.subplots(1, 2)
    _panel(left, x="leakage over the strongest floor (0 nothing, 1 all)", y="share of transfer's benefit kept")
    _panel(right, x="PL accuracy, mean over budgets", y="target accuracy")
    handles, drawn = [], []
    for place, row in enumerate(summary.rows):
        look, over = _look(place), row.over_best
        handles.append(Line2D([], [], linestyle="none", label=row.name, **look))
        if row.target.mean is not None:
            right.plot(height_of(row.learned), row.target.mean, markersize=9, linestyle="none", **look)
        if over is None or over.mean is None or over.low is None or over.high is None or row.kept is None:
            handles.append(note(f"leakage undefined: {row.name}"))
            continue
        drawn.append((over.mean, row.kept))
        ends = [[over.mean - over.low], [over.high - over.mean]]
        left.errorbar(over.mean, row.kept, xerr=ends, color=look["color"], elinewidth=1.2, capsize=3)
        left.plot(over.mean, row.kept, markersize=9, linestyle="none", **look)
        text = "no bound" if row.bytes is None else f"{row.bytes} B"
        left.annotate(text, (over.mean, row.kept), xytext=(6, 6), textcoords="offset points", fontsize=8)
        alone = row.over_retrained
        if alone is not None and alone.mean is not None:
            left.plot([over.mean, alone.mean], [row.kept] * 2, color=look["color"], linewidth=0.8, linestyle=":")
            left.plot(alone.mean, row.kept, markersize=7, linestyle="none", **look | {"markerfacecolor": "white"})
        if row.twin is not None and row.twin.mean is not None and row.twin_height is not None:
            right.plot(
                row.twin_height, row.twin.mean, markersize=6, linestyle="none", **look | {"marker": STYLES["twin"][1]}
            )
    for row in summary.references:
        colour, marker, _ = STYLES[row.name]
        look = {"color": colour, "marker": marker, "markerfacecolor": "white", "linestyle": "none"}
        if row.target.mean is not None:
            handles += right.plot(height_of(row.learned), row.target.mean, markersize=9, label=row.name, **look)
        else:
            handles.append(
                right.axvline(height_of(row.learned), color=colour, linestyle=STYLES[row.name][2], label=row.name)
            )
    for place in (0, 1):
        left.axvline(place, color=GUIDE, linewidth=1, linestyle=":", zorder=1)
        left.axhline(place, color=GUIDE, linewidth=1, linestyle=":", zorder=1)
    right_end = max([1.05, *(x for x, _ in drawn)])
    left.set_xlim(min([-0.15, *(x - 0.1 for x, _ in drawn)]), right_end)
    low, high = min([-0.1, *(y - 0.1 for _, y in drawn)]), max([1.2, *(y + 0.1 for _, y in drawn)])
    left.set_ylim(low, high)
    box = Rectangle(
        (left.get_xlim()[0], GOAL_KEPT), GOAL_REMOVAL - left.get_xlim()[0], high - GOAL_KEPT, facecolor="#009E73",
        alpha=0.13, zorder=0, label=f"goal: at least {GOAL_KEPT:.0%} kept, leakage at most {GOAL_REMOVAL:g}",
    )  # fmt: skip
    handles += [left.add_patch(box), note("hollow: over retrained alone; cross of the same colour: its twin")]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
    return save(figure, path, title)
