"""Names beside their points, where there is room for all of them."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from hf_dtl.audit.plots.look import HALO

# Where a name may stand from its point or whisker: end (-1 left, 0 middle, 1 right), points aside, points up.
PLACES = (
    *((1, 7, 0), (-1, -7, 0), (0, 0, 9), (0, 0, -9), (1, 3, 9), (1, 3, -9), (-1, -3, 9), (-1, -3, -9)),
    *((0, 0, 20), (0, 0, -20)),
)
ALIGNED = {1: "left", 0: "center", -1: "right"}


def label_points(
    figure: Figure,
    panel: Axes,
    names: Sequence[str],
    points: Sequence[tuple[float, float, float]],
    lines: Sequence[float],
    fontsize: float,
) -> bool:
    """Write each name beside its point without touching another name, point or text of the panel.

    Where it can be, a name does not cross a vertical line either.

    Args:
        figure, panel: already drawn, with their limits set.
        names: one a point.
        points: (points, 3) left end of the whisker, right end, and height, in data coordinates.
        lines: places of the vertical lines, in data coordinates.
        fontsize: in points.

    Returns:
        Whether there was room for every name; if not, none is written.
    """
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    frame, unit = panel.get_window_extent(renderer), figure.dpi / 72
    taken = [text.get_window_extent(renderer) for text in panel.texts]
    crossed = panel.transData.transform([(line, 0) for line in lines])[:, 0]
    for left, right, height in points:
        (x0, y), (x1, _) = panel.transData.transform([(left, height), (right, height)])
        taken.append(Bbox.from_extents(x0 - 4 * unit, y - 5 * unit, x1 + 4 * unit, y + 5 * unit))
    written: list[Text] = []
    for name, (left, right, height) in zip(names, points, strict=True):
        found: list[tuple[int, int]] = []
        for i, place in enumerate(PLACES):
            text = _write(panel, name, (left, right, height), place, fontsize)
            box = text.get_window_extent(renderer)
            text.remove()
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not any(box.overlaps(other) for other in taken):
                found.append((int(((box.x0 < crossed) & (crossed < box.x1)).sum()), i))
        if not found:
            for text in written:
                text.remove()
            return False
        written.append(_write(panel, name, (left, right, height), PLACES[min(found)[1]], fontsize))
        taken.append(written[-1].get_window_extent(renderer))
    return True


def _write(
    panel: Axes, name: str, point: tuple[float, float, float], place: tuple[int, int, int], fontsize: float
) -> Text:
    left, right, height = point
    end, aside, up = place
    x = {1: right, 0: (left + right) / 2, -1: left}[end]
    return panel.annotate(name, (x, height), xytext=(aside, up), textcoords="offset points", ha=ALIGNED[end],
                          va="center", fontsize=fontsize, color="0.15", path_effects=HALO)  # fmt: skip
