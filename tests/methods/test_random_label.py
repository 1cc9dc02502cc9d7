"""Random labelling: one wrong label an image. SalUn: no other weight than the salient ones moves, whatever happens."""

import copy
from collections import defaultdict

import pytest
import torch
from method_checks import assert_resumes, assert_same, assert_split_does_not_matter, assert_trains, build, forget_one
from torch.nn import functional as F
from toy_tasks import digits, images, part, right, source, two_headed
from transformers import TrainerCallback

from hf_dtl.errors import ConfigError, ModelError
from hf_dtl.methods import RandomLabelConfig, RandomLabelTrainer, SalUnConfig, SalUnTrainer

RANDOM = (RandomLabelConfig, RandomLabelTrainer)
SALUN = (SalUnConfig, SalUnTrainer)
LABELS = {"target_ce_weight": 1.0, "learning_rate": 0.1}


def aims(trainer):
    """Train, and collect every label that each forget image was trained toward, by the image's bytes."""
    found, loss = defaultdict(list), trainer.chunk_loss

    def watched(chunk):
        aims = trainer.wrong[chunk.rows]
        for image, own, aim in zip(chunk.pixel_values, chunk.labels.tolist(), aims.tolist(), strict=True):
            found[image.numpy().tobytes()].append((own, aim))
        return loss(chunk)

    trainer.chunk_loss = watched
    trainer.train()
    return found


def test_an_image_keeps_one_wrong_label_for_the_whole_run_however_it_is_split(tmp_path):
    few = images("mnist[0,1,2,3,4,5]", 4)
    options = dict(forget=few, max_steps=9, num_chunks=4, learning_rate=1e-3) | LABELS
    one = build(RANDOM, tmp_path, **options)
    found = aims(one)
    assert len(found) == len(few) and all(len(pairs) >= 6 for pairs in found.values()), "six passes"
    assert all(len(set(pairs)) == 1 for pairs in found.values())
    pairs = [pairs[0] for pairs in found.values()]
    assert all(own != aim for own, aim in pairs) and {aim for _, aim in pairs} <= set(range(6))
    by_image = {x.numpy().tobytes(): int(w) for x, w in zip(few.pixel_values, one.wrong, strict=True)}
    assert {image: pairs[0][1] for image, pairs in found.items()} == by_image
    two = build(RANDOM, tmp_path, per_device_train_batch_size=8, gradient_accumulation_steps=2, **options)
    assert aims(two) == found
    assert not torch.equal(build(RANDOM, tmp_path, seed=4, **options).wrong, one.wrong)


def test_first_logged_values_equal_a_computation_by_hand(tmp_path):
    t = build(RANDOM, tmp_path, max_steps=1, retain_augmentation="none", **LABELS)
    chosen, batch = t.train_dataset.forget_indices(0)[0], t.train_dataset[0]
    t.train()
    log = next(e for e in t.state.log_history if "disposal_value" in e)
    with torch.no_grad():
        forget = t.teacher(source().pixel_values[chosen], task="source")
        retain = t.teacher(batch["retain"]["pixel_values"], task="target")
    assert log["disposal_value"] == pytest.approx(F.cross_entropy(forget, t.wrong[chosen]).item(), rel=1e-5)
    assert log["source_loss"] == pytest.approx(F.cross_entropy(forget, source().labels[chosen]).item(), rel=1e-5)
    assert log["target_cross_entropy"] == pytest.approx(
        F.cross_entropy(retain, batch["retain"]["labels"]).item(), rel=1e-5
    )
    assert log["loss"] == pytest.approx(log["disposal_value"] + log["target_cross_entropy"], rel=1e-5)


@pytest.mark.parametrize("pair", [RANDOM, SALUN])
def test_forgets_a_class_and_keeps_the_others(tmp_path, pair):
    _, data, _ = digits()
    options = dict(max_steps=40, optim="adamw_torch", learning_rate=3e-3, retain_augmentation="none")
    t = forget_one(pair, tmp_path, **LABELS | options)
    t.train()
    scrubbed = t.export()
    assert right(scrubbed, part(data, data.labels == 1)) < 0.1 and right(scrubbed, part(data, data.labels != 1)) > 0.9


@pytest.mark.parametrize(("pair", "name"), [(RANDOM, "vit"), (SALUN, "resnet")])
def test_result_does_not_depend_on_the_split_and_resumes(tmp_path, pair, name):
    assert_split_does_not_matter(pair, tmp_path, name, num_chunks=4, **LABELS)
    assert_resumes(pair, tmp_path, name, **LABELS)


