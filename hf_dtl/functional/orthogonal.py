"""Gradients that leave others alone: out of the span of the gradients to retain, or only where they conflict."""

from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import Tensor

Orthogonalisation = Literal["full", "conflict"]

_PIECE = 1 << 20  # elements that are widened to float64 at a time
_LEAST_SQUARE = 1e-14  # of a singular value of unit vectors that counts, where their products are float64


def span(columns: Tensor, tolerance: float | None = None) -> Tensor:
    """Find orthonormal directions that span the columns of a matrix, however many of them are dependent.

    Args:
        columns: (..., width, n), float32 or float64; batch dimensions are spanned one by one.
        tolerance: singular values up to this one count as zero, >= 0; None for the rounding of the factorisation,
            which suits columns of length 1 or 0.

    Returns:
        (..., width, rank), rank being the largest in the batch; where it is less, the missing columns are zero.

    Example:
        >>> span(torch.tensor([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])).abs()
        tensor([[1.],
                [0.],
                [0.]])
    """
    if tolerance is None:
        tolerance = 2 * torch.finfo(columns.dtype).eps * max(columns.shape[-1], 1) ** 0.5
    if not columns.shape[-1]:
        return columns
    q, r = torch.linalg.qr(columns)  # without pivots; the small matrix tells the rank
    u, sizes, _ = torch.linalg.svd(r, full_matrices=False)
    kept = sizes > tolerance
    rank = int(kept.sum(-1).max())
    return ((q @ u) * kept[..., None, :])[..., :rank]


def orthogonalise(gradient: Tensor, retain_gradients: Tensor, mode: Orthogonalisation = "full") -> Tensor:
    """Take out of a gradient what a step along it would change of the retained losses, to first order.

        full:     g - Q Q^T g with Q = qr(retain gradients): no retained loss changes
        conflict: the same with those retain gradients alone that <g, r> < 0 of, and any that come to conflict
                  meanwhile: a step -g raises no retained loss, and one that it lowers stays lowered

    Args:
        gradient: (d,), or (n, d) for n of them, each on its own.
        retain_gradients: (m, d), of any lengths; they may be zero, equal, dependent, or more than d.
        mode: see above.

    Returns:
        Shaped and typed like `gradient`, computed in float32 at least. In mode `full` the cosine with every retain
        gradient is below 1e-5 in size (float16 and bfloat16 round the result), in mode `conflict` above -1e-5. Zero
        where nothing but rounding would be left; untouched, bit for bit, where nothing conflicts.

    Raises:
        ValueError: an unknown mode, or widths that differ.

    Source:
        OrthoGrad, arXiv 2503.02312, for `full` with per-sample retain gradients; `conflict` is a **reconstruction** of
        arXiv 2605.19042.

    Example:
        >>> orthogonalise(torch.tensor([1.0, 2.0]), torch.tensor([[3.0, 0.0]]))
        tensor([0., 2.])
        >>> orthogonalise(torch.tensor([1.0, 2.0]), torch.tensor([[3.0, 0.0]]), mode="conflict")
        tensor([1., 2.])
    """
    if mode not in get_args(Orthogonalisation):
        raise ValueError(f"mode={mode!r} is unknown; use one of: {', '.join(get_args(Orthogonalisation))}.")
    if gradient.dim() not in (1, 2) or retain_gradients.dim() != 2 or gradient.shape[-1] != retain_gradients.shape[1]:
        raise ValueError(
            "Need a gradient (d,) or (n, d) and retain gradients (m, d), "
            f"got {tuple(gradient.shape)} and {tuple(retain_gradients.shape)}."
        )
    wide = torch.promote_types(torch.promote_types(gradient.dtype, retain_gradients.dtype), torch.float32)
    rows, retain = gradient.reshape(-1, gradient.shape[-1]).to(wide), retain_gradients.to(wide)
    if wide == torch.float64:
        retain = _units(retain)  # float64 holds the squares of float32, but not its own
    if mode == "full":
        result = _outside(rows, retain)
    else:
        result = torch.cat([_without_conflict(row, retain) for row in rows.split(1)])
    return result.to(gradient.dtype).reshape(gradient.shape)


