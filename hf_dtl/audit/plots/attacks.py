"""Leakage attack by attack."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hf_dtl.audit.axis_leakage import AxisLeakage, Ratio
from hf_dtl.audit.plots.look import defaults, draw_guides, draw_ratio, limits, note, plain, save, target_line, wrapped
from hf_dtl.audit.report import LeakageReport
from hf_dtl.audit.text_table import AXIS_TITLES
from hf_dtl.errors import DataError

ALL = "strongest of each model"
# colour, marker, size, words of the legend
HEADLINE = ("#000000", "s", 8, "the headline: at each budget the strongest attack on each model")
STRONGEST = ("#D55E00", "D", 8.5, "strongest single attack (validation accuracy, scrubbed model)")
ATTACK = ("#0072B2", "o", 7.5, "one attack, the same on every model")

WHITE = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}


def plot_attacks(report: LeakageReport, path: str | Path) -> list[Path]:
    """Draw the leakage attack by attack: the number and its bounds, one panel an axis.

    A leakage that is undefined is written as a word in its row. An interval that is very long, or has no bound, ends
    in an arrow.

    Args:
        report: the report.
        path: the files' path without suffix.

    Returns:
        The files written: a PNG (150 dots an inch) and an SVG.

    Raises:
        DataError: the scrubbed model was not attacked.
    """
    return save(draw_attacks(report), path, f"Leakage by attack after {report.method}")


@defaults
def draw_attacks(report: LeakageReport, only: str | None = None) -> Figure:
    """The figure of `plot_attacks`, of one axis alone where it is given."""
    shown = {axis: found for axis, found in report.axes.items() if only in (None, axis)}
    if not shown:
        raise DataError("The report holds no attack on the scrubbed model, so there is nothing to draw.")
    names = list(dict.fromkeys(attack for found in shown.values() for attack in found.by_attack))
    panels = len(shown)
    figure = Figure(figsize=(1.9 + 3.7 * panels, 2.9 + 0.27 * (len(names) + 2)), layout="constrained")
    axes = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
    # One scale for every panel, so that they compare.
    ratios = [r for found in shown.values() for r in (found.over(report.floor), *found.by_attack.values())]
    ends = limits(ratios)
    arrows = False
    for panel, (axis, found) in zip(axes, shown.items(), strict=True):
        panel.set_xlim(*ends)
        arrows |= _draw_panel(panel, found, names, report.floor)
        panel.set_title(wrapped(f"{AXIS_TITLES[axis]}: {' and '.join(found.datasets)}", 42), fontsize=10)
    diverged = {attack for _, attack, _ in report.diverged}
    labels = [name + (" ‡" if name in diverged else "") for name in names]
    axes[0].set_yticks(range(len(names) + 1), [ALL, *labels])
    axes[0].set_ylim(len(names) + 0.9, -0.6)
    title = wrapped(f"Leakage by attack after {report.method}", 34 + 34 * panels, lines=2)
    figure.suptitle(f"{title}\n{target_line(report)}", fontsize=11)
    handles = [_sign(*style) for style in (HEADLINE, STRONGEST, ATTACK)]
    if any(ratio.mean is not None for ratio in ratios):
        label = f"95 % bounds over {report.seeds} draws of images"
        handles.append(Line2D([], [], color="0.3", marker="|", label=label))
    handles += [Line2D([], [], color="0.3", marker=">", label="interval goes on beyond the picture")] if arrows else []
    handles += [note("‡ diverged on some model, counted as guessing")] if diverged else []
    figure.legend(handles=handles, loc="outside lower center", ncols=min(panels, 2), frameon=False, fontsize=8.5)
    return figure


def _sign(colour: str, marker: str, size: float, label: str) -> Line2D:
    return Line2D([], [], color=colour, marker=marker, markersize=size, linestyle="none", label=label)


def _draw_panel(panel: Axes, axis: AxisLeakage, names: list[str], floor: str) -> bool:
    rows: list[tuple[Ratio | None, tuple[str, str, float, str]]] = [(axis.over(floor), HEADLINE)]
    rows += [(axis.by_attack.get(n), STRONGEST if n == axis.strongest_by_attack else ATTACK) for n in names]
    arrows = False
    draw_guides(panel, floor)
    panel.axhline(0.5, color="0.8", linewidth=0.8, zorder=0)
    for y, (ratio, (colour, marker, size, _)) in enumerate(rows):
        if ratio is not None and ratio.mean is not None:
            arrows |= draw_ratio(panel, ratio, y, colour=colour, marker=marker, size=size)
            continue
        panel.annotate(_why(ratio), (0, y), xytext=(6, 0), textcoords="offset points", fontsize=8, color=colour,
                       va="center", style="italic", bbox=WHITE)  # fmt: skip
    panel.tick_params(axis="y", length=0)
    panel.set_xlabel(f"leakage over {floor}")
    panel.grid(axis="y", color="0.93", linewidth=0.8)
    plain(panel)
    return arrows


def _why(ratio: Ratio | None) -> str:
    """The reason of an undefined leakage in two or three words."""
    if ratio is None:
        return "not run"
    if ratio.gap is None:
        return "not run on every model"
    if ratio.gate is None:
        return "undefined: one seed"
    return "weights do not matter" if ratio.gate == "weights do not matter" else "unresolved: more draws"
