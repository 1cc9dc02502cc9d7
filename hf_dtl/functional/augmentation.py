"""Random transforms of image batches, drawn from a generator so that they are the same on any device and resume."""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Augmentation = Literal["none", "affine", "affine_flip"]
"""Nothing, `random_affine`, or that with mirrored images (not for letters or digits)."""


def random_affine(
    images: Tensor,
    generator: torch.Generator | None = None,
    *,
    degrees: float = 15.0,
    scale: float = 0.2,
    shift: float = 0.12,
    flip: bool = False,
) -> Tensor:
    """Rotate, scale, stretch and shift every image of a batch by draws of its own; the edge goes on outside.

    Args:
        images: (batch, channels, height, width).
        generator: of the draws, on the CPU; None for the global one.
        degrees: largest rotation to either side.
        scale: largest logarithm of the scale, and twice that of the aspect ratio: 0.2 allows 0.82 to 1.22.
        shift: largest shift to any side, as a fraction of the image's side.
        flip: also mirror every other image.

    Returns:
        A tensor shaped like `images`.
    """

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator) * 2 - 1

    batch = len(images)
    angle, size, aspect = draw(batch) * math.radians(degrees), (draw(batch) * scale).exp(), draw(batch) * scale / 2
    width, height = size * aspect.exp(), size / aspect.exp()
    if flip:
        width = width * draw(batch).sign()
    rows = torch.stack([angle.cos() * width, -angle.sin() * height, angle.sin() * width, angle.cos() * height], 1)
    theta = torch.cat([rows.view(batch, 2, 2), 2 * shift * draw(batch, 2, 1)], dim=2)
    theta = theta.to(images.device, images.dtype)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def mix_pairs(images: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Blend half of the images of a batch with another one, by a share drawn uniformly; leave the others as they are.

    Args:
        images: (batch, ...).
        generator: of the draws, on the CPU; None for the global one.

    Returns:
        A tensor shaped like `images`.

    Source:
        mixup, arXiv 1710.09412. Without labels, as inputs of a distillation: "function matching", arXiv 2106.05237.
    """
    batch = len(images)
    share = torch.rand(batch, generator=generator)
    share = torch.where(torch.rand(batch, generator=generator) < 0.5, torch.ones(()), share)
    partner = torch.randperm(batch, generator=generator).to(images.device)
    share = share.to(images.device, images.dtype).view(batch, *[1] * (images.ndim - 1))
    return share * images + (1 - share) * images[partner]


def augment(
    images: Tensor, augmentation: Augmentation, generator: torch.Generator | None = None, *, mix: bool = False
) -> Tensor:
    """Transform a batch as `augmentation` says, then blend pairs of it where `mix` is set.

    Args:
        images: (batch, channels, height, width).
        augmentation: see `Augmentation`.
        generator: of the draws, on the CPU; None for the global one.
        mix: apply `mix_pairs` last.

    Returns:
        A tensor shaped like `images`.
    """
    if augmentation != "none":
        images = random_affine(images, generator, flip=augmentation == "affine_flip")
    return mix_pairs(images, generator) if mix else images
