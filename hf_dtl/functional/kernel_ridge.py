"""Kernel ridge regression onto classes, in closed form."""

import torch
from torch import Tensor
from torch.nn import functional as F


def gram(rows: Tensor, columns: Tensor, width: float | None) -> Tensor:
    """Kernel values of all pairs of vectors.

    Args:
        rows: (n, features).
        columns: (m, features).
        width: of the RBF kernel exp(-|x - y|^2 / (2 width^2)), > 0; None for the linear kernel <x, y>.

    Returns:
        (n, m).
    """
    if width is None:
        return rows @ columns.T
    return (torch.cdist(rows, columns).square_() / (-2 * width**2)).exp_()


def kernel_ridge(kernel: Tensor, labels: Tensor, classes: int, ridge: float) -> Tensor:
    """Solve min_A |K A - Y|^2 + ridge tr(A' K A), with Y the classes as one-hot rows less their mean: 1 / classes.

    Args:
        kernel: K (n, n), symmetric and positive semidefinite.
        labels: (n,) int64 in 0..classes-1.
        classes: number of classes.
        ridge: > 0.

    Returns:
        A = (K + ridge I)^-1 Y of shape (n, classes); `gram(queries, rows) @ A` are the scores of the classes.

    Source: Saunders, Gammerman, Vovk, ICML 1998.
    """
    onto = F.one_hot(labels, classes).to(kernel) - 1 / classes
    factor = torch.linalg.cholesky(kernel + ridge * torch.eye(len(kernel), dtype=kernel.dtype, device=kernel.device))
    return torch.cholesky_solve(onto, factor)
