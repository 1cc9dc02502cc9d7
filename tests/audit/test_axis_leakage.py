import math
from itertools import product
from statistics import fmean, stdev

import pytest
from audit_toys import HAND, records

from hf_dtl.audit import leakage
from hf_dtl.errors import DataError


def test_leakage_by_hand():
    found = leakage(records(HAND))
    # Over both budgets: ceiling 1.7, scratch 0.9, scrubbed 1.2, 1.4, 1.3 by seed; retrained 1.2.
    expected = [(1.2 - 0.9) / 0.8, (1.4 - 0.9) / 0.8, (1.3 - 0.9) / 0.8]
    assert found.over_scratch.mean == pytest.approx(sum(expected) / 3)
    assert found.over_scratch.deviation == pytest.approx(stdev(expected))
    assert found.over_scratch.gap == pytest.approx(0.4)
    assert found.over_scratch.gap_error == pytest.approx(0.05 / math.sqrt(3))
    assert found.over_retrained.mean == pytest.approx((1.3 - 1.2) / 0.5)
    assert found.by_attack["full"] == found.over_scratch
    # The interval is the range of all 27 draws of three seeds, the same ones for every model.
    sums = {
        m: [a + b for a, b in zip(HAND[m, 5], HAND[m, 20], strict=True)] for m in ("scrubbed", "undisposed", "scratch")
    }
    drawn = [{m: fmean(v[i] for i in draw) for m, v in sums.items()} for draw in product(range(3), repeat=3)]
    ratios = [(d["scrubbed"] - d["scratch"]) / (d["undisposed"] - d["scratch"]) for d in drawn]
    assert (found.over_scratch.low, found.over_scratch.high) == pytest.approx((min(ratios), max(ratios)))
    highest = max(sum(expected) / 3 + stdev(expected), max(ratios))
    assert found.over_scratch.least_favourable == pytest.approx(highest)
    assert (found.strongest_attack.budget, found.strongest_attack.mean) == (20, pytest.approx(0.8))


@pytest.mark.parametrize(("model", "expected"), [("undisposed", 1.0), ("scratch", 0.0)])
def test_a_copy_of_a_reference_has_the_leakage_of_that_reference(model, expected):
    values = {**HAND, ("scrubbed", 5): HAND[model, 5], ("scrubbed", 20): HAND[model, 20]}
    assert leakage(records(values)).over_scratch.mean == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("scrubbed", "expected"), [(0.9, 1.25), (0.3, -0.25)])
def test_leakage_is_not_clipped(scrubbed, expected):
    values = {("undisposed", 5): [0.8] * 2, ("scratch", 5): [0.4] * 2, ("scrubbed", 5): [scrubbed] * 2}
    assert leakage(records(values)).over_scratch.mean == pytest.approx(expected)


def test_the_strongest_attack_is_chosen_on_validation_so_that_test_is_not_cherry_picked():
    values = {(model, 5): [level] * 2 for model, level in (("undisposed", 0.8), ("scrubbed", 0.5), ("scratch", 0.4))}
    lucky = {("scrubbed", 5): [0.7] * 2, ("undisposed", 5): [0.8] * 2, ("scratch", 5): [0.4] * 2}
    both = records(values, attack="full", validation=0.6)
    both += records(lucky, attack="linear_probe", validation=0.5)
    found = leakage(both)
    assert found.over_scratch.mean == pytest.approx(0.25)
    assert {name: ratio.mean for name, ratio in found.by_attack.items()} == {
        "full": pytest.approx(0.25),
        "linear_probe": pytest.approx(0.75),
    }


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({("undisposed", 5): [0.3, 0.5, 0.4], ("undisposed", 20): [0.5, 0.5, 0.5]}, "no better than the scratch"),
        ({("undisposed", 5): [0.1, 0.9, 0.8], ("undisposed", 20): [0.5, 0.7, 0.5]}, "beyond noise"),
        ({("undisposed", 5): [0.1, 0.1, 0.1], ("undisposed", 20): [0.1, 0.1, 0.1]}, "no better than the scratch"),
        ({("scratch", 5): None, ("scratch", 20): None}, "scratch model was not attacked"),
        ({("scratch", 20): None}, "scratch model was not attacked at every budget"),
    ],
)
def test_leakage_within_noise_is_undefined_with_a_reason(change, reason):
    values = {key: value for key, value in {**HAND, **change}.items() if value is not None}
    ratio = leakage(records(values)).over_scratch
    assert ratio.mean is ratio.deviation is ratio.low is ratio.high is None and reason in ratio.undefined
    assert ratio.least_favourable == math.inf


