"""What pixels tell without any trained weight: gradients in cells of an image as it is, and of its centred form."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def gradient_histograms(images: Tensor, grid: int, orientations: int = 9) -> Tensor:
    """Histograms of oriented gradients, the same for an image and its negative.

    Args:
        images: (n, channels, height, width); channels are averaged.
        grid: cells along each side.
        orientations: bins of half a turn.

    Returns:
        (n, orientations * grid * grid): square roots of shares in their cell's neighbourhood, in 0..1.

    Source: Dalal, Triggs, CVPR 2005.
    """
    across, down = _gradients(images)
    place = torch.atan2(down, across) * (orientations / math.pi)  # two turns of the bins are one turn
    bins = torch.arange(orientations, device=images.device, dtype=images.dtype).view(1, -1, 1, 1)
    distance = (place - bins + orientations / 2) % orientations - orientations / 2
    weights = (1 - distance.abs()).clamp_min(0) * torch.hypot(across, down)
    cells = F.adaptive_avg_pool2d(weights, grid)
    around = F.avg_pool2d(F.pad(cells.sum(1, keepdim=True), (1, 1, 1, 1), mode="replicate"), 3, 1)
    return (cells / (around + 1e-6)).sqrt().flatten(1)


def centred(images: Tensor) -> Tensor:
    """Each image moved, scaled and sheared upright so that its gradients lie in the middle and spread alike.

    Args:
        images: (n, channels, height, width).

    Returns:
        A tensor shaped like `images`; the edge goes on outside.
    """
    across, down = _gradients(images)
    mass = torch.hypot(across, down).squeeze(1)
    mass = (mass - mass.flatten(1).quantile(0.7, dim=1).view(-1, 1, 1)).clamp_min(0) + 1e-9  # without noise
    mass = mass / mass.sum((1, 2), keepdim=True)
    y, x = (torch.linspace(-1, 1, size, device=images.device, dtype=images.dtype) for size in images.shape[2:])
    y, x = y.view(1, -1, 1), x.view(1, 1, -1)
    middle_x, middle_y = (mass * x).sum((1, 2)), (mass * y).sum((1, 2))
    away_x, away_y = x - middle_x.view(-1, 1, 1), y - middle_y.view(-1, 1, 1)
    tall = (mass * away_y**2).sum((1, 2))
    shear = ((mass * away_x * away_y).sum((1, 2)) / tall.clamp_min(1e-6)).clamp(-0.5, 0.5)
    wide = (mass * (away_x - shear.view(-1, 1, 1) * away_y) ** 2).sum((1, 2))
    scale = (torch.maximum(tall, wide).sqrt() / 0.5).clamp(0.4, 1.2)
    rows = [torch.stack([scale, scale * shear, middle_x], 1), torch.stack([0 * scale, scale, middle_y], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=True)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=True)


def _gradients(images: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences (n, 1, height, width) to the right and down, of the mean over channels."""
    grey = F.pad(images.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    return grey[:, :, 1:-1, 2:] - grey[:, :, 1:-1, :-2], grey[:, :, 2:, 1:-1] - grey[:, :, :-2, 1:-1]
