"""The metrics `unlearning_impact_score` and `tug_of_war`: accuracies in, plain values out."""

from collections.abc import Mapping, Sequence
from numbers import Real
from statistics import fmean
from typing import Any

import numpy as np

from hf_dtl.errors import ConfigError, DataError
from hf_dtl.functional import metrics

Numbers = float | Sequence[float]


def impact_of_unlearning(
    original_test: Numbers,
    unlearned_test: Numbers,
    unlearned_forget: Numbers,
    *,
    goal: str | Sequence[str] = "instances",
    original_forget: Numbers | Sequence[float | None] | None = None,
) -> dict[str, Any]:
    """Compute the Unlearning Impact Score of one task, or of several and their mean.

    Args:
        original_test, unlearned_test, unlearned_forget, original_forget: see
            `hf_dtl.functional.unlearning_impact_score`; one accuracy in 0..1, or a list of one a task.
        goal: `instances`, `class` or `untouched`, for all tasks or a list of one a task.

    Returns:
        `unlearning_impact_score` (the mean over tasks, lower is better, 0 is ideal) and `per_task`.

    Raises:
        DataError: an accuracy cannot be used.
        ConfigError: the lists have different lengths.

    Example:
        >>> impact_of_unlearning([0.5, 0.5], [0.375, 0.5], [0.5, 0.0], goal=["instances", "class"])
        {'unlearning_impact_score': 0.0625, 'per_task': [0.125, 0.0]}
    """
    columns = {
        "original_test": as_list(original_test),
        "unlearned_test": as_list(unlearned_test),
        "unlearned_forget": as_list(unlearned_forget),
    }
    tasks = len(columns["original_test"])
    columns["goal"] = [goal] * tasks if isinstance(goal, str) else list(goal)
    columns["original_forget"] = [None] * tasks if original_forget is None else as_list(original_forget)
    lengths = {name: len(column) for name, column in columns.items()}
    if set(lengths.values()) != {tasks} or not tasks:
        raise ConfigError(f"Every argument needs one value a task, got {lengths}.")
    scores = []
    for number, row in enumerate(zip(*columns.values(), strict=True)):
        task = dict(zip(columns, row, strict=True))
        for name in task.keys() - {"goal"}:
            if name != "original_forget" or task[name] is not None:
                _check_number(f"{name} of task {number}", task[name])
        try:
            scores.append(metrics.unlearning_impact_score(**task))
        except ValueError as error:
            raise DataError(f"Task {number}: {error}") from error
    return {"unlearning_impact_score": fmean(scores), "per_task": scores}


def likeness_to_retrained(accuracies: Mapping[str, float], retrained: Mapping[str, float]) -> dict[str, float]:
    """Compute Tug-of-War and the average gap between an unlearned and a retrained model.

    Args:
        accuracies: split → accuracy of the unlearned model, in 0..1.
        retrained: split → accuracy of the model that was retrained without the forgotten data.

    Returns:
        `tug_of_war` (1 is ideal) and `average_gap` (0 is ideal).

    Raises:
        DataError: the splits differ, or an accuracy cannot be used.

    Example:
        >>> likeness_to_retrained({"forget": 0.5, "test": 1.0}, {"forget": 0.25, "test": 0.75})
        {'tug_of_war': 0.5625, 'average_gap': 0.25}
    """
    for model, shares in (("unlearned", accuracies), ("retrained", retrained)):
        for split, value in shares.items():
            _check_number(f"The accuracy of the {model} model on {split}", value)
    try:
        return {
            "tug_of_war": metrics.tug_of_war(accuracies, retrained),
            "average_gap": metrics.average_gap(accuracies, retrained),
        }
    except ValueError as error:
        raise DataError(str(error)) from error


def as_list(value: Any) -> list:
    """One value, or several, as a list."""
    return [value] if np.ndim(value) == 0 else list(value)


def _check_number(name: str, value: object) -> None:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise DataError(f"{name} must be a number in 0..1, got {value!r}.")