def test_one_seed_is_no_measure_of_noise():
    ratio = leakage(records({key: value[:1] for key, value in HAND.items()})).over_scratch
    assert ratio.mean is None and "one seed" in ratio.undefined


def test_unequal_seeds_and_repeated_attacks_are_refused():
    found = records(HAND)
    with pytest.raises(DataError, match="different seeds"):
        leakage(found[1:])
    with pytest.raises(DataError, match="twice"):
        leakage([*found, found[0]])


def test_an_interval_without_a_bound_is_not_read_as_a_low_one():
    """Two draws of three have no gap, and the gap still is twice its standard error: noise of opposite signs."""
    values = {
        ("undisposed", 5): [0.5, 0.85, 0.85],
        ("scratch", 5): [0.52, 0.4, 0.4],
        ("scrubbed", 5): [0.5, 0.5, 0.5],
    }
    ratio = leakage(records(values)).over_scratch
    assert ratio.mean is not None and ratio.low is None and ratio.high is None
    assert ratio.least_favourable == math.inf


def test_slc_auc_by_hand():
    """Over budgets 1, 10, 1000 the widths on the logarithm are 1 and 2: area = ((a + b) / 2 + (b + c)) / 3."""
    levels = {"undisposed": (0.6, 0.8, 0.9), "scratch": (0.2, 0.3, 0.6), "scrubbed": (0.2, 0.4, 0.8)}
    values = {
        (model, budget): [level - 0.1, level + 0.1]
        for model, three in levels.items()
        for budget, level in zip((1, 10, 1000), three, strict=True)
    }
    found = leakage(records(values) + records({("retrained", 1): [0.5, 0.5]}))
    assert set(found.slc_auc) == set(levels)  # the retrained model was attacked at one budget only
    assert found.slc_auc["scrubbed"].mean == pytest.approx((0.3 + 2 * 0.6) / 3)
    assert found.slc_auc["scrubbed"].deviation == pytest.approx(stdev([0.4, 0.6]))
    assert found.slc_auc["undisposed"].mean == pytest.approx((0.7 + 2 * 0.85) / 3)
    one = leakage(records({key: [v[0]] for key, v in values.items() if key[1] == 10}))
    assert (one.slc_auc["scrubbed"].mean, one.slc_auc["scrubbed"].deviation) == (pytest.approx(0.3), None)


def test_slc_auc_of_two_data_sets_is_their_mean():
    first = records({("scrubbed", 1): [0.2, 0.2], ("scrubbed", 5): [0.4, 0.4]}, dataset="a")
    second = records({("scrubbed", 5): [0.9, 0.7]}, dataset="b")
    found = leakage(first + second).slc_auc["scrubbed"]
    assert found.mean == pytest.approx((0.3 + 0.8) / 2) and found.deviation == pytest.approx(stdev([0.6, 0.5]))


def test_attacks_that_were_not_run_on_every_model_or_budget():
    """`lora` gives more than `full` at 20, but only there; `published` was run on two models."""
    both = records(HAND, validation=0.5)
    both += records({("scrubbed", 20): [0.9] * 3, ("scratch", 20): [0.5] * 3}, attack="lora", validation=0.7)
    two = {key: [v + 0.05 for v in values] for key, values in HAND.items() if key[0] in ("scrubbed", "undisposed")}
    both += records(two, attack="published", validation=0.6)
    found = leakage(both)
    assert found.strongest_by_attack == "published"  # of those that were run at every budget
    assert (found.strongest_attack.attack, found.strongest_attack.budget) == ("lora", 20)
    assert set(found.accuracy_by_attack["published"]) == {"scrubbed", "undisposed"}
    assert found.accuracy_by_attack["lora"] == {}
    assert found.accuracy_by_attack["published"]["scrubbed"].mean == pytest.approx(0.65 + 0.05)
    for attack in ("lora", "published"):
        assert found.by_attack[attack].mean is None and "not attacked" in found.by_attack[attack].undefined
    # At 20 images the scrubbed model's strongest attack is `lora`.
    assert [p.mean for p in found.pl_accuracy if (p.model, p.budget) == ("scrubbed", 20)] == [pytest.approx(0.9)]
