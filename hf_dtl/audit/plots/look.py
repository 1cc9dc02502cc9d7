"""The one look of every picture: colours, markers, wrapped titles, and files that repeat byte for byte."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context, style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, NullLocator

from hf_dtl.audit.axis_leakage import Ratio
from hf_dtl.audit.report import LeakageReport

# Okabe and Ito's colours: told apart with every common colour blindness. Markers and lines differ too, for grey print.
STYLES = {
    "undisposed": ("#D55E00", "o", "-."),
    "scrubbed": ("#0072B2", "s", "-"),
    "no_model": ("#CC79A7", "^", (0, (1, 1))),
    "scratch": ("#000000", "v", ":"),
    "base": ("#E69F00", "P", (0, (5, 1))),
    "retrained": ("#009E73", "D", "--"),
    "twin": ("#56B4E9", "X", (0, (3, 1, 1, 1))),
}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<", ">", "*")
GUIDE = "0.45"
HALO = [withStroke(linewidth=2.5, foreground="white")]
"""Keeps a text readable where it crosses a line."""
WHISKERS_BEYOND = 0.5
"""How far a whisker may stretch the picture beyond the leakages themselves; what is longer ends in an arrow."""


defaults = style.context("default")
"""Draws as on every machine, whatever the user's matplotlibrc asks for: TeX, say, which may not be there."""


@defaults
def save(figure: Figure, path: str | Path, title: str) -> list[Path]:
    """Write the figure as PNG (150 dots an inch) and SVG; the same figure gives the same bytes."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [path.with_name(f"{path.name}.png"), path.with_name(f"{path.name}.svg")]
    for file in files:
        # No date and no random ids; in a published PNG nothing but pixels.
        metadata = {"Date": None, "Title": title} if file.suffix == ".svg" else {"Software": None}
        with rc_context({"svg.hashsalt": "hf_dtl"}):
            figure.savefig(file, dpi=150, metadata=metadata)
    return files


def wrapped(text: str, width: int, lines: int = 3) -> str:
    """Break a long name at its commas, colons and brackets, at most `width` characters a line; the rest is cut.

    Example:
        >>> print(wrapped("cifar10:train[airplane,automobile,bird,cat]", 25, lines=2))
        cifar10:train[airplane,
        automobile,bird,cat]
    """
    pieces = re.split(r"(?<=[,/\s])|(?=\[)|(?<=[^\[]:)(?=[A-Za-z])", text)
    pieces = [piece[i : i + width] for piece in pieces for i in range(0, len(piece), width)]
    rows = [""]
    for piece in pieces:
        if rows[-1] and len(rows[-1]) + len(piece.rstrip()) > width:
            rows.append("")
        rows[-1] += piece
    if len(rows) > lines:
        rows = [*rows[: lines - 1], rows[lines - 1][: width - 1] + "…"]
    # between two $ matplotlib reads mathematics; a \$ is a dollar
    return "\n".join(row.rstrip() for row in rows).replace("$", r"\$")


def target_line(report: LeakageReport) -> str:
    """What became of the target task, and who attacked, to stand under the title: relearning is never shown alone."""
    before, after = report.target_accuracy["undisposed"], report.target_accuracy["scrubbed"]
    if before is None or after is None:
        return f"target accuracy not measured\n{report.attacked_by}"
    destroyed = " † destroyed" if report.target_destroyed else ""
    return f"target accuracy {before:.3f} → {after:.3f}{destroyed}\n{report.attacked_by}"


def note(text: str) -> Line2D:
    """A line of text in a legend, without a sign."""
    return Line2D([], [], linestyle="none", label=text)


def limits(ratios: Sequence[Ratio]) -> tuple[float, float]:
    """Ends of an axis of leakages that holds 0, 1, every mean, and the whiskers unless they are very long."""
    means = [ratio.mean for ratio in ratios if ratio.mean is not None]
    low, high = min([0.0, *means]), max([1.0, *means])
    ends = [end for ratio in ratios for end in (ratio.low, ratio.high) if end is not None]
    left = max(min([low, *ends]), low - WHISKERS_BEYOND)
    right = min(max([high, *ends]), high + WHISKERS_BEYOND)
    margin = 0.07 * (right - left)
    return left - margin, right + margin


def draw_ratio(panel: Axes, ratio: Ratio, y: float, *, colour: str, marker: str, size: float = 8) -> bool:
    """Draw a leakage with its interval in a panel whose limits are set; whether an end had to become an arrow.

    Args:
        panel: with its limits set.
        ratio: a leakage that is defined.
        y: height, in data coordinates.
        colour, marker, size: of the point.
    """
    left, right = panel.get_xlim()
    inset = 0.012 * (right - left)
    low = left if ratio.low is None else ratio.low
    high = right if ratio.high is None else ratio.high
    ends = (max(low, left + inset), min(high, right - inset))
    panel.plot(ends, (y, y), color=colour, linewidth=1.4, solid_capstyle="butt")
    arrows = (ends[0] > low, ends[1] < high)
    for end, beyond, sign in zip(ends, arrows, ("<", ">"), strict=True):
        panel.plot(end, y, color=colour, marker=sign if beyond else "|", markersize=5 if beyond else 7)
    assert ratio.mean is not None
    # A white edge keeps points apart that lie on each other.
    panel.plot([ratio.mean], [y], color=colour, marker=marker, markersize=size, markeredgecolor="white",
               markeredgewidth=0.8, linestyle="none", zorder=3)  # fmt: skip
    return any(arrows)


def draw_guides(panel: Axes, floor: str | None) -> None:
    """Draw the lines at leakage 0 and 1, and say at the bottom what they mean where the floor is given."""
    for leakage, words, align in ((0, f"as {floor}", "left"), (1, "leaks all", "right")):
        panel.axvline(leakage, color=GUIDE, linewidth=1, linestyle=":", zorder=1)
        if floor:
            panel.annotate(words, (leakage, 0), xycoords=("data", "axes fraction"), ha=align, fontsize=8,
                           xytext=(3 - 6 * leakage, 4), textcoords="offset points", color=GUIDE,
                           bbox={"facecolor": "white", "edgecolor": "none", "pad": 1}, zorder=4)  # fmt: skip


def accuracy_over(panel: Axes, places: Sequence[int], words: str) -> None:
    """Make a panel one of accuracies over places on a logarithmic axis, each with its number."""
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(FixedLocator(places))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xticklabels([str(place) for place in places])
    panel.set_xlabel(words)
    panel.set_ylim(0, 1)
    panel.grid(axis="y", color="0.9", linewidth=0.8)
    plain(panel)


def handles_of(panels: Sequence[Axes]) -> dict[str, Any]:
    """What a legend for all panels shows, each label once."""
    found = (panel.get_legend_handles_labels() for panel in panels)
    return {label: handle for own in found for handle, label in zip(*own, strict=True)}


def plain(panel: Axes) -> None:
    """Take the frame's upper and right side away and put the grid behind the data."""
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
