"""Images put together from pieces of others: like none of them as a whole, and as sharp as they are."""

import torch
from torch import Tensor

DRAWS = 11
"""Random numbers that a collage is made from."""


def collages(images: Tensor, others: Tensor, draws: Tensor, *, mirror: bool = True, shift: float = 0.08) -> Tensor:
    """Move and mirror two images each by draws of their own, and put a piece of the second over the first.

    The piece is, with equal chances, the upper part, the left part, a rectangle anywhere, or nothing, but then the
    first is mirrored; a quarter to three quarters of the side high and wide. Pixels are moved whole and never blended,
    so that nothing tells a collage from an image by its sharpness.

    Args:
        images: (batch, channels, height, width).
        others: the same, where the pieces come from.
        draws: (batch, DRAWS), uniform in [0, 1).
        mirror: mirror every other image; without it there is always a piece.
        shift: largest shift to any side, as a fraction of the image's side, >= 0; the edge goes on outside.

    Returns:
        A tensor shaped like `images`; each of its values is one of `images` or `others`.

    Source:
        This project's. The rectangle is CutMix, arXiv 1905.04899.
    """
    (height, width), device = images.shape[2:], images.device
    uniform = iter(draws.cpu().unbind(1))

    def draw(low: Tensor | int, high: Tensor | int) -> Tensor:
        """Whole numbers from low to high, (batch,)."""
        low, high = torch.as_tensor(low), torch.as_tensor(high)
        return (low + (next(uniform) * (high - low + 1)).long()).minimum(high)

    def moved(given: Tensor, always: Tensor | bool = False) -> Tensor:
        down, right = (draw(-(most := round(shift * side)), most) for side in (height, width))
        rows = (torch.arange(height) - down[:, None]).clamp(0, height - 1)
        columns = (torch.arange(width) - right[:, None]).clamp(0, width - 1)
        mirrored = draw(0, int(mirror)).bool() | always
        columns = torch.where(mirrored[:, None], width - 1 - columns, columns)
        place = rows[:, :, None] * width + columns[:, None, :]
        place = place.flatten(1)[:, None].to(device).expand(-1, given.shape[1], -1)
        return given.flatten(2).gather(2, place).view_as(given)

    kind = draw(0, 2 + int(mirror))
    below, above = moved(images, kind == 3), moved(others)
    high, wide = (draw(max(side // 4, 1), max(3 * side // 4, 1)) for side in (height, width))
    high, wide = torch.where(kind == 1, height, high), torch.where(kind == 0, width, wide)
    top, left = draw(0, height - high), draw(0, width - wide)
    top, left = torch.where(kind == 2, top, 0), torch.where(kind == 2, left, 0)
    inside = (torch.arange(height) >= top[:, None]) & (torch.arange(height) < (top + high)[:, None])
    across = (torch.arange(width) >= left[:, None]) & (torch.arange(width) < (left + wide)[:, None])
    piece = inside[:, :, None] & across[:, None, :] & (kind < 3)[:, None, None]
    return torch.where(piece[:, None].to(device), above, below)
