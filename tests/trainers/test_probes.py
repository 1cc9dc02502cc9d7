import copy

import pytest
import torch
from architectures import CONFIGS
from torch import nn
from torch.nn import functional as F
from toy_tasks import source, two_headed

from hf_dtl.trainers.probes import Probes, read


def test_readings_are_the_first_token_the_mean_of_the_others_and_spatial_means():
    torch.manual_seed(0)
    tokens, maps, features = torch.randn(2, 5, 3), torch.randn(2, 4, 3, 3), torch.randn(2, 6).bfloat16()
    readings = read([tokens, maps, tokens[:, :1]], features)
    wanted = [tokens[:, 0], tokens[:, 1:].sum(1) / 4, maps.flatten(2).mean(2), tokens[:, 0], features.float()]
    assert len(readings) == len(wanted)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(readings, wanted, strict=True))
    assert all(a.dtype == torch.float32 for a in readings)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_architecture_can_be_read(name):
    model = two_headed(name).eval()
    readings = read(*model.hidden_states(source().pixel_values[:3]))
    assert all(r.shape[0] == 3 and r.ndim == 2 and torch.isfinite(r).all() for r in readings)
    assert readings[-1].shape[1] == model.num_features and len(readings) >= 3
    probes = Probes([r.shape[1] for r in readings], 6, hidden=4)
    probes.reset(0)
    assert probes(readings).shape == (len(readings), 3, 6)


def as_modules(probes: Probes, widths, hidden, classes) -> nn.ModuleList:
    """The same probes as ordinary modules; widths must be in order of their groups."""
    stack = nn.ModuleList()
    parts = probes.weights.split([torch.Size(shape).numel() for shape in probes.shapes])
    flat = iter(part.view(shape) for part, shape in zip(parts, probes.shapes, strict=True))
    for width in dict.fromkeys(widths):
        count = widths.count(width)
        tensors = [next(flat) for _ in range(4 if hidden else 2)]
        for i in range(count):
            linears = []
            for weight, bias in zip(tensors[::2], tensors[1::2], strict=True):
                linear = nn.Linear(weight.shape[1], weight.shape[2])
                linear.weight.data, linear.bias.data = weight[i].T.clone(), bias[i, 0].clone()
                linears.append(linear)
            layers = [linears[0], nn.GELU(), linears[1]] if hidden else linears
            stack.append(nn.Sequential(nn.LayerNorm(width, elementwise_affine=False), *layers))
    return stack


@pytest.mark.parametrize("hidden", [0, 7])
def test_probes_and_their_training_equal_plain_modules_under_torch_adamw(hidden):
    torch.manual_seed(0)
    widths, labels = [5, 5, 8], torch.randint(3, (20,))
    readings = [torch.randn(20, w) for w in widths]
    probes = Probes(widths, 3, hidden=hidden, learning_rate=0.01)
    probes.reset(4)
    oracle = as_modules(probes, widths, hidden, 3)
    optimizer = torch.optim.AdamW(oracle.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(9)
    for _ in range(30):
        chosen = torch.randperm(20, generator=generator)[:8]
        optimizer.zero_grad()
        sum(F.cross_entropy(m(r[chosen]), labels[chosen]) for m, r in zip(oracle, readings, strict=True)).backward()
        optimizer.step()
    before = probes(readings)
    probes.fit(readings, labels, steps=30, seed=9, batch_size=8)
    expected = torch.stack([m(r) for m, r in zip(oracle, readings, strict=True)])
    assert torch.allclose(probes(readings), expected, atol=1e-4)
    assert (probes(readings) - before).abs().max() > 0.1, "something was trained"


def test_readings_keep_their_order_when_widths_alternate():
    torch.manual_seed(0)
    readings = [torch.randn(4, w) for w in (3, 6, 3)]
    probes = Probes([3, 6, 3], 2, hidden=5)
    probes.reset(0)
    changed = [readings[0], readings[1] + torch.randn(4, 6), readings[2]]
    moved = (probes(changed) - probes(readings)).abs().amax((1, 2)) > 0
    assert moved.tolist() == [False, True, False]


def test_reset_is_a_function_of_the_seed_and_forgets_the_moments():
    torch.manual_seed(0)
    readings, labels = [torch.randn(10, 4)], torch.arange(10) % 2
    probes = Probes([4], 2, hidden=3)
    probes.reset(1)
    start = copy.deepcopy(probes.state_dict())
    probes.fit(readings, labels, steps=3, seed=0)
    assert not torch.equal(probes.weights, start["weights"]) and probes.updates == 3
    probes.reset(1)
    assert all(torch.equal(value, start[name]) for name, value in probes.state_dict().items())
    probes.reset(2)
    assert not torch.equal(probes.weights, start["weights"])


def test_an_update_over_processes_equals_one_over_all_their_images():
    torch.manual_seed(0)
    x, labels = torch.randn(8, 4), torch.arange(8) % 3
    whole, half = Probes([4], 3), Probes([4], 3)
    whole.reset(0), half.reset(0)
    whole.update([x], labels)
    other = half.weights.clone().requires_grad_()
    loss = F.cross_entropy(half([x[4:]], other)[0], labels[4:])
    (gradient,) = torch.autograd.grad(loss, other)
    half.update([x[:4]], labels[:4], lambda total: total + torch.cat([gradient, torch.ones(1)]))
    assert torch.allclose(whole.weights, half.weights, atol=1e-6)


def test_probes_have_no_parameters_to_train():
    assert not list(Probes([4], 3).parameters())


@pytest.mark.parametrize(("classes", "better"), [("true", 0.6), ("shuffled", None)])
def test_a_fit_finds_what_the_readings_tell(classes, better):
    """On an untrained model's readings of digits: held-out images are named well above chance, shuffled ones not."""
    data, model = source(), two_headed().eval()
    labels = data.labels[torch.randperm(len(data.labels), generator=torch.Generator().manual_seed(0))]
    labels = torch.as_tensor(data.labels if classes == "true" else labels)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    train, test = order[:90], order[90:]
    with torch.no_grad():
        readings = read(*model.hidden_states(data.pixel_values))
    probes = Probes([r.shape[1] for r in readings], 6, learning_rate=3e-3)
    probes.reset(0)
    probes.fit([r[train] for r in readings], labels[train], steps=200, seed=0)
    accuracy = (probes([r[test] for r in readings]).argmax(-1) == labels[test]).float().mean(-1)
    assert accuracy.max() > better if better else accuracy.max() < 0.45
