"""The study of removal in numbers and tables."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_dtl.audit import PiggybackRecord, leakage
from hf_dtl.audit.axis_leakage import pl_accuracies
from hf_dtl.audit.estimate import Estimate
from hf_dtl.audit.text_table import TextTable
from study.engine import records_of
from study.settings.removal import GATE_GAP, GATE_TRANSFER, GOAL_BYTES, GOAL_KEPT
from study.tables import Average, number, page

if TYPE_CHECKING:
    from study.removal import Contender, RemovalStudy

GOAL_LEAKAGE, GOAL_BELOW = 0.10, 0.20
Result = Mapping[str, Any]


@dataclass(frozen=True)
class Leaked:
    """Leakage over a floor: of all draws of images on all training seeds, with bounds at 95 % each over these draws.

    Args:
        mean, low, high: None where the gap to the floor is not shown to be at least .10.
        gap: PL accuracy of the undisposed model over the floor.
        floors: which floor it was, by training seed and budget.
        each: the leakage of each training seed.
    """

    mean: float | None
    low: float | None
    high: float | None
    gap: float
    floors: tuple[str, ...]
    each: tuple[float | None, ...]

    @classmethod
    def of(cls, seeds: Sequence[Sequence[PiggybackRecord]], floor: str | None = None) -> "Leaked | None":
        """From the attacks on every training seed; over one floor, or over the best one at each budget."""
        estimates, floors = [], list[str]()
        for records in seeds:
            found = leakage(records)
            if found is None:
                return None
            names = {place: floor or found.floors.get(place, "") for place in found.places}
            rows = [
                [found.points(model(place)).get(place) for place in found.places]
                for model in (lambda _: "scrubbed", lambda _: "undisposed", names.__getitem__)
            ]
            if any(point is None for row in rows for point in row):
                return None
            estimates.append(Estimate(*(np.array([point.values for point in row if point]).T for row in rows)))
            floors += names.values()
        if not estimates:
            return None
        whole = Estimate(*(np.concatenate([getattr(e, name) for e in estimates]) for name in _PARTS))
        low, high = whole.interval or (None, None)
        each = tuple(e.leakage for e in estimates)
        return cls(whole.leakage, low, high, whole.gap.mean, tuple(dict.fromkeys(floors)), each)


_PARTS = ("scrubbed", "undisposed", "floor")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model, or what a method leaves, over the training seeds.

    Args:
        name: role of a reference, or the contender.
        target: accuracy at the target, in 0..1: on test images, of the screening on validation images.
        kept: share of transfer's benefit, (target - retrained) / (undisposed - retrained), a ratio of sums.
        learned: PL accuracy by budget.
        over_best, over_retrained: leakage over the strongest floor of all that were there, and over that one alone.
        labels: of its twin, true labels a class by training seed; empty without twins.
        twin: accuracy of these at the target.
        twin_height: PL accuracy of these, mean over budgets.
        bytes: the most of the private model that can be in it; None where nothing bounds it.
        seconds: of disposal on one thread, None where a part of it was done before an interruption.
    """

    name: str
    target: Average
    kept: float | None = None
    learned: dict[int, Average]
    over_best: Leaked | None = None
    over_retrained: Leaked | None = None
    labels: tuple[int, ...] = ()
    twin: Average | None = None
    twin_height: float | None = None
    bytes: int | None = None
    seconds: float | None = None

    @property
    def goal(self) -> bool | None:
        """Whether it reaches the goal; None where that is not known."""
        over = self.over_best
        if over is None or over.mean is None or over.high is None or self.kept is None:
            return None
        holds = over.mean <= GOAL_LEAKAGE and over.high < GOAL_BELOW and self.kept >= GOAL_KEPT
        return holds and self.bytes is not None and self.bytes <= GOAL_BYTES


