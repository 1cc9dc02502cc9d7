"""Weight saliency: which weights a loss asks to be changed most."""

from collections.abc import Sequence

import torch
from torch import Tensor


def saliency_mask(gradients: Sequence[Tensor], share: float) -> list[Tensor]:
    """Mark the weights with the largest gradients, ranked over all tensors together.

    Args:
        gradients: of the loss, one tensor a weight tensor.
        share: of the weights to mark, in 0..1.

    Returns:
        Boolean tensors shaped like `gradients`, of which exactly round(share * weights) entries are True. Of equal
        gradients, the first ones are marked.

    Source:
        SalUn, arXiv 2310.12508: m_S = 1(|grad L_f(theta_0)| >= gamma), gamma being set by the share.

    Example:
        >>> saliency_mask([torch.tensor([0.1, -3.0]), torch.tensor([[2.0, 0.0]])], share=0.5)
        [tensor([False,  True]), tensor([[ True, False]])]
    """
    sizes = torch.cat([g.detach().abs().flatten() for g in gradients])
    marked = round(share * sizes.numel())
    mask = torch.zeros_like(sizes, dtype=torch.bool)
    if marked:
        least = sizes.kthvalue(sizes.numel() - marked + 1).values
        mask = sizes > least
        mask[(sizes == least).nonzero().flatten()[: marked - int(mask.sum())]] = True
    parts = mask.split([g.numel() for g in gradients])
    return [part.view(g.shape) for part, g in zip(parts, gradients, strict=True)]
