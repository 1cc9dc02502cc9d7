"""The interval of a leakage: what other draws of the same seeds would have given."""

import math
from collections.abc import Sequence
from itertools import combinations_with_replacement

import numpy as np

CONFIDENCE = 0.95
ENUMERATED_SEEDS, SAMPLES = 8, 20_000


def leakage_interval(
    scrubbed: Sequence[float], ceiling: Sequence[float], floor: Sequence[float]
) -> tuple[float | None, float | None]:
    """Bootstrap (mean scrubbed − mean floor) / (mean ceiling − mean floor) over seeds: its 95 % percentile interval.

    Seeds are drawn again with replacement, the SAME ones for the three models: a seed gives every model the same
    images, so what a lucky draw does to all of them at once is no noise of the ratio. All nⁿ draws of n seeds
    are enumerated up to 8 seeds (as multisets with their weights), above that 20,000 of them with a fixed seed; so the
    interval is always the same. Its ends are values of draws, rounded outwards.

    A draw whose gap (ceiling − floor) is not positive has no leakage. It is counted at both ends as an endless one,
    so it can only widen the interval.

    **Few seeds make a coarse and optimistic interval.** With 3 seeds there are 27 draws, each more than 2.5 %, so the
    interval is their whole range; in simulations with normal noise it held the truth in 75 % of the cases, not
    in 95 % (5 seeds: 83 %, 8 seeds: 89 %). And it knows only the noise of seeds: not that of the test split,
    of the training, nor of the choice of attacks.

    Source: Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics, 1979.

    Args:
        scrubbed, ceiling, floor: (seeds,) accuracy of each seed, seeds in the same order, in 0..1.

    Returns:
        Low and high end; None where more than 2.5 % of the draws are endless, so that there is no bound.

    Raises:
        ValueError: the lengths differ, or there are fewer than 2 seeds.

    Example:
        >>> leakage_interval([0.25, 0.75, 0.5], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0])
        (0.25, 0.75)
    """
    seeds = len(scrubbed)
    if not seeds == len(ceiling) == len(floor) or seeds < 2:
        raise ValueError(
            f"Need the same 2 or more seeds of each model, got {seeds} of scrubbed, {len(ceiling)} of the ceiling and "
            f"{len(floor)} of the floor."
        )
    draws, weights = _draws(seeds)
    ground = draws @ np.asarray(floor, dtype=float)
    gap = draws @ np.asarray(ceiling, dtype=float) - ground
    over = draws @ np.asarray(scrubbed, dtype=float) - ground
    whole = gap > 1e-9  # less is rounding
    ratios = np.divide(over, gap, out=np.full(len(gap), math.inf), where=whole)
    low = _lower_end(np.where(whole, ratios, -math.inf), weights)
    high = _lower_end(-ratios, weights)
    return low, None if high is None else -high


def _draws(seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each seed is in each draw, (draws, seeds), and the weight of each draw."""
    if seeds > ENUMERATED_SEEDS:
        counts = np.random.default_rng(0).multinomial(seeds, [1 / seeds] * seeds, size=SAMPLES)
        return counts, np.ones(SAMPLES, dtype=np.int64)
    multisets = combinations_with_replacement(range(seeds), seeds)
    counts = np.array([np.bincount(members, minlength=seeds) for members in multisets])
    ways = [math.factorial(seeds) // math.prod(map(math.factorial, row)) for row in counts.tolist()]
    return counts, np.array(ways, dtype=np.int64)


def _lower_end(values: np.ndarray, weights: np.ndarray) -> float | None:
    """The smallest value that has at least (1 − confidence) / 2 of the weight at or below it; None for -inf."""
    order = np.argsort(values, kind="stable")
    share = np.cumsum(weights[order]) / weights.sum()
    end = float(values[order][np.searchsorted(share, (1 - CONFIDENCE) / 2 - 1e-12)])
    return end if math.isfinite(end) else None
