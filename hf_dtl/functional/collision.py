"""Gradient collision: make the gradients of mini-batches point in different directions, in linear time.

Source: Koh, Shon, Lee, Hong, Kim, "Disposable Transfer Learning for Selective Source Task Unlearning", ICCV 2023,
arXiv 2308.09971. The loss is a **reconstruction**: the abstract says that it leads "the gradient vectors of
mini-batches in different directions"; the formula and the linear-time evaluation below are this project's.

    L_GC  = 1/(n(n-1)) sum_{i!=j} <g_i, g_j>                  = (|sum g_i|^2 - sum |g_i|^2) / (n(n-1))
    L_NGC = the same with g_i/|g_i|, bounded below by -1/(n-1) = (|sum g_i/|g_i||^2 - n)     / (n(n-1))
    grad L = 2/(n(n-1)) sum_i H_i v_i
        GC:  v_i = S - g_i                            S = sum_j g_j
        NGC: v_i = (S - <u_i, S> u_i) / |g_i|         S = sum_j u_j,  u_i = g_i/|g_i|
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Loss = Callable[[], Tensor]
Reduce = Callable[[Tensor], Tensor]


class Collision(NamedTuple):
    """Value and gradients of the gradient collision loss, with the quantities that tell collision from vanishing."""

    value: Tensor
    """L_GC or L_NGC, a scalar."""
    gradients: list[Tensor]
    """Its gradients, shaped like `parameters`, already summed over processes."""
    mean_norm: Tensor
    """Mean of |g_i|: near zero means that the gradients vanished, not that they collide."""
    mean_loss: Tensor
    """Mean of the chunks' losses."""
    mean_cosine: Tensor
    """Mean cosine over ordered pairs, in [-1/(n-1), 1]; NaN when not measured."""
    error: Tensor
    """Relative error of the first chunk's product H_i v_i: zero for "exact"; for "finite_difference" the change when
    the step is doubled; NaN when not measured."""


def dot(left: Iterable[Tensor], right: Iterable[Tensor]) -> Tensor:
    """Inner product of two lists of tensors, a scalar in at least float32."""
    products = [a * b for a, b in zip(left, right, strict=True)]
    return torch.stack([p.sum(dtype=torch.promote_types(p.dtype, torch.float32)) for p in products]).sum()


def reduce_together(tensors: Sequence[Tensor], reduce: Reduce | None) -> list[Tensor]:
    """Sum tensors over processes with ONE call of `reduce` on their concatenation."""
    if reduce is None:
        return list(tensors)
    dtype = tensors[0].dtype
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    flat = reduce(torch.cat([t.reshape(-1).to(dtype) for t in tensors]))
    return [f.view_as(t).to(t.dtype) for f, t in zip(flat.split([t.numel() for t in tensors]), tensors, strict=True)]


def _gradient(loss: Tensor, parameters: Sequence[Tensor], create_graph: bool = False) -> list[Tensor]:
    return list(torch.autograd.grad(loss, parameters, create_graph=create_graph, materialize_grads=True))


def _direction(g: list[Tensor], total: list[Tensor], normalize: bool) -> list[Tensor]:
    """v_i of the module's docstring, detached."""
    if not normalize:
        return [s - a.detach() for s, a in zip(total, g, strict=True)]
    g = [a.detach() for a in g]
    square = dot(g, g).clamp_min(torch.finfo(g[0].dtype).tiny)
    share = dot(g, total) / square
    norm = square.sqrt()
    return [(s - share * a) / norm for s, a in zip(total, g, strict=True)]


def _exact_product(loss: Loss, parameters: Sequence[Tensor], total: list[Tensor], normalize: bool) -> list[Tensor]:
    """H_i v_i by one double backward."""
    g = _gradient(loss(), parameters, create_graph=True)
    surrogate = dot(g, _direction(g, total, normalize))
    if not surrogate.requires_grad:  # the loss is linear in the parameters: its Hessian is zero
        return [torch.zeros_like(p) for p in parameters]
    return _gradient(surrogate, parameters)


