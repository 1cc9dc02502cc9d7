"""Metrics of unlearning, as pure functions of accuracies and logits."""

import math
from collections.abc import Collection, Mapping, Sequence
from statistics import fmean
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

Goal = Literal["instances", "class", "untouched"]


def slc_auc(budgets: Sequence[float], accuracies: Sequence[float]) -> float:
    """Compute the area under the relearning curve over log(budget) by trapezoids, divided by the range of log(budget).

    It is the mean height of the curve: 1 for an attacker who is always right, the accuracy itself for one budget.

    Args:
        budgets: (points,) training images a class, > 0, ascending.
        accuracies: (points,) accuracy at each budget, in 0..1.

    Returns:
        The area, in 0..1.

    Raises:
        ValueError: no point, different lengths, budgets that are not positive, finite and ascending, or an accuracy
            outside 0..1.

    Source:
        The scale and the normalisation are this project's.

    Example:
        >>> round(slc_auc([1, 4, 64], [0.0, 0.5, 1.0]), 4)  # (1 · 0.25 + 2 · 0.75) / 3
        0.5833
    """
    if len(budgets) != len(accuracies) or len(budgets) == 0:
        raise ValueError(f"Need one accuracy a budget, got {len(budgets)} budgets and {len(accuracies)} accuracies.")
    heights = [_share(a, f"The accuracy at budget {b}") for b, a in zip(budgets, accuracies, strict=True)]
    if not all(b > 0 and math.isfinite(b) for b in budgets):
        raise ValueError(f"Budgets must be positive and finite, got {list(budgets)}.")
    widths = [math.log(b / a) for a, b in zip(budgets[:-1], budgets[1:], strict=True)]
    if not all(width > 0 for width in widths):
        raise ValueError(f"Budgets must ascend without repeats, got {list(budgets)}. Sort both lists by budget.")
    if not widths:
        return heights[0]
    means = [(a + b) / 2 for a, b in zip(heights[:-1], heights[1:], strict=True)]
    return min(math.fsum(w * m for w, m in zip(widths, means, strict=True)) / math.fsum(widths), 1.0)


def unlearning_impact_score(
    original_test: float,
    unlearned_test: float,
    unlearned_forget: float,
    *,
    goal: Goal = "instances",
    original_forget: float | None = None,
) -> float:
    """Compute the Unlearning Impact Score (UIS) of one task: lower is better, 0 is ideal.

        instances: ½ (|O_t − U_t| / O_t + |O_t − U_f| / O_t)    forgotten images become like unseen ones
        class:     ½ (|O_t − U_t| / O_t +  U_f / O_t)           a forgotten class is never right
        untouched: ½ (|O_t − U_t| / O_t + |O_f − U_f| / O_f)    a task that was to stay as it was

    Args:
        original_test: O_t, test accuracy of the model before unlearning, in 0..1 and above 0.
        unlearned_test: U_t, test accuracy after unlearning, in 0..1.
        unlearned_forget: U_f, accuracy on the forget images after unlearning, in 0..1.
        goal: what was to be forgotten: `instances`, a `class`, or nothing of this task (`untouched`).
        original_forget: O_f, accuracy on the forget images before unlearning, in 0..1 and above 0; read for
            `untouched` alone, and needed there.

    Returns:
        The score, >= 0. A score over several tasks is the mean of theirs.

    Raises:
        ValueError: an accuracy outside 0..1, a divisor of 0, an unknown goal, or no `original_forget` for `untouched`.

    Source:
        OrthoGrad, arXiv 2503.02312. The goal `untouched` is this project's extension.

    Example:
        >>> unlearning_impact_score(0.5, 0.25, 0.5)  # ½ (0.25 / 0.5 + 0)
        0.25
    """
    if goal not in get_args(Goal):
        raise ValueError(f"goal={goal!r} is unknown; use one of {', '.join(get_args(Goal))}.")
    o_t = _divisor(original_test, "original_test")
    u_t, u_f = _share(unlearned_test, "unlearned_test"), _share(unlearned_forget, "unlearned_forget")
    if goal == "instances":
        forgetting = abs(o_t - u_f) / o_t
    elif goal == "class":
        forgetting = u_f / o_t
    elif original_forget is None:
        raise ValueError(
            "goal='untouched' needs original_forget, the accuracy on the forget images before unlearning."
        )
    else:
        o_f = _divisor(original_forget, "original_forget")
        forgetting = abs(o_f - u_f) / o_f
    return (abs(o_t - u_t) / o_t + forgetting) / 2


