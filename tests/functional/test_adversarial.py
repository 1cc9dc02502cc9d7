"""Targeted L2-PGD against a slow oracle, and what it promises: the ball, the range of pixels, single images."""

import pytest
import torch
from torch.nn import functional as F

from hf_dtl.functional import targeted_l2_pgd

MEAN, STD = torch.tensor([0.4, 0.5, 0.1]).double(), torch.tensor([0.2, 0.5, 0.3]).double()


def problem(count=6, classes=4):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(classes, 3 * 16, generator=generator, dtype=torch.float64)
    pixels = torch.rand(count, 3, 4, 4, generator=generator, dtype=torch.float64).round(decimals=1)  # many at the ends
    targets = torch.arange(count) % classes

    def classify(images):
        return (images.flatten(1) @ weight.T).tanh() * 3

    return classify, (pixels - MEAN.view(-1, 1, 1)) / STD.view(-1, 1, 1), pixels, targets


def pixels_of(images):
    return images * STD.view(-1, 1, 1) + MEAN.view(-1, 1, 1)


@pytest.mark.parametrize("epsilon", [0.3, 1.0, 40.0])
@pytest.mark.parametrize("drawn", [False, True])
def test_stays_in_the_ball_and_in_the_range_of_pixels(epsilon, drawn):
    classify, images, pixels, targets = problem()
    for steps in (0, 1, 25):
        generator = torch.Generator().manual_seed(1) if drawn else None
        found = targeted_l2_pgd(
            classify, images, targets, mean=MEAN, std=STD, epsilon=epsilon, step_size=0.2, steps=steps,
            generator=generator,
        )  # fmt: skip
        moved = pixels_of(found)
        assert moved.min() >= -1e-12 and moved.max() <= 1 + 1e-12 and not found.requires_grad
        distance = (moved - pixels).flatten(1).norm(dim=1)
        assert (distance <= epsilon * (1 + 1e-12)).all()
        if steps == 0:
            assert (distance > 1e-9).all() == drawn, "where the search starts"
        if steps == 25:
            assert epsilon > 1 or (distance > 0.5 * epsilon).all(), "and the ball is used"
            before, after = (F.cross_entropy(classify(x), targets, reduction="none") for x in (images, found))
            assert (after < before).all()


def test_equals_a_slow_oracle_image_by_image():
    classify, images, pixels, targets = problem()
    found = targeted_l2_pgd(classify, images, targets, mean=MEAN, std=STD, epsilon=0.5, step_size=0.15, steps=8)
    for image, start, target in zip(found, pixels, targets, strict=True):
        moved = start.clone()
        for _ in range(8):
            leaf = moved.clone().requires_grad_()
            normalised = torch.stack([(leaf[c] - MEAN[c]) / STD[c] for c in range(3)])
            F.cross_entropy(classify(normalised[None]), target[None]).backward()
            offset = moved - 0.15 * leaf.grad / leaf.grad.square().sum().sqrt() - start
            length = offset.square().sum().sqrt().item()
            if length > 0.5:
                offset = offset * 0.5 / length
            moved = torch.clamp(start + offset, 0, 1)
        assert torch.allclose(pixels_of(image), moved, atol=1e-10)


def test_the_same_draws_give_the_same_and_others_another():
    classify, images, _, targets = problem()

    def made(seed):
        own = {"mean": MEAN, "std": STD, "epsilon": 1.0, "steps": 3}
        return targeted_l2_pgd(classify, images, targets, generator=torch.Generator().manual_seed(seed), **own)

    assert torch.equal(made(0), made(0)) and not torch.equal(made(0), made(1))
    with torch.no_grad():
        assert torch.equal(made(0), made(0)), "also where gradients are switched off"


@pytest.mark.parametrize("options", [{"epsilon": 0.0}, {"step_size": -1.0}, {"steps": -1}, {"epsilon": float("nan")}])
def test_bad_values(options):
    classify, images, _, targets = problem()
    with pytest.raises(ValueError, match="must be > 0"):
        targeted_l2_pgd(classify, images, targets, **options)
