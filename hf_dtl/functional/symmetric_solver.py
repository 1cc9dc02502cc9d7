"""Eigenvalues of symmetric matrices."""

import torch
from torch import Tensor

WIDE = 512
"""Above this width the solver takes float32, which is twice as fast there."""


def eigh(symmetric: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors of float64 matrices; of wide ones in float32 where that converges.

    Args:
        symmetric: (..., n, n), float64; of low rank it may not converge in float32.
    """
    if symmetric.shape[-1] > WIDE:
        try:
            return torch.linalg.eigh(symmetric.float())
        except torch.linalg.LinAlgError:
            pass
    return torch.linalg.eigh(symmetric)
