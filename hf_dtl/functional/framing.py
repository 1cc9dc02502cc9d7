"""Images of one object on a plain ground, brought to one contrast, place and size."""

import torch
from torch import Tensor
from torch.nn import functional as F

INK = 0.15
"""A smoothed image above minus this belongs to the object, where it is surrounded by more of it."""


def framed(images: Tensor, enlarge: float = 1.0, fill: float = 6 / 7) -> Tensor:
    """Each image with its ground at -0.5 and its object at 0.5, in the middle, and of one size.

    The ground is what lies along the edge. A dark object on a light ground becomes a light one on a dark ground. Where
    there is no single object, the image stays about as it is but for its contrast.

    Args:
        images: (n, channels, height, width).
        enlarge: height and width of the result, in those of the images.
        fill: share of the image's longer side that the object takes, unless it would have to grow by more than 2 or
            shrink by more than 1.3.

    Returns:
        (n, channels, height * enlarge, width * enlarge), rounded.
    """
    plain = _one_contrast(images)
    count, _, height, width = plain.shape
    ink = (F.avg_pool2d(plain.mean(1, keepdim=True), 3, 1, 1) + INK).clamp(min=0)
    ink = (ink * (F.avg_pool2d((ink > 0).to(ink.dtype), 5, 1, 2) > 0.2)).squeeze(1)  # no specks
    (top, bottom), (left, right) = _extent(ink.amax(2) > INK), _extent(ink.amax(1) > INK)
    size = torch.maximum((bottom - top) / height, (right - left) / width) / fill
    size = size.clamp(0.5, 1.3)
    theta = torch.zeros(count, 2, 3, device=plain.device, dtype=plain.dtype)
    theta[:, 0, 0] = theta[:, 1, 1] = size
    theta[:, 0, 2], theta[:, 1, 2] = (left + right) / width - 1, (top + bottom) / height - 1
    grid = F.affine_grid(theta, [count, 1, round(height * enlarge), round(width * enlarge)], align_corners=False)
    moved = F.grid_sample(plain, grid, mode="bicubic", padding_mode="border", align_corners=False)
    return moved.clamp(-1.2, 1.2)


def _one_contrast(images: Tensor) -> Tensor:
    """The ground at -0.5, the object at 0.5."""
    edge = [images[:, :, :2], images[:, :, -2:], images[:, :, :, :2], images[:, :, :, -2:]]
    ground = torch.cat([part.flatten(2) for part in edge], 2).median(2).values[..., None, None]
    above = images - ground
    smooth = F.avg_pool2d(above.mean(1, keepdim=True), 3, 1, 1).flatten(1)
    lighter = smooth.quantile(0.97, dim=1) > -smooth.quantile(0.03, dim=1)
    above = above * (2 * lighter.to(above.dtype) - 1)[:, None, None, None]
    contrast = above.mean(1).flatten(1).quantile(0.97, dim=1).clamp(min=0.05)[:, None, None, None]
    return (above / contrast).clamp(-0.5, 1.5) - 0.5


def _extent(there: Tensor) -> tuple[Tensor, Tensor]:
    """Where each row of (n, places) begins and ends to be true; from 0 to the last place where it never is."""
    places = torch.arange(there.shape[1], device=there.device, dtype=torch.float32)
    some = there.any(1)
    first = torch.where(there, places, places.new_tensor(float(len(places)))).amin(1)
    last = torch.where(there, places, places.new_tensor(-1.0)).amax(1)
    return torch.where(some, first, 0.0), torch.where(some, last, len(places) - 1.0) + 1
