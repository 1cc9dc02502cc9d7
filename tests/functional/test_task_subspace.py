"""Output gradients against autograd's own hooks, and projections against what they promise."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hf_dtl.functional.subspace import GradientSubspace
from hf_dtl.functional.task_subspace import output_moments, task_subspace

TASKS = ("a", "b")


class Net(nn.Module):
    """A grouped and a plain convolution, linear layers on tokens, one layer called twice, and one never."""

    def __init__(self, inplace):
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 6, 3, groups=2), nn.Conv2d(6, 4, 2, stride=2, bias=False)
        self.relu, self.twice = nn.ReLU(inplace), nn.Linear(4, 4)
        self.unused, self.heads = nn.Linear(4, 2), nn.ModuleDict({t: nn.Linear(4, 3) for t in TASKS})

    def forward(self, x):
        x = self.relu(self.second(self.relu(self.first(x)))).flatten(2).mT
        x = self.relu(self.twice(self.relu(self.twice(x)))).mean(1)
        return {task: head(x) for task, head in self.heads.items()}


def net(inplace=False):
    torch.manual_seed(0)
    return Net(inplace).double().eval()


def data(count=10, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 2, 8, 8, generator=generator, dtype=torch.float64), torch.arange(count) % 3


def collect(model, batches, tasks=TASKS, **kwargs):
    def losses(batch):
        outputs = model(batch[0].clone().requires_grad_())
        return {task: F.cross_entropy(outputs[task], batch[1], reduction="sum") for task in tasks}

    return output_moments(model, batches, losses, tasks, **kwargs)


def rows(layer, gradient):
    """(groups, rows, outputs / groups), written out."""
    if isinstance(layer, nn.Linear):
        return gradient.reshape(1, -1, gradient.shape[-1])
    flat = torch.stack([g[:, i, j] for g in gradient for i in range(g.shape[1]) for j in range(g.shape[2])])
    return torch.stack(flat.chunk(layer.groups, dim=1))


def test_moments_equal_those_of_backward_hooks():
    model, (x, y) = net(), data()
    found = collect(net(inplace=True), [(x[:6], y[:6]), (x[6:], y[6:])])
    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    for task in TASKS:
        seen = {name: [] for name in layers}
        handles = [
            layer.register_full_backward_hook(lambda m, i, o, found=seen[name]: found.append(rows(m, o[0])))
            for name, layer in layers.items()
        ]
        F.cross_entropy(model(x.clone().requires_grad_())[task], y, reduction="sum").backward()
        for handle in handles:
            handle.remove()
        assert len(seen["twice"]) == 2 and not seen["unused"]
        for name in layers:
            moment = found[task].moments[name]
            wanted = sum((r.mT @ r for r in seen[name]), torch.zeros_like(moment))
            torch.testing.assert_close(moment, wanted, rtol=1e-10, atol=1e-14)
    assert found["a"].moments["first"].shape == (2, 3, 3)
    assert not found["a"].moments["heads.b"].any() and found["a"].moments["heads.a"].any()


def test_processes_are_summed_and_hooks_go():
    model, (x, y) = net(), data()
    whole, doubled = collect(model, [(x, y)]), collect(model, [(x, y)], reduce=lambda t: 2 * t)
    torch.testing.assert_close(doubled["b"].moments["twice"], 2 * whole["b"].moments["twice"])
    assert all(not m._forward_hooks for m in model.modules())
    with pytest.raises(ValueError, match="No images"):
        collect(model, [])
    with pytest.raises(ValueError, match="not finite"):
        collect(model, [(x * torch.nan, y)])


def change(model, task, x, y, update, size=1e-5):
    """Relative first-order change of a task's loss by an update of the layers."""
    before = F.cross_entropy(model(x)[task], y)
    given = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        for name, step in update.items():
            model.get_parameter(name).add_(size * step)
        after = F.cross_entropy(model(x)[task], y)
        for name, value in given.items():
            model.get_parameter(name).copy_(value)
    return ((after - before) / size).item()


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(128, 12), nn.Linear(12, 10)
        self.heads = nn.ModuleDict({t: nn.Linear(10, 3) for t in TASKS})

    def forward(self, x):
        x = self.second(self.first(x.flatten(1)).tanh()).tanh()
        return {task: head(x) for task, head in self.heads.items()}


