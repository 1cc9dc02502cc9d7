"""Damped directions: the same as the inverse of the moments, for dense moments, groups and sketches."""

import pytest
import torch
from torch import nn

from hf_dtl.functional import GradientSubspace, preconditioner


def collected(model, images, **options):
    return GradientSubspace.collect(model, images.split(16), **options)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("damping", [0.001, 0.1, 10.0])
@pytest.mark.parametrize("groups", [1, 2])
def test_equals_the_inverse_of_the_moments(damping, groups):
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, 3, groups=groups)
    subspace = collected(nn.Sequential(layer), drawn(40, 4, 6, 6) * torch.tensor([3.0, 1.0, 0.1, 0.0])[:, None, None])
    basis = preconditioner(subspace, damping, dtype=torch.float64)
    update = drawn(*layer.weight.shape, seed=1).double()
    found = basis.project("0", update).reshape(groups, 6 // groups, -1)
    for g, moment in enumerate(subspace.moments["0"]):
        width = len(moment)
        wanted = damping * torch.linalg.inv(moment / (moment.trace() / width) + damping * torch.eye(width))
        assert torch.allclose(found[g], update.reshape(groups, 6 // groups, -1)[g] @ wanted, atol=1e-8)


def test_what_no_input_uses_passes_and_what_all_use_is_held():
    images = drawn(50, 3, 4, 4)
    images[:, 1] = 100 * images[:, 1]
    images[:, 2] = 0
    subspace = collected(nn.Sequential(nn.Flatten(), nn.Linear(48, 5)), images)
    basis = preconditioner(subspace, 0.01)
    update = torch.ones(5, 48)
    left = basis.project("1", update).reshape(5, 3, 16)
    assert torch.allclose(left[:, 2], torch.ones(5, 16), atol=1e-4)
    assert left[:, 1].abs().max() < 0.05 and left[:, 0].abs().min() > 0.9


def test_a_sketch_of_few_directions_gives_what_the_moments_do():
    low = drawn(60, 6, seed=2) @ drawn(6, 40, seed=3)
    model = nn.Sequential(nn.Linear(40, 3))
    whole = preconditioner(collected(model, low), 0.1)
    sketch = preconditioner(collected(model, low, max_width=16, columns=24), 0.1)
    update = drawn(3, 40, seed=4)
    assert sketch.vectors["0"].shape[-1] == 24
    assert torch.allclose(sketch.project("0", update), whole.project("0", update), atol=1e-3)


@pytest.mark.parametrize("damping", [0.0, -1.0, float("nan")])
def test_bad_damping(damping):
    with pytest.raises(ValueError, match="must be > 0"):
        preconditioner(collected(nn.Sequential(nn.Linear(3, 2)), drawn(8, 3)), damping)