class TaskImpact(NamedTuple):
    """Unlearning Impact Scores of several tasks."""

    mean: float
    by_task: dict[str, float]


def task_impact(
    original: Mapping[str, tuple[float, float]],
    unlearned: Mapping[str, tuple[float, float]],
    forgotten: Collection[str],
    *,
    goal: Literal["instances", "class"] = "instances",
) -> TaskImpact:
    """Compute the Unlearning Impact Score of every task of a model, and their mean: lower is better, 0 is ideal.

    Args:
        original: task → (accuracy on test images, accuracy on the images to forget) before unlearning, in 0..1.
        unlearned: the same after it. Of a forgotten task, the images that it was to forget; of an untouched one, all
            images that some task was to forget.
        forgotten: tasks that images were to be forgotten for; the others count as `untouched`. All may be.
        goal: of the forgotten tasks.

    Returns:
        A `TaskImpact`.

    Raises:
        ValueError: different tasks, none, a forgotten task that is not among them, or see `unlearning_impact_score`;
            the message names the task.

    Source:
        As `unlearning_impact_score`; the mean over tasks as in arXiv 2605.19042.

    Example:
        >>> before = {"letter": (0.5, 1.0), "case": (1.0, 1.0)}
        >>> task_impact(before, {"letter": (0.5, 0.75), "case": (1.0, 0.5)}, ["letter"])
        TaskImpact(mean=0.25, by_task={'letter': 0.25, 'case': 0.25})
    """
    if not original or original.keys() != unlearned.keys():
        raise ValueError(f"Both models need the same tasks, got {sorted(original)} and {sorted(unlearned)}.")
    if unknown := sorted(set(forgotten) - original.keys()):
        raise ValueError(
            f"There is no accuracy of the forgotten task {', '.join(unknown)}, only of {sorted(original)}."
        )
    scores = {}
    for task, (test, forget) in original.items():
        try:
            scores[task] = unlearning_impact_score(
                test, *unlearned[task], goal=goal if task in forgotten else "untouched", original_forget=forget
            )
        except ValueError as error:
            raise ValueError(f"Task {task!r}: {error}") from None
    return TaskImpact(fmean(scores.values()), scores)


def tug_of_war(accuracies: Mapping[str, float], retrained: Mapping[str, float]) -> float:
    """Compute Tug-of-War (ToW), Π_split (1 − |acc − acc_retrained|): 1 for a model as accurate as the retrained one.

    Args:
        accuracies: accuracy of the unlearned model on each split, in 0..1; usually forget, retain and test.
        retrained: accuracy of the retrained model on the same splits.

    Returns:
        The product, in 0..1, higher is better.

    Raises:
        ValueError: no split, different splits, or an accuracy outside 0..1.

    Source:
        Zhao, Kurmanji, Bărbulescu, Triantafillou, Triantafillou, "What makes unlearning hard and what to do about
        it", NeurIPS 2024, arXiv 2406.01257. The formula was checked against second-hand descriptions only.

    Example:
        >>> tug_of_war({"forget": 0.75, "retain": 1.0, "test": 0.5}, {"forget": 0.25, "retain": 1.0, "test": 1.0})
        0.25
    """
    return math.prod(1 - gap for gap in _gaps(accuracies, retrained))


def average_gap(accuracies: Mapping[str, float], retrained: Mapping[str, float]) -> float:
    """Compute the mean of |acc − acc_retrained| over splits: 0 for a model as accurate as the retrained one.

    Args:
        accuracies: accuracy of the unlearned model on each split, in 0..1; usually forget, retain and test. Any other
            share may be added, such as the rate at which an attack calls forget images members.
        retrained: the same of the retrained model.

    Returns:
        The mean, in 0..1, lower is better.

    Raises:
        ValueError: no split, different splits, or an accuracy outside 0..1.

    Source:
        The average gap of the unlearning literature, e.g. Fan et al., SalUn, arXiv 2310.12508.

    Example:
        >>> average_gap({"forget": 0.5, "test": 1.0}, {"forget": 0.25, "test": 0.75})
        0.25
    """
    return fmean(_gaps(accuracies, retrained))