@dataclass(frozen=True)
class Summary:
    """The study's numbers.

    Args:
        gate: of the setting on the tuning seed's validation images: `transfer` in points of accuracy, `gap` in PL
            accuracy over the best floor, `floors` that this was, and whether the setting `counts`; empty if not known.
        screened: contenders on the tuning seed, the undisposed model among them as a first row.
        references, rows: on the reported seeds.
        left: contenders that have no row yet.
    """

    gate: dict[str, Any]
    screened: tuple[Row, ...]
    references: tuple[Row, ...]
    rows: tuple[Row, ...]
    left: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self) | {"rows": [{"goal": row.goal, **asdict(row)} for row in self.rows]}


def order(study: "RemovalStudy") -> list[str]:
    """The screened methods: those that keep enough of the benefit first, by PL accuracy from the lowest on."""
    rows = [row for row in _screened(study) if row.kept is not None]
    return [row.name for row in sorted(rows, key=lambda row: ((row.kept or 0) < GOAL_KEPT, height(row.learned)))]


def height(learned: Mapping[int, Average]) -> float:
    """PL accuracy, mean over budgets."""
    return fmean(average.mean for average in learned.values() if average.mean is not None)


def _learned(seeds: Sequence[Sequence[PiggybackRecord]], role: str) -> dict[int, Average]:
    points = [{p.budget: p.mean for p in pl_accuracies(own, "source_subset") if p.model == role} for own in seeds]
    return {
        budget: Average.of(own.get(budget) for own in points) for budget in sorted({b for own in points for b in own})
    }


def _kept(own: Sequence[float], low: Sequence[float], high: Sequence[float]) -> float | None:
    whole = sum(high) - sum(low)
    return (sum(own) - sum(low)) / whole if whole > 0 else None


def _results(study: "RemovalStudy", seed: int) -> dict[str, Result]:
    """What is finished of the references of a seed, by role."""
    return {role: trial.result() for role, trial in study.references(seed).items() if trial.finished}


def _screened(study: "RemovalStudy") -> list[Row]:
    seed = study.options.tuning_seed
    found = _results(study, seed)
    ends = [found[role]["target"]["validation"] for role in ("retrained", "undisposed") if role in found]
    shared, rows = [r for result in found.values() for r in records_of(result)], []
    for contender in study.contenders:
        trial = study.disposal(contender, seed)
        if not trial.finished or len(ends) < 2 or "target" not in (result := trial.result()):
            continue
        records, accuracy = [*shared, *records_of(result)], result["target"]["validation"]
        rows.append(
            Row(
                name=contender.name,
                target=Average.of([accuracy]),
                kept=_kept([accuracy], ends[:1], ends[1:]),
                learned=_learned([records], "scrubbed"),
                over_best=Leaked.of([records]),
                over_retrained=Leaked.of([records], "retrained"),
                bytes=result["bytes"],
                seconds=_seconds(result),
            )  # fmt: skip
        )
    return rows


def _seconds(result: Result) -> float | None:
    return result["cost"]["wall"] if result.get("cost") else None


def _gate(study: "RemovalStudy") -> dict[str, Any]:
    found = _results(study, study.options.tuning_seed)
    if len(found) < len(study.roles):
        return {}
    transfer = found["undisposed"]["target"]["validation"] - found["retrained"]["target"]["validation"]
    records = [r for result in found.values() for r in records_of(result)]
    same = [replace(r, model="scrubbed") for r in records if r.model == "undisposed"]
    over = Leaked.of([[*records, *same]])
    assert over is not None
    counts = transfer >= GATE_TRANSFER and over.gap >= GATE_GAP
    return {"transfer": transfer, "gap": over.gap, "floors": over.floors, "counts": counts}


def summarise(study: "RemovalStudy") -> Summary:
    """The numbers of what is finished."""
    found = [_results(study, seed) for seed in study.seeds]
    whole = all(len(own) == len(study.roles) for own in found)
    attacks = [[r for result in own.values() for r in records_of(result)] for own in found]
    rows = [row for c in study.finalists if whole and (row := _row(study, c, found, attacks))]
    left = tuple(c.name for c in study.finalists if c.name not in {row.name for row in rows})
    return Summary(
        _gate(study), tuple(_screened(study)), _references(found, attacks) if whole else (), tuple(rows), left
    )


