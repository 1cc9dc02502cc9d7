"""Kernel ridge regression onto classes, in closed form."""

import torch
from torch import Tensor
from torch.nn import functional as F

_BLOCK = 512


def squared_distances(rows: Tensor, columns: Tensor | None = None) -> Tensor:
    """Squared distances of all pairs of vectors, by |x|^2 - 2 <x, y> + |y|^2: centre them for the sake of rounding.

    Args:
        rows: (n, features).
        columns: (m, features); None for the rows themselves, which costs half.

    Returns:
        (n, m), none below zero.
    """
    sizes = rows.square().sum(1)
    if columns is None:
        products = rows.new_empty(len(rows), len(rows))
        for start in range(0, len(rows), _BLOCK):
            block = slice(start, start + _BLOCK)
            products[block, start:] = part = rows[block] @ rows[start:].T
            products[start:, block] = part.T
        return products.mul_(-2).add_(sizes).add_(sizes[:, None]).clamp_(min=0).fill_diagonal_(0)
    return (rows @ columns.T).mul_(-2).add_(columns.square().sum(1)).add_(sizes[:, None]).clamp_(min=0)


def rbf(distances: Tensor, width: float) -> Tensor:
    """The RBF kernel exp(-|x - y|^2 / (2 width^2)) of squared distances of any shape; width > 0."""
    return (distances / (-2 * width**2)).exp_()


def kernel_ridge(kernel: Tensor, labels: Tensor, classes: int, ridge: float) -> Tensor:
    """Solve min_A |K A - Y|^2 + ridge tr(A' K A), with Y the classes as one-hot rows less their mean: 1 / classes.

    Args:
        kernel: K (n, n), symmetric and positive semidefinite.
        labels: (n,) int64 in 0..classes-1.
        classes: number of classes.
        ridge: > 0.

    Returns:
        A = (K + ridge I)^-1 Y of shape (n, classes) in double precision; the kernel values (queries, n) of others,
        times A, are their scores of the classes.

    Source: Saunders, Gammerman, Vovk, ICML 1998.
    """
    kernel = kernel.double()
    onto = F.one_hot(labels, classes).to(kernel) - 1 / classes
    shifted = kernel.clone()
    shifted.diagonal().add_(ridge)
    return torch.cholesky_solve(onto, torch.linalg.cholesky(shifted))
