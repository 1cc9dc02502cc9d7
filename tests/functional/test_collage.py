"""Collages: what they are made of, how sharp they are, and which draws they depend on; and the loss with a margin."""

import pytest
import torch

from hf_dtl.functional import collages, margin_loss
from hf_dtl.functional.collage import DRAWS


def with_head_labels(batch, channels=2, height=12, width=16, start=0):
    """Images without two equal values."""
    count = batch * channels * height * width
    return (start + torch.arange(count, dtype=torch.float64)).reshape(batch, channels, height, width)


def draws(batch, seed=0):
    return torch.rand(batch, DRAWS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def origin(values, image):
    """Row and column of `image` (channels, height, width) that each pixel of a collage comes from; -1 for none."""
    height, width = image.shape[1:]
    place = torch.full(values.shape[1:], -1)
    for row in range(height):
        for column in range(width):
            place[(values == image[:, row, column][:, None, None]).all(0)] = row * width + column
    return place


def test_every_pixel_is_one_of_either_image_with_all_its_channels():
    images, others = with_head_labels(40), with_head_labels(40, start=10**6)
    made = collages(images, others, draws(40))
    pieces = set()
    for values, image, other in zip(made, images, others, strict=True):
        first, second = origin(values, image), origin(values, other)
        assert ((first >= 0) ^ (second >= 0)).all()
        rows, columns = (second >= 0).nonzero().unbind(1)
        if not len(rows):
            pieces.add("nothing")
            continue
        top, left, high, wide = (
            int(v) for v in (rows.min(), columns.min(), len(rows.unique()), len(columns.unique()))
        )
        assert len(rows) == high * wide, "a rectangle"
        if wide == 16 and high <= 9:
            assert top == 0 and high >= 3
            pieces.add("top")
        elif high == 12 and wide <= 12:
            assert left == 0 and wide >= 4
            pieces.add("left")
        else:
            assert 3 <= high <= 9 and 4 <= wide <= 12
            pieces.add("rectangle")
    assert pieces == {"nothing", "top", "left", "rectangle"}


@pytest.mark.parametrize("mirror", [False, True])
def test_images_are_shifted_and_mirrored_as_a_whole(mirror):
    images, others = with_head_labels(60), with_head_labels(60, start=10**6)
    made, seen = collages(images, others, draws(60, 1), mirror=mirror, shift=0.1), set()
    for values, image in zip(made, images, strict=True):
        place = origin(values, image)
        own = place >= 0
        rows, columns = place // 16, place % 16
        inner = own & (columns > 0) & (columns < 15)
        seen |= set(columns.diff(dim=1)[inner[:, 1:] & inner[:, :-1]].tolist())
        assert (rows - torch.arange(12)[:, None])[own].abs().max() <= 1
        if not mirror:
            assert (columns - torch.arange(16))[own].abs().max() <= 2
    assert seen == ({1, -1} if mirror else {1})


def test_no_shift_no_mirror_and_the_same_image_twice_is_that_image():
    images = with_head_labels(8)
    assert torch.equal(collages(images, images, draws(8), mirror=False, shift=0.0), images)


def test_an_image_is_never_shown_as_a_whole_unless_it_is_mirrored():
    images, others = with_head_labels(80), with_head_labels(80, start=10**6)
    for values, image in zip(collages(images, others, draws(80, 2), shift=0.0), images, strict=True):
        place = origin(values, image)
        if (place >= 0).all():
            assert torch.equal(values, image.flip(-1))


def test_each_depends_on_its_own_draws_alone():
    images, others = with_head_labels(8), with_head_labels(8, start=10**6)
    one, two, other = (collages(images, others, draws(8, seed)) for seed in (0, 0, 1))
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert torch.equal(images, with_head_labels(8))
    assert torch.equal(collages(images[3:5], others[3:5], draws(8)[3:5]), one[3:5])
    nearly = torch.full((8, DRAWS), 1 - 2**-53, dtype=torch.float64)
    assert collages(images, others, nearly).shape == images.shape


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (3, 2)])
def test_tiny_images(size):
    images = with_head_labels(50, 1, *size)
    assert collages(images, images, draws(50)).shape == images.shape


def test_margin_by_hand_and_only_until_the_answer_is_another():
    z = torch.tensor([[2.0, 0.5, -1.0], [0.0, 1.0, 3.0], [1.0, 0.99, 0.0]], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0, 1, 0])
    assert margin_loss(z, y, margin=0.05).item() == pytest.approx((1.55 + 0 + 0.06) / 3)
    assert margin_loss(z, y, margin=0.05, toward=True).item() == pytest.approx((0 + 2.05 + 0.04) / 3)
    (gradient,) = torch.autograd.grad(margin_loss(z, y), z)
    assert not gradient[1].any() and gradient[0].tolist() == pytest.approx([1 / 3, -1 / 3, 0])
    done = torch.tensor([[0.0, 0.1], [0.2, 0.0]])
    assert margin_loss(done, torch.tensor([0, 1]), margin=0.0).item() == 0
    assert margin_loss(done.bfloat16(), torch.tensor([0, 1])).dtype == torch.float32
