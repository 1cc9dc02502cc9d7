"""Heads, chunks, parameters and noise of gradient collision; its plain form is tested in test_trainer.py."""

import copy

import pytest
import torch
from architectures import CONFIGS
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector
from toy_tasks import OPTIONS, source, target, two_headed

from hf_dtl.errors import ConfigError
from hf_dtl.methods import GradientCollisionConfig, GradientCollisionTrainer
from hf_dtl.trainers.probes import Probes, read

PROBES = {"probe_images": 40, "probe_steps": 10, "refresh_every": 2, "probe_hidden": 8}
HEADS = ("refreshed", "new", "probes")


def trainer(folder, model=None, **options):
    args = GradientCollisionConfig(output_dir=str(folder), **OPTIONS | PROBES | options)
    return GradientCollisionTrainer(two_headed() if model is None else model, args, source(), target())


def trained(*args, **kwargs):
    t = trainer(*args, **kwargs)
    t.train()
    return t


def first_log(t):
    return next(e for e in t.state.log_history if "disposal_value" in e)


def flat(model):
    return parameters_to_vector(model.parameters()).detach()


def distance(a, b, start):
    return ((flat(a) - flat(b)).norm() / (flat(b) - flat(start)).norm()).item()


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("head", HEADS)
def test_first_step_equals_a_computation_by_hand(tmp_path, head, normalize):
    """Value, cosine and norm of the chunks' gradients under each head; the source loss is the source head's."""
    t = trainer(tmp_path, head=head, normalize=normalize, max_steps=1, probe_updates=0)
    model, streams = copy.deepcopy(t.model).eval(), t.train_dataset
    t.train()
    seed = (3 * 1_000_003) ^ 0x9B0BE
    chosen = torch.randperm(len(source()), generator=torch.Generator().manual_seed(seed))[:40]

    def readings(x):
        states, features = model.hidden_states(x)
        return read(states if head == "probes" else [], features)

    fitted_to = readings(source().pixel_values[chosen])
    probes = Probes([r.shape[1] for r in fitted_to], 6, hidden=8 if head == "probes" else 0)
    assert len(fitted_to) == (7 if head == "probes" else 1)
    probes.reset(seed)
    if head != "new":
        labels = torch.as_tensor(source().labels)[chosen]
        probes.fit([r.detach() for r in fitted_to], labels, steps=10, seed=seed)

    parameters = [p for p in model.parameters() if p.requires_grad]
    rows, source_losses = [], []
    for chunk in range(4):
        x, y = (streams[chunk]["forget"][k] for k in ("pixel_values", "labels"))
        logits = probes(readings(x))
        loss = torch.stack([F.cross_entropy(one, y) for one in logits]).mean()
        rows.append(parameters_to_vector(torch.autograd.grad(loss, parameters, materialize_grads=True)))
        source_losses.append(F.cross_entropy(model(x, task="source"), y).item())
    g = torch.stack(rows)
    gram, unit = g @ g.T, F.normalize(g) @ F.normalize(g).T
    log, cosine = first_log(t), (unit.sum() - unit.trace()).item() / 12
    value = cosine if normalize else (gram.sum() - gram.trace()).item() / 12
    assert log["disposal_value"] == pytest.approx(value, rel=2e-3, abs=1e-6)
    assert log["mean_cosine"] == pytest.approx(cosine, rel=2e-3, abs=1e-6)
    assert log["mean_gradient_norm"] == pytest.approx(g.norm(dim=1).mean().item(), rel=1e-3)
    assert log["source_loss"] == pytest.approx(sum(source_losses) / 4, rel=1e-3)


@pytest.mark.parametrize("head", HEADS)
def test_finite_differences_follow_the_double_backward(tmp_path, head):
    start, exact = two_headed(), trained(tmp_path, head=head, max_steps=2)
    difference = trained(tmp_path, head=head, max_steps=2, create="finite_difference")
    assert distance(difference.model, exact.model, start) < 0.02
    assert first_log(difference)["finite_difference_error"] < 0.02
    assert difference.model.backbone.config._attn_implementation == "sdpa"


