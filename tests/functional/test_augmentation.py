import pytest
import torch

from hf_dtl.functional import augment, random_affine


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(n=6, dtype=torch.float32):
    return torch.rand(n, 3, 12, 16, generator=generator(1), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_affine_keeps_shape_and_dtype_and_follows_its_generator(dtype):
    x = batch(dtype=dtype)
    a, b, other = (random_affine(x, generator(seed)) for seed in (0, 0, 1))
    assert a.shape == x.shape and a.dtype == dtype
    assert torch.equal(a, b) and not torch.equal(a, other)
    assert not any(torch.allclose(i, j) for i, j in zip(a, x, strict=True)), "every image moves"
    torch.manual_seed(5)
    global_draws = random_affine(x)
    torch.manual_seed(5)
    assert torch.equal(global_draws, random_affine(x))
    assert not torch.equal(global_draws, random_affine(x))


def test_affine_of_zero_ranges_is_the_identity_and_flip_mirrors():
    x = batch(n=64, dtype=torch.float64)
    still = dict(degrees=0.0, scale=0.0, shift=0.0)
    torch.testing.assert_close(random_affine(x, generator(), **still), x, rtol=1e-6, atol=1e-6)
    flipped = random_affine(x, generator(), **still, flip=True)
    mirrored = [torch.allclose(f, i.flip(-1), atol=1e-6) for f, i in zip(flipped, x, strict=True)]
    same = [torch.allclose(f, i, atol=1e-6) for f, i in zip(flipped, x, strict=True)]
    assert all(m != s for m, s in zip(mirrored, same, strict=True)), "each image as it is, or mirrored"
    assert 16 < sum(mirrored) < 48


def test_affine_leaves_constant_images_and_ranges_alone():
    constant = torch.full((8, 3, 9, 9), 0.7)
    torch.testing.assert_close(random_affine(constant, generator(), degrees=90, shift=0.5), constant)
    x = batch(32)
    moved = random_affine(x, generator(), flip=True)
    assert moved.min() >= x.min() - 1e-5 and moved.max() <= x.max() + 1e-5, "the border is repeated, not blackened"


def test_a_pure_shift_moves_by_no_more_than_its_range():
    x = torch.zeros(40, 1, 33, 33)
    x[:, :, 16, 16] = 1
    moved = random_affine(x, generator(), degrees=0, scale=0, shift=0.12)
    rows, columns = moved.sum((1, 3)).argmax(-1) - 16, moved.sum((1, 2)).argmax(-1) - 16
    for offset in (rows, columns):
        assert offset.abs().max() <= 4 and offset.min() < -1 and offset.max() > 1, "0.12 of 33 pixels, either way"


def test_augment_does_what_is_asked_for():
    x = batch(16)
    assert augment(x, "none") is x
    assert torch.equal(augment(x, "affine", generator()), random_affine(x, generator()))
    assert torch.equal(augment(x, "affine_flip", generator()), random_affine(x, generator(), flip=True))
