"""Leakage over the floor that is best on validation, under the attack that is, against loops."""

import math
import re
from dataclasses import replace
from statistics import fmean, stdev

import pytest
from audit_toys import HAND, records
from scipy.stats import t as student

from hf_dtl.audit import leakage
from hf_dtl.audit.axis_leakage import BEST_FLOOR, pl_accuracies, plain_ratio
from hf_dtl.errors import DataError


def by_loops(values, floors):
    """Leakage and its two bounds from {(model, budget): accuracies by seed} and the floor of each budget, in loops."""
    budgets, draws = list(floors), len(next(iter(values.values())))
    over = [[values["scrubbed", b][s] - values[floors[b], b][s] for b in budgets] for s in range(draws)]
    gaps = [[values["undisposed", b][s] - values[floors[b], b][s] for b in budgets] for s in range(draws)]
    leakage = sum(map(sum, over)) / sum(map(sum, gaps))
    quantile = student.ppf(0.95, draws - 1)

    def excluded(level):
        excess = [fmean(a - level * g for a, g in zip(*pair, strict=True)) for pair in zip(over, gaps, strict=True)]
        return abs(fmean(excess)) > quantile * stdev(excess) / math.sqrt(draws)

    bounds = []
    for outside in (leakage - 5, leakage + 5):
        inside = leakage
        assert excluded(outside) and not excluded(inside)
        for _ in range(40):
            middle = (inside + outside) / 2
            inside, outside = (inside, middle) if excluded(middle) else (middle, outside)
        bounds.append(inside)
    return leakage, *bounds


def test_leakage_by_hand():
    found = leakage(records(HAND))
    # Over both budgets and three seeds: undisposed 5.1, scrubbed 3.9, scratch 2.7, retrained 3.6.
    assert found.by_floor["scratch"].mean == pytest.approx((3.9 - 2.7) / (5.1 - 2.7))
    assert found.headline.mean == pytest.approx((3.9 - 3.6) / (5.1 - 3.6))
    assert found.by_floor["scratch"].gap == pytest.approx(2.4 / 6) and found.headline.gap == pytest.approx(1.5 / 6)
    assert found.by_floor["retrained"] == replace(found.headline, word=None)
    assert found.floor == "retrained" and found.over(BEST_FLOOR) == found.headline
    assert found.by_attack["full"] == found.by_floor["retrained"]
    for floor, ratio in found.by_floor.items():
        wanted = by_loops(HAND, dict.fromkeys((5, 20), floor))
        assert (ratio.mean, ratio.low, ratio.high) == pytest.approx(wanted)
    assert (found.strongest_attack.budget, found.strongest_attack.mean) == (20, pytest.approx(0.8))


def test_it_is_a_ratio_of_sums_and_no_mean_of_ratios():
    """Where the gap is small a seed or budget counts little: the mean of the four ratios would be 1.09."""
    values = {
        ("undisposed", 5): [0.9, 0.8], ("scratch", 5): [0.4, 0.3], ("scrubbed", 5): [0.5, 0.4],
        ("undisposed", 20): [0.95, 0.85], ("scratch", 20): [0.8, 0.7], ("scrubbed", 20): [1.0, 0.9],
    }  # fmt: skip
    values = {key: three * 2 for key, three in values.items()}
    assert leakage(records(values)).headline.mean == pytest.approx((0.1 + 0.2) / (0.5 + 0.15))


@pytest.mark.parametrize(("model", "expected"), [("undisposed", 1.0), ("retrained", 0.0)])
def test_a_copy_of_a_reference_has_the_leakage_of_that_reference(model, expected):
    values = {**HAND, ("scrubbed", 5): HAND[model, 5], ("scrubbed", 20): HAND[model, 20]}
    assert leakage(records(values)).headline.mean == pytest.approx(expected, abs=1e-12)
    values = {key: own for key, own in values.items() if key[0] != "scratch"}
    values |= {("scrubbed", b): HAND["scratch", b] for b in (5, 20)} | {
        ("scratch", b): HAND["scratch", b] for b in (5, 20)
    }
    assert leakage(records(values)).over("scratch").mean == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("scrubbed", "expected"), [(0.9, 1.25), (0.3, -0.25)])
