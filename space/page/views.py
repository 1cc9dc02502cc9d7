"""What the page shows, as HTML; every text that comes from a model or a report is escaped here."""

import base64
import io
from collections.abc import Sequence
from functools import lru_cache
from html import escape

from matplotlib.figure import Figure

from hf_dtl.audit import LeakageReport
from hf_dtl.audit.axis_leakage import FLOORS
from hf_dtl.audit.plots.attacks import draw_attacks
from hf_dtl.audit.plots.piggyback import draw_piggyback
from hf_dtl.audit.tables import report_tables
from hf_dtl.audit.text_table import AXIS_TITLES, TextTable, interval
from hf_dtl.hub.card import ALTERNATIVE_TEXTS
from page.pairs import KEPT, Pair
from page.probe import Probed, Rows
from page.references import Lines
from page.relearn import LIMIT, Progress

INTRO = """<header class="intro">
<h1>Has this model really forgotten?</h1>
<p>An image classifier was made to <b>forget</b> a part of what it knew, and published. Try to get it back: look at
what is left in it, attack it yourself, and read what the audit found.</p>
</header>"""


CELLS = {"scrubbed": "scrubbed", "images/class": "first"}
"""Classes of a table's cells that come first where a row is a block."""


def message(text: str) -> str:
    """A remark where there is nothing else to show."""
    return f'<p class="remark">{escape(text)}</p>'


def wrong(text: str) -> str:
    """What is wrong with a field, to stand under it."""
    return f'<p class="wrong" role="alert">{escape(text)}</p>'


def headline(pair: Pair) -> str:
    """The verdict, and the numbers behind it."""
    report = pair.report
    target, source = report.target_accuracy, report.source_accuracy
    leakage = report.headline
    tiles = [
        ("kept task", _change(target), "accuracy on the task it was to keep, before → after"),
        ("forgotten task", _change(source), "accuracy with its old head: proves nothing by itself"),
        _relearned(report),
        (
            f"leakage over {report.floor}",
            "undefined" if leakage.mean is None else f"{leakage.mean:.2f}",
            f"{interval(leakage)} 1 leaks all, 0 no more than {report.floor}. {report.attacked_by}".strip(),
        ),
    ]
    shown = "".join(
        f'<div class="tile"><dt>{escape(name)}</dt><dd>{escape(value)}</dd><p>{escape(words)}</p></div>'
        for name, value, words in tiles
    )
    return (
        f'<section class="headline" aria-label="What the report says">'
        '<p class="small">Its publisher’s report says, and this page did not verify:</p>'
        f'<p class="verdict">{escape(report.verdict)}</p>'
        f'<dl class="tiles">{shown}</dl>{_flags(report)}<p class="small">{_origin(pair)}</p></section>'
    )


def _flags(report: LeakageReport) -> str:
    """What makes the number doubtful."""
    lines = "".join(f"<li>{escape(str(flag))}</li>" for flag in report.flags)
    return f'<ul class="small flags">{lines}</ul>' if lines else ""


def _change(accuracy: dict[str, float | None]) -> str:
    before, after = ("?" if accuracy[k] is None else f"{accuracy[k]:.2f}" for k in ("undisposed", "scrubbed"))
    return f"{before} → {after}"


