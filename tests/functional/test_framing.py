"""One object on a plain ground, seen alike whatever its place, size, light and contrast."""

import pytest
import torch

from hf_dtl.functional import augment, framed


def bar(top, left, height, width, ground=0.2, ink=1.0, side=28, channels=3):
    image = torch.full((1, channels, side, side), ground)
    image[:, :, top : top + height, left : left + width] = ink
    return image


@pytest.mark.parametrize(
    "other",
    [
        bar(3, 12, 16, 6),
        bar(8, 4, 16, 6, ground=0.9, ink=-0.4),
        bar(6, 6, 20, 8),
        bar(2, 9, 24, 9, ground=-3.0, ink=-2.9),
    ],
)
def test_place_size_and_light_do_not_matter(other):
    first, second = framed(bar(6, 11, 16, 6)), framed(other)
    assert (first - second).abs().mean() < 0.05
    rows = (first[0, 0] > 0).any(1).nonzero()
    assert rows.min() <= 3 and rows.max() >= 24, "it fills six of seven pixels"
    assert first[0, 0, 14, 14] == pytest.approx(0.5, abs=0.1) and first[0, 0, 1, 1] == pytest.approx(-0.5, abs=0.01)


def test_a_framed_image_can_be_larger_and_of_any_form():
    assert framed(bar(2, 2, 5, 5, side=20), 1.5).shape == (1, 3, 30, 30)
    for image in (torch.zeros(2, 1, 1, 1), torch.rand(2, 3, 5, 40), torch.zeros(1, 3, 28, 28)):
        assert framed(image).isfinite().all()


def test_shapes_change_by_the_generator_alone():
    images = framed(bar(6, 11, 16, 6)).repeat(4, 1, 1, 1)
    one, two = (augment(images, "shape", torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, two) and one.shape == images.shape
    assert not torch.allclose(one[0], one[1], atol=0.2)
