"""Rounding of weights to few bits."""

from torch import Tensor


def round_to_bits(weight: Tensor, bits: int) -> Tensor:
    """Round to the nearest of 2^bits - 1 values, evenly spaced and symmetric about zero, in every row of its own.

    Args:
        weight: of any shape; a vector or a number is one row, else the first dimension counts the rows.
        bits: >= 2.

    Returns:
        A tensor shaped like `weight`; the largest absolute value of a row stays.
    """
    rows = weight.reshape(len(weight) if weight.dim() > 1 else 1, -1)
    step = rows.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    return ((rows / step.where(step > 0, 1)).round() * step).view_as(weight)
