"""Numbers of a report against those of another run, where a suite broke attacks off."""

from dataclasses import replace

import pytest
from audit_toys import records, report, split, task

from hf_dtl.audit import AttackConfig, leakage
from hf_dtl.hub.verification import (
    Number,
    Verification,
    answered,
    compare_numbers,
    compare_together,
    differing_weights,
    noise,
    report_again,
    said_otherwise,
)

CONFIG = AttackConfig(attacks=("full", "lora"), budgets=(5,), trial_seeds=2, finalists=1)


def told(**seeds):
    """Records of the scrubbed model: on seed s an attack has .5 + s / 100."""
    found = []
    for attack, own in seeds.items():
        for seed in own:
            (record,) = records({("scrubbed", 5): [0.5 + seed / 100]}, attack=attack, dataset="toy")
            found.append(replace(record, seed=seed))
    return found


@pytest.mark.parametrize(
    ("published", "here", "holds", "means"),
    [
        ({"full": (0, 1, 2), "lora": (0, 1)}, {"full": (0, 1, 2), "lora": (0, 1)}, True, (0.51, 0.505)),
        # Another attack went on here, as near ones may: compared on the draws that both have.
        ({"full": (0, 1, 2), "lora": (0, 1)}, {"full": (0, 1), "lora": (0, 1, 2)}, True, (0.505, 0.505)),
        ({"full": (0, 1, 2), "lora": (0,)}, {"full": (0, 1, 2), "lora": (0, 1)}, False, (0.51, None)),
        ({"full": (0, 1, 2)}, {"full": (0, 1, 2), "lora": (0, 1)}, False, (0.51, None)),
    ],
)
def test_an_attack_that_was_broken_off_is_compared_on_the_draws_that_both_runs_have(published, here, holds, means):
    found = compare_numbers(
        report(piggyback=tuple(told(**published))), told(**here), {"toy": task()}, CONFIG, {"scrubbed"}
    )
    accuracies = {number.attack: number for number in found if number.what == "PL accuracy"}
    assert tuple(accuracies[name].published for name in ("full", "lora")) == tuple(map(pytest.approx, means))
    assert all(number.holds for number in found) == holds
    for number in found:
        assert number.published is None or number.found == pytest.approx(number.published)


def test_without_finalists_every_draw_must_be_there():
    config = replace(CONFIG, finalists=0)
    some = told(full=(0, 1, 2), lora=(0, 1))
    found = compare_numbers(report(piggyback=tuple(some)), some, {"toy": task()}, config, {"scrubbed"})
    assert {number.attack for number in found if not number.holds} == {"lora"}


@pytest.mark.parametrize("name", ["accuracy", "validation_accuracy"])
def test_draws_that_were_moved_against_each_other_are_noticed(name):
    here, large = told(full=(0, 1, 2)), replace(task(), test=split(700), validation=split(700))
    moved = tuple(replace(r, **{name: getattr(r, name) + 0.15 * (1, -1, 0)[r.seed]}) for r in here)
    found = compare_numbers(report(piggyback=moved), here, {"toy": large}, CONFIG, {"scrubbed"})
    assert [n.what.endswith("of one draw") for n in found if not n.holds] == [True]


@pytest.mark.parametrize("by", [0.15, -0.005])
def test_bounds_that_were_widened_or_narrowed_are_noticed(by):
    """Too wide buys "not shown", too narrow buys "forgotten"; the leakage itself stays what it was."""
    levels = {"undisposed": 0.8, "retrained": 0.3, "scrubbed": 0.5}
    here = records({(m, 5): [v + 0.005, v - 0.005, v] for m, v in levels.items()}, dataset="toy")
    told = [replace(r, accuracy=r.accuracy + by * (1, -1, 0)[r.seed]) if r.model == "scrubbed" else r for r in here]
    published, again = report(piggyback=tuple(told)), leakage(here).headline
    large = replace(task(), test=split(20_000), validation=split(20_000))
    found = [n for n in compare_together(published, here, {"toy": large}, again) if not n.holds]
    assert [n.what for n in found] == ["width of the bounds"]


def worded(spread, undisposed=0.8):
    """Three draws of a report in which draws of the scrubbed model lie so far apart."""
    levels = {"undisposed": undisposed, "retrained": 0.3, "scrubbed": 0.37}
    own = {(m, 5): [v - spread * (m == "scrubbed"), v, v + spread * (m == "scrubbed")] for m, v in levels.items()}
    return replace(report(piggyback=tuple(records(own, dataset="toy"))), target_accuracy=TARGET)


TARGET = {"undisposed": 0.9, "scrubbed": 0.86}


def test_words_are_those_of_this_runs_own_numbers():
    """Draws moved apart by less than the images' noise turn "leaks" into "not shown", or a gate; so does a target."""
    honest = worded(0.010)
    assert report_again(honest, honest.piggyback, []) == honest
    assert not list(said_otherwise(honest, honest))
    here = [*answered("target accuracy", "scrubbed", 0.86, 0.84, 400)]
    assert here[0].holds
    for told, numbers, words in (
        (worded(0.015), [], ("'not shown' for the word", "'leaks'")),
        (worded(0.010, undisposed=0.39), [], ("'weights do not matter' for the gate", "'defined'")),
        (honest, here, ("False for target destroyed", "True")),
    ):
        otherwise = tuple(said_otherwise(told, report_again(told, honest.piggyback, numbers)))
        assert words[0] in otherwise[-1] and words[1] in otherwise[-1], otherwise
    agreed = Number("PL accuracy", "scrubbed", "toy", "source_subset", "full", 5, 0.37, 0.37, None, 0.0)
    found = Verification("m", "retrained", (), (agreed,), told.headline, honest.headline, otherwise=otherwise)
    assert found.agrees and not found.holds and "NOT VERIFIED" in found.sentences()[-1]
    assert otherwise[0] in found.sentences() and replace(found, otherwise=()).holds


def test_models_that_are_not_at_hand_are_as_the_report_says():
    told, honest = worded(0.015), worded(0.010)
    own = [r for r in honest.piggyback if r.model == "scrubbed"]
    assert report_again(told, own, []).word == "leaks"
    assert report_again(told, [replace(r, seed=r.seed + 7) for r in own], []) is None, "other draws than the report's"


def test_missing_and_added_files_of_weights_are_named():
    a, b = "a" * 64, "b" * 64
    assert len(list(differing_weights({}, {"model.safetensors": a}))) == 1, "a report of any model"
    assert not list(differing_weights({"x.safetensors": a}, {"x.safetensors": a}))
    said = list(differing_weights({"1.safetensors": a, "2.safetensors": b}, {"2.safetensors": b, "3.safetensors": a}))
    assert len(said) == 2 and "1.safetensors is missing" in said[0] and "3.safetensors is not in the report" in said[1]


def test_the_noise_of_images_is_at_least_one_image():
    assert noise(0.5, 100) == pytest.approx(0.1) and noise(0.0, 50) == noise(1.0, 50) == pytest.approx(0.02)
