"""SCRUB: steps of two kinds, each of which looks at images of one kind alone, in the order of the options."""

import copy

import pytest
import torch
from method_checks import assert_resumes, assert_same, assert_split_does_not_matter, build, forget_one, trained
from torch.nn import functional as F
from toy_tasks import digits, part, right, two_headed

from hf_dtl.errors import ConfigError
from hf_dtl.methods import ScrubConfig, ScrubTrainer
from hf_dtl.trainers.streams import PairedStreams

SCRUB = (ScrubConfig, ScrubTrainer)
# min min max | min min max | min min (a max step would follow) | min ...
PHASES = {"min_phase": 2, "max_phase": 1, "max_until": 0.75, "max_steps": 10, "target_ce_weight": 0.99}
PHASES |= {"learning_rate": 0.1}
KINDS = "min min max min min max min min min min".split()


def kinds(trainer):
    """What every step was, by what was logged: of forget images, or of retain images."""
    logs = [e for e in trainer.state.log_history if "loss" in e]
    for entry in logs:
        assert ("disposal_value" in entry) != ("retain_loss" in entry), "one kind a step"
    return ["max" if "disposal_value" in e else "min" for e in logs]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, KINDS),
        ({"min_phase": 1, "max_phase": 3, "max_until": 1.0}, ["min", "max", "max", "max"] * 2 + ["min", "max"]),
        ({"min_phase": 3, "max_phase": 2, "max_until": 0.4}, "min min min max min min min min min min".split()),
    ],
)
def test_phases_are_as_configured(tmp_path, options, wanted):
    assert kinds(trained(SCRUB, tmp_path, **PHASES | options)) == wanted


@pytest.mark.parametrize("heads", [1, 2])
def test_images_of_the_other_kind_have_no_influence(tmp_path, monkeypatch, heads):
    """Whatever a step must not look at is replaced by NaN; not one bit of the result changes."""
    make = build if heads == 2 else forget_one
    options = PHASES | {"optim": "adamw_torch", "weight_decay": 0.1, "learning_rate": 1e-3}
    one = make(SCRUB, tmp_path, **options)
    one.train()
    chunks, original = [], PairedStreams.__getitem__

    def poisoned(self, chunk):
        item = original(self, chunk)
        step = chunk // self.num_chunks
        hidden = "retain" if step < len(KINDS) and KINDS[step] == "max" else "forget"
        item[hidden]["pixel_values"].fill_(torch.nan)
        item[hidden]["labels"].fill_(0)
        chunks.append(chunk)
        return item

    monkeypatch.setattr(PairedStreams, "__getitem__", poisoned)
    two = make(SCRUB, tmp_path, **options)
    two.train()
    assert chunks[:10] == list(range(10))
    assert_same(two.model, one.model)
    assert not all(torch.equal(a, b) for a, b in zip(two.model.parameters(), two.teacher.parameters(), strict=True))


def kl(teacher, student, temperature):
    q, p = ((z / temperature).log_softmax(-1) for z in (teacher, student))
    return temperature**2 * (q.exp() * (q - p)).sum(-1).mean()


def test_steps_are_those_of_the_formula(tmp_path):
    """Plain gradient descent in float64: alpha KL + gamma CE on a min step, -w KL on a max step."""
    options = dict(
        min_phase=2, max_phase=2, max_until=1.0, max_steps=4, temperature=3.0, distillation_weight=0.5,
        target_ce_weight=0.7, forget_weight=0.3, learning_rate=0.5, max_grad_norm=0.0, retain_augmentation="none",
    )  # fmt: skip
    t = build(SCRUB, tmp_path, **options)
    model = copy.deepcopy(t.teacher).double().requires_grad_(True)
    teacher = copy.deepcopy(t.teacher).double()
    t.train()
    weights = [*model.backbone.parameters(), *model.heads["target"].parameters()]
    for step in range(4):
        retain, forget = (t.train_dataset[step][kind] for kind in ("retain", "forget"))
        if step < 2:
            x = retain["pixel_values"].double()
            logits, original = model(x, task="target"), teacher(x, task="target").detach()
            loss = 0.5 * kl(original, logits, 3.0) + 0.7 * F.cross_entropy(logits, retain["labels"])
        else:
            x = forget["pixel_values"].double()
            loss = -0.3 * kl(teacher(x, task="source").detach(), model(x, task="source"), 3.0)
        gradients = torch.autograd.grad(loss, weights, materialize_grads=True)
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                weight -= 0.5 * gradient
    states = [m.state_dict().values() for m in (t.model, model, teacher)]
    mine, wanted, start = (torch.cat([v.double().ravel() for v in state]) for state in states)
    assert (mine - wanted).norm() / (wanted - start).norm() < 1e-4
    logged = [e for e in t.state.log_history if "disposal_value" in e]
    assert logged[-1]["loss"] == pytest.approx(loss.item(), rel=1e-3)


def test_forgets_a_class_and_keeps_the_others(tmp_path):
    model, data, held_out = digits()
    options = dict(max_steps=40, optim="adamw_torch", learning_rate=3e-3, target_ce_weight=0.99)
    t = forget_one(SCRUB, tmp_path, retain_augmentation="none", **options)
    t.train()
    scrubbed, forget = t.export(), part(data, data.labels == 1)
    assert right(scrubbed, forget) == 0 and right(scrubbed, part(held_out, held_out.labels != 1)) > 0.9
    with torch.no_grad():
        original = model(forget.pixel_values).logits
        apart = [kl(original, m(forget.pixel_values).logits, 4.0).item() for m in (model, scrubbed)]
    assert apart[0] == 0 and apart[1] > 5


def test_result_does_not_depend_on_the_split_and_resumes(tmp_path):
    options = PHASES | {"min_phase": 1, "max_until": 1.0}
    assert_split_does_not_matter(SCRUB, tmp_path, "resnet", num_chunks=4, **options | {"max_steps": 4})
    assert_resumes(SCRUB, tmp_path, "vit", **options | {"max_steps": 4})


@pytest.mark.parametrize("name", ["dinov2", "swin", "resnet"])
def test_architectures_train(tmp_path, name):
    t = trained(SCRUB, tmp_path, two_headed(name), **PHASES | {"learning_rate": 1e-2})
    assert kinds(t) == KINDS
    assert all(torch.isfinite(v).all() for v in t.model.state_dict().values())
    given = dict(t.teacher.named_buffers())
    assert all(torch.equal(b, given[n]) for n, b in t.model.named_buffers()), "running statistics"
    t.save_model(tmp_path / "scrubbed")
    assert (tmp_path / "scrubbed" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_phase": 0}, "min_phase=0 must be >= 1"),
        ({"max_phase": 0}, "max_phase=0 must be >= 1"),
        ({"max_until": 0.0}, r"max_until=0.0 must be in \(0, 1\]; without max steps use fine_tune"),
        ({"max_until": 1.1}, "max_until=1.1"),
        ({"distillation_weight": 0.0, "target_ce_weight": 0.0}, "leave nothing that retains"),
    ],
)
def test_bad_options(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        build(SCRUB, tmp_path, **PHASES | options)


def test_a_run_without_a_max_step_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="With 4 steps, min_phase=2 and max_until=0.5 there is no max step"):
        trained(SCRUB, tmp_path, max_steps=4, target_ce_weight=1.0)
    assert "max" in kinds(trained(SCRUB, tmp_path, max_steps=5, target_ce_weight=1.0))
