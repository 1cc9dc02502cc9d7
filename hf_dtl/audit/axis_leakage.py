"""Leakage: which share of the relearning advantage of the undisposed model the scrubbed model still gives."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Literal, get_args

import numpy as np

from hf_dtl.audit.estimate import Estimate, Gate, Word
from hf_dtl.audit.store import Axis, PiggybackRecord
from hf_dtl.errors import DataError
from hf_dtl.functional.metrics import slc_auc

Floor = Literal["no_model", "scratch", "base", "retrained", "twin"]
FLOORS: tuple[Floor, ...] = get_args(Floor)
NEEDED: tuple[Floor, ...] = ("base", "retrained")
"""Without one of these floors numbers are given, and no word."""
BEST_FLOOR = "the best floor"
Place = tuple[str, int]
"""Name of the attacked data set, and budget."""


@dataclass(frozen=True)
class PLAccuracy:
    """PL accuracy of one model at one budget under the strongest attack.

    Args:
        model: undisposed, scrubbed, or a floor.
        dataset: name of the attacked data set.
        budget: training images a class.
        attack: the attack with the best mean VALIDATION accuracy over seeds. The choice never looks at the test split,
            so the test accuracy is not the luckiest of several. At an exact tie the higher test accuracy counts, for
            every model alike: an order of attacks would favour one.
        mean: mean test accuracy over seeds, in 0..1.
        deviation: deviation over seeds (n - 1), None for one seed.
        validation_accuracy: mean validation accuracy over seeds, in 0..1.
        values: test accuracy of each seed, in the order of the seeds.
        seeds: of the draws of images.
    """

    model: str
    dataset: str
    budget: int
    attack: str
    mean: float
    deviation: float | None
    validation_accuracy: float
    values: tuple[float, ...]
    seeds: tuple[int, ...]

    @property
    def place(self) -> Place:
        """Data set and budget."""
        return self.dataset, self.budget

    @property
    def rank(self) -> tuple[float, float]:
        """What an attacker chooses by: validation, and among equals what is worse for us."""
        return self.validation_accuracy, self.mean


@dataclass(frozen=True)
class Average:
    """A mean over seeds, with its deviation (n - 1), None for one seed."""

    mean: float
    deviation: float | None

    @classmethod
    def over(cls, points: Sequence[PLAccuracy]) -> "Average":
        """The average of one model over data sets and budgets."""
        return cls.of([fmean(values) for values in zip(*(point.values for point in points), strict=True)])

    @classmethod
    def of(cls, values: Sequence[float]) -> "Average":
        """The average of one value a seed."""
        return cls(fmean(values), _deviation(values))


@dataclass(frozen=True)
class Ratio:
    """A leakage with its bounds.

    Args:
        mean: ratio of the sums over draws and budgets; None when undefined. It is never clipped: above 1 the scrubbed
            model is relearned even better than the undisposed one, below 0 worse than the floor.
        undefined: why there is no number; None when there is one.
        gap: undisposed minus floor, averaged over draws and budgets; None when a model is missing.
        low, high: levels that the leakage is shown not to lie below and not to lie above, at 95 % each (Fieller, over
            draws). None when undefined, or when the draws give no bound.
        gate: whether weights matter in this setting; None when it cannot be asked.
        word: what is shown of forgetting; None where nothing can be, and of anything but a headline.
    """

    mean: float | None
    undefined: str | None
    gap: float | None = None
    low: float | None = None
    high: float | None = None
    gate: Gate | None = None
    word: Word | None = None


@dataclass(frozen=True)
class AxisLeakage:
    """Leakage on one axis: over the best floor, over each floor, attack by attack and effort by effort.

    Args:
        headline: leakage under the strongest attack on each model, over the floor that is best on validation at each
            budget.
        floors: that floor, by data set and budget; empty where a budget has none.
        by_floor: the same over one floor alone, for each that was attacked.
        by_attack: leakage over the best floor under one and the same attack on every model, over its common draws.
        by_effort: leakage when every attack stops after so many steps, of those that tell it.
        accuracy_by_attack: PL accuracy of each model under each attack, averaged over budgets. A model that an attack
            was not run on at every budget is left out.
        strongest_by_attack: the attack with the best validation accuracy on the scrubbed model, averaged over budgets.
        strongest_attack: the point with the best validation accuracy on the scrubbed model, of all budgets.
        slc_auc: area under PL accuracy over log(budget) for each model under its strongest attacks, as a mean height
            in 0..1, averaged over data sets. A model that was not attacked at every budget is left out.
        pl_accuracy: the strongest attack of every model, data set and budget.
        pl_accuracy_by_effort: the same of the attacks that tell it after so many steps.
    """

    headline: Ratio
    floors: dict[Place, Floor]
    by_floor: dict[Floor, Ratio]
    by_attack: dict[str, Ratio]
    by_effort: dict[int, Ratio]
    accuracy_by_attack: dict[str, dict[str, Average]]
    strongest_by_attack: str
    strongest_attack: PLAccuracy
    slc_auc: dict[str, Average]
    pl_accuracy: tuple[PLAccuracy, ...]
    pl_accuracy_by_effort: dict[int, tuple[PLAccuracy, ...]]

    @property
    def floor(self) -> str:
        """The floor of the headline in words: its name where it is one at every budget."""
        names = set(self.floors.values())
        return str(names.pop()) if len(names) == 1 else BEST_FLOOR

    @property
    def places(self) -> tuple[Place, ...]:
        """The attacked data sets and budgets."""
        return tuple(dict.fromkeys(point.place for point in self.pl_accuracy))

    @property
    def datasets(self) -> tuple[str, ...]:
        """The attacked data sets."""
        return tuple(dict.fromkeys(dataset for dataset, _ in self.places))

    def points(self, model: str) -> dict[Place, PLAccuracy]:
        """PL accuracy of one model by data set and budget."""
        return {point.place: point for point in self.pl_accuracy if point.model == model}

    def over(self, floor: str) -> Ratio:
        """Leakage under the strongest attack over one floor, or over the best one."""
        if floor == BEST_FLOOR:
            return self.headline
        missing = Ratio(None, f"the {floor} model was not attacked")
        return {str(name): ratio for name, ratio in self.by_floor.items()}.get(floor, missing)


def complete_points(records: Iterable[PiggybackRecord], axis: Axis) -> list[list[PLAccuracy]]:
    """The attacks on each model, data set and budget that were run with every seed, averaged over seeds.

    An attack may have been broken off after its first draws if another one, run on all draws, was at least as good on
    validation in these: a suite spends its time on what leads.

    Args:
        records: finished attacks of any axis.
        axis: the axis wanted.

    Raises:
        DataError: an attack is there twice, or one that leads was not run with every seed.
    """
    groups: dict[tuple[str, str, int], dict[str, dict[int, PiggybackRecord]]] = {}
    for record in records:
        if record.axis != axis:
            continue
        place = groups.setdefault((record.model, record.dataset, record.budget), {})
        runs = place.setdefault(record.attack, {})
        if record.seed in runs:
            raise DataError(f"The attack {record} is in the report twice.")
        runs[record.seed] = record
    seeds = sorted({seed for attacks in groups.values() for runs in attacks.values() for seed in runs})
    found = []
    for where, attacks in groups.items():
        own = {attack: _point(where, attack, runs) for attack, runs in attacks.items()}
        complete = [point for point in own.values() if list(point.seeds) == seeds]
        for attack, point in own.items():
            if point not in complete and not any(
                fmean(attacks[rival.attack][seed].validation_accuracy for seed in point.seeds)
                >= point.validation_accuracy
                for rival in complete
            ):
                raise DataError(
                    f"The attacks on axis {axis} were run with different seeds: {attack} on {point.model} with "
                    f"{point.budget} images a class has {list(point.seeds)} of {seeds}. Finish the audit."
                )
        found.append(complete)
    return found


def pl_accuracies(
    records: Iterable[PiggybackRecord], axis: Axis, *, first_of_equals: bool = False
) -> tuple[PLAccuracy, ...]:
    """Pick the strongest attack of every model, data set and budget; see `complete_points`.

    Args:
        records: finished attacks of any axis.
        axis: the axis wanted.
        first_of_equals: among attacks that are equal on validation take the first, as the first reports did.

    Returns:
        One entry for each (data set, budget, model), budgets ascending.
    """
    strongest = [
        max(points, key=lambda p: (p.validation_accuracy,) if first_of_equals else p.rank)
        for points in complete_points(records, axis)
    ]
    return tuple(sorted(strongest, key=lambda point: point.place))


def _point(place: tuple[str, str, int], attack: str, runs: Mapping[int, PiggybackRecord]) -> PLAccuracy:
    seeds = tuple(sorted(runs))
    values = tuple(runs[seed].accuracy for seed in seeds)
    validation = fmean(run.validation_accuracy for run in runs.values())
    return PLAccuracy(*place, attack, fmean(values), _deviation(values), validation, values, seeds)


def leakage(records: Iterable[PiggybackRecord], axis: Axis = "source_subset") -> AxisLeakage | None:
    """Compute the leakage on one axis.

        L = sum (P_scrubbed - F) / sum (P_undisposed - F)

    over draws of images and budgets, with P the test accuracy of the attack that is best on validation and F that of
    the floor that is best on validation. `Estimate` has its bounds, the gate before it, and the word for it.
    The definition is ours: PL accuracy comes from Koh et al., arXiv 2308.09971.

    Args:
        records: finished attacks of any axis.
        axis: the axis wanted.

    Returns:
        The leakage, or None when there is no attack on the scrubbed model on that axis.

    Raises:
        DataError: see `pl_accuracies`.
    """
    chosen = [record for record in records if record.axis == axis]
    points = pl_accuracies(chosen, axis)
    scrubbed = [point for point in points if point.model == "scrubbed"]
    if not scrubbed:
        return None
    places = {point.place for point in points}
    by_attack, accuracy_by_attack, validation = {}, {}, {}
    for attack in dict.fromkeys(record.attack for record in chosen):
        own = pl_accuracies(_common_seeds([record for record in chosen if record.attack == attack]), axis)
        by_attack[attack] = ratio_of(own, worded=False)
        complete = _complete(own, places)
        accuracy_by_attack[attack] = {model: Average.over(p) for model, p in complete.items()}
        if "scrubbed" in complete:
            validation[attack] = fmean(point.validation_accuracy for point in complete["scrubbed"])
    by_effort = {effort: pl_accuracies(_common_seeds(own), axis) for effort, own in _at_efforts(chosen).items()}
    ratios = {effort: ratio_of(own, worded=False) for effort, own in by_effort.items()}
    efforts = [found for own in by_effort.values() if (found := _estimate(own)) is not None]
    there = {point.model for point in points}
    strongest = max(scrubbed, key=lambda point: point.rank)
    return AxisLeakage(
        headline=ratio_of(points, efforts=efforts),
        floors=_best_floors(points),
        by_floor={floor: ratio_of(points, (floor,), worded=False) for floor in FLOORS if floor in there},
        by_attack=by_attack,
        by_effort={effort: ratio for effort, ratio in ratios.items() if ratio.gap is not None},
        accuracy_by_attack=accuracy_by_attack,
        strongest_by_attack=max(validation, key=lambda attack: validation[attack], default=strongest.attack),
        strongest_attack=strongest,
        slc_auc={model: _area(own) for model, own in _complete(points, places).items()},
        pl_accuracy=points,
        pl_accuracy_by_effort=by_effort,
    )


def plain_ratio(records: Iterable[PiggybackRecord], axis: Axis, floor: str) -> float | None:
    """The ratio of sums over one floor, without a gate, as the first reports wrote it; None where it is none."""
    points = pl_accuracies(records, axis, first_of_equals=True)
    found = _estimate(points, (floor,))
    gap = 0.0 if found is None else float((found.undisposed - found.floor).sum())
    return None if found is None or gap <= 0 else float((found.scrubbed - found.floor).sum()) / gap


def _common_seeds(records: Sequence[PiggybackRecord]) -> list[PiggybackRecord]:
    """Those of seeds that every model was attacked with."""
    own: dict[tuple[str, int, str, str], set[int]] = defaultdict(set)
    for record in records:
        own[record.dataset, record.budget, record.model, record.attack].add(record.seed)
    common = set.intersection(*own.values()) if own else set()
    return [record for record in records if record.seed in common]


def _at_efforts(records: Iterable[PiggybackRecord]) -> dict[int, list[PiggybackRecord]]:
    """The records as they would be if the attacks had stopped after so many steps."""
    found: dict[int, list[PiggybackRecord]] = defaultdict(list)
    for record in records:
        for effort, validation, accuracy in record.curve:
            stopped = replace(record, effort=effort, validation_accuracy=validation, accuracy=accuracy, curve=())
            found[effort].append(stopped)
    return dict(sorted(found.items()))


def _best_floors(points: Iterable[PLAccuracy], floors: Sequence[str] = FLOORS) -> dict[Place, Floor]:
    """The floor that is best at each place; of equals the last in `FLOORS`, whatever order the points are in."""
    best: dict[Place, PLAccuracy] = {}
    for point in sorted((p for p in points if p.model in floors), key=lambda p: FLOORS.index(p.model)):  # type: ignore[arg-type]
        if point.place not in best or point.rank >= best[point.place].rank:
            best[point.place] = point
    return {place: point.model for place, point in best.items()}  # type: ignore[misc]


def _complete(points: Iterable[PLAccuracy], places: set[Place]) -> dict[str, list[PLAccuracy]]:
    """The points of each model that was attacked on every data set at every budget."""
    models: dict[str, list[PLAccuracy]] = defaultdict(list)
    for point in points:
        models[point.model].append(point)
    return {m: own for m, own in models.items() if {point.place for point in own} == places}


def _area(points: Sequence[PLAccuracy]) -> Average:
    """SLC-AUC of one model: of each seed and data set, averaged over data sets, then over seeds."""
    areas = []
    for dataset in dict.fromkeys(point.dataset for point in points):
        own = [point for point in points if point.dataset == dataset]
        curves = zip(*(point.values for point in own), strict=True)
        areas.append([slc_auc([point.budget for point in own], curve) for curve in curves])
    return Average.of([fmean(values) for values in zip(*areas, strict=True)])


def _estimate(points: Sequence[PLAccuracy], floors: Sequence[str] = FLOORS) -> Estimate | None:
    """The accuracies (draws, places) that the number is made of; None where a model is missing somewhere."""
    known = {(point.model, point.place): point.values for point in points}
    places = sorted({place for _, place in known})
    best = _best_floors(points, floors)
    wanted = [[(model, place) for place in places] for model in ("scrubbed", "undisposed")]
    wanted.append([(best[place], place) for place in places if place in best])
    if not places or len(wanted[2]) < len(places) or any(key not in known for row in wanted for key in row):
        return None
    return Estimate(*(np.array([known[key] for key in row]).T for row in wanted))


def ratio_of(
    points: Sequence[PLAccuracy],
    floors: Sequence[str] = FLOORS,
    *,
    efforts: Sequence[Estimate] = (),
    worded: bool = True,
) -> Ratio:
    """The leakage from one point for each model and place, over the best of some floors.

    Args:
        points: PL accuracies.
        floors: those that count.
        efforts: the same when attacks stop earlier, for the word.
        worded: give the word.
    """
    found = _estimate(points, floors)
    if found is None:
        return Ratio(None, _missing(points, floors))
    gap, draws = found.gap, len(found.scrubbed)
    if gap.low is None or gap.high is None:
        return Ratio(None, "one seed gives no measure of the noise", gap.mean)
    best = set(_best_floors(points, floors).values())
    name = f"the {best.pop()} model" if len(best) == 1 else BEST_FLOOR
    if found.gate != "defined":
        words = "weights do not matter here" if found.gate == "weights do not matter" else "unresolved: more draws"
        reason = f"{words} (undisposed over {name} {gap.mean:.3f}, {gap.low:.3f} to {gap.high:.3f}, {draws} draws)"
        return Ratio(None, reason, gap.mean, gate=found.gate)
    low, high = found.interval or (None, None)
    enough = worded and any(point.model in NEEDED for point in points)
    word = found.word(efforts) if enough else None
    return Ratio(found.leakage, None, gap.mean, low, high, found.gate, word)


def _missing(points: Sequence[PLAccuracy], floors: Sequence[str]) -> str:
    places = {point.place for point in points}
    complete, some = _complete(points, places), {point.model for point in points}
    for model in ("undisposed", "scrubbed"):
        if model not in complete:
            return f"the {model} model was not attacked{' at every budget' * (model in some)}"
    if len(floors) == 1:
        return f"the {floors[0]} model was not attacked{' at every budget' * (floors[0] in some)}"
    return f"no floor was attacked{' at every budget' * bool(some & set(floors))}"


def _deviation(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None
