"""Random transforms of image batches, drawn from a generator so that they are the same on any device and resume."""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Augmentation = Literal["none", "affine", "affine_flip", "crop_flip", "photometric", "shape"]
"""Nothing, `random_affine`, that with mirrored images (not for letters or digits), shifts and mirrored images,
`random_photometric` with small affine transforms, or `random_shape`."""


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


def random_photometric(images: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Change contrast, brightness and noise of every image by draws of its own, and make every other its negative.

    Contrast changes by a factor of 0.74 to 1.35 around the image's mean, brightness by up to 0.2 of the image's
    deviation, and the noise has up to 0.15 of it.

    Args:
        images: (batch, channels, height, width).
        generator: of the draws, on the CPU; None for the global one.

    Returns:
        A tensor shaped like `images`.
    """

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator).to(images.device, images.dtype) * 2 - 1

    batch = len(images)
    mean = images.mean((1, 2, 3), keepdim=True)
    deviation = images.std((1, 2, 3), keepdim=True, correction=0)
    contrast = (0.3 * draw(batch, 1, 1, 1)).exp() * draw(batch, 1, 1, 1).sign()
    noise = torch.randn(images.shape, generator=generator).to(images.device, images.dtype)
    noise = noise * 0.15 * draw(batch, 1, 1, 1).abs()
    return mean + contrast * (images - mean) + deviation * (0.2 * draw(batch, 1, 1, 1) + noise)


def random_shape(images: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Change the shape of what is lighter than its ground, and contrast, sharpness and noise.

    Every image is turned, stretched, sheared, mirrored or not, and its strokes are made thicker or thinner.

    Args:
        images: (batch, channels, height, width), about in -0.5..0.5, see `framed`.
        generator: of the draws, on the CPU; None for the global one.

    Returns:
        A tensor shaped like `images`.
    """

    def draw(*shape: int) -> Tensor:
        return (torch.rand(*shape, generator=generator) * 2 - 1).to(images.device, images.dtype)

    batch = len(images)
    angle, shear = draw(batch) * math.radians(15), 0.25 * draw(batch)
    width = (0.18 * draw(batch)).exp()
    height, width = width * (0.12 * draw(batch)).exp(), width * draw(batch).sign()
    cos, sin = angle.cos(), angle.sin()
    rows = [cos * width, (cos * shear - sin) * height, sin * width, (sin * shear + cos) * height]
    theta = torch.cat([torch.stack(rows, 1).view(batch, 2, 2), 0.18 * draw(batch, 2, 1)], dim=2)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    thicker = 0.4 * draw(batch, 1, 1, 1)
    wide, thin = _brightest(images), -_brightest(-images)
    images = images + thicker.abs() * (torch.where(thicker > 0, wide, thin) - images)
    images = images * (0.2 * draw(batch, 1, 1, 1)).exp()
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    images = images + 0.5 * draw(batch, 1, 1, 1).abs() * (blurred - images)
    noise = torch.randn(images.shape, generator=generator).to(images.device, images.dtype)
    return images + 0.2 * draw(batch, 1, 1, 1).abs() * noise


def _brightest(images: Tensor) -> Tensor:
    """What `max_pool2d` over 3×3 places gives, many times as fast on a CPU."""
    images = F.pad(images, (1, 1, 1, 1), mode="replicate")
    rows = torch.maximum(torch.maximum(images[..., :-2], images[..., 2:]), images[..., 1:-1])
    return torch.maximum(torch.maximum(rows[..., :-2, :], rows[..., 2:, :]), rows[..., 1:-1, :])


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
    if augmentation == "photometric":
        moved = random_affine(images, generator, degrees=6.0, scale=0.15, shift=0.07)
        return random_photometric(moved, generator)
    if augmentation == "shape":
        return random_shape(images, generator)
    if augmentation == "crop_flip":
        return random_affine(images, generator, degrees=0.0, scale=0.0, flip=True)
    return random_affine(images, generator, flip=augmentation == "affine_flip")