def _references(
    found: Sequence[Mapping[str, Result]], attacks: Sequence[Sequence[PiggybackRecord]]
) -> tuple[Row, ...]:
    rows = []
    for role in ("undisposed", "retrained", "base", "scratch", "no_model"):
        target = [own[role]["target"]["test"] for own in found if "target" in own.get(role, {})]
        learned = _learned(attacks, role)
        if learned:
            rows.append(Row(name=role, target=Average.of(target), learned=learned))
    return tuple(rows)


def _row(
    study: "RemovalStudy",
    contender: "Contender",
    found: Sequence[Mapping[str, Result]],
    attacks: Sequence[Sequence[PiggybackRecord]],
) -> Row | None:
    trials = [study.disposal(contender, seed) for seed in study.seeds]
    if not all(trial.finished and "target" in trial.result() for trial in trials):
        return None
    results = [trial.result() for trial in trials]
    twins = [twin.result() for seed in study.seeds if (twin := study.twins(seed)[contender.name]).finished]
    records = [[*own, *records_of(result)] for own, result in zip(attacks, results, strict=True)]
    if len(twins) == len(results):
        records = [[*own, *records_of(twin)] for own, twin in zip(records, twins, strict=True)]
    target, low, high = (
        [result["target"]["test"] for result in own]
        for own in (results, [own["retrained"] for own in found], [own["undisposed"] for own in found])
    )
    seconds = [_seconds(result) for result in results]
    return Row(
        name=contender.name, target=Average.of(target), kept=_kept(target, low, high),
        learned=_learned(records, "scrubbed"), over_best=Leaked.of(records),
        over_retrained=Leaked.of(records, "retrained"),
        labels=tuple(twin["labels"] for twin in twins) if len(twins) == len(results) else (),
        twin=Average.of([twin["target"]["test"] for twin in twins]) if twins else None,
        twin_height=height(_learned([records_of(twin) for twin in twins], "twin")) if twins else None,
        bytes=results[0]["bytes"], seconds=None if None in seconds else fmean(s for s in seconds if s is not None),
    )  # fmt: skip


# Tables -------------------------------------------------------------------------------------------------------


def leaked(value: Leaked | Mapping[str, Any] | None) -> str:
    """A leakage as a table shows it, of a study or of its results file."""
    own = asdict(value) if isinstance(value, Leaked) else value
    if own is None:
        return "–"
    if own["mean"] is None:
        return "undefined"
    return f"{own['mean']:.2f} [{own['low']:.2f}, {own['high']:.2f}]"


def rows_table(title: str, rows: Sequence[Row], notes: Sequence[str] = ()) -> TextTable:
    """References and methods side by side."""
    budgets = sorted({budget for row in rows for budget in row.learned})
    columns = (
        "model", "target accuracy", "benefit kept", *(f"PL at {budget}" for budget in budgets),
        "leakage", "floor", "over retrained", "twin: labels", "twin: target", "bound", "goal",
    )  # fmt: skip
    cells = [
        (
            row.name, number(row.target, 3), "" if row.kept is None else f"{row.kept:.0%}",
            *(number(row.learned.get(budget), 3) for budget in budgets),
            leaked(row.over_best) if row.over_best else "",
            ", ".join(row.over_best.floors) if row.over_best else "",
            leaked(row.over_retrained) if row.over_retrained else "",
            ", ".join(map(str, row.labels)), number(row.twin, 3),
            "" if row.over_best is None else "none" if row.bytes is None else f"{row.bytes} B",
            {True: "✓", False: "–", None: ""}[row.goal] if row.over_best else "",
        )
        for row in rows
    ]  # fmt: skip
    return TextTable(title, columns, tuple(cells), tuple(notes))


