"""Weight importance against a slow oracle, in 0..1 and finite, however the images are divided."""

import pytest
import torch
from torch import nn

from hf_dtl.functional import importance_penalty, weight_importance


class Network(nn.Module):
    """Two layers, a bias that moves all outputs alike, an unused tensor, and a tensor with one entry."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(5, 4), nn.Linear(4, 3)
        self.unused, self.scale = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        return self.second(self.first(x).tanh()) * self.scale


def setting():
    model = Network().double()
    return model, list(model.parameters()), torch.randn(12, 5, dtype=torch.float64)


def test_equals_a_slow_oracle():
    model, parameters, images = setting()
    found = weight_importance(model, [images], parameters)
    total = [torch.zeros_like(p) for p in parameters]
    for image in images:
        size = model(image[None]).square().sum().sqrt()
        gradients = torch.autograd.grad(size, parameters, allow_unused=True)
        for t, g in zip(total, gradients, strict=True):
            t += 0 if g is None else g / len(images)
    for name, omega, t in zip(dict(model.named_parameters()), found, total, strict=True):
        size = t.abs()
        if name in ("unused", "scale"):
            assert (omega == 0).all(), "a constant tensor"
            continue
        assert torch.allclose(omega, (size - size.min()) / (size.max() - size.min()), atol=1e-12)
        assert omega.min() == 0 and omega.max() == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_batches_and_processes_make_no_difference(dtype):
    model, parameters, images = setting()
    model, images = model.to(dtype), images.to(dtype)
    parameters = list(model.parameters())
    whole = weight_importance(model, [images], parameters)
    parts = weight_importance(model, [images[:1], images[1:8], images[8:]], parameters)
    seen = []
    shares = [list(images[i::2].split(4)) for i in (0, 1)]
    weight_importance(model, shares[0], parameters, reduce=lambda t: seen.append(t.clone()) or t)
    two = weight_importance(model, shares[1], parameters, reduce=lambda t: t + seen[0])
    for a, b, c in zip(whole, parts, two, strict=True):
        assert torch.isfinite(a).all() and a.min() >= 0 and a.max() <= 1
        assert torch.allclose(a, b, atol=1e-5) and torch.allclose(a, c, atol=1e-5)


def test_rounding_is_not_taken_for_importance():
    """Gradients that are zero but for rounding mean nothing, and would be stretched to 0..1."""
    bias, weight = torch.zeros(6, requires_grad=True), torch.ones(4, requires_grad=True)

    def logits(x):
        return x * weight + 1e-8 * (bias * torch.arange(6)).sum()

    images = torch.rand(50, 4)
    assert torch.autograd.grad(logits(images).norm(dim=-1).sum(), bias)[0].unique().numel() == 6
    of_bias, of_weight = weight_importance(logits, [images], [bias, weight])
    assert (of_bias == 0).all() and of_weight.max() == 1


def test_zero_outputs_give_finite_values():
    weight = torch.zeros(2, 3, requires_grad=True)
    (found,) = weight_importance(lambda x: x @ weight, [torch.ones(4, 2)], [weight])
    assert torch.isfinite(found).all()


def test_penalty_by_hand():
    theta = [torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True), torch.ones(1, requires_grad=True)]
    origin = [torch.tensor([0.0, 1.0], dtype=torch.float64), torch.tensor([3.0])]
    omega = [torch.tensor([1.0, 0.25], dtype=torch.float64), torch.tensor([0.0])]
    value = importance_penalty([theta[0]], [origin[0]], [omega[0]])
    assert value.item() == pytest.approx((0.0 * 1 + 0.75 * 9) / 2)
    (gradient,) = torch.autograd.grad(value, theta[0])
    assert gradient.tolist() == pytest.approx([0.0, 0.75 * -3])
    assert importance_penalty(theta[1:], origin[1:], omega[1:]).item() == pytest.approx(2.0)
