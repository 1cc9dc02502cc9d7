"""Adversarial examples: images moved a little, so that a classifier takes them for another class."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def targeted_l2_pgd(
    classify: Callable[[Tensor], Tensor],
    images: Tensor,
    targets: Tensor,
    *,
    mean: Tensor | None = None,
    std: Tensor | None = None,
    epsilon: float = 4.0,
    step_size: float = 0.1,
    steps: int = 100,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Move images toward target classes by projected gradient descent within an L2 ball, in pixels.

    A step goes `step_size` down the gradient of CE(f(x), target), back into the ball, and into the range of pixels
    (which takes no image out of the ball). Every image goes its own way, whatever else is in the batch.

    Args:
        classify: logits (batch, labels) of normalised images; must treat every image by itself (evaluation mode).
        images: (batch, channels, height, width), normalised: (pixels - mean) / std with pixels in 0..1.
        targets: (batch,), the class to move each image toward.
        mean: (channels,), of the normalisation; None for 0.
        std: (channels,), likewise, > 0; None for 1.
        epsilon: radius of the ball around each image, in pixels of range 0..1, > 0.
        step_size: length of a step (alpha), likewise, > 0.
        steps: number of steps, >= 0.
        generator: of the start, a uniform share of epsilon in a random direction, on the CPU; None starts at the
            images.

    Returns:
        Normalised images shaped like `images`, without a gradient.

    Raises:
        ValueError: epsilon, step_size or steps out of range.

    Source:
        Madry et al., arXiv 1706.06083, targeted and with the L2 norm, as arXiv 2301.11578 uses it.

    Example:
        >>> image = torch.full((1, 1, 1, 2), 0.5)
        >>> targeted_l2_pgd(lambda x: x.flatten(1), image, torch.tensor([1]), epsilon=0.2, step_size=0.1, steps=9)
        tensor([[[[0.3586, 0.6414]]]])
    """
    if not epsilon > 0 or not step_size > 0 or steps < 0:
        raise ValueError(f"epsilon={epsilon} and step_size={step_size} must be > 0, steps={steps} must be >= 0.")
    mean = (torch.zeros(1) if mean is None else mean).to(images).view(-1, 1, 1)
    std = (torch.ones(1) if std is None else std).to(images).view(-1, 1, 1)
    pixels = (images.detach() * std + mean).clamp(0, 1)

    def allowed(offset: Tensor) -> Tensor:
        return (pixels + offset * (epsilon / _norm(offset)).clamp_max(1)).clamp(0, 1) - pixels

    offset = torch.zeros_like(pixels)
    if generator is not None:
        direction = torch.randn(images.shape, generator=generator, dtype=torch.float64)
        share = torch.rand((len(images), 1, 1, 1), generator=generator, dtype=torch.float64)
        offset = allowed((epsilon * share * direction / _norm(direction)).to(images))
    for _ in range(steps):
        with torch.enable_grad():
            offset.requires_grad_()
            loss = F.cross_entropy(classify((pixels + offset - mean) / std), targets, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, offset)
        offset = allowed(offset.detach() - step_size * gradient / _norm(gradient))
    return (pixels + offset - mean) / std


def _norm(images: Tensor) -> Tensor:
    """L2 norm of each image, (batch, 1, 1, 1), never zero."""
    return images.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