def test_a_new_head_is_drawn_every_step(tmp_path):
    t = trainer(tmp_path, head="new", max_steps=2)
    assert (t.args.refresh_every, t.args.probe_steps, t.args.probe_updates) == (1, 0, 0)
    drawn = []
    original = t.disposal
    t.disposal = lambda *args: drawn.append(t.model.probes.weights.clone()) or original(*args)
    t.train()
    assert len(drawn) == 2 and not torch.equal(*drawn)


def test_the_frozen_head_needs_no_probes(tmp_path):
    t = trained(tmp_path, max_steps=1)
    assert not hasattr(t.model, "probes") and "probe_accuracy" not in first_log(t)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_architecture_collides_its_later_stages_against_probes(tmp_path, name):
    """What the middle depth depends on gets no disposal gradient; without retention it stays as it was."""
    start = two_headed(name)
    t = trainer(tmp_path, copy.deepcopy(start), head="probes", collide="features", max_steps=1, num_chunks=2)
    t.retention = lambda model, inputs: sum(p.sum() * 0 for p in model.parameters() if p.requires_grad)
    t.train()
    names = [n for n, p in t.model.named_parameters() if p.requires_grad]
    before = dict(start.named_parameters())
    moved = {n: not torch.equal(p, before[n]) for n, p in t.model.named_parameters()}
    late = dict(zip(names, t.collided, strict=True))
    assert any(late.values()) and not all(late.values())
    assert any(moved.values()) and not any(m and not late[n] for n, m in moved.items() if n in late)
    if name == "vit":
        assert {n.split("layers.")[1][0] for n in names if "layers." in n and late[n]} == {"1"}


def test_every_image_may_be_a_chunk_of_its_own(tmp_path):
    t = trained(tmp_path, num_chunks=16, chunking="random", max_steps=1)
    chunks = [t.train_dataset[i]["forget"]["pixel_values"] for i in range(16)]
    assert all(len(chunk) == 1 for chunk in chunks)
    wanted = [int(i) for i in t.train_dataset.forget_indices(0).ravel()]
    assert len(set(wanted)) == 16, "different images"
    assert -1 / 15 - 1e-6 <= first_log(t)["mean_cosine"] <= 1


def test_noise_has_the_norm_asked_for_and_comes_from_seed_and_step(tmp_path):
    """SGD without bounds, and retention at its minimum: the step is the disposal gradient."""
    start = flat(two_headed())
    options = dict(max_steps=1, learning_rate=1.0, max_forget_grad_norm=0.0, max_grad_norm=0.0)
    plain, noisy = trained(tmp_path, **options), trained(tmp_path, noise=0.5, **options)
    step = flat(plain.model) - start
    assert ((flat(noisy.model) - flat(plain.model)).norm() / step.norm()).item() == pytest.approx(0.5, rel=0.05)
    assert first_log(noisy)["disposal_value"] == first_log(plain)["disposal_value"]
    gradients = [torch.ones(50), torch.ones(3, 5)]
    draws = []
    for seed, at in ((3, 0), (3, 0), (3, 1), (4, 0)):
        noisy.args.seed, noisy.state.global_step = seed, at
        draws.append(parameters_to_vector(noisy._noisy(gradients)))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2]) and not torch.equal(draws[0], draws[3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "old"}, "head='old' is unknown; use one of: frozen, refreshed, new, probes"),
        ({"collide": "some"}, "collide='some' is unknown; use one of: all, features"),
        ({"noise": -0.1}, "noise=-0.1 must be >= 0"),
        ({"noise": float("nan")}, "noise=nan must be >= 0"),
        ({"create": "magic"}, "create='magic' is unknown"),
    ],
)
def test_bad_options(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        trainer(tmp_path, **options)
