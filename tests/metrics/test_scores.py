"""The metrics of numbers against sums by hand, and their refusals."""

import evaluate
import numpy as np
import pytest

import hf_dtl.metrics
from hf_dtl.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def impact():
    return evaluate.load(hf_dtl.metrics.path("unlearning_impact_score"))


@pytest.fixture(scope="module")
def likeness():
    return evaluate.load(hf_dtl.metrics.path("tug_of_war"))


ROWS = [(0.8, 0.6, 0.4), (0.5, 0.5, 0.1)]


def test_one_task_by_each_goal(impact):
    given = {"original_test": 0.8, "unlearned_test": np.float32(0.6), "unlearned_forget": 0.4}
    loss = 0.2 / 0.8
    for goal, forgetting in (("instances", 0.4 / 0.8), ("class", 0.4 / 0.8), ("untouched", 0.5 / 0.9)):
        result = impact.compute(**given, goal=goal, original_forget=0.9)
        assert result["per_task"] == [pytest.approx((loss + forgetting) / 2)]
        assert result["unlearning_impact_score"] == result["per_task"][0]
    assert impact.compute(**given) == impact.compute(**given, goal="instances")


def test_several_tasks_are_averaged(impact):
    columns = dict(zip(("original_test", "unlearned_test", "unlearned_forget"), zip(*ROWS, strict=True), strict=True))
    first, second = (0.25 + 0.5) / 2, (0 + 0.2) / 2
    result = impact.compute(**columns, goal="class")
    assert result == {"unlearning_impact_score": pytest.approx((first + second) / 2), "per_task": [first, second]}
    mixed = impact.compute(**columns, goal=["class", "untouched"], original_forget=[None, 0.2])
    assert mixed["per_task"] == pytest.approx([first, (0 + 0.5) / 2])
    for row in ROWS:
        impact.add(**dict(zip(columns, row, strict=True)))
    assert impact.compute(goal="class") == result
    impact.add_batch(**columns)
    assert impact.compute(goal="class") == result


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"goal": "all"}, DataError, "Task 0: goal='all' is unknown"),
        ({"original_test": 0.0}, DataError, "original_test is 0"),
        ({"unlearned_test": 1.2}, DataError, "unlearned_test must be in 0..1"),
        ({"unlearned_test": "0.5"}, DataError, "unlearned_test of task 0 must be a number"),
        ({"unlearned_forget": float("nan")}, DataError, "must be in 0..1, got nan"),
        ({"goal": "untouched"}, DataError, "needs original_forget"),
        ({"unlearned_forget": [0.1, 0.2]}, ConfigError, "one value a task.*'unlearned_forget': 2"),
        ({"original_test": [], "unlearned_test": [], "unlearned_forget": []}, ConfigError, "one value a task"),
        ({"target": 1}, ConfigError, "Unknown arguments target"),
    ],
)
def test_impact_refuses(impact, changes, error, message):
    given = {"original_test": 0.8, "unlearned_test": 0.6, "unlearned_forget": 0.4}
    with pytest.raises(error, match=message):
        impact.compute(**{**given, **changes})


def test_impact_refuses_what_is_missing(impact):
    with pytest.raises(ConfigError, match="missing: unlearned_forget, unlearned_test"):
        impact.compute(original_test=0.8)
    with pytest.raises(ConfigError, match="missing: original_test"):
        impact.compute()


def test_likeness(likeness):
    accuracies, retrained = {"forget": 0.5, "retain": 0.9, "test": 0.7}, {"forget": 0.1, "test": 0.8, "retain": 0.9}
    expected = {"tug_of_war": pytest.approx(0.6 * 1.0 * 0.9), "average_gap": pytest.approx(0.5 / 3)}
    assert likeness.compute(accuracies=accuracies, retrained=retrained) == expected
    assert likeness.compute(accuracies=retrained, retrained=retrained) == {"tug_of_war": 1.0, "average_gap": 0.0}
    for split, value in accuracies.items():
        likeness.add(accuracies=value, retrained=retrained[split])
    assert likeness.compute() == expected


@pytest.mark.parametrize(
    ("accuracies", "retrained", "error", "message"),
    [
        ({"forget": 0.5}, {"test": 0.5}, DataError, "same splits"),
        ({}, {}, DataError, "same splits"),
        ({"forget": 1.5}, {"forget": 0.5}, DataError, "must be in 0..1"),
        ({"forget": 0.5}, {"forget": None}, DataError, "retrained model on forget must be a number"),
        ([0.5], [0.5], ConfigError, "must both map splits"),
        (None, None, ConfigError, "must both map splits"),
    ],
)
def test_likeness_refuses(likeness, accuracies, retrained, error, message):
    with pytest.raises(error, match=message):
        likeness.compute(accuracies=accuracies, retrained=retrained)