def _difference(loss: Loss, parameters: Sequence[Tensor], v: list[Tensor], size: float) -> list[Tensor]:
    """H_i v_i ~ (g_i(theta + e v) - g_i(theta - e v)) / 2e, with |e v| = size * |theta|; the weights come back
    bit-identical."""
    with torch.no_grad():
        epsilon = size * (dot(parameters, parameters) / dot(v, v).clamp_min(torch.finfo(v[0].dtype).tiny)).sqrt()
        kept = [p.detach().clone() for p in parameters]
    try:
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                for p, k, d in zip(parameters, kept, v, strict=True):
                    p.copy_(k + sign * epsilon * d)
            sides.append(_gradient(loss(), parameters))
    finally:
        with torch.no_grad():
            for p, k in zip(parameters, kept, strict=True):
                p.copy_(k)
    return [(a - b) / (2 * epsilon) for a, b in zip(*sides, strict=True)]


def default_step(dtype: torch.dtype) -> float:
    """Relative step |e v| / |theta| of the finite difference: 3e-6 in float32, 1e-7 in float64."""
    return 1e-7 if dtype == torch.float64 else 3e-6


def calibrate_step(loss: Loss, parameters: Sequence[Tensor]) -> tuple[float, float]:
    """Find the relative step at which the finite difference of this model's gradient is most accurate.

    The difference is taken along the loss's own gradient with steps four times apart. Too small a step drowns in
    rounding (at once in bfloat16), too large a one in curvature; both show as a change from one step to the next.

    Args:
        loss: zero-argument callable that returns a scalar loss.
        parameters: leaf tensors that require a gradient.

    Returns:
        The best relative step |e v| / |theta|, and the relative change of the result between it and its neighbour,
        an estimate of the error.
    """
    sizes = [4.0**-k for k in range(13, 2, -1)]
    v = _gradient(loss(), parameters)
    best, previous = (sizes[0], float("inf")), _difference(loss, parameters, v, sizes[0])
    for size in sizes[1:]:
        product = _difference(loss, parameters, v, size)
        change = [a - b for a, b in zip(product, previous, strict=True)]
        error = (dot(change, change) / dot(product, product)).sqrt().item()
        if error < best[1]:
            best = (size, error)
        previous = product
    return best


