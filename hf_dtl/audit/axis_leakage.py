"""Leakage: which share of the relearning advantage of the undisposed model the scrubbed model still gives."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from hf_dtl.audit.bootstrap import leakage_interval
from hf_dtl.audit.store import Axis, PiggybackRecord
from hf_dtl.errors import DataError
from hf_dtl.functional.metrics import slc_auc

Floor = Literal["scratch", "retrained"]


@dataclass(frozen=True)
class PLAccuracy:
    """PL accuracy of one model at one budget under the strongest attack.

    Args:
        model: undisposed, scrubbed, scratch or retrained.
        dataset: name of the attacked data set.
        budget: training images a class.
        attack: the attack with the best mean VALIDATION accuracy over seeds. The choice never looks at the test split,
            so the test accuracy is not the luckiest of several.
        mean: mean test accuracy over seeds, in 0..1.
        deviation: deviation over seeds (n - 1), None for one seed.
        validation_accuracy: mean validation accuracy over seeds, in 0..1.
        values: test accuracy of each seed, in the order of the seeds.
    """

    model: str
    dataset: str
    budget: int
    attack: str
    mean: float
    deviation: float | None
    validation_accuracy: float
    values: tuple[float, ...]


@dataclass(frozen=True)
class Average:
    """A mean over seeds, with its deviation (n - 1), None for one seed."""

    mean: float
    deviation: float | None

    @classmethod
    def over(cls, points: Sequence[PLAccuracy]) -> "Average":
        """The average of one model over data sets and budgets."""
        return cls.of(_over_places(points))

    @classmethod
    def of(cls, values: Sequence[float]) -> "Average":
        """The average of one value a seed."""
        return cls(fmean(values), _deviation(values))


@dataclass(frozen=True)
class Ratio:
    """A leakage with its noise.

    Args:
        mean: mean over seeds; None when undefined. It is never clipped: above 1 the scrubbed model is relearned
            even better than the undisposed one, below 0 worse than the floor (the weights hinder learning).
        deviation: deviation over seeds (n - 1) of the scrubbed model; None when undefined.
        undefined: why there is no number; None when there is one.
        gap: ceiling minus floor, averaged over budgets; None when a reference is missing.
        gap_error: standard error of the gap; None when it cannot be known.
        low, high: ends of the 95 % bootstrap interval over seeds, noise of both references included. None when
            undefined, or when the draws give no bound on that side. With 3 seeds it is coarse and optimistic; see
            `hf_dtl.audit.bootstrap.leakage_interval`.
    """

    mean: float | None
    deviation: float | None
    undefined: str | None
    gap: float | None
    gap_error: float | None
    low: float | None = None
    high: float | None = None

    @property
    def least_favourable(self) -> float:
        """The highest leakage that the noise allows (deviation or interval, what is more); inf for no bound."""
        if self.mean is None or self.high is None:
            return math.inf
        return max(self.mean + (self.deviation or 0.0), self.high)


@dataclass(frozen=True)
class AxisLeakage:
    """Leakage on one axis: over the scratch model, over the retrained model, and attack by attack.

    Args:
        over_scratch, over_retrained: leakage under the strongest attack on each model, with either floor.
        by_attack: leakage over the chosen floor under one and the same attack on every model.
        accuracy_by_attack: PL accuracy of each model under each attack, averaged over budgets. A model that an attack
            was not run on at every budget is left out.
        strongest_by_attack: the attack with the best validation accuracy on the scrubbed model, averaged over budgets.
        strongest_attack: the point with the best validation accuracy on the scrubbed model, of all budgets.
        slc_auc: area under PL accuracy over log(budget) for each model under its strongest attacks, as a mean height
            in 0..1, averaged over data sets. A model that was not attacked at every budget is left out.
        pl_accuracy: the strongest attack of every model, data set and budget.
    """

    over_scratch: Ratio
    over_retrained: Ratio
    by_attack: dict[str, Ratio]
    accuracy_by_attack: dict[str, dict[str, Average]]
    strongest_by_attack: str
    strongest_attack: PLAccuracy
    slc_auc: dict[str, Average]
    pl_accuracy: tuple[PLAccuracy, ...]

    @property
    def places(self) -> tuple[tuple[str, int], ...]:
        """The attacked data sets and budgets."""
        return tuple(dict.fromkeys((point.dataset, point.budget) for point in self.pl_accuracy))

    @property
    def datasets(self) -> tuple[str, ...]:
        """The attacked data sets."""
        return tuple(dict.fromkeys(dataset for dataset, _ in self.places))

    def points(self, model: str) -> dict[tuple[str, int], PLAccuracy]:
        """PL accuracy of one model by data set and budget."""
        return {(point.dataset, point.budget): point for point in self.pl_accuracy if point.model == model}

    def over(self, floor: Floor) -> Ratio:
        """Leakage under the strongest attack over either floor."""
        return self.over_scratch if floor == "scratch" else self.over_retrained


def strongest_floor(records: Iterable[PiggybackRecord]) -> Floor:
    """The strongest floor that there is: retrained where it was attacked wherever scrubbed was, else scratch."""
    places: dict[str, set[tuple[str, int]]] = defaultdict(set)
    for record in records:
        if record.axis == "source_subset":
            places[record.model].add((record.dataset, record.budget))
    return "retrained" if places["retrained"] and places["retrained"] >= places["scrubbed"] else "scratch"


def pl_accuracies(records: Iterable[PiggybackRecord], axis: Axis) -> tuple[PLAccuracy, ...]:
    """Pick the strongest attack of every model, data set and budget, and average it over seeds.

    Args:
        records: finished attacks of any axis.
        axis: the axis wanted.

    Returns:
        One entry for each (data set, budget, model), budgets ascending.

    Raises:
        DataError: an attack is there twice, or attacks of the axis were run with different seeds.
    """
    groups: dict[tuple[str, int, str, str], dict[int, PiggybackRecord]] = {}
    for record in records:
        if record.axis != axis:
            continue
        runs = groups.setdefault((record.dataset, record.budget, record.model, record.attack), {})
        if record.seed in runs:
            raise DataError(f"The attack {record} is in the report twice.")
        runs[record.seed] = record
    seeds = {tuple(sorted(runs)) for runs in groups.values()}
    if len(seeds) > 1:
        raise DataError(
            f"The attacks on axis {axis} were run with different seeds: {sorted(seeds)}. Finish the audit."
        )
    strongest: dict[tuple[str, int, str], PLAccuracy] = {}
    for (dataset, budget, model, attack), runs in groups.items():
        values = tuple(runs[seed].accuracy for seed in sorted(runs))
        validation = fmean(run.validation_accuracy for run in runs.values())
        rival = strongest.get((dataset, budget, model))
        if rival is None or validation > rival.validation_accuracy:
            strongest[dataset, budget, model] = PLAccuracy(
                model, dataset, budget, attack, fmean(values), _deviation(values), validation, values
            )
    return tuple(sorted(strongest.values(), key=lambda point: (point.dataset, point.budget)))


def leakage(
    records: Iterable[PiggybackRecord], axis: Axis = "source_subset", floor: Floor = "scratch"
) -> AxisLeakage | None:
    """Compute the leakage on one axis.

        leakage_s = Σ_b (PL_scrubbed,s,b − mean PL_floor,b) / Σ_b (mean PL_undisposed,b − mean PL_floor,b)

    over budgets b for each seed s, then mean and deviation over seeds, and a 95 % bootstrap interval with the seeds of
    all three models drawn together. It is undefined when the denominator is not above twice its standard error.
    The definition is ours: PL accuracy comes from Koh et al., arXiv 2308.09971.

    Args:
        records: finished attacks of any axis.
        axis: the axis wanted.
        floor: the model that leakage 0 means, attack by attack.

    Returns:
        The leakage, or None when there is no attack on that axis.

    Raises:
        DataError: see `pl_accuracies`.
    """
    chosen = [record for record in records if record.axis == axis]
    points = pl_accuracies(chosen, axis)
    scrubbed = [point for point in points if point.model == "scrubbed"]
    if not scrubbed:
        return None
    places = {(point.dataset, point.budget) for point in points}
    by_attack, accuracy_by_attack, validation = {}, {}, {}
    for attack in dict.fromkeys(record.attack for record in chosen):
        own = pl_accuracies((record for record in chosen if record.attack == attack), axis)
        by_attack[attack] = _ratio(own, floor)
        complete = _complete(own, places)
        accuracy_by_attack[attack] = {model: Average.over(p) for model, p in complete.items()}
        if "scrubbed" in complete:
            validation[attack] = fmean(point.validation_accuracy for point in complete["scrubbed"])
    strongest = max(scrubbed, key=lambda point: point.validation_accuracy)
    return AxisLeakage(
        over_scratch=_ratio(points, "scratch"),
        over_retrained=_ratio(points, "retrained"),
        by_attack=by_attack,
        accuracy_by_attack=accuracy_by_attack,
        strongest_by_attack=max(validation, key=lambda attack: validation[attack], default=strongest.attack),
        strongest_attack=strongest,
        slc_auc={model: _area(own) for model, own in _complete(points, places).items()},
        pl_accuracy=points,
    )


def _complete(points: Iterable[PLAccuracy], places: set[tuple[str, int]]) -> dict[str, list[PLAccuracy]]:
    """The points of each model that was attacked on every data set at every budget."""
    models: dict[str, list[PLAccuracy]] = defaultdict(list)
    for point in points:
        models[point.model].append(point)
    return {m: own for m, own in models.items() if {(point.dataset, point.budget) for point in own} == places}


def _over_places(points: Sequence[PLAccuracy]) -> tuple[float, ...]:
    """Accuracy of each seed, averaged over data sets and budgets."""
    return tuple(fmean(values) for values in zip(*(point.values for point in points), strict=True))


def _area(points: Sequence[PLAccuracy]) -> Average:
    """SLC-AUC of one model: of each seed and data set, averaged over data sets, then over seeds."""
    areas = []
    for dataset in dict.fromkeys(point.dataset for point in points):
        own = [point for point in points if point.dataset == dataset]
        curves = zip(*(point.values for point in own), strict=True)
        areas.append([slc_auc([point.budget for point in own], curve) for curve in curves])
    return Average.of([fmean(values) for values in zip(*areas, strict=True)])


def _ratio(points: Sequence[PLAccuracy], floor: str) -> Ratio:
    complete = _complete(points, {(point.dataset, point.budget) for point in points})
    for model in ("undisposed", "scrubbed", floor):
        if model not in complete:
            partly = " at every budget" * any(point.model == model for point in points)
            return Ratio(None, None, f"the {model} model was not attacked{partly}", None, None)
    seeds_of = {model: _over_places(own) for model, own in complete.items()}
    scrubbed, undisposed, lowest = seeds_of["scrubbed"], seeds_of["undisposed"], seeds_of[floor]
    ceiling, ground = fmean(undisposed), fmean(lowest)
    gap, seeds = ceiling - ground, len(lowest)
    if seeds < 2:
        return Ratio(None, None, "one seed gives no measure of the noise", gap, None)
    error = math.hypot(stdev(undisposed), stdev(lowest)) / math.sqrt(seeds)
    if gap <= 0 or gap <= 2 * error:
        reason = (
            f"the undisposed model is relearned no better than the {floor} model beyond noise "
            f"(gap {gap:.3f}, standard error {error:.3f})"
        )
        return Ratio(None, None, reason, gap, error)
    values = [(value - ground) / gap for value in scrubbed]
    low, high = leakage_interval(scrubbed, undisposed, lowest)
    return Ratio(fmean(values), _deviation(values), None, gap, error, low, high)


def _deviation(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None