def pcgrad(gradients: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Take out of every gradient its component against each other one that it conflicts with, in random order.

    Args:
        gradients: (n, d), one an objective.
        generator: of the order, on the CPU; None for the global one.

    Returns:
        (n, d); the step is their sum.

    Source:
        PCGrad, arXiv 2001.06782: g_i <- g_i - <g_i, g_j> / |g_j|^2 g_j where that product is negative, with the others
        as they were given.

    Example:
        >>> pcgrad(torch.tensor([[1.0, 1.0], [-2.0, 0.0]]))
        tensor([[ 0.0000,  1.0000],
                [-1.0000,  1.0000]])
    """
    units = _units(gradients.to(torch.promote_types(gradients.dtype, torch.float32)))
    changed = gradients.to(units.dtype, copy=True)
    for i in range(len(changed)):
        for j in torch.randperm(len(changed), generator=generator).tolist():
            if i != j:
                changed[i] -= torch.dot(changed[i], units[j]).clamp_max(0) * units[j]
    return changed.to(gradients.dtype)


def _units(rows: Tensor) -> Tensor:
    """Rows of length 1, or 0 where they were zero; scaled first, so that no square over- or underflows."""
    tiny = torch.finfo(rows.dtype).tiny
    rows = rows / rows.abs().amax(-1, keepdim=True).clamp_min(tiny)
    return rows / rows.norm(dim=-1, keepdim=True).clamp_min(tiny)


def _pieces(rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Columns of rows (m, d) in float64, piece by piece: no second copy is made, however wide they are."""
    step = max(_PIECE // max(len(rows), 1), 1)
    for start in range(0, rows.shape[1], step):
        columns = slice(start, start + step)
        yield columns, rows[:, columns].double()


def _outside(vectors: Tensor, rows: Tensor) -> Tensor:
    """Vectors (n, d) without the span of rows (m, d), which their products tell in float64."""
    products = rows.new_zeros(len(rows), len(rows), dtype=torch.float64)
    along = products.new_zeros(len(vectors), len(rows))
    for columns, piece in _pieces(rows):
        products += piece @ piece.mT
        along += vectors[:, columns].double() @ piece.mT
    lengths = products.diagonal().sqrt()
    lengths = torch.where(lengths > 0, lengths, 1)  # a zero row stays one
    sizes, directions = torch.linalg.eigh(products / lengths[:, None] / lengths)
    kept = sizes > max(4 * torch.finfo(rows.dtype).eps ** 2 * len(sizes), _LEAST_SQUARE)
    inverse = (directions * torch.where(kept, 1 / sizes, 0)) @ directions.mT / lengths[:, None] / lengths
    left = vectors.clone()
    for _ in range(2):  # the first time leaves its rounding in them
        shares, along = along @ inverse, torch.zeros_like(along)
        for columns, piece in _pieces(rows):
            left[:, columns] = (left[:, columns].double() - shares @ piece).to(left.dtype)
            along += left[:, columns].double() @ piece.mT
    noise = 10 * torch.finfo(vectors.dtype).eps * vectors.norm(dim=-1, keepdim=True)
    return torch.where(left.norm(dim=-1, keepdim=True) > noise, left, 0)


def _without_conflict(vector: Tensor, rows: Tensor) -> Tensor:
    """A vector (1, d) without the span of those rows that conflict with it or come to do so."""
    against = torch.zeros(len(rows), dtype=torch.bool, device=vector.device)
    rounding = 8 * torch.finfo(vector.dtype).eps * torch.linalg.vector_norm(rows, dim=-1, dtype=torch.float64)
    result = vector
    while True:
        new = ((result @ rows.mT)[0] < -rounding * result.norm()) & ~against
        if not new.any():
            return result
        against |= new
        result = _outside(vector, rows[against])