def gradient_collision(
    losses: Sequence[Loss],
    parameters: Sequence[Tensor],
    *,
    normalize: bool = False,
    reduce: Reduce | None = None,
    create: Literal["exact", "finite_difference"] = "exact",
    step: float | None = None,
    diagnostics: bool = True,
) -> Collision:
    """Compute the gradient collision loss over every chunk of every process, and its gradients.

    Two passes over the chunks: the first sums the gradients (one reduction), the second recomputes each chunk's
    gradient and takes one Hessian-vector product. Time is linear in the number of chunks; no more than one chunk's
    graph and a constant number of parameter-sized buffers are alive at any time. Random layers must draw the same
    noise in both passes: seed the generator inside each loss.

    Args:
        losses: one zero-argument callable a chunk, each returning the chunk's scalar loss with a fresh graph. It is
            called two times ("exact") or four times ("finite_difference"; six for the first chunk with `diagnostics`).
        parameters: leaf tensors that require a gradient. A parameter that a loss does not use counts as zero gradient.
        normalize: False for L_GC, True for L_NGC.
        reduce: sum of a flat tensor over the processes (an all-reduce); None for a single process. Every process must
            call this function with at least one chunk.
        create: "exact" for double backward; "finite_difference" for central differences of the gradient, which need
            no second derivative of any kernel.
        step: relative step |e v| / |theta| of the finite difference, > 0; None for `default_step`.
        diagnostics: also measure `mean_cosine` (for GC: one further buffer of the parameters' size) and the finite
            difference's `error` (two further gradients of the first chunk).

    Returns:
        A `Collision`; its first two fields are the value and the gradients.

    Raises:
        ValueError: fewer than two chunks over all processes, no parameters, or an unknown `create`.

    Source:
        arXiv 2308.09971 (reconstruction); see the module's docstring for the formulas.

    Example:
        >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> gradient_collision([lambda: w[0] ** 2, lambda: (w[0] * w[1]) ** 2], [w]).value  # <(2, 0), (8, 4)>
        tensor(16.)
    """
    if create not in ("exact", "finite_difference"):
        raise ValueError(f"create={create!r} is unknown; use 'exact' or 'finite_difference'.")
    parameters = list(parameters)
    if not parameters or not losses:
        raise ValueError(f"Need parameters and chunks, got {len(parameters)} parameters and {len(losses)} chunks.")

    total = [torch.zeros_like(p) for p in parameters]
    units = [torch.zeros_like(p) for p in parameters] if diagnostics and not normalize else []
    sums = parameters[0].new_zeros(4, dtype=torch.promote_types(parameters[0].dtype, torch.float32))
    for chunk in losses:
        loss = chunk()
        g = _gradient(loss, parameters)
        square = dot(g, g)
        norm = square.sqrt()
        inverse = norm.clamp_min(torch.finfo(norm.dtype).tiny).reciprocal()
        for s, a in zip(total, g, strict=True):
            s.add_(a * inverse if normalize else a)
        if units:
            for u, a in zip(units, g, strict=True):
                u.add_(a * inverse)
        sums += torch.stack([torch.ones_like(square), square, norm, loss.detach().to(square.dtype)])
    sums, *total = reduce_together([sums, *total], reduce)
    count, squares, norms, loss_sum = sums.unbind()
    if count < 2:
        raise ValueError("A collision needs at least two chunks over all processes, got 1.")
    pairs = count * (count - 1)
    value = (dot(total, total) - (count if normalize else squares)) / pairs
    mean_cosine = value if normalize else torch.full_like(value, torch.nan)
    if units:
        units = reduce_together(units, reduce)
        mean_cosine = (dot(units, units) - count) / pairs
        del units

    gradients = [torch.zeros_like(p) for p in parameters]
    error = torch.zeros_like(value) if create == "exact" else torch.full_like(value, torch.nan)
    for i, chunk in enumerate(losses):
        if create == "exact":
            product = _exact_product(chunk, parameters, total, normalize)
        else:
            v = _direction(_gradient(chunk(), parameters), total, normalize)
            size = default_step(parameters[0].dtype) if step is None else step
            product = _difference(chunk, parameters, v, size)
            if diagnostics and i == 0:
                change = [a - b for a, b in zip(_difference(chunk, parameters, v, 2 * size), product, strict=True)]
                error = (dot(change, change) / dot(product, product)).sqrt()
        for total_gradient, a in zip(gradients, product, strict=True):
            total_gradient.add_(a * (2 / pairs).to(a.dtype))
        del product
    return Collision(value, reduce_together(gradients, reduce), norms / count, loss_sum / count, mean_cosine, error)


class Average(NamedTuple):
    """Mean of the chunks' losses over every process, and its gradients."""

    value: Tensor
    gradients: list[Tensor]


def average_loss(losses: Iterable[Loss], parameters: Sequence[Tensor], *, reduce: Reduce | None = None) -> Average:
    """Compute the mean of the chunks' losses over every process and its gradients, one chunk's graph at a time.

    Args:
        losses: one zero-argument callable a chunk, each returning the chunk's scalar loss.
        parameters: leaf tensors that require a gradient.
        reduce: sum of a flat tensor over the processes; None for a single process.

    Returns:
        An `Average`: the value, and the gradients shaped like `parameters`.
    """
    gradients = [torch.zeros_like(p) for p in parameters]
    sums = parameters[0].new_zeros(2)
    for chunk in losses:
        loss = chunk()
        for total, g in zip(gradients, _gradient(loss, parameters), strict=True):
            total.add_(g)
        sums += torch.stack([torch.ones_like(loss.detach()), loss.detach()]).to(sums.dtype)
    sums, *gradients = reduce_together([sums, *gradients], reduce)
    return Average(sums[1] / sums[0], [g / sums[0].to(g.dtype) for g in gradients])
