"""Retraining, fine-tuning, NegGrad+: what each may look at, and that it is the plain training that it says."""

import copy

import pytest
import torch
from method_checks import assert_resumes, assert_same, assert_split_does_not_matter, assert_trains, build, forget_one
from method_checks import trained as trained_on
from torch.nn import functional as F
from toy_tasks import digits, images, part, right, target, two_headed
from transformers import TrainerCallback

from hf_dtl.errors import ConfigError
from hf_dtl.methods import (
    FineTuneConfig,
    FineTuneTrainer,
    NegGradPlusConfig,
    NegGradPlusTrainer,
    RetrainConfig,
    RetrainTrainer,
)
from hf_dtl.methods.noise_then_distil import fresh_model

RETRAIN = (RetrainConfig, RetrainTrainer)
FINE_TUNE = (FineTuneConfig, FineTuneTrainer)
NEG_GRAD_PLUS = (NegGradPlusConfig, NegGradPlusTrainer)
LABELS = {"target_ce_weight": 1.0}
PLAIN = LABELS | {"retain_augmentation": "none", "max_grad_norm": 0.0, "learning_rate": 0.1}


def trained(*args, **options):
    return trained_on(*args, **LABELS | options)


def kept(trainer):
    """What is exported: the backbone and the retained head."""
    return trainer.export()


def other_weights(name):
    """A model unlike `two_headed`, also in its running statistics."""
    model = two_headed(name)
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            if value.is_floating_point():
                value.mul_(-3.0).add_(0.7)
    return model


@pytest.mark.parametrize("pair", [RETRAIN, FINE_TUNE, NEG_GRAD_PLUS])
def test_architectures_train(tmp_path, pair):
    for name in ("dinov2", "resnet"):
        _, logs = assert_trains(pair, tmp_path / name, name, max_steps=2, learning_rate=1e-2, **LABELS)
        assert all(("disposal_value" in entry) == (pair is NEG_GRAD_PLUS) for entry in logs)
        assert all(entry["retain_loss"] == entry["target_cross_entropy"] for entry in logs), "labels alone"


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_retraining_depends_on_neither_the_given_weights_nor_the_forget_images(tmp_path, name):
    few = images("fashion_mnist[0,1]", 3)
    few.names = None  # of no head
    one = trained(RETRAIN, tmp_path, two_headed(name))
    two = trained(RETRAIN, tmp_path, other_weights(name), forget=few, forget_weight=5.0)
    assert_same(kept(two), kept(one))
    plain = [
        trained(RETRAIN, tmp_path, m.export("target"), forget=few) for m in (two_headed(name), other_weights(name))
    ]
    assert_same(kept(plain[0]), kept(plain[1]))
    with pytest.raises(AssertionError):
        assert_same(kept(trained(RETRAIN, tmp_path, two_headed(name), seed=4)), kept(one))


@pytest.mark.parametrize(("pair", "name"), [(RETRAIN, "vit"), (FINE_TUNE, "vit"), (FINE_TUNE, "resnet")])
def test_it_is_gradient_descent_on_the_retain_labels(tmp_path, pair, name):
    t = build(pair, tmp_path, two_headed(name), **PLAIN)
    model, task = (fresh_model(t.model, "target", 3), "new") if pair is RETRAIN else (two_headed(name), "target")
    t.teacher.forward = lambda *args, **kwargs: pytest.fail("the original model was asked")
    t.train()
    weights = [*model.eval().backbone.parameters(), *model.heads[task].parameters()]
    for step in range(3):
        batch = t.train_dataset[step]["retain"]
        loss = F.cross_entropy(model(batch["pixel_values"], task=task), batch["labels"])
        gradients = torch.autograd.grad(loss, weights, materialize_grads=True)
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                weight -= 0.1 * gradient
    assert_same(kept(t), model.export(task), 1e-6)


