"""Selective synaptic dampening: shrink the weights that matter more to what is forgotten than to everything."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hf_dtl.functional.per_sample import per_sample_gradients

ImageLoss = Callable[[list[Tensor], Tensor, Tensor], Tensor]


def squared_gradients(loss: ImageLoss, weights: Sequence[Tensor], images: Tensor, labels: Tensor) -> list[Tensor]:
    """Square the gradient of every image's own loss, and sum the squares over the images.

    Divided by the number of images, this is the diagonal of the empirical Fisher information.

    Args:
        loss: of weights like `weights`, ONE image (C, H, W) and its label (a scalar), with torch operations alone and
            no random draw.
        weights: tensors of the model.
        images: (batch, C, H, W); as many copies of the weights' gradients are held at once.
        labels: (batch,).

    Returns:
        Tensors shaped like `weights`, >= 0, without a gradient.

    Example:
        >>> loss = lambda w, x, y: w[0] * x.sum()
        >>> squared_gradients(loss, [torch.tensor(2.0)], torch.tensor([[[[1.0]]], [[[3.0]]]]), torch.tensor([0, 0]))
        [tensor(10.)]
    """
    return [g.square().sum(0) for g in per_sample_gradients(loss, weights, images, labels)]


def dampening_factors(
    forget: Sequence[Tensor], total: Sequence[Tensor], *, alpha: float = 10.0, dampening: float = 1.0
) -> list[Tensor]:
    """Say by what each weight is to be multiplied: min(dampening * I_D / I_f, 1) where I_f > alpha * I_D, else 1.

    Args:
        forget: I_f, Fisher information on the forgotten images, one tensor >= 0 a weight tensor.
        total: I_D, that on all training images, shaped alike.
        alpha: how much more a weight must matter to the forgotten images, >= 0. Smaller values select more weights.
        dampening: lambda, >= 0. Smaller values shrink the selected weights more.

    Returns:
        Tensors shaped like `forget`, in 0..1, exactly 1 where a weight is not selected.

    Source:
        Selective Synaptic Dampening, arXiv 2308.07707.

    Example:
        >>> dampening_factors([torch.tensor([8.0, 8.0, 0.0])], [torch.tensor([0.5, 4.0, 0.0])])
        [tensor([0.0625, 1.0000, 1.0000])]
    """
    return [
        torch.where(f > alpha * d, (dampening * d / f).clamp_max(1.0), torch.ones_like(f))
        for f, d in zip(forget, total, strict=True)
    ]
