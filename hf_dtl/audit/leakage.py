"""Leakage: which share of the relearning advantage of the undisposed model the scrubbed model still gives."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import get_args

from hf_dtl.audit.store import Axis, PiggybackRecord
from hf_dtl.errors import DataError


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
class Ratio:
    """A leakage with its noise.

    Args:
        mean: mean over seeds; None when undefined. It is never clipped: above 1 the scrubbed model is relearned
            even better than the undisposed one, below 0 worse than the floor (the weights hinder learning).
        deviation: deviation over seeds (n - 1); None when undefined.
        undefined: why there is no number; None when there is one.
        gap: ceiling minus floor, averaged over budgets; None when a reference is missing.
        gap_error: standard error of the gap; None when it cannot be known.
    """

    mean: float | None
    deviation: float | None
    undefined: str | None
    gap: float | None
    gap_error: float | None


@dataclass(frozen=True)
class AxisLeakage:
    """Leakage on one axis: over the scratch model, over the retrained model, and attack by attack."""

    over_scratch: Ratio
    over_retrained: Ratio
    by_attack: dict[str, Ratio]
    strongest_attack: PLAccuracy
    pl_accuracy: tuple[PLAccuracy, ...]


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


def leakage(records: Iterable[PiggybackRecord], axis: Axis = "source_subset") -> AxisLeakage | None:
    """Compute the leakage on one axis.

        leakage_s = Σ_b (PL_scrubbed,s,b − mean PL_floor,b) / Σ_b (mean PL_undisposed,b − mean PL_floor,b)

    over budgets b for each seed s, then mean and deviation over seeds. It is undefined when the denominator is not
    above twice its standard error. The definition is ours: PL accuracy comes from Koh et al., arXiv 2308.09971.

    Args:
        records: finished attacks of any axis.
        axis: the axis wanted.

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
    by_attack = {}
    for attack in dict.fromkeys(record.attack for record in chosen):
        own = pl_accuracies((record for record in chosen if record.attack == attack), axis)
        by_attack[attack] = _ratio(own, "scratch")
    return AxisLeakage(
        over_scratch=_ratio(points, "scratch"),
        over_retrained=_ratio(points, "retrained"),
        by_attack=by_attack,
        strongest_attack=max(scrubbed, key=lambda point: point.validation_accuracy),
        pl_accuracy=points,
    )


def leakage_by_axis(records: Sequence[PiggybackRecord]) -> dict[str, AxisLeakage]:
    """Compute the leakage on every axis that was attacked."""
    found = {axis: leakage(records, axis) for axis in get_args(Axis)}
    return {axis: value for axis, value in found.items() if value is not None}


def _ratio(points: Sequence[PLAccuracy], floor: str) -> Ratio:
    means: dict[str, tuple[float, ...]] = {}
    places = {(point.dataset, point.budget) for point in points}
    for model in ("undisposed", "scrubbed", floor):
        own = [point for point in points if point.model == model]
        if {(point.dataset, point.budget) for point in own} != places:
            return Ratio(None, None, f"the {model} model was not attacked at every budget", None, None)
        means[model] = tuple(fmean(values) for values in zip(*(point.values for point in own), strict=True))
    ceiling, ground = fmean(means["undisposed"]), fmean(means[floor])
    gap, seeds = ceiling - ground, len(means[floor])
    if seeds < 2:
        return Ratio(None, None, "one seed gives no measure of the noise", gap, None)
    error = math.hypot(stdev(means["undisposed"]), stdev(means[floor])) / math.sqrt(seeds)
    if gap <= 0 or gap <= 2 * error:
        reason = (
            f"the undisposed model is relearned no better than the {floor} model beyond noise "
            f"(gap {gap:.3f}, standard error {error:.3f})"
        )
        return Ratio(None, None, reason, gap, error)
    values = [(value - ground) / gap for value in means["scrubbed"]]
    return Ratio(fmean(values), _deviation(values), None, gap, error)


def _deviation(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None