def test_fine_tuning_looks_at_no_forget_image_and_leaves_running_statistics_alone(tmp_path):
    start = two_headed("resnet")
    one = trained(FINE_TUNE, tmp_path, copy.deepcopy(start), forget_weight=5.0)
    two = trained(FINE_TUNE, tmp_path, copy.deepcopy(start), forget=images("fashion_mnist[0,1]", 3))
    assert_same(kept(two), kept(one))
    buffers = dict(start.named_buffers())
    assert buffers and all(torch.equal(b, buffers[n]) for n, b in one.model.named_buffers())


@pytest.mark.parametrize("heads", [1, 2])
def test_the_gradient_of_neg_grad_plus_is_the_difference(tmp_path, heads):
    """Of the first step: grad CE(retain) - w grad CE(forget), w = 0.05 / 0.95."""

    class Look(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            self.gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    look = Look()
    options = dict(callbacks=[look], max_steps=1, **PLAIN)
    if heads == 1:
        model, data, _ = digits()
        t = build(NEG_GRAD_PLUS, tmp_path, copy.deepcopy(model), retain=data, forget=data, **options)
    else:
        t = build(NEG_GRAD_PLUS, tmp_path, **options)
    batch, model = t.train_dataset[0], t.teacher.requires_grad_(True)
    losses = {
        name: F.cross_entropy(model(batch[name]["pixel_values"], task=task), batch[name]["labels"])
        for name, task in (("retain", t.retain_task), ("forget", t.forget_task))
    }
    (losses["retain"] - 0.05 / 0.95 * losses["forget"]).backward()
    t.train()
    trained_names = [n for n, p in t.model.named_parameters() if p.requires_grad]
    assert look.gradients.keys() == set(trained_names)
    mine, wanted = (
        torch.cat([g[n].flatten().double() for n in trained_names])
        for g in (look.gradients, {n: p.grad for n, p in model.named_parameters()})
    )
    assert (mine - wanted).norm() / wanted.norm() < 1e-6
    assert t.args.max_forget_grad_norm == 0


def test_neg_grad_plus_drives_a_class_further_away_than_fine_tuning_and_keeps_the_others(tmp_path):
    _, data, _ = digits()
    forget, others, losses = part(data, data.labels == 1), part(data, data.labels != 1), []
    options = dict(max_steps=25, optim="adamw_torch", learning_rate=3e-3, retain_augmentation="none")
    for pair in (FINE_TUNE, NEG_GRAD_PLUS):
        t = forget_one(pair, tmp_path, **LABELS | options)
        t.train()
        scrubbed = t.export()
        assert right(scrubbed, others) > 0.95
        with torch.no_grad():
            losses.append(F.cross_entropy(scrubbed(forget.pixel_values).logits, forget.labels).item())
    assert right(scrubbed, forget) == 0 and losses[1] > 1.2 * losses[0]


@pytest.mark.parametrize(("pair", "name"), [(RETRAIN, "resnet"), (NEG_GRAD_PLUS, "vit")])
def test_result_does_not_depend_on_the_split_and_resumes(tmp_path, pair, name):
    assert_split_does_not_matter(pair, tmp_path, name, num_chunks=4, learning_rate=0.1, **LABELS)
    assert_resumes(pair, tmp_path, name, learning_rate=0.1, **LABELS)


@pytest.mark.parametrize(
    ("pair", "options", "message"),
    [
        (RETRAIN, {"distillation_weight": 1.0}, "distillation_weight=1.0.*use fresh_distillation"),
        (RETRAIN, {}, "target_ce_weight=0 leave nothing"),
        (FINE_TUNE, {}, "target_ce_weight=0 leave nothing"),
        (NEG_GRAD_PLUS, LABELS | {"forget_weight": -0.1}, "forget_weight=-0.1 must be >= 0"),
        (RETRAIN, LABELS | {"per_device_retain_batch_size": 1}, "at least 2 images a chunk"),
    ],
)
def test_bad_options(tmp_path, pair, options, message):
    with pytest.raises(ConfigError, match=message):
        build(pair, tmp_path, two_headed("resnet"), retain=target(), **options)
