"""Bad teaching: toward the incompetent teacher on forget images, with the original on the others."""

import copy

import pytest
import torch
from method_checks import (
    assert_resumes,
    assert_same,
    assert_split_does_not_matter,
    assert_trains,
    build,
    forget_one,
    trained,
)
from toy_tasks import digits, part, right, two_headed

from hf_dtl.errors import ConfigError
from hf_dtl.methods import BadTeachingConfig, BadTeachingTrainer

BAD = (BadTeachingConfig, BadTeachingTrainer)


def divergence(teacher, student, temperature=1.0):
    """T^2 KL(teacher || student) of logits, the mean over images, in float64."""
    q, p = ((z.double() / temperature).log_softmax(-1) for z in (teacher, student))
    return temperature**2 * (q.exp() * (q - p)).sum(-1).mean().item()


@pytest.mark.parametrize(("temperature", "weight"), [(1.0, 1.0), (3.0, 0.2)])
def test_first_logged_values_equal_a_computation_by_hand(tmp_path, temperature, weight):
    t = build(BAD, tmp_path, max_steps=1, temperature=temperature, forget_weight=weight, retain_augmentation="none")
    with torch.no_grad():
        for p in t.model.heads["target"].parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    batch = t.train_dataset[0]
    with torch.no_grad():
        x, models = batch["retain"]["pixel_values"], (t.teacher, t.model.eval())
        retain = divergence(*(m(x, task="target") for m in models), temperature)
        x = batch["forget"]["pixel_values"]
        forget = divergence(t.incompetent(x, task="new"), t.model(x, task="source"), temperature)
    t.train()
    log = next(e for e in t.state.log_history if "disposal_value" in e)
    assert log["disposal_value"] == pytest.approx(forget, rel=1e-4)
    assert log["retain_loss"] == pytest.approx(retain, rel=1e-4)
    assert log["loss"] == pytest.approx(retain + weight * forget, rel=1e-4), "no cross-entropy"


def test_outputs_come_to_the_incompetent_teacher_on_forget_images_and_stay_on_the_others(tmp_path):
    model, data, held_out = digits()
    options = dict(max_steps=60, optim="adamw_torch", learning_rate=3e-3, retain_augmentation="none")
    t = forget_one(BAD, tmp_path, **options)
    incompetent = copy.deepcopy(t.incompetent)
    t.train()
    assert_same(t.incompetent, incompetent)
    assert_same(t.teacher.export("target"), model)
    scrubbed = t.export()
    forget, others, unseen = part(data, data.labels == 1), part(data, data.labels != 1), held_out

    def apart(images, teacher, student):
        with torch.no_grad():
            return divergence(teacher(images.pixel_values), student(images.pixel_values).logits)

    def bad(x):
        return incompetent(x, task="new")

    def good(x):
        return model(x).logits

    assert apart(forget, bad, scrubbed) < 0.1 * apart(forget, bad, model)
    assert apart(others, good, scrubbed) < 0.1 < 0.5 < apart(forget, good, scrubbed)
    assert right(scrubbed, part(unseen, unseen.labels != 1)) > 0.9


def test_the_incompetent_teacher_is_a_new_draw_that_the_seed_decides(tmp_path):
    a, b, other = (build(BAD, tmp_path, seed=seed) for seed in (1, 1, 2))
    assert_same(a.incompetent, b.incompetent)
    name = "backbone.vit.embeddings.patch_embeddings.projection.weight"
    weights = [m.get_parameter(name) for m in (a.incompetent, other.incompetent, a.teacher)]
    assert not any(torch.equal(weights[i], weights[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert not any(p.requires_grad for p in a.incompetent.parameters()) and not a.incompetent.training
    assert a.incompetent.heads["new"].out_features == 6, "of the forgotten task"


def test_result_does_not_depend_on_the_split_and_resumes(tmp_path):
    assert_split_does_not_matter(BAD, tmp_path, "resnet", num_chunks=4)
    assert_resumes(BAD, tmp_path, "vit")


@pytest.mark.parametrize("name", ["dinov2", "resnet"])
def test_architectures_train(tmp_path, name):
    t, _ = assert_trains(BAD, tmp_path, name, max_steps=2, learning_rate=1e-2)
    buffers = dict(t.teacher.named_buffers())
    assert all(torch.equal(b, buffers[n]) for n, b in t.model.named_buffers()), "running statistics"


def test_bf16(tmp_path):
    t = trained(BAD, tmp_path, two_headed(), bf16=True)
    assert all(torch.isfinite(p).all() and p.dtype == torch.float32 for p in t.model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature=0.0 must be > 0"),
        ({"distillation_weight": 0.0}, "distillation_weight=0 and target_ce_weight=0 leave nothing"),
    ],
)
def test_bad_options(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        build(BAD, tmp_path, **options)
