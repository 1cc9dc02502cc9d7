"""Leakage, its bound, gate and word, against loops and simulated attacks."""

import math
import statistics

import numpy as np
import pytest
from scipy.stats import t as student

from hf_dtl.audit.estimate import Bounds, Estimate


def simulated(rng, *, leakage, draws=5, gap=0.3, noise=0.03, shared=0.03):
    """PL accuracies at two budgets; a draw of images is lucky or not for all models alike."""
    luck = shared * rng.standard_normal((draws, 1))

    def measured(mean):
        return mean + luck + noise * rng.standard_normal((draws, 2))

    floor = np.array([0.4, 0.5])
    return Estimate(measured(floor + leakage * gap), measured(floor + gap), measured(floor))


def test_leakage_is_the_ratio_of_sums_and_no_mean_of_ratios():
    scrubbed, undisposed, floor = [[0.5, 0.7], [0.6, 0.7]], [[0.8, 0.9], [0.7, 0.9]], [[0.4, 0.5], [0.5, 0.5]]
    over = under = 0.0
    for draw in range(2):
        for budget in range(2):
            over += scrubbed[draw][budget] - floor[draw][budget]
            under += undisposed[draw][budget] - floor[draw][budget]
    found = Estimate(scrubbed, undisposed, floor)
    assert found.gate == "unresolved" and found.leakage is None, "two draws say little"
    many = Estimate(scrubbed * 4, undisposed * 4, floor * 4)
    assert many.leakage == pytest.approx(over / under)


def test_bounds_are_those_of_the_t_test():
    values = [0.31, 0.18, 0.25, 0.4, 0.22]
    margin = student.ppf(0.95, 4) * statistics.stdev(values) / math.sqrt(5)
    found = Bounds.of(values)
    assert (found.low, found.high) == pytest.approx(
        (statistics.fmean(values) - margin, statistics.fmean(values) + margin)
    )
    assert Bounds.of([0.3]) == Bounds(0.3, None, None)


def test_the_interval_is_where_a_search_finds_nothing_shown():
    found = simulated(np.random.default_rng(3), leakage=0.3)
    levels = np.linspace(0, 0.6, 6_001)
    open_levels = [level for level in levels if not (found.shown_below(level) or found.shown_above(level))]
    assert found.interval == pytest.approx((open_levels[0], open_levels[-1]), abs=2e-4)


def test_where_weights_matter_there_is_an_interval_around_the_leakage():
    rng, defined = np.random.default_rng(5), 0
    for _ in range(500):
        noise = rng.uniform(0.01, 0.2)
        found = simulated(rng, leakage=rng.uniform(-1, 2), draws=int(rng.integers(2, 6)), noise=noise)
        if found.gate == "defined":
            low, high = found.interval
            assert low <= found.leakage <= high
            defined += 1
    assert defined > 50


@pytest.mark.parametrize(("gap", "gate"), [(0.3, "defined"), (0.0, "weights do not matter"), (0.1, "unresolved")])
def test_the_gate_asks_first_whether_weights_matter(gap, gate):
    found = simulated(np.random.default_rng(0), leakage=0.5, gap=gap)
    assert found.gate == gate
    assert (found.leakage is None) == (found.word() is None) == (found.interval is None) == (gate != "defined")


def test_the_words():
    assert simulated(np.random.default_rng(0), leakage=0.0, noise=0.01).word() == "forgotten"
    assert simulated(np.random.default_rng(0), leakage=0.6).word() == "leaks"
    assert simulated(np.random.default_rng(0), leakage=0.12, noise=0.06).word() == "not shown"


def test_one_budget_or_effort_that_leaks_is_enough_against_forgotten():
    rng = np.random.default_rng(0)
    held = simulated(rng, leakage=0.0, noise=0.005, shared=0.0)
    scrubbed = held.scrubbed + np.array([0.06, -0.06])
    one_leaks = Estimate(scrubbed, held.undisposed, held.floor)
    assert held.word() == "forgotten" and one_leaks.leakage == pytest.approx(held.leakage)
    assert one_leaks.word() == "not shown" and held.word([one_leaks]) == "not shown"


@pytest.mark.parametrize("shape", [(0, 2), (3, 0)])
def test_nothing_measured_is_refused(shape):
    with pytest.raises(ValueError, match="one shape"):
        Estimate(np.zeros(shape), np.zeros(shape), np.zeros(shape))


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="one shape"):
        Estimate(np.zeros((3, 2)), np.zeros((3, 2)), np.zeros((2, 2)))


@pytest.mark.parametrize("level", [0.1, 0.2])
def test_bounds_err_in_at_most_one_of_twenty(level, record_property):
    """Attacks simulated at just this leakage: neither "below" nor "above" is claimed more often than promised."""
    rng, trials = np.random.default_rng(1), 2_000
    found = [simulated(rng, leakage=level) for _ in range(trials)]
    for wrong in (sum(one.shown_below(level) for one in found), sum(one.shown_above(level) for one in found)):
        share = wrong / trials
        print(f"leakage {level}: claimed wrongly in {100 * share:.1f} % of {trials} simulations (promised: 5 %)")
        assert share == pytest.approx(0.05, abs=3 * math.sqrt(0.05 * 0.95 / trials))