@pytest.mark.parametrize("name", ["dinov2", "swin", "resnet"])
def test_architectures_train(tmp_path, name):
    t, _ = assert_trains(SALUN, tmp_path, name, max_steps=2, **LABELS)
    buffers = dict(t.teacher.named_buffers())
    assert all(torch.equal(b, buffers[n]) for n, b in t.model.named_buffers()), "running statistics"


def moved(trainer):
    """Which of the trained weights differ from the given ones, one boolean tensor each."""
    pairs = zip(trainer.model.parameters(), trainer.teacher.parameters(), strict=True)
    return [mine != given for mine, given in pairs if mine.requires_grad]


@pytest.mark.parametrize(
    ("optim", "options"),
    [
        ("sgd", {"optim_args": "momentum=0.9", "weight_decay": 0.1}),
        ("adamw_torch", {"weight_decay": 0.5, "learning_rate": 1e-2}),
        ("rmsprop", {"learning_rate": 1e-2}),
    ],
)
@pytest.mark.parametrize("heads", [1, 2])
def test_weights_outside_the_mask_stay_bit_identical(tmp_path, optim, options, heads):
    t = (build if heads == 2 else forget_one)(
        SALUN, tmp_path, max_steps=6, optim=optim, saliency=0.3, **LABELS | options
    )
    t.train()
    changed = moved(t)
    assert not any((c & ~m).any() for c, m in zip(changed, t.mask, strict=True))
    inside = sum(int((c & m).sum()) for c, m in zip(changed, t.mask, strict=True))
    assert inside > 0.9 * sum(int(m.sum()) for m in t.mask)


def test_also_after_an_interruption(tmp_path):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 2

    options = dict(
        optim="adamw_torch", weight_decay=0.5, saliency=0.3, max_steps=5, save_strategy="steps", save_steps=1
    )
    options |= LABELS | {"learning_rate": 1e-2}
    build(SALUN, tmp_path, callbacks=[Stop()], **options).train()
    t = build(SALUN, tmp_path, **options)
    t.train(resume_from_checkpoint=True)
    assert t.state.global_step == 5
    changed = moved(t)
    assert any(c.any() for c in changed) and not any((c & ~m).any() for c, m in zip(changed, t.mask, strict=True))


@pytest.mark.parametrize(("name", "share"), [("vit", 0.5), ("resnet", 0.17)])
def test_the_mask_equals_a_slow_oracle(tmp_path, name, share):
    """One forward pass over all forget images with their true labels, all weights sorted one by one."""
    t = build(SALUN, tmp_path, two_headed(name), forget=images("mnist[0,1,2,3,4,5]", 15), saliency=share, **LABELS)
    data, model = t.train_dataset.forget, copy.deepcopy(t.teacher).requires_grad_(True)
    F.cross_entropy(model(data.pixel_values, task="source"), data.labels).backward()
    trained = {n for n, p in t.model.named_parameters() if p.requires_grad}
    sizes = {
        (n, i): abs(g)
        for n, p in model.named_parameters()
        if n in trained
        for i, g in enumerate(torch.zeros_like(p).flatten().tolist() if p.grad is None else p.grad.flatten().tolist())
    }
    ranked = sorted(sizes, key=lambda key: -sizes[key])
    salient, count = set(ranked[: round(share * len(ranked))]), sum(int(m.sum()) for m in t.mask)
    assert count == round(share * len(ranked)), "the share is exact"
    names = [n for n, p in t.model.named_parameters() if p.requires_grad]
    mine = {(n, i) for n, m in zip(names, t.mask, strict=True) for i in m.flatten().nonzero().flatten().tolist()}
    threshold = sizes[ranked[len(salient) - 1]]
    for n, i in mine ^ salient:  # rounding of the sum may exchange neighbours at the threshold
        assert sizes[n, i] == pytest.approx(threshold, rel=1e-4)
    assert len(mine ^ salient) < 0.001 * len(ranked)


def test_with_every_weight_salient_it_is_random_labelling(tmp_path):
    one, all_of_them = build(RANDOM, tmp_path, **LABELS), build(SALUN, tmp_path, saliency=1.0, **LABELS)
    for t in (one, all_of_them):
        t.train()
    assert_same(all_of_them.model, one.model)


@pytest.mark.parametrize("saliency", [0.0, -0.5, 1.5, float("nan")])
def test_bad_saliency(tmp_path, saliency):
    with pytest.raises(ConfigError, match=rf"saliency={saliency} must be in \(0, 1\]"):
        build(SALUN, tmp_path, saliency=saliency, **LABELS)


def test_one_class_has_no_wrong_label():
    model = two_headed()
    model.remove_head("source")
    with pytest.raises(ModelError, match="one label, '0': it answers that for every image"):
        model.add_head("source", ["0"])
