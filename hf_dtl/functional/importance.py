"""Weight importance: which weights the outputs on some images depend on most, and a penalty on moving the others."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor

from hf_dtl.functional.collision import Reduce, average_loss


def weight_importance(
    logits: Callable[[Tensor], Tensor],
    batches: Iterable[Tensor],
    parameters: Sequence[Tensor],
    *,
    reduce: Reduce | None = None,
) -> list[Tensor]:
    """Rank the weights of every tensor by how much the size of the outputs depends on them.

    Omega = |grad_theta mean ||f(x)||_2| over all images, brought to 0..1 tensor by tensor by its least and largest
    entry. A tensor with all entries alike, up to rounding (biases that cancel out in a softmax, say), gets 0.

    Args:
        logits: outputs (batch, labels) of a batch.
        batches: images in one or several batches, whose sizes make no difference.
        parameters: leaf tensors that require a gradient.
        reduce: sum of a flat tensor over the processes, each of which has its own batches; None for one process.

    Returns:
        Tensors shaped like `parameters`, in 0..1.

    Source:
        Instance-wise unlearning, arXiv 2301.11578, after Memory Aware Synapses, arXiv 1711.09601. Its released code
        adds up |gradients| of batches; here the gradient is that of the mean over all images.
    """
    sizes = [partial(_total_size, logits, batch) for batch in batches]
    gradients = [g.abs() for g in average_loss(sizes, parameters, reduce=reduce).gradients]
    largest = torch.stack([g.max() for g in gradients]).max()
    importance = []
    for g in gradients:
        low, span = g.min(), g.max() - g.min()
        rounding = 10 * torch.finfo(g.dtype).eps * largest
        importance.append(torch.where(span > rounding, (g - low) / span, torch.zeros_like(g)))
    return importance


def _total_size(logits: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
    """Sum instead of mean, so that batches may differ in size: importance does not depend on the scale."""
    return logits(batch).norm(dim=-1).sum()


def importance_penalty(parameters: Sequence[Tensor], origin: Sequence[Tensor], importance: Sequence[Tensor]) -> Tensor:
    """Anchor unimportant weights where they were, 1/2 sum (1 - Omega) (theta - theta_0)^2.

    Args:
        parameters: theta.
        origin: theta_0, shaped likewise; no gradient flows into them.
        importance: Omega in 0..1, shaped likewise.

    Returns:
        A scalar >= 0.

    Source:
        Instance-wise unlearning, arXiv 2301.11578.

    Example:
        >>> importance_penalty([torch.tensor([1.0, 1.0])], [torch.tensor([0.0, 3.0])], [torch.tensor([0.0, 0.5])])
        tensor(1.5000)
    """
    terms = zip(parameters, origin, importance, strict=True)
    return torch.stack([((1 - o) * (p - p0.detach()).square()).sum() for p, p0, o in terms]).sum() / 2
