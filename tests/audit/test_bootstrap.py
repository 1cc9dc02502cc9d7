import math
import random
from itertools import product
from statistics import fmean

import numpy as np
import pytest
from scipy.stats import bootstrap

from hf_dtl.audit.bootstrap import leakage_interval

SCRUBBED, CEILING, FLOOR = [0.61, 0.66, 0.58], [0.83, 0.90, 0.82], [0.42, 0.50, 0.44]


def enumerated(scrubbed, ceiling, floor, paired=True):
    """All draws of 3 seeds, one by one, each 1/27: 2.5 % of them is less than one, so the ends are the extremes."""
    draws = list(product(range(3), repeat=3))
    ratios = []
    for own in draws:
        for other in [own] if paired else draws:
            ground = fmean(floor[i] for i in other)
            ratios.append((fmean(scrubbed[i] for i in own) - ground) / (fmean(ceiling[i] for i in own) - ground))
    return min(ratios), max(ratios)


def test_three_seeds_by_hand():
    assert leakage_interval(SCRUBBED, CEILING, FLOOR) == pytest.approx(enumerated(SCRUBBED, CEILING, FLOOR))
    # With both references constant it is the range of the seeds.
    assert leakage_interval([0.5, 0.7, 0.6], [0.9] * 3, [0.4] * 3) == pytest.approx((0.2, 0.6))


def test_four_seeds_drop_the_rarest_draws():
    """Of 256 draws 2.5 % are 6.4, so the low end is the seventh lowest: the lowest seed four times is 1 draw, three
    times with the second 4 draws, twice with the second twice 6 draws, and these hold number seven: 0.05."""
    low, high = leakage_interval([0.0, 0.1, 0.3, 1.0], [1.0] * 4, [0.0] * 4)
    assert (low, high) == pytest.approx((0.05, 0.775))
    means = sorted(fmean(draw) for draw in product([0.0, 0.1, 0.3, 1.0], repeat=4))
    assert (low, high) == pytest.approx((means[6], means[-7]))


def test_seeds_are_drawn_together_so_that_shared_luck_is_no_noise():
    luck = [-0.05, 0.0, 0.05]
    shared = [[level + x for x in luck] for level in (0.6, 0.9, 0.4)]
    assert leakage_interval(*shared) == pytest.approx((0.4, 0.4))
    low, high = enumerated(*shared, paired=False)
    assert high - low > 0.2


@pytest.mark.parametrize("seeds", [7, 8, 9, 20])
def test_more_seeds_agree_with_scipy(seeds):
    noise = random.Random(seeds)
    values = [[level + noise.gauss(0, 0.03) for _ in range(seeds)] for level in (0.6, 0.9, 0.4)]

    def ratio(scrubbed, ceiling, floor, axis):
        ground = floor.mean(axis)
        return (scrubbed.mean(axis) - ground) / (ceiling.mean(axis) - ground)

    theirs = bootstrap(
        values, ratio, paired=True, method="percentile", n_resamples=20_000, rng=np.random.default_rng(1)
    )
    own = leakage_interval(*values)
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert own == pytest.approx(tuple(theirs.confidence_interval), abs=0.03 * width)
    assert own == leakage_interval(*values)


def test_draws_without_a_gap_only_widen_the_interval():
    # Seed 1 alone has no gap: 1 of 27 draws, more than 2.5 %, so there is no bound on either side.
    assert leakage_interval([0.5, 0.45, 0.5], [0.8, 0.4, 0.8], [0.4, 0.5, 0.4]) == (None, None)
    # With four seeds that draw is 1 of 256: the interval is bounded, and counts it at both ends.
    values = [0.5, 0.45, 0.5, 0.6], [0.8, 0.45, 0.8, 0.8], [0.4, 0.5, 0.4, 0.4]
    ratios = []
    for draw in product(range(4), repeat=4):
        scrubbed, ceiling, floor = (fmean(v[i] for i in draw) for v in values)
        gap = ceiling - floor
        ratios.append((scrubbed - floor) / gap if gap > 1e-9 else math.nan)
    whole = [r for r in ratios if not math.isnan(r)]
    assert len(whole) < len(ratios)
    low, high = leakage_interval(*values)
    degenerate = len(ratios) - len(whole)
    assert (low, high) == pytest.approx((sorted(whole)[6 - degenerate], sorted(whole)[-7 + degenerate]))


@pytest.mark.parametrize("values", [([0.5], [0.9], [0.4]), ([0.5, 0.6], [0.9], [0.4, 0.4])])
def test_one_seed_or_unequal_seeds_are_refused(values):
    with pytest.raises(ValueError, match="2 or more seeds"):
        leakage_interval(*values)
