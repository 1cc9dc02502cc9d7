import math

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid
from scipy.spatial.distance import jensenshannon

from hf_dtl.functional import (
    average_gap,
    js_divergence,
    relearn_time,
    slc_auc,
    task_impact,
    tug_of_war,
    unlearning_impact_score,
    zrf_score,
)

SPLITS = {"forget": 0.9, "retain": 0.8, "test": 0.7}
NAN = float("nan")


def test_slc_auc_against_scipy_and_by_hand():
    budgets, accuracies = [1, 5, 20, 100], [0.2, 0.7, 0.6, 0.9]
    assert slc_auc(budgets, accuracies) == pytest.approx(
        trapezoid(accuracies, np.log(budgets)) / np.log(100), rel=1e-12
    )
    assert slc_auc([20], [0.7]) == 0.7
    assert slc_auc([1, 5, 20, 100], [1.0] * 4) == 1.0
    assert slc_auc([1, 5, 20, 100], [0.0] * 4) == 0.0


def test_slc_auc_is_free_of_the_unit_of_the_budget_and_rises_with_accuracy():
    accuracies = [0.3, 0.5, 0.9]
    assert slc_auc([1, 4, 9], accuracies) == pytest.approx(slc_auc([10, 40, 90], accuracies))
    assert slc_auc([1, 4, 9], [0.3, 0.6, 0.9]) > slc_auc([1, 4, 9], accuracies)


@pytest.mark.parametrize(
    ("goal", "values", "expected"),
    [
        ("instances", (0.8, 0.8, 0.8), 0.0),  # forgotten images are right as often as test images
        ("instances", (0.8, 0.6, 0.4), (0.25 + 0.5) / 2),
        ("instances", (0.8, 0.8, 1.0), 0.125),  # still memorised
        ("class", (0.8, 0.8, 0.0), 0.0),
        ("class", (0.5, 0.25, 1.0), (0.5 + 2.0) / 2),
        ("untouched", (0.8, 0.8, 0.9, 0.9), 0.0),
        ("untouched", (0.8, 1.0, 0.5, 1.0), (0.25 + 0.5) / 2),
    ],
)
def test_unlearning_impact_score_by_hand(goal, values, expected):
    original_forget = values[3] if goal == "untouched" else None
    found = unlearning_impact_score(*values[:3], goal=goal, original_forget=original_forget)
    assert found == pytest.approx(expected)


def test_impact_of_several_tasks_by_hand():
    before = {"letter": (0.8, 1.0), "case": (0.5, 0.9), "weight": (1.0, 1.0)}
    after = {"letter": (0.6, 0.8), "case": (0.5, 0.45), "weight": (0.9, 1.0)}
    letter, case, weight = (0.25 + 0.0) / 2, (0.0 + 0.5) / 2, (0.1 + 0.0) / 2
    found = task_impact(before, after, ["letter"])
    assert found.by_task == pytest.approx({"letter": letter, "case": case, "weight": weight})
    assert found.mean == pytest.approx((letter + case + weight) / 3)
    full = task_impact(before, after, {"letter", "case", "weight"})
    assert full.by_task == pytest.approx({"letter": letter, "case": (0.0 + 0.05 / 0.5) / 2, "weight": (0.1 + 0.0) / 2})
    assert task_impact(before, after, ["letter"], goal="class").by_task["letter"] == pytest.approx((0.25 + 1.0) / 2)


def test_an_unchanged_model_that_already_meets_the_target_has_impact_0():
    unchanged = {"letter": (0.8, 0.8), "case": (0.7, 1.0)}  # the images to forget are named like unseen ones
    assert task_impact(unchanged, unchanged, ["letter"]) == (0.0, {"letter": 0.0, "case": 0.0})
    memorised = {"letter": (0.8, 1.0), "case": (0.7, 1.0)}
    assert task_impact(memorised, memorised, ["letter"]).by_task == pytest.approx({"letter": 0.125, "case": 0.0})


def test_gaps_to_the_retrained_model_by_hand():
    retrained = {"forget": 0.5, "retain": 0.9, "test": 0.7}
    assert tug_of_war(SPLITS, retrained) == pytest.approx(0.6 * 0.9 * 1.0)
    assert average_gap(SPLITS, retrained) == pytest.approx((0.4 + 0.1 + 0.0) / 3)
    assert (tug_of_war(SPLITS, SPLITS), average_gap(SPLITS, SPLITS)) == (1.0, 0.0)
    assert tug_of_war(SPLITS, retrained) == tug_of_war(retrained, dict(reversed(SPLITS.items())))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_js_divergence_against_scipy(dtype):
    torch.manual_seed(0)
    a, b = (5 * torch.randn(2, 40, 7)).to(dtype)
    p, q = a.double().softmax(-1).numpy(), b.double().softmax(-1).numpy()
    expected = float(np.mean(jensenshannon(p, q, axis=1, base=2) ** 2))
    assert js_divergence(a, b) == pytest.approx(expected, abs=1e-14)
    assert js_divergence(a, b) == js_divergence(b, a)
    assert js_divergence(a, b.roll(1, dims=1) + 3) == pytest.approx(js_divergence(a, b.roll(1, dims=1)), abs=1e-3)
    assert zrf_score(a, b) == 1 - js_divergence(a, b)


