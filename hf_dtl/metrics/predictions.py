"""The metric `piggyback_accuracy` of a finished attack: the share of its predictions that are right."""

from collections.abc import Sequence

import numpy as np
import torch

from hf_dtl.errors import DataError


def as_classes(name: str, values: Sequence[int]) -> np.ndarray:
    """Return class numbers as an array, and refuse what is none: `evaluate` would cut 0.7 to 0, and read "1" as 1.

    Args:
        name: of the argument, for the message.
        values: (images,) the class numbers, as a list, array or tensor.

    Returns:
        (images,) integers.

    Raises:
        DataError: they are no integers from 0, or there is none.
    """
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


def share_right(predictions: Sequence[int], references: Sequence[int]) -> float:
    """Compute the share of predictions that name the right class.

    Args:
        predictions: (images,) classes that the attacker's model named, from 0.
        references: (images,) their true classes, from 0.

    Returns:
        The accuracy, in 0..1.

    Raises:
        DataError: they are no class numbers, or of different number.

    Example:
        >>> share_right([0, 1, 1, 2], [0, 1, 2, 2])
        0.75
    """
    predicted, true = as_classes("predictions", predictions), as_classes("references", references)
    if len(predicted) != len(true):
        raise DataError(f"There are {len(predicted)} predictions but {len(true)} references.")
    return float((predicted == true).mean())
