import pytest
import torch
from audit_toys import task, vit

from hf_dtl.audit import AttackConfig
from hf_dtl.audit.attacks import Unit
from hf_dtl.audit.attacks.choice import choose, share_right
from hf_dtl.audit.attacks.stack import FineTuning
from hf_dtl.audit.piggyback import Attacker
from hf_dtl.data import ImageTensors

UNIT, OTHER = Unit("full", 2, 0), Unit("full", 2, 1)
LABELS = torch.zeros(10, dtype=torch.long)
VALIDATION, TEST = (ImageTensors(torch.zeros(10, 3, 8, 8), LABELS) for _ in range(2))


class Trained:
    """A stack whose members end with given accuracies: {learning rate: (after a quarter, a half, all of it)}."""

    def __init__(self, curves):
        self.members = [FineTuning({}, LABELS, LABELS, [LABELS] * 8, rate) for rate, _ in curves]
        self.curves = [values for _, values in curves]
        self.finite = [values is not None for values in self.curves]
        self.step, self.steps, self.trained = 0, 8, 0

    def advance(self, until=None):
        self.trained += ((until or self.steps) - self.step) * len(self.members)
        self.step = until or self.steps

    def result(self, position):
        quarter, half, end = self.curves[position]
        return {"share": quarter if self.step <= 2 else half if self.step <= 4 else end}

    def keep(self, chosen):
        self.members, self.curves, self.finite = (
            [values[i] for i in chosen] for values in (self.members, self.curves, self.finite)
        )


def logits(unit, state, split):
    if state["share"] is None:
        return torch.full((10, 3), float("nan"))
    right = torch.arange(10) < round(10 * state["share"])
    return torch.stack([right, ~right, torch.zeros_like(right)], dim=1).float()


def chosen(curves, halving=False, units=(UNIT,)):
    stack = Trained(curves)
    found = dict(choose(stack, units, logits, VALIDATION, halving=halving))
    return {
        unit: choice and (choice.learning_rate, choice.validation_accuracy) for unit, choice in found.items()
    }, stack


def ends(*values):
    return [(rate, None if value is None else (value, value, value)) for rate, value in values]


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        (ends((1e-3, 0.6), (1e-2, 0.8)), (1e-2, 0.8)),
        (ends((1e-3, 0.6), (1e-2, 0.6)), (1e-3, 0.6)),
        (ends((1e-3, 0.4), (1e-2, None)), (1e-3, 0.4)),
        ([(1e-3, (0.4, 0.4, None)), (1e-2, (0.2, 0.2, 0.2))], (1e-2, 0.2)),
        (ends((1e-3, None), (1e-2, None)), None),
    ],
)
def test_the_best_on_validation_the_smaller_of_equals_and_none_that_diverged(outcomes, expected):
    assert chosen(outcomes)[0][UNIT] == expected


def test_every_attack_of_a_stack_has_its_own_choice():
    found, _ = chosen(ends((1e-3, 0.6), (1e-2, 0.8), (1e-3, 0.9), (1e-2, 0.1)), units=(UNIT, OTHER))
    assert found == {UNIT: (1e-2, 0.8), OTHER: (1e-3, 0.9)}


@pytest.mark.parametrize(
    ("curves", "expected"),
    [
        ([(1e-3, (0.2, 0.9, 0.5)), (1e-2, (0.1, 0.1, 0.6))], (1e-3, 0.9, 4)),
        ([(1e-3, (0.4, 0.4, 0.4)), (1e-2, (0.4, 0.4, 0.4))], (1e-3, 0.4, 2)),
        ([(1e-3, (0.4, 0.5, None)), (1e-2, (0.1, 0.1, 0.1))], (1e-3, 0.5, 4)),
    ],
)
def test_effort_is_chosen_like_the_rate_and_what_diverges_later_had_its_time(curves, expected):
    found = dict(choose(Trained(curves), [UNIT], logits, VALIDATION, halving=False, checkpoints=(2, 4)))[UNIT]
    assert (found.learning_rate, found.validation_accuracy, found.effort) == expected


def test_the_curve_is_that_of_the_chosen_rate_at_every_checkpoint():
    curves = [(1e-3, (0.2, 0.9, 0.5)), (1e-2, (0.8, 0.7, 0.6))]
    found = dict(choose(Trained(curves), [UNIT], logits, VALIDATION, halving=False, checkpoints=(2, 4, 8, 99)))[UNIT]
    assert [(point.effort, point.validation_accuracy) for point in found.curve] == [(2, 0.2), (4, 0.9), (8, 0.5)]
    assert [share_right(point.classify(TEST), TEST.labels) for point in found.curve] == [0.2, 0.9, 0.5]
    assert dict(choose(Trained(curves), [UNIT], logits, VALIDATION, halving=False))[UNIT].curve == ()
    broken = [(1e-3, (0.4, 0.5, None))]
    found = dict(choose(Trained(broken), [UNIT], logits, VALIDATION, halving=False, checkpoints=(2, 4)))[UNIT]
    assert [point.effort for point in found.curve] == [2, 4]


def test_halving_keeps_the_curves_of_the_rates_still_in_the_race_alone():
    """The first rate's .9 came too early: given up at half of the steps, it does not come back by its checkpoint."""
    curves = [(1e-3, (0.9, 0.2, 0.2)), (3e-3, (0.8, 0.3, 0.6)), (1e-2, (0.1, 0.9, 0.9))]
    stack = Trained(curves)
    found = dict(choose(stack, [UNIT], logits, VALIDATION, halving=True, checkpoints=(1, 2, 4)))[UNIT]
    assert (found.learning_rate, found.validation_accuracy, found.effort) == (3e-3, 0.8, 1)
    assert [(point.effort, point.validation_accuracy) for point in found.curve] == [
        (1, 0.8),
        (2, 0.8),
        (4, 0.3),
        (8, 0.6),
    ]
    assert len(stack.members) == 1 and stack.trained == 2 * 3 + 2 * 2 + 4


def test_halving_gives_up_what_diverged_first():
    assert chosen([(1e-3, (0.0, 0.0, 0.3)), (1e-2, None)], halving=True)[0][UNIT] == (1e-3, 0.3)


def test_the_choice_never_sees_the_test_split(monkeypatch):
    seen = []

    def train(context, units):
        for unit, choice in choose(Trained(ends((1e-3, 0.6), (1e-2, 0.8))), units, logits, VALIDATION, halving=False):
            yield unit, choice, lambda split: seen.append(split) or logits(UNIT, {"share": 0.3}, split).repeat(6, 1)

    monkeypatch.setattr("hf_dtl.audit.piggyback.train_attacks", train)
    toy = task()
    result = Attacker(vit(), toy, AttackConfig()).run(*UNIT)
    assert seen == [toy.test]
    assert (result.learning_rate, result.validation_accuracy) == (1e-2, 0.8)


def test_an_image_whose_logits_are_not_finite_counts_as_wrong():
    values = torch.tensor([[1.0, 0.0], [float("nan"), 0.0], [0.0, 1.0], [2.0, 1.0]])
    assert share_right(values, torch.tensor([0, 0, 0, 0])) == 0.5
