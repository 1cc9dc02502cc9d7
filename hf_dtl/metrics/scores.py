"""What the metrics say of numbers: predictions or accuracies in, plain values out."""

from collections.abc import Mapping, Sequence
from numbers import Real
from statistics import fmean
from typing import Any

import numpy as np

from hf_dtl.errors import ConfigError, DataError

Numbers = float | Sequence[float]


def share_right(predictions: Sequence[int], references: Sequence[int]) -> float:
    """Compute the share of predictions that name the right class: PL accuracy of a finished attack.

    Args:
        predictions: (images,) classes that the attacker's model named, from 0; a list, array or tensor.
        references: (images,) their true classes, from 0.

    Returns:
        The accuracy, in 0..1.

    Raises:
        DataError: they are no class numbers, or of different number.

    Example:
        >>> share_right([0, 1, 1, 2], [0, 1, 2, 2])
        0.75
    """
    predicted, true = _classes("predictions", predictions), _classes("references", references)
    if len(predicted) != len(true):
        raise DataError(f"There are {len(predicted)} predictions but {len(true)} references.")
    return float((predicted == true).mean())


def _classes(name: str, values: Any) -> np.ndarray:
    """Class numbers as an array; what is none is refused: `evaluate` would cut 0.7 to 0, and read "1" as 1."""
    import torch

    try:
        array = np.asarray(values.cpu() if isinstance(values, torch.Tensor) else values)
    except ValueError as error:
        raise DataError(f"{name} must be one class number an image: {error}") from error
    if array.ndim != 1 or not array.size:
        raise DataError(f"{name} must be one class number an image, got values of shape {array.shape}.")
    if array.dtype.kind not in "iu":
        raise DataError(
            f"{name} must be integers, got {array.dtype} such as {array[0]!r}. Of scores, give the position of the "
            "highest (argmax)."
        )
    if array.min() < 0:
        raise DataError(f"{name} has {array.min()}; classes are numbered from 0. Leave out images without a label.")
    return array


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
        original_test: test accuracy before unlearning, in 0..1; one number, or a list of one a task.
        unlearned_test: test accuracy after unlearning.
        unlearned_forget: accuracy on the forget images after unlearning.
        goal: what was to be forgotten: "instances" (default), a "class", or nothing of this task ("untouched"); one
            for all tasks, or a list of one a task.
        original_forget: accuracy on the forget images before unlearning; only for the goal "untouched".

    Returns:
        `unlearning_impact_score` (the mean over tasks, lower is better, 0 is ideal) and `per_task`.

    Raises:
        DataError: an accuracy cannot be used.
        ConfigError: the lists have different lengths.

    Source: see `hf_dtl.functional.unlearning_impact_score`.

    Example:
        >>> impact_of_unlearning([0.5, 0.5], [0.375, 0.5], [0.5, 0.0], goal=["instances", "class"])
        {'unlearning_impact_score': 0.0625, 'per_task': [0.125, 0.0]}
    """
    from hf_dtl.functional.metrics import unlearning_impact_score

    accuracies = ("original_test", "unlearned_test", "unlearned_forget")
    columns = dict(zip(accuracies, map(_list, (original_test, unlearned_test, unlearned_forget)), strict=True))
    tasks = len(columns["original_test"])
    columns["goal"] = [goal] * tasks if isinstance(goal, str) else list(goal)
    columns["original_forget"] = [None] * tasks if original_forget is None else _list(original_forget)
    lengths = {name: len(column) for name, column in columns.items()}
    if set(lengths.values()) != {tasks} or not tasks:
        raise ConfigError(f"Every argument needs one value a task, got {lengths}.")
    scores = []
    for number in range(tasks):
        task = {name: column[number] for name, column in columns.items()}
        for name, value in task.items():
            if name in accuracies or (name == "original_forget" and value is not None):
                _check_number(f"{name} of task {number}", value)
        try:
            scores.append(unlearning_impact_score(**task))
        except ValueError as error:
            raise DataError(f"Task {number}: {error}") from error
    return {"unlearning_impact_score": fmean(scores), "per_task": scores}


def likeness_to_retrained(accuracies: Mapping[str, Any], retrained: Mapping[str, Any]) -> dict[str, float]:
    """Compute Tug-of-War and the average gap between an unlearned and a retrained model.

    Args:
        accuracies: split → accuracy of the unlearned model in 0..1, usually of forget, retain and test.
        retrained: the same of the model that was retrained without the forgotten data.

    Returns:
        `tug_of_war` (in 0..1, 1 is ideal) and `average_gap` (in 0..1, 0 is ideal).

    Raises:
        DataError: the splits differ, or an accuracy cannot be used.

    Example:
        >>> likeness_to_retrained({"forget": 0.5, "test": 1.0}, {"forget": 0.25, "test": 0.75})
        {'tug_of_war': 0.5625, 'average_gap': 0.25}
    """
    from hf_dtl.functional.metrics import average_gap, tug_of_war

    for model, shares in (("unlearned", accuracies), ("retrained", retrained)):
        for split, value in shares.items():
            _check_number(f"The accuracy of the {model} model on {split}", value)
    try:
        return {"tug_of_war": tug_of_war(accuracies, retrained), "average_gap": average_gap(accuracies, retrained)}
    except ValueError as error:
        raise DataError(str(error)) from error


def _list(value: Any) -> list:
    return [value] if np.ndim(value) == 0 else list(value)


def _check_number(name: str, value: object) -> None:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise DataError(f"{name} must be a number in 0..1, got {value!r}.")
