import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from hf_dtl.functional import dampening_factors, squared_gradients


def logistic(weights, image, label):
    return F.cross_entropy((weights[0] @ image.flatten() + weights[1])[None], label[None])


def test_squares_of_logistic_regression_in_closed_form():
    """The gradient of one image is (p - e_y) x^T, and p - e_y for the bias."""
    generator = torch.Generator().manual_seed(0)
    weight, bias, x = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((4, 6), (4,), (9, 1, 2, 3)))
    labels = torch.arange(9) % 4
    error = (x.flatten(1) @ weight.T + bias).softmax(-1) - F.one_hot(labels, 4)
    wanted = [torch.einsum("nc,nf->cf", error.square(), x.flatten(1).square()), error.square().sum(0)]
    for mine, oracle in zip(squared_gradients(logistic, [weight, bias], x, labels), wanted, strict=True):
        torch.testing.assert_close(mine, oracle, rtol=1e-10, atol=1e-14)


def test_squares_equal_one_backward_an_image():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.GELU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(20, 3)
    ).double()
    model(torch.randn(8, 2, 6, 6, dtype=torch.float64) * 3)  # running statistics that are not those of a new model
    model.eval()
    x, y = torch.randn(5, 2, 6, 6, dtype=torch.float64), torch.tensor([0, 1, 2, 2, 0])
    names, weights = zip(*model.named_parameters(), strict=True)
    wanted = [torch.zeros_like(w) for w in weights]
    for image, label in zip(x, y, strict=True):
        model.zero_grad()
        F.cross_entropy(model(image[None]), label[None]).backward()
        for total, w in zip(wanted, weights, strict=True):
            total += w.grad**2

    def loss(now, image, label):
        return F.cross_entropy(functional_call(model, dict(zip(names, now, strict=True)), (image[None],)), label[None])

    for mine, oracle in zip(squared_gradients(loss, weights, x, y), wanted, strict=True):
        torch.testing.assert_close(mine, oracle, rtol=1e-10, atol=1e-14)
        assert not mine.requires_grad


@pytest.mark.parametrize(("alpha", "dampening"), [(10.0, 1.0), (1.0, 1.0), (0.5, 3.0), (2.0, 0.1), (0.0, 1.0)])
def test_factors_weight_by_weight(alpha, dampening):
    generator = torch.Generator().manual_seed(0)
    forget, everything = (10 ** (2 * torch.randn(200, generator=generator, dtype=torch.float64)) for _ in range(2))
    forget[:5], everything[3:9] = 0.0, 0.0
    (factors,) = dampening_factors([forget], [everything], alpha=alpha, dampening=dampening)
    for factor, f, d in zip(factors.tolist(), forget.tolist(), everything.tolist(), strict=True):
        wanted = min(dampening * d / f, 1.0) if f > alpha * d else 1.0
        assert factor == pytest.approx(wanted, rel=1e-12)
    assert ((factors >= 0) & (factors <= 1)).all() and (factors < 1).any() and (factors == 1).any()
