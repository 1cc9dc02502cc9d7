"""Numbers of a report against those of another run, where a suite broke attacks off."""

from dataclasses import replace

import pytest
from audit_toys import records, report, task

from hf_dtl.audit import AttackConfig
from hf_dtl.hub.verification import compare_numbers

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