def test_leakage_is_not_clipped(scrubbed, expected):
    values = {("undisposed", 5): [0.8] * 2, ("scratch", 5): [0.4] * 2, ("scrubbed", 5): [scrubbed] * 2}
    assert leakage(records(values)).headline.mean == pytest.approx(expected)


def test_the_strongest_attack_is_chosen_on_validation_so_that_test_is_not_cherry_picked():
    values = {(model, 5): [level] * 2 for model, level in (("undisposed", 0.8), ("scrubbed", 0.5), ("scratch", 0.4))}
    lucky = {("scrubbed", 5): [0.7] * 2, ("undisposed", 5): [0.8] * 2, ("scratch", 5): [0.4] * 2}
    both = records(values, attack="full", validation=0.6)
    both += records(lucky, attack="linear_probe", validation=0.5)
    found = leakage(both)
    assert found.headline.mean == pytest.approx(0.25)
    assert {name: ratio.mean for name, ratio in found.by_attack.items()} == {
        "full": pytest.approx(0.25),
        "linear_probe": pytest.approx(0.75),
    }


def two_attacks(accuracies, validations, models=("undisposed", "scrubbed", "scratch")):
    """Two attacks on each model, with these test and validation accuracies."""
    found = []
    for attack, accuracy, validation in zip(("first", "second"), accuracies, validations, strict=True):
        for model in models:
            found += records({(model, 5): [accuracy] * 3}, attack=attack, validation=validation)
    return found


@pytest.mark.parametrize("order", [1, -1])
def test_of_equals_on_validation_the_higher_test_accuracy_counts_for_every_model(order):
    points = pl_accuracies(two_attacks((0.5, 0.6), (0.55, 0.55))[::order], "source_subset")
    assert [(point.attack, point.mean) for point in points] == [("second", pytest.approx(0.6))] * 3
    nearly = pl_accuracies(two_attacks((0.5, 0.6), (0.55 + 1e-9, 0.55))[::order], "source_subset")
    assert [point.attack for point in nearly] == ["first"] * 3, "only exact ties"
    first = pl_accuracies(two_attacks((0.5, 0.6), (0.55, 0.55)), "source_subset", first_of_equals=True)
    assert [point.attack for point in first] == ["first"] * 3, "as the first reports did"


@pytest.mark.parametrize(
    ("broken_off", "accepted"),
    [([0.5, 0.5], True), ([0.6, 0.6], True), ([0.5, 0.8], False), ([0.7, 0.7], False), ([0.9], False)],
)
def test_an_attack_may_be_broken_off_where_a_complete_one_beats_it_on_its_draws(broken_off, accepted):
    """The complete one has .6, .6, .9 on validation: .6 on the trial draws, whatever comes later."""
    whole = [
        replace(r, validation_accuracy=v)
        for r, v in zip(records({("scrubbed", 5): [0.5] * 3}), (0.6, 0.6, 0.9), strict=True)
    ]
    tried = [
        replace(r, validation_accuracy=r.accuracy) for r in records({("scrubbed", 5): broken_off}, attack="tried")
    ]
    if not accepted:
        with pytest.raises(
            DataError, match="tried on scrubbed with 5 images a class has .* of .0, 1, 2.*Finish the audit"
        ):
            pl_accuracies([*whole, *tried], "source_subset")
        return
    (point,) = pl_accuracies([*whole, *tried], "source_subset")
    assert (point.attack, point.seeds) == ("full", (0, 1, 2))
    # Without one that was run on all draws there is nothing that could have beaten it.
    shorter = [replace(r, attack="other") for r in tried]
    elsewhere = records({("scrubbed", 20): [0.5] * 3})
    with pytest.raises(DataError, match="different seeds"):
        pl_accuracies([*tried, *shorter, *elsewhere], "source_subset")


