import copy

import pytest
import torch
from method_checks import assert_resumes, assert_same, assert_split_does_not_matter, assert_trains, build, trained
from toy_tasks import target, two_headed

from hf_dtl.audit.references import scratch_model
from hf_dtl.errors import ConfigError
from hf_dtl.methods.noise_then_distil import (
    FreshDistillationConfig,
    NoiseThenDistilConfig,
    NoiseThenDistilTrainer,
    fresh_model,
)
from hf_dtl.trainers.batch_statistics import BatchStatisticsTrainer

NOISE = (NoiseThenDistilConfig, NoiseThenDistilTrainer)
FRESH = (FreshDistillationConfig, NoiseThenDistilTrainer)


@pytest.mark.parametrize("name", ["vit", "dinov2", "swin", "convnext", "resnet"])
def test_architectures_train(tmp_path, name):
    _, logs = assert_trains(FRESH, tmp_path, name, max_steps=2, learning_rate=1e-3)
    assert not any("disposal_value" in entry for entry in logs), "no forget images"


def test_alpha_mixes_given_and_fresh_weights(tmp_path):
    start, state = two_headed("resnet"), torch.random.get_rng_state()
    fresh = fresh_model(start, "target", seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert_same(build(NOISE, tmp_path, model=copy.deepcopy(start), alpha=0.0).model, start)
    models = [build(NOISE, tmp_path, model=copy.deepcopy(start), alpha=a).model for a in (0.4, 1.0)]
    for mixed, alpha in zip(models, (0.4, 1.0), strict=True):
        theirs = fresh.backbone.state_dict()
        for name, weight in start.backbone.state_dict().items():
            expected = (1 - alpha) * weight + alpha * theirs[name] if weight.is_floating_point() else weight
            torch.testing.assert_close(mixed.backbone.state_dict()[name], expected)
        expected = (1 - alpha) * start.heads["target"].weight + alpha * fresh.heads["new"].weight
        torch.testing.assert_close(mixed.heads["target"].weight, expected)
    assert_same(build(FRESH, tmp_path, model=copy.deepcopy(start)).model, models[1])


def test_fresh_weights_are_new_draws():
    """Neither the initialisation of the given model (seed 0), nor the audit's reference, nor another seed's."""
    start = two_headed()
    name = "vit.embeddings.patch_embeddings.projection.weight"
    draws = [fresh_model(start, "target", seed).backbone.get_parameter(name) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    reference = scratch_model(start.export("target"), seed=0).get_parameter(name)
    assert not torch.equal(draws[0], reference) and not torch.equal(draws[0], start.backbone.get_parameter(name))


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_result_does_not_depend_on_the_split_and_resumes(tmp_path, name):
    assert_split_does_not_matter(NOISE, tmp_path, name, retain_inputs="both")
    assert_resumes(NOISE, tmp_path, name)


def test_batch_normalisation_by_cell_equals_pytorch(tmp_path, monkeypatch):
    """One chunk a step: retention loss, gradient step and running statistics of ordinary batch normalisation."""
    monkeypatch.setattr(BatchStatisticsTrainer, "settle", lambda self: None)
    options = dict(num_chunks=1, max_steps=1, retain_augmentation="none", target_ce_weight=0.0, max_grad_norm=0.0)
    t = build(FRESH, tmp_path, model=two_headed("resnet"), **options)
    oracle, images = copy.deepcopy(t.model).train(), t.train_dataset[0]["retain"]["pixel_values"]
    with torch.no_grad():
        wanted = (t.teacher(images, task="target") / 2).log_softmax(-1)
    got = (oracle(images, task="target") / 2).log_softmax(-1)
    loss = 4 * (wanted.exp() * (wanted - got)).sum(-1).mean()
    loss.backward()
    t.train()
    log = next(e for e in t.state.log_history if "retain_loss" in e)
    assert log["retain_loss"] == pytest.approx(loss.item(), rel=1e-4)
    for (name, mine), theirs in zip(t.model.named_parameters(), oracle.parameters(), strict=True):
        if theirs.grad is not None:
            torch.testing.assert_close(mine, theirs - 0.5 * theirs.grad, rtol=1e-3, atol=1e-5, msg=name)
    for (name, mine), theirs in zip(t.model.named_buffers(), oracle.buffers(), strict=True):
        if mine.is_floating_point():
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6, msg=name)


def test_at_the_end_running_statistics_are_those_of_untransformed_images(tmp_path):
    t = trained(NOISE, tmp_path, model=two_headed("resnet"), max_steps=2, learning_rate=1e-2)
    oracle, images = copy.deepcopy(t.model), target().pixel_values
    assert len(images) <= 128, "one batch"
    norms = [m for m in oracle.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.train().reset_running_stats()
        norm.momentum = None
    with torch.no_grad():
        oracle(images, task="target")
    for mine, theirs in zip((m for m in t.model.modules() if isinstance(m, torch.nn.BatchNorm2d)), norms, strict=True):
        torch.testing.assert_close(mine.running_mean, theirs.running_mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(mine.running_var, theirs.running_var, rtol=1e-4, atol=1e-5)
        assert not mine.training and mine.track_running_stats


def test_a_fresh_network_with_batch_normalisation_learns_what_the_teacher_says(tmp_path):
    t = build(
        FRESH, tmp_path, model=two_headed("resnet"), max_steps=40, learning_rate=5e-3, optim="adamw_torch",
        retain_augmentation="none", target_ce_weight=0.0,
    )  # fmt: skip
    t.teacher.heads["target"].weight.data.mul_(200)  # a random teacher says next to nothing: make it speak up
    x = target().pixel_values

    def divergence():
        with torch.no_grad():
            q, p = (m.eval()(x, task="target").log_softmax(-1) for m in (t.teacher, t.model))
        return (q.exp() * (q - p)).sum(-1).mean().item()

    before = divergence()
    t.train()
    assert divergence() < 0.3 * before, "also in evaluation mode, with the running statistics"


def test_bf16_and_a_forget_weight_from_elsewhere(tmp_path):
    t = trained(NOISE, tmp_path, bf16=True, forget_weight=1.0)
    assert t.args.forget_weight == 0
    assert all(torch.isfinite(p).all() and p.dtype == torch.float32 for p in t.model.parameters())


@pytest.mark.parametrize(
    ("options", "name", "message"),
    [
        ({"alpha": 1.5}, "vit", "alpha=1.5 must be between 0"),
        ({"alpha": float("nan")}, "vit", "alpha=nan"),
        ({"per_device_train_batch_size": 4}, "resnet", "at least 2 images a chunk.*got 1 forget and 1 retain"),
        ({"activation_checkpointing": True}, "resnet", "activation_checkpointing.*Leave it off"),
    ],
)
def test_bad_options(tmp_path, options, name, message):
    with pytest.raises(ConfigError, match=message):
        build(NOISE, tmp_path, model=two_headed(name), **options)
