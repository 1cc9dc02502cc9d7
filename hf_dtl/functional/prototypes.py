"""The means of classes, and the linear classifier that they make."""

from torch import Tensor
from torch.nn import functional as F


def mean_and_deviation(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (values,) of vectors (n, values), by which they are standardised.

    To each deviation a hundredth of the mean one is added, so that a value that is nearly constant stays small.
    """
    deviation = vectors.std(0, correction=0)
    return vectors.mean(0), deviation + 1e-2 * deviation.mean() + 1e-6


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
        Weight (classes, values) and bias (classes,) for vectors as they are: their scores are <z, m> - |m|^2 / 2 with
        z the standardised vector and m the mean of a class, which is -|z - m|^2 / 2 but for what all classes share.

    Source: Mensink et al., Distance-Based Image Classification, TPAMI 2013, equation 3.
    """
    mean, deviation = mean_and_deviation(vectors)
    means = class_means((vectors - mean) / deviation, labels, classes)
    weight = means / deviation
    return weight, means.square().sum(1) / -2 - weight @ mean
