"""The rule that chooses strengths, case by case."""

import inspect

import pytest

from hf_dtl.errors import DivergedError
from study.tuning import choose_strength


@pytest.mark.parametrize(
    ("tried", "strength", "kept"),
    [
        ({0.3: 0.95, 1.0: 0.94, 3.0: 0.93, 10.0: 0.5}, 1.0, True),  # exactly at the margin counts
        ({0.3: 0.90, 1.0: 0.96, 3.0: 0.93, 10.0: 0.942}, 10.0, True),  # the largest, whatever lies between
        ({0.3: 0.93, 1.0: 0.91, 3.0: 0.90}, 0.3, False),  # none: the one that keeps most
        ({0.3: 0.93, 1.0: 0.93, 3.0: 0.90}, 1.0, False),  # of equals the stronger
        ({0.3: 0.95, 1.0: None, 3.0: None}, 0.3, True),  # diverged ones are no choice
        ({0.3: None, 1.0: 0.2}, 1.0, False),
    ],
)
def test_the_strongest_within_the_margin(tried, strength, kept):
    chosen = choose_strength(tried, before=0.95, margin=0.01)
    assert (chosen.strength, chosen.kept) == (strength, kept)
    assert chosen.tried == tried and chosen.before == 0.95


def test_nothing_to_choose_from():
    with pytest.raises(DivergedError, match="every strength: 0.3, 1"):
        choose_strength({0.3: None, 1.0: None}, before=0.9, margin=0.01)


def test_the_rule_is_given_validation_accuracy_and_nothing_else():
    assert list(inspect.signature(choose_strength).parameters) == ["tried", "before", "margin"]
