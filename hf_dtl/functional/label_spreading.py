"""Label spreading: known labels flow along a graph of similar images to those without one."""

import torch
from torch import Tensor
from torch.nn import functional as F


def neighbour_graph(distances: Tensor, neighbours: int) -> Tensor:
    """A graph in which vectors are joined with their nearest ones.

    Args:
        distances: squared distances (n, n), symmetric.
        neighbours: nearest others of each vector, >= 1; fewer where there are not so many.

    Returns:
        Affinities (n, n), symmetric, zero on the diagonal: exp(-d^2 / (2 s^2)) between two of which one is among the
        nearest of the other, with s the mean distance of the farthest of these; else zero.
    """
    apart = distances.clone().fill_diagonal_(torch.inf)
    nearest = apart.topk(max(1, min(neighbours, len(apart) - 1)), largest=False)
    scale = nearest.values[:, -1].sqrt().mean().clamp(min=1e-12)
    joined = torch.zeros_like(apart).scatter_(1, nearest.indices, (nearest.values / (-2 * scale**2)).exp())
    return joined.maximum(joined.T)


def spread_labels(affinity: Tensor, labels: Tensor, classes: int, share: float) -> Tensor:
    """Solve F = share S F + (1 - share) Y, with Y the known labels as one-hot rows, and S the normalised graph.

    Args:
        affinity: W (n, n), symmetric, not negative.
        labels: (known,) int64 of the first vectors; the others have none.
        classes: number of classes.
        share: alpha in (0, 1): of what a vector has from its neighbours.

    Returns:
        Scores F (n, classes) = (1 - share) (I - share S)^-1 Y, S = D^-1/2 W D^-1/2, D the row sums of W.

    Source: Zhou et al., Learning with Local and Global Consistency, NeurIPS 2003, equation 4.
    """
    known = F.one_hot(labels, classes).double()
    onto = torch.cat([known, known.new_zeros(len(affinity) - len(labels), classes)])
    graph = affinity.double()
    root = graph.sum(1).clamp(min=1e-300).rsqrt()
    system = torch.eye(len(graph), dtype=graph.dtype, device=graph.device) - share * root[:, None] * graph * root
    return (1 - share) * torch.cholesky_solve(onto, torch.linalg.cholesky(system))