def test_a_projected_update_of_a_layer_leaves_the_untouched_task_alone():
    """Output gradients of few images are of low rank; the weights may be moved anyhow within what is left."""
    torch.manual_seed(0)
    model, (x, y) = Mlp().double(), data(4)
    found = collect(model, [(x, y)])
    subspace = task_subspace([found["a"]], [found["b"]], forgotten_share=1.0, untouched_share=1.0)
    for name in ("first", "second"):
        layer, seen = model.get_submodule(name), []
        handle = layer.register_forward_hook(lambda m, i, o, seen=seen: seen.append(o))
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(x)["b"], y), seen)
        handle.remove()
        update = {f"{name}.{n}": torch.randn_like(p) for n, p in layer.named_parameters()}
        kept = {n: subspace.project(name, u) for n, u in update.items()}
        for n, u in kept.items():
            torch.testing.assert_close(subspace.project(name, u), u, rtol=1e-5, atol=1e-6)  # it is a projection
            inside = (gradient / gradient.norm()) @ u.reshape(len(u), -1)
            assert u.norm() > 0.1 * update[n].norm() and inside.norm() < 1e-6 * u.norm(), n
        others, own = (abs(change(model, task, x, y, kept)) for task in ("b", "a"))
        assert others < 1e-3 * abs(change(model, "b", x, y, update)) and own > 100 * others


def subspace_of(*columns):
    """Moments of one layer "l" with four outputs."""
    g = torch.tensor(columns, dtype=torch.float64)
    moment = (g.T @ g)[None]
    return GradientSubspace({"l": moment}, {"l": moment.diagonal(dim1=-2, dim2=-1).sum(-1)}, {}, 1)


E = torch.eye(4, dtype=torch.float64).tolist()


def test_directions_by_hand():
    both = [1.0, 1.0, 0.0, 0.0]
    kept = task_subspace([subspace_of(both, E[2])], [subspace_of(E[0])], forgotten_share=1.0, untouched_share=1.0)
    update = torch.arange(1.0, 13.0).reshape(4, 3)
    wanted = update.clone()
    wanted[[0, 3]] = 0  # e1 is protected, so e2 is what is left of e1 + e2; e4 is no direction of the forgotten task
    torch.testing.assert_close(kept.project("l", update), wanted)
    torch.testing.assert_close(kept.project("l", torch.ones(2, 4), batch_dims=1)[1], torch.tensor([0.0, 1, 1, 0]))


def test_every_untouched_task_is_protected_by_a_share_of_its_own():
    small = subspace_of([0.0, 1e-6, 0.0, 0.0])
    forgotten = subspace_of(E[0], E[1], E[2])
    kept = task_subspace([forgotten], [subspace_of(E[0]), small], forgotten_share=1.0, untouched_share=0.9)
    torch.testing.assert_close(kept.project("l", torch.ones(4, 1)), torch.tensor([[0.0], [0], [1], [0]]))


def test_nothing_is_left_where_the_forgotten_task_lies_within_the_others():
    for own in ([1.0, 1.0, 0.0, 0.0], [1.0, 0.3, 1e-5, 0.0]):
        kept = task_subspace([subspace_of(own)], [subspace_of(E[0], E[1])], forgotten_share=1.0, untouched_share=1.0)
        assert kept.vectors["l"].shape[-1] == 0 and not kept.project("l", torch.ones(4, 2)).any()
    without = task_subspace([subspace_of(E[0])], [])
    torch.testing.assert_close(without.project("l", torch.ones(4)), torch.tensor([1.0, 0, 0, 0]))


def test_a_short_rest_is_still_orthogonal():
    own, theirs = [1.0, 0.5, 0.002, 0.0], subspace_of([1.0, 0.2, 0.0, 0.0], [0.3, 1.0, 0.0, 0.0])
    kept = task_subspace([subspace_of(own)], [theirs], forgotten_share=1.0, untouched_share=1.0)
    assert kept.vectors["l"].shape[-1] == 1
    torch.testing.assert_close(kept.vectors["l"].abs().flatten(), torch.tensor([0.0, 0, 1, 0]), atol=1e-7, rtol=0)
