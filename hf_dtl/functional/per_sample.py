"""The gradient of every image's own loss, all at once."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.func import grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel


def per_sample_gradients(loss: Callable[..., Tensor], weights: Sequence[Tensor], *samples: Any) -> list[Tensor]:
    """Compute the gradient of each sample's own loss with respect to the weights.

    Args:
        loss: of weights like `weights` and ONE sample, with torch operations alone, no random draw, and no branch on
            the value of a tensor.
        weights: tensors of the model.
        samples: tensors (batch, ...), or dictionaries of such, passed to `loss` without their first dimension.

    Returns:
        Tensors (batch, *shape of the weight), without a graph: as many copies of the weights' gradients.

    Example:
        >>> import torch
        >>> per_sample_gradients(lambda w, x: w[0] * x, [torch.tensor(2.0)], torch.tensor([1.0, 3.0]))
        [tensor([1., 3.])]
    """
    with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):  # fused attention has no rule for `vmap`
        warnings.filterwarnings("ignore", message="There is a performance drop")
        each = vmap(grad(loss), in_dims=(None, *(0 for _ in samples)))
        return [g.detach() for g in each([w.detach() for w in weights], *samples)]