def js_divergence(logits_a: Tensor, logits_b: Tensor) -> float:
    """Compute the Jensen-Shannon divergence between two models' outputs, in base 2, averaged over images.

    Args:
        logits_a: (images, classes) of one model.
        logits_b: (images, classes) of the other, on the same images.

    Returns:
        The divergence in 0..1, symmetric; 0 for the same outputs, 1 for outputs that share no class. Computed in
        float64.

    Raises:
        ValueError: no image, shapes that differ or are not (images, classes), or logits that are not finite.

    Example:
        >>> js_divergence(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 1.0]]))
        0.0
    """
    if logits_a.shape != logits_b.shape or logits_a.dim() != 2 or logits_a.numel() == 0:
        raise ValueError(
            "Need logits (images, classes) of both models on the same images, "
            f"got {tuple(logits_a.shape)} and {tuple(logits_b.shape)}."
        )
    if not (torch.isfinite(logits_a).all() and torch.isfinite(logits_b).all()):
        raise ValueError("The logits hold values that are not finite.")
    log_p, log_q = (logits.detach().cpu().double().log_softmax(-1) for logits in (logits_a, logits_b))
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    divergences = (log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)).sum(-1) / (2 * math.log(2))
    return divergences.clamp(0, 1).mean().item()


def zrf_score(unlearned_logits: Tensor, random_logits: Tensor) -> float:
    """Compute ZRF, 1 − mean JS divergence between the unlearned model and a randomly initialised one on forget images.

    Args:
        unlearned_logits: (images, classes) of the unlearned model on the forget images.
        random_logits: (images, classes) of a randomly initialised model of the same architecture.

    Returns:
        The score in 0..1; near 1 the forget images are answered as by a model that learned nothing. The value to aim
        at is that of the retrained model, not 1.

    Raises:
        ValueError: see `js_divergence`.

    Source:
        Chundawat, Tarun, Mandal, Kankanhalli, "Can Bad Teaching Induce Forgetting?", AAAI 2023, arXiv 2205.08096.
        The base 2 of the divergence is this project's choice: the score then spans 0..1.

    Example:
        >>> zrf_score(torch.tensor([[50.0, -50.0]]), torch.tensor([[50.0, -50.0]]))
        1.0
    """
    return 1 - js_divergence(unlearned_logits, random_logits)


def relearn_time(accuracies_by_step: Sequence[float], threshold: float) -> int | None:
    """Find the first relearning step after which the forget accuracy is at the threshold or above it.

    Args:
        accuracies_by_step: (steps,) accuracy on the forgotten task after step 1, 2, ... of relearning, in 0..1.
        threshold: accuracy in 0..1, such as 95 % of that of the model before unlearning.

    Returns:
        The step, counted from 1; None when the threshold is never reached.

    Raises:
        ValueError: no step, or a value outside 0..1.

    Source:
        Golatkar, Achille, Soatto, "Forgetting Outside the Box", ECCV 2020, arXiv 2003.02960, with the threshold free.

    Example:
        >>> relearn_time([0.2, 0.6, 0.5, 0.9], threshold=0.6)
        2
    """
    if len(accuracies_by_step) == 0:
        raise ValueError("The relearn time of zero steps is not defined. Give the accuracy after at least one step.")
    wanted = _share(threshold, "threshold")
    values = [_share(a, f"The accuracy after step {i}") for i, a in enumerate(accuracies_by_step, 1)]
    return next((step for step, value in enumerate(values, 1) if value >= wanted), None)


def _share(value: float, name: str) -> float:
    if not 0 <= value <= 1:  # also true for NaN
        raise ValueError(f"{name} must be in 0..1, got {value}.")
    return float(value)


def _divisor(value: float, name: str) -> float:
    if _share(value, name) == 0:
        raise ValueError(f"{name} is 0: the score relative to it is not defined. Leave this task out, and say so.")
    return float(value)


def _gaps(accuracies: Mapping[str, float], retrained: Mapping[str, float]) -> list[float]:
    if accuracies.keys() != retrained.keys() or not accuracies:
        raise ValueError(f"Both models need the same splits, got {sorted(accuracies)} and {sorted(retrained)}.")
    return [
        abs(_share(value, f"The accuracy on {split}") - _share(retrained[split], f"The retrained accuracy on {split}"))
        for split, value in accuracies.items()
    ]
