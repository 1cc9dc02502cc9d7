"""Sizes of a tensor's rows and columns, which a network's function leaves free, brought back to the usual ones."""

import torch
from torch import Tensor

USUAL = 16.0
"""Sizes up to this factor from the usual one stay as they are."""


def channel_scale(weight: Tensor, size: float) -> tuple[Tensor, Tensor]:
    """Factors of rows and of columns without which the rows and columns of a tensor are of the usual size.

    A channel can be made smaller by any factor where it is written and larger where it is read, and the network gives
    the same answers: steps of the same size for every weight then do nothing to some and wreck others. Divided by both
    factors the tensor is near that of a network that nobody rescaled.

    Args:
        weight: (), (rows,), (rows, columns), or with more dimensions, which count as one entry.
        size: usual root mean square of an entry, > 0.

    Returns:
        (rows,) and (columns,), the latter of one element for a vector: powers of two, 1 where the size is within
        `USUAL` of the usual one, and for what is zero.
    """
    entries = weight.detach().double()
    entries = entries.reshape(-1, 1) if entries.dim() < 2 else entries.flatten(2) if entries.dim() > 2 else entries
    squares = entries.square().mean(-1) if entries.dim() > 2 else entries.square()
    rows, columns = squares.new_ones(len(squares)), squares.new_ones(squares.shape[1])
    for _ in range(3):  # of a product of a row's and a column's factor the first time finds both
        rows = _filled((squares / columns).mean(1))
        columns = _filled((squares / rows[:, None]).mean(0))
    middle = columns.median()
    rows, columns = (rows * middle).sqrt() / size, (columns / middle).sqrt()
    return _unusual(rows.where(squares.any(1), 1)), _unusual(columns.where(squares.any(0), 1))


def _filled(values: Tensor) -> Tensor:
    """With the middle one of the others in place of zeros."""
    told = values[values > 0]
    return values.where(values > 0, told.median() if len(told) else values.new_ones(()))


def _unusual(sizes: Tensor) -> Tensor:
    power = sizes.log2()
    return torch.exp2(power.round()).where(power.abs() > torch.tensor(USUAL).log2(), 1.0)
