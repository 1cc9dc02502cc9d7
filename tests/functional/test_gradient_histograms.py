"""Histograms of gradients against loops over pixels, and what centring takes away."""

import math

import pytest
import torch

from hf_dtl.functional import centred, gradient_histograms


def by_loops(image, grid, orientations):
    grey = image.mean(0)
    height, width = grey.shape

    def at(y, x):
        return grey[min(max(y, 0), height - 1), min(max(x, 0), width - 1)].item()

    cells = [[[0.0] * grid for _ in range(grid)] for _ in range(orientations)]
    for y in range(height):
        for x in range(width):
            across, down = at(y, x + 1) - at(y, x - 1), at(y + 1, x) - at(y - 1, x)
            place = (math.atan2(down, across) % math.pi) / math.pi * orientations
            low, share = int(place) % orientations, place - int(place)
            for bin_, part in ((low, 1 - share), ((low + 1) % orientations, share)):
                cells[bin_][y * grid // height][x * grid // width] += part * math.hypot(across, down)
    size = height * width / grid**2
    found = torch.tensor(cells, dtype=torch.float64) / size
    total, out = found.sum(0), torch.zeros_like(found)
    for y in range(grid):
        for x in range(grid):
            near = [
                total[min(max(y + i, 0), grid - 1), min(max(x + j, 0), grid - 1)]
                for i in (-1, 0, 1)
                for j in (-1, 0, 1)
            ]
            out[:, y, x] = (found[:, y, x] / (sum(near) / 9 + 1e-6)).sqrt()
    return out.flatten()


@pytest.mark.parametrize(("grid", "orientations"), [(4, 9), (2, 5)])
def test_histograms_are_those_of_loops_over_pixels(grid, orientations):
    images = torch.rand(3, 2, 8, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = gradient_histograms(images, grid, orientations)
    wanted = torch.stack([by_loops(image, grid, orientations) for image in images])
    assert torch.allclose(found, wanted, atol=1e-9)


def test_an_image_and_its_negative_are_one():
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.allclose(gradient_histograms(images, 4), gradient_histograms(3 - 2 * images, 4), atol=1e-4)


def test_a_figure_is_the_same_wherever_it_stands_and_however_large():
    def figure(left, top, size):
        image = torch.zeros(1, 1, 40, 40, dtype=torch.float64)
        image[..., top : top + size, left : left + size // 2] = 1
        image[..., top : top + size // 4, left : left + size] = 1
        return image

    first, moved, larger = (centred(figure(*place)) for place in ((10, 12, 12), (20, 16, 12), (9, 8, 20)))
    plain = (figure(10, 12, 12) - figure(20, 16, 12)).abs().mean()
    assert (first - moved).abs().mean() < 0.05 * plain and (first - larger).abs().mean() < 0.35 * plain
