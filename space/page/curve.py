"""The curve of a live attack as an SVG picture, which takes its colours from the page's theme."""

from collections.abc import Sequence
from html import escape

from page.references import Lines
from page.relearn import Progress

WIDTH, HEIGHT = 540, 340
LEFT, RIGHT, TOP, BOTTOM = 48, 150, 14, 46
LABEL_GAP = 19
"""Height of a line of text: labels of lines that lie close are moved apart by it."""
DASHES = {
    "undisposed": "9 3 2 3", "scrubbed": "none", "no_model": "1 5", "scratch": "2 4", "retrained": "7 4",
    "twin": "7 2 1 2",
}  # fmt: skip


def curve(progress: Progress | None, references: Lines, title: str, unit: str = "training steps") -> str:
    """Draw an attack's accuracy over its steps, and each reference as a line across.

    Args:
        progress: how far it has come; None before the start.
        references: accuracy of each model in the report, in 0..1.
        title: what is attacked how, for the text alternative.
        unit: what the attack goes on in: training steps, or images a class.

    Returns:
        SVG with a text alternative that says the same.
    """
    points = progress.points if progress else ()
    steps = progress.steps if progress else 100
    parts = [_grid(steps if progress else None, unit)]
    for model, height in _spread([_y(value) for value in references.values()], references):
        at = _y(references[model])
        parts.append(
            f'<g class="line {model}"><path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" stroke-dasharray="{DASHES[model]}"/>'
            f'<path class="leader" d="M{WIDTH - RIGHT} {at:.1f}l9 {height - at:.1f}"/>'
            f'<text x="{WIDTH - RIGHT + 11}" y="{height + 4.5:.1f}">{model} {references[model]:.2f}</text></g>'
        )
    if points:
        where = [(_x(step, steps), _y(value)) for step, value in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in where)
        parts.append(f'<polyline class="live" points="{path}"/>')
        parts += [f'<circle class="live" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in where[:-1]]
        x, y = where[-1]
        parts.append(f'<circle class="live now" cx="{x:.1f}" cy="{y:.1f}" r="6"/>')
        side = ("end", -10) if x > WIDTH - RIGHT - 50 else ("start", 10)
        above = -12 if y > TOP + 22 else 24
        parts.append(f'<text class="now" text-anchor="{side[0]}" x="{x + side[1]:.1f}" y="{y + above:.1f}">'
                     f"{points[-1][1]:.2f}</text>")  # fmt: skip
    words = f"{title}. {_in_words(points, references, unit)}"
    return (
        f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(words)}">'
        f"<title>{escape(words)}</title>{''.join(parts)}</svg>"
    )


def _in_words(points: Sequence[tuple[int, float]], references: Lines, unit: str) -> str:
    said = [f"Accuracy {points[-1][1]:.2f} after {points[-1][0]} {unit}" if points else "The attack has not begun"]
    said += [f"{model} {value:.2f}" for model, value in references.items()]
    return "; ".join(said) + "."


def _x(step: int, steps: int) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * step / steps


def _y(accuracy: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - accuracy)


def _grid(steps: int | None, unit: str) -> str:
    rows = []
    for accuracy in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _y(accuracy)
        rows.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        rows.append(f'<text class="tick" text-anchor="end" x="{LEFT - 8}" y="{y + 4.5:.1f}">{accuracy:.2f}</text>')
    floor = HEIGHT - BOTTOM
    for step in (0, steps // 2, steps) if steps else ():
        rows.append(
            f'<text class="tick" text-anchor="middle" x="{_x(step, steps):.1f}" y="{floor + 18}">{step}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    rows.append(f'<text class="tick" text-anchor="middle" x="{middle}" y="{floor + 37}">{unit}</text>')
    return "".join(rows)


def _spread(heights: Sequence[float], names: Lines) -> list[tuple[str, float]]:
    """Heights of the labels from the top down, moved apart where they would lie on each other."""
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + LABEL_GAP) if placed else max(height, TOP))
    lowest = HEIGHT - BOTTOM
    for i in reversed(range(len(placed))):
        placed[i] = min(placed[i], lowest)
        lowest = placed[i] - LABEL_GAP
    return list(zip(names, placed, strict=True))