def _relearned(report: LeakageReport) -> tuple[str, str, str]:
    found = report.axes.get("source_subset")
    if found is None or not found.pl_accuracy:
        return "relearned", "not attacked", "no attack on what was to be forgotten"
    budgets = sorted({point.budget for point in found.pl_accuracy})
    budget = budgets[len(budgets) // 2]
    values = {point.model: point.mean for point in found.pl_accuracy if point.budget == budget}
    others = [f"{model} {values[model]:.2f}" for model in ("undisposed", *FLOORS[::-1]) if model in values]
    number = f"{values['scrubbed']:.2f}" if "scrubbed" in values else "?"
    words = f"{' · '.join(others)}. {report.attacked_by}"
    return f"relearned with {budget} image{'s' * (budget > 1)} a class", number, words


def _origin(pair: Pair) -> str:
    report = pair.report
    rows = [
        ("model", pair.name),
        ("method, as the publisher calls it,", report.method),
        ("forgotten", report.settings.get("source_dataset")),
        ("kept", report.settings.get("target_dataset")),
    ]
    words = [f"{name} <code>{escape(str(value)[:120])}</code>" for name, value in rows if value]
    words.append(
        {
            True: "the report names these very weights",
            False: "<b>the report was made of OTHER weights: its numbers do not speak of this model</b>",
            None: "the report does not say which weights it is about",
        }[pair.proven]
    )
    if "undisposed" not in pair.models:
        words.append("the undisposed model is not published")
    return " · ".join(words)


def _bars(rows: Rows, whole: float = 1.0) -> str:
    lines = []
    for name, value in rows:
        width = 100 * min(1.0, max(0.0, value / whole))
        lines.append(
            f'<li><span class="name">{escape(name)}</span><span class="bar" aria-hidden="true">'
            f'<i style="width:{width:.1f}%"></i></span><span class="value">{value:.2f}</span></li>'
        )
    return f'<ol class="bars">{"".join(lines)}</ol>'


def probed(pair: Pair, found: dict[str, Probed]) -> str:
    """Both models side by side on one image."""
    columns = []
    titles = {"scrubbed": "Scrubbed", "undisposed": "Before disposal"}
    for which, title in titles.items():
        head = f'<h3><i class="dot {which}" aria-hidden="true"></i>{title}</h3>'
        if which not in found:
            columns.append(f"<div>{head}{message('The undisposed model is not published.')}</div>")
            continue
        own = found[which]
        body = f"<h4>It says</h4>{_bars(own.predictions)}"
        if own.nearest:
            body += (
                f"<h4>Its features are like</h4>{_bars(own.nearest)}<p class='small'>The nearest class mean is right "
                f"for <b>{100 * pair.means[which].known:.0f} %</b> of other images of the forgotten classes.</p>"
            )
        columns.append(f"<div>{head}{body}</div>")
    end = message(pair.tasks) if isinstance(pair.tasks, str) else (
        '<p class="small">The head can name the kept classes only. Features are what it reads: where an image of a '
        "forgotten class lies near its own class, the knowledge is still there. Likeness is a cosine with the mean of "
        "a few images of each class.</p>"
    )  # fmt: skip
    return f'<div class="columns">{"".join(columns)}</div>{end}'


def status(
    pair: Pair,
    progress: Progress | None,
    references: Lines,
    report_says: float | None = None,
    note: str = "",
    unit: str = "training steps",
) -> str:
    """How far an attack is, and at its end what it means; `unit` is what it goes on in."""
    report = pair.report
    if progress is None:
        words = "Nothing is running. The lines are what the report says of the other models under this attack."
        return message(f"{words} {report.attacked_by}")
    done = progress.points[-1][0] if progress.points else 0
    bar = f'<progress max="{progress.steps}" value="{done}" aria-label="{unit} of the attack"></progress>'
    if progress.stopped:
        words = (
            f"Stopped after {progress.seconds:.0f} of at most {LIMIT:.0f} seconds, at {done} of "
            f"{progress.steps} {unit}. {report.attacked_by}"
        )
        return f'<div class="status" role="status">{bar}<p>{escape(words)}</p></div>'
    if progress.accuracy is None:
        words = (
            f"{done} of {progress.steps} {unit}, {progress.seconds:.0f} s. The curve is of a part of the test images."
        )
        return f'<div class="status" role="status">{bar}<p>{words}</p></div>'
    words = [f"<b>You relearned it to {progress.accuracy:.3f}</b> in {progress.seconds:.0f} seconds."]
    if report_says is not None:
        why = (
            ""
            if abs(report_says - progress.accuracy) < 5e-4
            else ", which ran beside other seeds there: rounding adds up"
        )
        words.append(f"The report says {report_says:.3f} for this very attack{why}.")
    floor = max((name for name in FLOORS if name in references), key=references.__getitem__, default="")
    if {"undisposed", floor} <= references.keys():
        gap = references["undisposed"] - references[floor]
        if gap > 0.02:
            share = (progress.accuracy - references[floor]) / gap
            words.append(
                f"That is {100 * share:.0f} % of the way from {floor} ({references[floor]:.2f}) to undisposed "
                f"({references['undisposed']:.2f}), a model that has forgotten nothing."
            )
    words.append(escape(report.attacked_by))
    return f'<div class="status done" role="status">{bar}<p>{" ".join(words)}</p>{message(note) if note else ""}</div>'


@lru_cache(maxsize=KEPT)
def card(pair: Pair) -> str:
    """The report as plots and tables."""
    report = pair.report
    parts: list[str] = []
    for name, draw in (("piggyback", draw_piggyback), ("attacks", draw_attacks)):
        for axis in report.axes:
            try:
                picture = _data(draw(report, axis))
            except Exception:  # a foreign report may hold names that matplotlib cannot draw
                parts.append(message("A plot of this report cannot be drawn."))
                continue
            words = escape(f"{ALTERNATIVE_TEXTS[name]}, {AXIS_TITLES[axis]}")
            parts.append(f'<figure><img src="{picture}" alt="{words}"></figure>')
    parts = [f'<div class="pictures">{"".join(parts)}</div>', *map(_table, report_tables(report))]
    if report.settings.get("command"):
        command = escape(str(report.settings["command"])[:500])
        parts.append(f'<p class="small">To repeat it: <code>{command}</code></p>')
    return f'<article class="card">{"".join(parts)}</article>'


def _data(figure: Figure) -> str:
    content = io.BytesIO()
    figure.savefig(content, format="svg")
    return f"data:image/svg+xml;base64,{base64.b64encode(content.getvalue()).decode()}"


def _table(cells: TextTable) -> str:
    def row(values: Sequence[str]) -> str:
        # Where a table is too wide, each row becomes a block: every cell then says its column.
        shown = [
            f'<td role="cell" class="{CELLS.get(name, "")}" data-column="{escape(name)}">{escape(value)}</td>'
            for name, value in zip(cells.columns[1:], values[1:], strict=True)
        ]
        return f'<tr role="row"><th role="rowheader" scope="row">{escape(values[0])}</th>{"".join(shown)}</tr>'

    title, body = escape(cells.title), "".join(map(row, cells.rows))
    head = "".join(f'<th role="columnheader" scope="col">{escape(name)}</th>' for name in cells.columns)
    notes = "".join(f"<p class='small'>{escape(note)}</p>" for note in cells.notes)
    return (
        f'<h3>{title}</h3><table role="table" aria-label="{title}"><thead role="rowgroup"><tr role="row">{head}</tr>'
        f'</thead><tbody role="rowgroup">{body}</tbody></table>{notes}'
    )
