"""The means of classes, and the linear classifier that they make."""

import torch
from torch import Tensor
from torch.nn import functional as F

ROUNDING = 1e-6
"""A value whose deviation is at most this share of its size is constant but for rounding in single precision."""


def mean_and_scale(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (values,) and one over the deviation (values,) of vectors (n, values), by which they are standardised.

    Both in double precision. The scale of a value that is constant is 0: it tells nothing. Any other value counts the
    same whatever its unit: no smallest deviation, by which features that were rescaled could hide.
    """
    mean = vectors.double().mean(0)
    deviation = (vectors.double() - mean).square().mean(0).sqrt()
    told = deviation > ROUNDING * torch.hypot(mean, deviation)
    return mean, told / deviation.where(told, 1)


def standardised(mean: Tensor, scale: Tensor, *vectors: Tensor) -> list[Tensor]:
    """Vectors (n, values) less the mean and times the scale, in double precision and then rounded to their type."""
    return [((one - mean) * scale).to(one.dtype) for one in vectors]


def class_means(vectors: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Mean vector of every class.

    Args:
        vectors: (n, values).
        labels: (n,) int64 in 0..classes-1; each class must be there.
        classes: number of classes.

    Returns:
        (classes, values).
    """
    members = F.one_hot(labels, classes).to(vectors)
    return members.T @ vectors / members.sum(0)[:, None]


def nearest_mean(vectors: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """The linear classifier whose strongest class is the one with the nearest mean, after standardising.

    Args:
        vectors: (n, values).
        labels, classes: see `class_means`.

    Returns:
        Weight (classes, values) and bias (classes,), in double precision, for vectors as they are: their scores are
        <z, m> - |m|^2 / 2 with z the standardised vector and m the mean of a class, which is -|z - m|^2 / 2 but for
        what all classes share.

    Source: Mensink et al., Distance-Based Image Classification, TPAMI 2013, equation 3.
    """
    mean, scale = mean_and_scale(vectors)
    means = class_means((vectors - mean) * scale, labels, classes)
    weight = means * scale
    return weight, means.square().sum(1) / -2 - weight @ mean
