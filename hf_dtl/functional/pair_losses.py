"""Losses of (image, task) pairs: every image counts for some tasks, and a task is a classification or a regression.

Everywhere `labels` (batch,) is float: the class, or the value of a regression, and NaN where the pair has no part;
such a pair has loss 0. `scale` is None for classes and else the unit of a regression, its labels' standard deviation.
"""

from functools import partial

import torch
from torch import Tensor
from torch.func import vmap
from torch.nn import functional as F

from hf_dtl.functional.losses import bounded_forgetting, distillation


def pair_losses(output: Tensor, labels: Tensor, scale: float | None = None) -> Tensor:
    """Cross-entropy, or squared error in units of `scale`, of every pair of one task.

    Args:
        output: (batch, classes), or (batch, 1) for a regression.
        labels: (batch,), see the module.
        scale: see the module, > 0.

    Returns:
        (batch,), >= 0.

    Example:
        >>> pair_losses(torch.tensor([[3.0], [9.0]]), torch.tensor([1.0, torch.nan]), scale=2.0)
        tensor([1., 0.])
    """
    known = labels.nan_to_num()
    if scale is None:
        losses = F.cross_entropy(output.float(), known.long(), reduction="none")
    else:
        losses = ((output.float().squeeze(-1) - known) / scale).square()
    return torch.where(labels.isnan(), 0.0, losses)


def pair_forgetting(
    output: Tensor, labels: Tensor, scale: float | None = None, *, delta: float = 0.05, entropy_weight: float = 0.2
) -> Tensor:
    """Bounded forgetting of every pair of one task: `bounded_forgetting`, or its counterpart for a regression.

    A regression has no probability of the true class; exp(-|f(x) - y| / scale) takes its place, so that the loss is
    -log(1 + delta - exp(-|f(x) - y| / scale)). Its gradient points away from the label on the side where the
    prediction already is, is bounded by 1 / (delta * scale), and dies away as the error grows. It has no entropy.

    Args:
        output, labels, scale: as for `pair_losses`.
        delta: > 0.
        entropy_weight: >= 0, of classes alone.

    Returns:
        (batch,), at most -log(delta).

    Source:
        `bounded_forgetting` is of arXiv 2312.04095; the regression is this project's.
    """
    known = labels.nan_to_num()
    if scale is None:
        loss = partial(bounded_forgetting, delta=delta, entropy_weight=entropy_weight)
        losses = vmap(loss)(output[:, None], known.long()[:, None])
    else:
        losses = -torch.log(1 + delta - torch.exp(-(output.float().squeeze(-1) - known).abs() / scale))
    return torch.where(labels.isnan(), 0.0, losses)


def pair_distance(
    output: Tensor, original: Tensor, labels: Tensor, scale: float | None = None, *, temperature: float = 1.0
) -> Tensor:
    """Distance of one task's outputs from the original model's, SUMMED over pairs.

    It is `distillation`, or the squared difference in units of `scale`.

    Args:
        output, labels, scale: as for `pair_losses`.
        original: shaped like `output`; no gradient flows into it.
        temperature: > 0, of classes alone.

    Returns:
        A scalar >= 0.
    """
    original = original.detach()
    output = torch.where(labels.isnan()[:, None], original.to(output.dtype), output)  # such a pair has distance 0
    if scale is None:
        return distillation(output, original, temperature) * len(output)
    return ((output.float() - original.float()) / scale).square().sum()