def test_the_floor_is_the_best_on_validation_at_each_budget():
    """On the test images it is the other one at each: it is not taken."""
    levels = {
        "undisposed": ((0.8, 0.8), (0.9, 0.9)), "scrubbed": ((0.6, 0.6), (0.7, 0.7)),
        "scratch": ((0.3, 0.5), (0.6, 0.4)), "no_model": ((0.5, 0.4), (0.4, 0.6)),
        "retrained": ((0.2, 0.2), (0.3, 0.3)),
    }  # fmt: skip
    found = [
        replace(record, validation_accuracy=levels[record.model][record.budget == 20][1])
        for record in records({(m, b): [own[b == 20][0]] * 3 for m, own in levels.items() for b in (5, 20)})
    ]
    axis = leakage(found)
    assert axis.floors == {("mnist[0-5]", 5): "scratch", ("mnist[0-5]", 20): "no_model"}
    assert axis.floor == BEST_FLOOR == "the best floor"
    assert axis.headline.mean == pytest.approx((0.6 - 0.3 + 0.7 - 0.4) / (0.8 - 0.3 + 0.9 - 0.4))
    assert axis.over("no_model").mean == pytest.approx((0.6 - 0.5 + 0.7 - 0.4) / (0.8 - 0.5 + 0.9 - 0.4))
    near = [replace(r, accuracy=0.4) if r.model == "undisposed" else r for r in found]
    assert "(undisposed over the best floor 0.050, " in leakage(near).headline.undefined
    # Exactly as good on validation: the one that is better on test images is harder to beat.
    tied = [replace(r, validation_accuracy=0.5) for r in found if r.model in ("scratch", "no_model", "scrubbed")]
    assert leakage(tied).floors == {("mnist[0-5]", 5): "no_model", ("mnist[0-5]", 20): "scratch"}


def noisy(level, spread=0.0):
    return [level - spread, level, level + spread]


@pytest.mark.parametrize(
    ("change", "gate", "reason"),
    [
        (
            {("undisposed", 5): noisy(0.5), ("undisposed", 20): noisy(0.7)},
            "weights do not matter",
            "do not matter here .undisposed over the retrained model 0.000, 0.000 to 0.000, 3 draws",
        ),
        ({("undisposed", 5): noisy(0.1), ("undisposed", 20): noisy(0.1)}, "weights do not matter", "-0.500"),
        ({("undisposed", 5): noisy(0.7, 0.2), ("undisposed", 20): noisy(0.9, 0.1)}, "unresolved", "more draws"),
        (
            {("retrained", 5): None, ("retrained", 20): None, ("scratch", 5): None, ("scratch", 20): None},
            None,
            "no floor was attacked$",
        ),
        (
            {("retrained", 5): None, ("retrained", 20): None, ("scratch", 20): None},
            None,
            "no floor was attacked at every budget",
        ),
        ({("undisposed", 20): None}, None, "the undisposed model was not attacked at every budget"),
        ({("undisposed", 5): None, ("undisposed", 20): None}, None, "the undisposed model was not attacked$"),
    ],
)
def test_a_setting_that_shows_nothing_is_undefined_with_a_reason(change, gate, reason):
    values = {key: value for key, value in {**HAND, **change}.items() if value is not None}
    ratio = leakage(records(values)).headline
    assert ratio.mean is ratio.low is ratio.high is ratio.word is None and ratio.gate == gate
    assert re.search(reason, ratio.undefined), ratio.undefined


def test_a_floor_that_was_not_attacked_gives_no_number():
    found = leakage(records({key: own for key, own in HAND.items() if key != ("scratch", 20)}))
    assert found.over("scratch").undefined == "the scratch model was not attacked at every budget"
    assert found.over("base").undefined == "the base model was not attacked" and found.headline.mean is not None


def test_one_seed_is_no_measure_of_noise():
    ratio = leakage(records({key: value[:1] for key, value in HAND.items()})).headline
    assert ratio.mean is None and "one seed" in ratio.undefined and ratio.gap == pytest.approx(0.25)


