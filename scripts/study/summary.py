"""What the study found: every number over training seeds, from the results of its cells."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

from hf_dtl.audit import AxisLeakage, PiggybackRecord, PLAccuracy, Ratio, leakage
from hf_dtl.audit.axis_leakage import pl_accuracies
from study.cells import Cell
from study.options import Method
from study.tuning import Chosen

GOAL_LEAKAGE, GOAL_POINTS = 0.05, 0.5
"""The goal: at most so much leaks over the retrained model, for at most so many points of target accuracy."""

REFERENCES = ("undisposed", "retrained", "scratch")


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


@dataclass(frozen=True)
class Leakage:
    """A leakage over training seeds, and for each seed the reason where it is undefined (None where it is not)."""

    over: Average
    undefined: tuple[str | None, ...]

    @classmethod
    def of(cls, ratios: Sequence[Ratio | None]) -> "Leakage":
        """Sum up the ratios of the seeds, None where the disposal diverged."""
        reasons = tuple("the disposal diverged" if ratio is None else ratio.undefined for ratio in ratios)
        return cls(Average.of(None if ratio is None else ratio.mean for ratio in ratios), reasons)


@dataclass(frozen=True)
class Reference:
    """A model that shows what the methods' numbers mean; what does not apply to it is None."""

    name: str
    target: Average | None
    source: Average | None
    loss_points: Average | None
    learned: dict[int, Average]


@dataclass(frozen=True)
class Row:
    """One method.

    Args:
        method: as a command line names it, without its strength.
        knob: the option that is its strength.
        chosen: its strength, and what tuning saw.
        target, source: accuracy on test images after disposal, in 0..1.
        loss_points: target accuracy before minus after, in points (hundredths).
        learned: PL accuracy by budget; each seed's is a mean over attack seeds under the strongest attack.
        over_retrained, over_scratch: leakage, by its floor.
        cost: seconds of disposal over those of pre-training, by the clock of the summary.
        attacks: how often an attack was the strongest on a scrubbed model, over seeds and budgets.
        diverged: training seeds on which the disposal diverged; they have no values.
    """

    method: str
    knob: str
    chosen: Chosen
    target: Average
    source: Average
    loss_points: Average
    learned: dict[int, Average]
    over_retrained: Leakage
    over_scratch: Leakage
    cost: Average
    attacks: dict[str, int]
    diverged: int

    @property
    def name(self) -> str:
        """The method at its strength, as a command line names it."""
        return f"{self.method}:{self.knob}={self.chosen.strength:g}"

    @property
    def goal(self) -> bool | None:
        """Whether it leaks and costs little enough on the mean; None when that is not known on every seed."""
        leaked, lost = self.over_retrained.over, self.loss_points
        if leaked.mean is None or lost.mean is None or leaked.missing or lost.missing:
            return None
        return leaked.mean <= GOAL_LEAKAGE and lost.mean <= GOAL_POINTS


@dataclass(frozen=True)
class Summary:
    """The study's numbers.

    Args:
        seeds: training seeds, in the order of all values.
        references: undisposed, retrained and scratch.
        rows: the methods, in the order asked for.
        failed: methods without a row, with the reason.
        clock: what the cost counts: `cpu` seconds of the process, or `wall`-clock seconds (with a GPU).
    """

    seeds: tuple[int, ...]
    references: tuple[Reference, ...]
    rows: tuple[Row, ...]
    failed: dict[str, str]
    clock: str

    @property
    def budgets(self) -> tuple[int, ...]:
        """Images a class that the attacker had."""
        return tuple(self.references[0].learned)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        found = asdict(self)
        found["rows"] = [{"name": row.name, "goal": row.goal, **asdict(row)} for row in self.rows]
        return found


def reference_rows(seeds: Sequence[Cell], attacks: Sequence[Cell]) -> tuple[Reference, ...]:
    """Sum up the references.

    Args:
        seeds: finished cells of the kind `seed`, one a training seed.
        attacks: finished cells of the kind `references`, of the same seeds.
    """
    trained = [cell.result()["seed"] for cell in seeds]
    before = [result["target"]["undisposed"] for result in trained]
    points = [pl_accuracies(cell.records(), "source_subset") for cell in attacks]
    found = []
    for name in REFERENCES:
        target, source = ([result[task].get(name) for result in trained] for task in ("target", "source"))
        known = None not in target
        found.append(
            Reference(
                name,
                target=Average.of(target) if known else None,
                source=Average.of(source) if None not in source else None,
                loss_points=_lost(before, target) if known else None,
                learned=_learned([[point for point in own if point.model == name] for own in points]),
            )
        )
    return tuple(found)


def method_row(
    method: Method, chosen: Chosen, cells: Sequence[Cell], seeds: Sequence[Cell], attacks: Sequence[Cell]
) -> Row:
    """Sum up one method.

    Args:
        method: the method.
        chosen: its strength.
        cells: its finished cells of the kind `method`, one a training seed.
        seeds, attacks: see `reference_rows`; of the same training seeds in the same order.
    """
    trained = [cell.result()["seed"] for cell in seeds]
    disposed = [cell.result()["disposal"] for cell in cells]
    audits = [_audit(own, of.records()) for own, of in zip((c.records() for c in cells), attacks, strict=True)]
    scrubbed = [[p for p in audit.pl_accuracy if p.model == "scrubbed"] if audit else [] for audit in audits]
    target = [result.get("target") for result in disposed]
    return Row(
        method.text,
        method.knob,
        chosen,
        target=Average.of(target),
        source=Average.of(result.get("source") for result in disposed),
        loss_points=_lost([result["target"]["undisposed"] for result in trained], target),
        learned=_learned(scrubbed),
        over_retrained=Leakage.of([audit.over_retrained if audit else None for audit in audits]),
        over_scratch=Leakage.of([audit.over_scratch if audit else None for audit in audits]),
        cost=Average.of(
            _ratio(d.get("cost"), t["pretrain"], t["clock"]) for d, t in zip(disposed, trained, strict=True)
        ),
        attacks=dict(Counter(point.attack for own in scrubbed for point in own).most_common()),
        diverged=sum("diverged" in result for result in disposed),
    )


def _audit(scrubbed: list[PiggybackRecord], of_references: list[PiggybackRecord]) -> AxisLeakage | None:
    """The audit of one training seed; None without a scrubbed model."""
    return leakage([*of_references, *scrubbed], "source_subset") if scrubbed else None


def _learned(points: Sequence[Sequence[PLAccuracy]]) -> dict[int, Average]:
    """PL accuracy by budget, from the points of one model of each training seed."""
    by_seed = [{point.budget: point.mean for point in own} for own in points]
    budgets = sorted({budget for own in by_seed for budget in own})
    return {budget: Average.of(own.get(budget) for own in by_seed) for budget in budgets}


def _lost(before: Sequence[float], after: Sequence[float | None]) -> Average:
    return Average.of(None if a is None else 100 * (b - a) for b, a in zip(before, after, strict=True))


def _ratio(disposal: dict[str, float] | None, pretrain: dict[str, float] | None, clock: str) -> float | None:
    return disposal[clock] / pretrain[clock] if disposal and pretrain else None
