"""What the tables of all studies share: averages over training seeds, how they are written, and how a page ends."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from statistics import fmean, stdev
from typing import Any

from hf_dtl.audit import PiggybackRecord
from hf_dtl.audit.axis_leakage import pl_accuracies
from hf_dtl.audit.text_table import TextTable


@dataclass(frozen=True)
class Average:
    """A number over training seeds.

    Args:
        mean: over the seeds that have it; None when none has.
        deviation: over the same seeds (n - 1); None for fewer than two.
        values: of every seed in the order of the seeds, None where it is undefined.
    """

    mean: float | None
    deviation: float | None
    values: tuple[float | None, ...]

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Average":
        """Sum up the values of the seeds."""
        values = tuple(values)
        known = [value for value in values if value is not None]
        return cls(fmean(known) if known else None, stdev(known) if len(known) > 1 else None, values)

    @property
    def missing(self) -> int:
        """Seeds without a value."""
        return self.values.count(None)


def mean(values: Sequence[float]) -> float | None:
    """Their mean, None for none."""
    return fmean(values) if values else None


def relearned(records: Iterable[PiggybackRecord]) -> float | None:
    """PL accuracy of one model under the strongest attack at each budget, averaged over these; None without attacks.

    The strongest attack is the one with the best validation accuracy, as everywhere.
    """
    return mean([point.mean for point in pl_accuracies(records, "source_subset")])


def number(
    average: Average | None, digits: int, factor: float = 1.0, *, sign: str = "", unit: str = "", counted: bool = False
) -> str:
    """Write a number with its deviation: a dash where it has no value, nothing where there is no such number.

    Args:
        average: the number.
        digits: after the point.
        factor: that it is multiplied by.
        sign: `+` writes the sign of positive ones too.
        unit: in place of the deviation.
        counted: add how many seeds are behind it, when that is not all of them.
    """
    if average is None or average.mean is None:
        return "" if average is None else "–"
    text = f"{factor * average.mean:{sign}.{digits}f}{unit}"
    if average.deviation is not None and not unit:
        text += f" ± {factor * average.deviation:.{digits}f}"
    seeds = len(average.values)
    return f"{text} ({seeds - average.missing} of {seeds})" if counted and average.missing else text


def column(title: str | Mapping[str, str], digits: int, factor: float = 1.0, **form: Any) -> Any:
    """A field of a row that is a column of its table, written by `number`; of a dictionary, a column for each key.

    Args:
        title: of the column, or of each key's.
        digits, factor, **form: see `number`.
    """
    return field(default=None, metadata={"title": title, "form": {"digits": digits, "factor": factor, **form}})


def side_by_side(
    title: str, rows: Sequence[Any], notes: Iterable[str] = (), *, first: str = "method", without: Sequence[str] = ()
) -> TextTable:
    """A line for each row under its `heading`, and a column for each field that `column` made.

    Args:
        title: of the table.
        rows: of one class.
        notes: below it, before that some rows lack seeds.
        first: title of the column of headings.
        without: fields that are left out.
    """
    columns, lines = [first], [[row.heading] for row in rows]
    for spec in fields(rows[0]):
        if "title" not in spec.metadata or spec.name in without:
            continue
        titles = spec.metadata["title"]
        for key, text in titles.items() if isinstance(titles, Mapping) else ((None, titles),):
            columns.append(text)
            for line, row in zip(lines, rows, strict=True):
                value = getattr(row, spec.name)
                line.append(number(value if key is None else value[key], **spec.metadata["form"]))
    return TextTable(title, tuple(columns), tuple(map(tuple, lines)), (*notes, *diverged_notes(rows)))


def diverged_notes(rows: Iterable[Any]) -> list[str]:
    """A note that some rows lack seeds, none where they do not."""
    lost = ", ".join(f"{row.name} on {row.diverged} seed(s)" for row in rows if row.diverged)
    return [f"Diverged, so without values: {lost}."] if lost else []


def tuning_table(
    tried: Iterable[tuple[tuple[str, ...], Mapping[float, str | None]]], columns: Sequence[str]
) -> TextTable:
    """What tuning saw, by row: leading cells, then the strengths in one cell; rows without any are left out."""
    rows = [
        (*first, ", ".join(f"{s:g}: {'diverged' if text is None else text}" for s, text in by_strength.items()))
        for first, by_strength in tried
        if by_strength
    ]
    return TextTable("Tuning", tuple(columns), tuple(rows))


def no_rows(failed: Mapping[str, str]) -> list[str]:
    """A line for every method that has none."""
    return [f"`{method}` has no row: {reason[:1].upper()}{reason[1:]}." for method, reason in failed.items()]


def over_seeds(values: Mapping[str, Any]) -> str:
    """How the numbers of a study came about."""
    seeds = values["seeds"]
    return f"a mean ± deviation over {len(seeds)} training seeds ({', '.join(map(str, seeds))})"


def page(values: Mapping[str, Any], title: str, parts: Iterable[str]) -> str:
    """A study as Markdown: a title, its parts, how to repeat it, and what it was made with."""
    machine = values["machine"]
    versions = ", ".join(f"{name} {machine[name]}" for name in ("python", "torch", "transformers"))
    end = [
        "## To repeat it",
        f"```bash\n{values['command']}\n```",
        f"Made on {values['date']} with hf_dtl {values['library_version']} on {machine['device']}, "
        f"{machine['threads']} thread(s) a process, {versions}. All options and values are in `results.json`.",
    ]
    return "\n\n".join([f"# {title}", *parts, *end]) + "\n"