def read_row(own: Result) -> Row:
    """A row of a results file."""
    averages = {name: own[name] and Average(**own[name]) for name in ("target", "twin")}
    over = {name: own[name] and Leaked(**own[name]) for name in ("over_best", "over_retrained")}
    learned = {int(budget): Average(**average) for budget, average in own["learned"].items()}
    rest = {name: value for name, value in own.items() if name != "goal"}
    return Row(**rest | averages | over | {"learned": learned, "labels": tuple(own["labels"])})


def removal_rows(values: Result) -> str:
    """The finalists of a results file beside the references; where there are none yet, what was screened."""
    whole = values["summary"]
    rows = [read_row(own) for own in whole["rows"]]
    if not rows:
        about = f"Screening under `{values['screening']}` on validation images, training seed {values['tuning_seed']}."
        return rows_table("", [read_row(own) for own in whole["screened"]], (about,)).markdown()
    rows += [replace(read_row(own), name=f"({own['name']})") for own in whole["references"]]
    about = f"Attacked by `{values['suite']}`, training seeds {', '.join(map(str, values['seeds']))}."
    return rows_table("", rows, (about, *NOTES)).markdown()


def main_table(summary: Summary) -> TextTable:
    """The finalists on the reported seeds."""
    references = [replace(row, name=f"({row.name})") for row in summary.references]
    return rows_table("Finalists", [*summary.rows, *references], NOTES)


NOTES = (
    "Benefit kept: (target accuracy − retrained) / (undisposed − retrained), sums over training seeds. Leakage: over "
    "the floor that is best on validation at each budget, the twin among them; a ratio of sums over budgets, draws of "
    "images and training seeds, with 95 % bounds (Fieller) over the draws of all training seeds.",
    "Twin: trained on the target alone, with so many true labels a class (one number a training seed) as make it as "
    "good at the target as the scrubbed model, on validation images.",
    f"Bound: the most of the private model that can be in the weights. Goal ✓: at least {GOAL_KEPT:.0%} kept, leakage "
    f"at most {GOAL_LEAKAGE:g} and shown below {GOAL_BELOW:g}, a bound of at most {GOAL_BYTES} bytes.",
)


def gate_line(gate: Mapping[str, Any]) -> str:
    """Whether the weights matter in a setting."""
    if not gate:
        return "Whether the weights matter here is not known yet."
    counts = "it counts" if gate["counts"] else "it does not count: who has none of these weights does as well"
    if not gate["counts"] and gate["gap"] >= GATE_GAP:
        counts = "it does not count: what was learned of the source hardly helps the target"
    return (
        f"On the tuning seed's validation images transfer adds {100 * gate['transfer']:.1f} points at the target (at "
        f"least {100 * GATE_TRANSFER:.0f} wanted) and the undisposed model is relearned {gate['gap']:.2f} better than "
        f"the best floor, {' or '.join(gate['floors'])} (at least {GATE_GAP:.2f}): {counts}."
    )


def markdown(values: Result, summary: Summary) -> str:
    """The study as Markdown: whether the weights matter, the finalists, the screening, how to repeat it."""
    parts = [gate_line(summary.gate)]
    if summary.rows:
        seeds = ", ".join(map(str, values["seeds"]))
        parts += [
            f"## Finalists under `{values['suite']}`, training seeds {seeds}",
            main_table(summary).markdown(),
            "![Benefit kept and leakage of every finalist](removal.png)",
        ]
    if summary.left:
        parts.append(f"Not finished: {', '.join(f'`{name}`' for name in summary.left)}.")
    if summary.screened:
        parts += [
            f"## Screening under `{values['screening']}`, training seed {values['tuning_seed']}",
            "On validation images alone, in the place of test images; without a twin.",
            rows_table("Screening", summary.screened).markdown(),
        ]
    return page(values, values["title"], parts)