def test_unequal_seeds_and_repeated_attacks_are_refused():
    found = records(HAND)
    with pytest.raises(DataError, match="different seeds"):
        leakage(found[1:])
    with pytest.raises(DataError, match="twice"):
        leakage([*found, found[0]])


HELD = {
    ("undisposed", 5): noisy(0.8, 0.002), ("undisposed", 20): noisy(0.9, 0.002),
    ("retrained", 5): noisy(0.5, 0.002), ("retrained", 20): noisy(0.6, 0.002),
    ("scrubbed", 5): noisy(0.5, 0.001), ("scrubbed", 20): noisy(0.6, 0.001),
}  # fmt: skip


@pytest.mark.parametrize("floor", ["no_model", "scratch", "base", "retrained"])
def test_only_a_floor_that_knows_the_target_allows_a_word(floor):
    for scrubbed, word in ((0.0, "forgotten"), (0.2, "leaks")):
        values = {(floor if m == "retrained" else m, b): own for (m, b), own in HELD.items()}
        values |= {("scrubbed", b): [v + scrubbed for v in HELD["scrubbed", b]] for b in (5, 20)}
        found = leakage(records(values))
        assert found.headline.gate == "defined"
        assert found.headline.word == (word if floor in ("base", "retrained") else None)
        assert found.by_floor[floor].word is None, "one number has the word"


def with_efforts(values, levels, attack="full"):
    """Records whose attack tells its accuracies at steps; the last one is what it chose."""
    found = []
    for record in records(values, attack=attack):
        curve = tuple(
            (steps, record.accuracy + add, record.accuracy + add) for steps, add in levels[record.model].items()
        )
        last = curve[-1]
        found.append(replace(record, effort=last[0], validation_accuracy=last[1], accuracy=last[2], curve=curve))
    return found


def test_an_effort_that_leaks_forbids_forgotten():
    quiet = dict.fromkeys(("undisposed", "retrained", "scrubbed"), {50: 0.0, 400: 0.0})
    found = leakage(with_efforts(HELD, quiet))
    assert found.headline.word == "forgotten" and set(found.by_effort) == {50, 400}
    assert found.by_effort[50].mean == pytest.approx(0.0, abs=1e-9)
    early = leakage(with_efforts(HELD, {**quiet, "scrubbed": {50: 0.06, 400: 0.0}}))
    assert early.headline == replace(found.headline, word="not shown"), "the number is that of the whole effort"
    assert early.by_effort[50].mean == pytest.approx(0.06 / 0.3) and early.by_effort[400].mean == pytest.approx(
        0, abs=1e-9
    )


def test_a_budget_that_leaks_forbids_forgotten():
    values = {**HELD, ("scrubbed", 5): noisy(0.56, 0.001), ("scrubbed", 20): noisy(0.55, 0.001)}
    found = leakage(records(values)).headline
    assert found.mean == pytest.approx(0.01 / 0.6) and found.high < 0.1 and found.word == "not shown"


def test_the_first_reports_number_is_over_one_floor_without_a_gate():
    assert plain_ratio(records(HAND), "source_subset", "scratch") == pytest.approx(0.5)
    assert plain_ratio(records(HAND), "source_subset", "retrained") == pytest.approx(0.2)
    assert plain_ratio(records(HAND), "source_subset", "base") is None
    small = {**HAND, **{("undisposed", b): [v + 0.02 for v in HAND["scratch", b]] for b in (5, 20)}}
    assert plain_ratio(records(small), "source_subset", "scratch") == pytest.approx(1.2 / 0.12)
    assert (
        plain_ratio(records({**HAND, **{("undisposed", b): [0.1] * 3 for b in (5, 20)}}), "source_subset", "scratch")
        is None
    )


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
    assert found.by_attack["lora"].undefined == "the undisposed model was not attacked"
    assert found.by_attack["published"].undefined == "no floor was attacked"
    # At 20 images the scrubbed model's strongest attack is `lora`.
    assert [p.mean for p in found.pl_accuracy if (p.model, p.budget) == ("scrubbed", 20)] == [pytest.approx(0.9)]
