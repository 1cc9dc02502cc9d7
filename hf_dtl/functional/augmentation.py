"""Random transforms of image batches, drawn from a generator so that they are the same on any device and resume."""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Augmentation = Literal["none", "affine", "affine_flip", "crop_flip"]
"""Nothing, `random_affine`, that with mirrored images (not for letters or digits), or shifts and mirrored images."""


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


def augment(images: Tensor, augmentation: Augmentation, generator: torch.Generator | None = None) -> Tensor:
    """Transform a batch as `augmentation` says.

    Args:
        images: (batch, channels, height, width).
        augmentation: see `Augmentation`.
        generator: of the draws, on the CPU; None for the global one.

    Returns:
        A tensor shaped like `images`.
    """
    if augmentation == "none":
        return images
    if augmentation == "crop_flip":
        return random_affine(images, generator, degrees=0.0, scale=0.0, flip=True)
    return random_affine(images, generator, flip=augmentation == "affine_flip")
