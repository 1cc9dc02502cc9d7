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


def nearest_mean(means: Tensor) -> tuple[Tensor, Tensor]:
    """The linear classifier whose strongest class is the one with the nearest mean.

    Args:
        means: m (classes, values).

    Returns:
        Weight m and bias -|m|^2 / 2, of shapes (classes, values) and (classes,): x m' + bias is -|x - m|^2 / 2 but for
        |x|^2 / 2, which all classes share.

    Source: Mensink et al., Distance-Based Image Classification, TPAMI 2013, equation 3.
    """
    return means, means.square().sum(1) / -2
