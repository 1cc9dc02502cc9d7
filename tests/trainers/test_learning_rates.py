import pytest

from hf_dtl.trainers.learning_rates import ADAPT, DISPOSE, SMALL, TRAIN, UNLEARN, VIT_B, passes, rate


def test_the_small_models_numbers_hold_and_larger_ones_are_smaller():
    assert [rate(r, SMALL) for r in (TRAIN, ADAPT, DISPOSE, UNLEARN)] == [1e-3, 5e-4, 2e-3, 5e-4]
    assert [rate(r, VIT_B) for r in (TRAIN, ADAPT, DISPOSE, UNLEARN)] == [1e-4, 5e-5, 2e-4, 5e-5]
    sizes = [10**k for k in range(5, 13)]
    rates = [rate(TRAIN, size) for size in sizes]
    assert rates == sorted(rates, reverse=True) and rates[0] == 1e-3 and rates[-1] == 1e-5
    assert rate(1e-6, 10**9) == 1e-6, "never raised"


@pytest.mark.parametrize(("steps_a_pass", "wanted"), [(1, 200), (2, 200), (5, 100), (100, 5), (10_000, 3)])
def test_large_models_pass_over_large_data_less_often(steps_a_pass, wanted):
    assert passes(200, VIT_B, steps_a_pass) == wanted
    assert passes(200, SMALL, steps_a_pass) == 200
    assert passes(1, VIT_B, steps_a_pass) == 1