def test_js_divergence_at_its_ends():
    far = torch.tensor([[900.0, 0.0]])
    assert js_divergence(far, far.flip(1)) == 1.0
    assert zrf_score(far, far.flip(1)) == 0.0
    assert js_divergence(far, far) == 0.0
    one_of_two = js_divergence(torch.cat([far, far]), torch.cat([far, far.flip(1)]))
    assert one_of_two == 0.5


@pytest.mark.parametrize(
    ("threshold", "expected"), [(0.1, 1), (0.2, 1), (0.6, 2), (0.61, 4), (0.9, 4), (0.95, None), (0.0, 1)]
)
def test_relearn_time_by_hand(threshold, expected):
    assert relearn_time([0.2, 0.6, 0.5, 0.9], threshold) == expected


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: slc_auc([], []), "got 0 budgets"),
        (lambda: slc_auc([1, 5], [0.5]), "2 budgets and 1 accuracies"),
        (lambda: slc_auc([5, 1], [0.5, 0.5]), "ascend"),
        (lambda: slc_auc([5, 5], [0.5, 0.5]), "ascend"),
        (lambda: slc_auc([0, 5], [0.5, 0.5]), "positive"),
        (lambda: slc_auc([1, math.inf], [0.5, 0.5]), "finite"),
        (lambda: slc_auc([1, 5], [0.5, NAN]), "budget 5 must be in 0..1, got nan"),
        (lambda: slc_auc([1, 5], [0.5, 50.0]), "got 50.0"),
        (lambda: unlearning_impact_score(0.0, 0.5, 0.5), "original_test is 0"),
        (lambda: unlearning_impact_score(0.8, 0.5, -0.1), "unlearned_forget must be in 0..1"),
        (lambda: unlearning_impact_score(0.8, NAN, 0.1), "unlearned_test must be in 0..1"),
        (lambda: unlearning_impact_score(0.8, 0.5, 0.5, goal="task"), "'task' is unknown"),
        (lambda: unlearning_impact_score(0.8, 0.5, 0.5, goal="untouched"), "needs original_forget"),
        (lambda: unlearning_impact_score(0.8, 0.5, 0.5, goal="untouched", original_forget=0), "original_forget is 0"),
        (lambda: task_impact({}, {}, []), "same tasks"),
        (lambda: task_impact({"a": (0.5, 0.5)}, {"b": (0.5, 0.5)}, []), r"same tasks, got \['a'\] and \['b'\]"),
        (lambda: task_impact({"a": (0.5, 0.5)}, {"a": (0.5, 0.5)}, ["b"]), "no accuracy of the forgotten task b"),
        (lambda: task_impact({"a": (0, 0.5)}, {"a": (0.5, 0.5)}, ["a"]), "Task 'a': original_test is 0.*Leave this"),
        (lambda: task_impact({"a": (0.5, 0)}, {"a": (0.5, 0.5)}, []), "Task 'a': original_forget is 0"),
        (lambda: task_impact({"a": (0.5, -2.0)}, {"a": (0.5, -3.0)}, ["a"]), "unlearned_forget must be in 0..1"),
        (lambda: tug_of_war({}, {}), "same splits"),
        (lambda: average_gap({"test": 0.5}, {"forget": 0.5}), "same splits"),
        (lambda: tug_of_war({"test": 0.5}, {"test": 1.5}), "retrained accuracy on test must be in 0..1"),
        (lambda: js_divergence(torch.zeros(2, 3), torch.zeros(2, 4)), r"\(2, 3\) and \(2, 4\)"),
        (lambda: js_divergence(torch.zeros(3), torch.zeros(3)), "images, classes"),
        (lambda: js_divergence(torch.zeros(0, 3), torch.zeros(0, 3)), r"\(0, 3\)"),
        (lambda: zrf_score(torch.tensor([[NAN, 0.0]]), torch.zeros(1, 2)), "not finite"),
        (lambda: relearn_time([], 0.5), "at least one step"),
        (lambda: relearn_time([0.5, 1.5], 0.5), "after step 2"),
        (lambda: relearn_time([0.5], NAN), "threshold must be"),
    ],
)
def test_values_without_meaning_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
