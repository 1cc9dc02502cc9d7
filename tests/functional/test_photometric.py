"""Photometric transforms keep what is drawn, draw the same again, and change what they say."""

import torch

from hf_dtl.functional import augment
from hf_dtl.functional.augmentation import random_photometric


def drawn(seed, images):
    return random_photometric(images, torch.Generator().manual_seed(seed))


def test_the_image_or_its_negative_is_still_there():
    images = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = drawn(1, images)
    centre = images - images.mean((1, 2, 3), keepdim=True)
    other = found - found.mean((1, 2, 3), keepdim=True)
    alike = (centre * other).sum((1, 2, 3)) / (centre.flatten(1).norm(dim=1) * other.flatten(1).norm(dim=1))
    assert (alike.abs() > 0.95).all(), "noise is at most 0.15 of the deviation"
    negatives = int((alike < 0).sum())
    assert 20 <= negatives <= 44, "about every other one is a negative"
    sizes = other.flatten(1).norm(dim=1) / centre.flatten(1).norm(dim=1)
    assert (sizes > 0.72).all() and (sizes < 1.4).all() and sizes.std() > 0.1
    shifts = (found - images).mean((1, 2, 3)) / images.std((1, 2, 3))
    assert (shifts.abs() < 0.25).all() and shifts.std() > 0.05


def test_equal_seeds_give_equal_images_and_others_do_not():
    images = torch.rand(4, 1, 6, 6)
    assert torch.equal(drawn(0, images), drawn(0, images)) and not torch.equal(drawn(0, images), drawn(1, images))
    moved = augment(images, "photometric", torch.Generator().manual_seed(3))
    assert moved.shape == images.shape and not torch.equal(moved, images)
