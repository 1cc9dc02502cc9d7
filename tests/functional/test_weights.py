import pytest
import torch
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector

from hf_dtl.functional.weights import add_noise, inverse_cross_entropy, mix_weights, push_away, simulate_fine_tuning


def tensors(seed=0, *shapes):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes or ((3, 4), (5,))]


def test_mix_goes_from_one_to_the_other_and_keeps_constants_exactly():
    a, b = tensors(0), tensors(1)
    for alpha in (0.0, 0.3, 1.0):
        for mixed, x, y in zip(mix_weights(a, b, alpha), a, b, strict=True):
            torch.testing.assert_close(mixed, (1 - alpha) * x + alpha * y)
    assert all(torch.equal(m, x) for m, x in zip(mix_weights(a, b, 0.0), a, strict=True))
    assert all(torch.equal(m, y) for m, y in zip(mix_weights(a, b, 1.0), b, strict=True))
    assert torch.equal(mix_weights(a, a, 0.7)[0], a[0])
    assert mix_weights([a[0].half().requires_grad_()], [b[0]], 0.5)[0].dtype == torch.float16


def test_noise_has_the_deviation_that_was_asked_for():
    weights = [torch.full((200, 200), 3.0), torch.zeros(7), torch.full((20_000,), -0.01)]
    large, zero, small = add_noise(weights, 0.5, torch.Generator().manual_seed(0))
    assert (large - 3).std().item() == pytest.approx(1.5, rel=0.02)
    assert (small + 0.01).std().item() == pytest.approx(0.005, rel=0.02)
    assert torch.equal(zero, torch.zeros(7))
    absolute = add_noise(weights, 0.02, torch.Generator().manual_seed(0), relative=False)
    for noisy, weight in zip(absolute[::2], weights[::2], strict=True):
        assert (noisy - weight).std().item() == pytest.approx(0.02, rel=0.02)
    again = add_noise(weights, 0.5, torch.Generator().manual_seed(0))
    assert torch.equal(again[0], large) and not torch.equal(add_noise(weights, 0.5)[0], large)
    assert all(torch.equal(a, b) for a, b in zip(add_noise(weights, 0.0), weights, strict=True))


def test_push_equals_autograd_and_ends_at_its_limit():
    origin = tensors(0)
    weights = [(w + 0.3 * d).requires_grad_() for w, d in zip(origin, tensors(1), strict=True)]
    flat = parameters_to_vector(weights) - parameters_to_vector(origin)
    distance = flat.norm() / parameters_to_vector(origin).norm()
    gradients = torch.autograd.grad(-distance, weights)
    push = push_away(weights, origin, limit=1.0)
    torch.testing.assert_close(push.distance, distance.detach())
    torch.testing.assert_close(push.value, -distance.detach())
    for mine, oracle in zip(push.gradients, gradients, strict=True):
        torch.testing.assert_close(mine, oracle)
    limit = distance.item() / 2
    beyond = push_away(weights, origin, limit=limit)
    assert beyond.value.item() == pytest.approx(-limit) and beyond.distance > limit
    assert not any(g.any() for g in beyond.gradients)
    at_home = push_away(origin, origin, limit=1.0)
    assert at_home.value == 0 and not any(g.any() for g in at_home.gradients)


def test_simulated_fine_tuning_is_gradient_descent_with_first_order_gradients():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)).double()
    x, y = torch.randn(10, 4, dtype=torch.float64), torch.arange(10) % 3
    names, weights = zip(*model.named_parameters(), strict=True)

    def loss(now):
        return F.cross_entropy(functional_call(model, dict(zip(names, now, strict=True)), (x,)), y)

    adapted = simulate_fine_tuning(loss, weights, steps=4, learning_rate=0.5)
    gradients = torch.autograd.grad(loss(adapted), weights)

    kept = [w.detach().clone() for w in weights]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(4):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    oracle = torch.autograd.grad(F.cross_entropy(model(x), y), weights)
    assert not any(torch.equal(k, w) for k, w in zip(kept, weights, strict=True))
    for mine, theirs in ((adapted, weights), (gradients, oracle)):
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    still = simulate_fine_tuning(loss, weights, steps=0, learning_rate=0.5)
    assert all(torch.equal(a, w) for a, w in zip(still, weights, strict=True))


def test_unused_weights_stay_where_they_are():
    used, unused = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    a, b = simulate_fine_tuning(lambda w: (w[0] ** 2).sum(), [used, unused], steps=1, learning_rate=0.25)
    assert torch.equal(a, torch.full((2,), 0.5)) and torch.equal(b, torch.ones(3))


def test_inverse_cross_entropy():
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 4, dtype=torch.float64), torch.arange(6) % 4
    p = logits.softmax(-1)[torch.arange(6), labels]
    assert inverse_cross_entropy(logits, labels).item() == pytest.approx(-(1 - p).log().mean().item(), rel=1e-5)
    certain = (60.0 * F.one_hot(labels, 4)).requires_grad_()
    value = inverse_cross_entropy(certain, labels)
    assert value.item() == pytest.approx(60 - torch.tensor(3.0).log().item(), rel=1e-5), (
        "finite where 1 - p rounds to 0"
    )
    (gradient,) = torch.autograd.grad(value, certain)
    assert torch.isfinite(gradient).all() and gradient.norm() > 0
