"""Instance-wise unlearning; run as a program by every process of a launcher, this file trains its cases."""

import copy
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from architectures import CONFIGS
from instancewise_toys import NORMALISED, PLAIN, build, known, one_headed
from launching import run_on_two
from method_checks import assert_same
from safetensors.torch import load_file, save_file
from toy_tasks import digits, right, source, two_headed
from transformers import TrainerCallback, ViTImageProcessorPil

from hf_dtl.data import ImageTensors, default_processor, embedded_processor
from hf_dtl.errors import ConfigError
from hf_dtl.methods import AlreadyForgottenError
from hf_dtl.trainers.adversaries import make_adversaries, pixel_scale
from hf_dtl.trainers.config import UnlearningConfig
from hf_dtl.trainers.instances import predict

# What is forgotten ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("goal", ["misclassify", "relabel"])
def test_forgets_images_and_stops(tmp_path, goal, count):
    model, data, _ = digits()
    few = data.subset(range(count))
    options = {"learning_rate": 2e-2, "forget_weight": 0.5, "max_steps": 60}
    t = build(tmp_path, copy.deepcopy(model), few, goal=goal, **options)
    t.train()
    found = t.export()
    with torch.no_grad():
        named = found(few.pixel_values).logits.argmax(-1)
    assert 0 < t.state.global_step < 60 and t.remaining_rows() == [] and right(found, few) == 0
    assert goal == "misclassify" or named.tolist() == t.aims.tolist()
    logs = [e["remembered"] for e in t.state.log_history if "remembered" in e]
    assert logs[-1] == 0 and all(share > 0 for share in logs[:-1]) and len(logs) == t.state.global_step


def test_given_new_labels_are_learned_whatever_the_model_said_before(tmp_path):
    model, data, _ = digits()
    few = data.subset(range(4))
    with torch.no_grad():
        before = model(few.pixel_values).logits.argmax(-1)
    new = (before + 1) % 3
    few.labels[0] = (before[0] + 2) % 3  # misnamed
    few.labels[1], new[1] = (before[1] + 2) % 3, before[1]  # named by its new label
    own = {"new_labels": new.tolist(), "learning_rate": 2e-2, "max_steps": 60, "forget_weight": 0.5}
    t = build(tmp_path, copy.deepcopy(model), few, goal="relabel", **own)
    assert t.skipped.rows == [] and t.instances.rows == [0, 1, 2, 3] and t.remaining_rows() == [0, 2, 3]
    t.train()
    with torch.no_grad():
        assert torch.equal(t.export()(few.pixel_values).logits.argmax(-1), new)
    with pytest.raises(AlreadyForgottenError, match="names them by their new label already"):
        build(tmp_path, t.export(), few, goal="relabel", **own)


def test_images_that_resist_are_named(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "hf_dtl"):
        build(tmp_path, rows=range(100, 107), max_steps=1, learning_rate=1e-9, **PLAIN).train()
    assert "Not forgotten after 1 steps: rows 100, 101, 102, 103, 104, 105, 106 (7 of 7)" in caplog.text


def test_it_goes_on_where_it_may_not_stop_and_looks_when_it_should(tmp_path):
    t = build(tmp_path, max_steps=5, check_every=2, learning_rate=1.0, stop_when_forgotten=False, **PLAIN)
    t.train()
    assert t.state.global_step == 5
    seen = [e["step"] for e in t.state.log_history if "remembered" in e]
    assert seen == [2, 4, 5]


def test_loss_by_hand(tmp_path):
    model = one_headed()
    few = known(model, 2)
    for goal, options in (("misclassify", {}), ("misclassify", {"delta": 0.05}), ("relabel", {})):
        t = build(tmp_path, copy.deepcopy(model), few, goal=goal, max_steps=1, **PLAIN | options)
        with torch.no_grad():
            p = t.teacher(few.pixel_values, task="source").softmax(-1)
        own = -p[torch.arange(2), few.labels].log()
        new = -p[torch.arange(2), t.aims].log()
        wanted = {"misclassify": -own.mean(), "relabel": new.mean()}[goal]
        if options:
            wanted = -(1.05 - (-own).exp()).log().mean()
        t.train()
        log = next(e for e in t.state.log_history if "disposal_value" in e)
        assert log["disposal_value"] == pytest.approx(wanted.item(), rel=1e-5)
        assert log["loss"] == pytest.approx(0.125 * wanted.item(), rel=1e-3)
        assert log["source_loss"] == pytest.approx(own.mean().item(), rel=1e-5)


# What is retained -------------------------------------------------------------------------------------------------


def test_adversaries_are_near_their_images_never_toward_the_true_label_and_all_shown(tmp_path):
    t = build(tmp_path, examples=6, attack_steps=8, per_device_retain_batch_size=42, max_steps=1)
    images, made = t.instances.images, t.train_dataset.retain
    assert len(made) == 6 * len(images)
    pixels, before = made.pixel_values / 2 + 0.5, images.pixel_values.repeat_interleave(6, 0) / 2 + 0.5
    distance = (pixels - before).flatten(1).norm(dim=1)
    assert pixels.min() >= -1e-6 and pixels.max() <= 1 + 1e-6
    assert (distance <= 1 + 1e-5).all() and (distance > 0.1).all()
    true = images.labels.repeat_interleave(6)
    assert (made.labels != true).all() and made.labels.max() < 6 and len(set(made.labels.tolist())) > 2
    with torch.no_grad():
        near, far = (
            torch.nn.functional.cross_entropy(t.teacher(x, task="source"), made.labels)
            for x in (made.pixel_values, images.pixel_values.repeat_interleave(6, 0))
        )
    assert near < far - 0.01
    assert len({image.numpy().tobytes() for image in made.pixel_values}) == len(made), "draws of their own"
    t.train()
    log = next(e for e in t.state.log_history if "target_cross_entropy" in e)
    assert log["target_cross_entropy"] == pytest.approx(near.item(), rel=1e-4)
    assert log["importance_penalty"] == 0 and log["loss"] == pytest.approx(
        near.item() + 0.125 * log["disposal_value"], rel=1e-3
    )


def test_no_image_but_those_to_forget_is_looked_at(tmp_path):
    class Never(torch.utils.data.Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            raise AssertionError("looked at")

    one, two = build(tmp_path, retain=Never(), max_steps=2), build(tmp_path, max_steps=2)
    for t in (one, two):
        t.train()
    assert_same(one.model, two.model)


def test_importance_anchors_and_is_that_of_the_given_model(tmp_path):
    distances = []
    for weight in (0.0, 300.0):
        t = build(
            tmp_path, adversarial=False, importance_weight=weight, max_steps=8, learning_rate=3e-3, forget_weight=1.0,
            stop_when_forgotten=False,
        )  # fmt: skip
        assert all(o.min() >= 0 and o.max() <= 1 and torch.isfinite(o).all() for o in t.importance)
        t.train()
        triples = list(zip(t.trained, t.initial_weights, t.importance, strict=True))
        moved = sum((((1 - o) * (mine - given)) ** 2).sum() for mine, given, o in triples)
        penalty = [e["importance_penalty"] for e in t.state.log_history if "importance_penalty" in e]
        assert penalty[0] == 0 and penalty[-1] > 0
        distances.append(moved.item())
    assert distances[1] < 0.9 * distances[0]
    model = copy.deepcopy(t.teacher).requires_grad_(True)
    model(t.instances.images.pixel_values, task="source").norm(dim=-1).mean().backward()
    for (name, p), o in zip(
        [(n, p) for n, p in model.named_parameters() if dict(t.model.named_parameters())[n].requires_grad],
        t.importance, strict=True,
    ):  # fmt: skip
        size = p.grad.abs()
        if o.max() > 0:
            assert torch.allclose(o, (size - size.min()) / (size.max() - size.min()), atol=1e-3), name


def test_projection_keeps_out_of_the_span_of_the_adversaries(tmp_path):
    t = build(tmp_path, project=True, threshold=0.8, learning_rate=0.3, max_steps=4, stop_when_forgotten=False)
    t.train()
    given = dict(t.teacher.named_modules())
    checked = 0
    for name in t.basis.vectors:
        weight = t.model.get_submodule(name).weight
        change = (weight - given[name].weight).detach()
        if change.norm() > 0.02 * weight.norm():
            checked += 1
            assert t.basis.protected_share(name, change) < 1e-5, name
    assert checked > 1
    wanted = t.collect(t.train_dataset.retain)
    assert wanted.images == 21, "of the adversaries alone"
    with torch.no_grad():
        for module, original in zip(t.model.modules(), given.values(), strict=True):
            if isinstance(module, torch.nn.LayerNorm):
                assert_same(module, original)


def test_distillation_retains_more_of_the_original_answers(tmp_path):
    options = dict(importance=False, max_steps=8, learning_rate=3e-3, forget_weight=1.0, stop_when_forgotten=False)
    with_it = build(tmp_path, target_ce_weight=0.0, distillation_weight=30.0, **options)
    without = build(tmp_path, adversarial=False, **options)
    x, apart = with_it.train_dataset.retain.pixel_values, []
    for t in (with_it, without):
        t.train()
        with torch.no_grad():
            apart.append((t.model.eval()(x, task="source") - t.teacher(x, task="source")).norm().item())
    assert apart[0] < 0.8 * apart[1]


# Adversaries on disk, and the range of pixels ---------------------------------------------------------------------


def test_adversaries_are_found_again_only_for_the_same_model_images_and_options(tmp_path, monkeypatch):
    folder = tmp_path / "kept"
    options = {"adversaries_folder": str(folder), "importance": False}
    first = build(tmp_path, **options)
    (file,) = folder.iterdir()
    calls = []
    pgd = "hf_dtl.trainers.adversaries.targeted_l2_pgd"
    monkeypatch.setattr(pgd, lambda classify, images, targets, **kwargs: calls.append(1) or images)
    again = build(tmp_path, **options)
    assert not calls and torch.equal(again.train_dataset.retain.pixel_values, first.train_dataset.retain.pixel_values)
    assert torch.equal(again.train_dataset.retain.labels, first.train_dataset.retain.labels)
    other = one_headed()
    other.heads["source"].weight.data[0] += 1e-6
    dimmed = known(one_headed())
    dimmed.pixel_values[0, 0, 0, 0] += 1e-6
    for change in (
        {"model": other}, {"forget": dimmed}, {"epsilon": 1.1}, {"seed": 4}, {"attack_steps": 4},
    ):  # fmt: skip
        before = len(calls)
        build(tmp_path, **options | change)
        assert len(calls) > before, change
    assert len(list(folder.iterdir())) == 6


def test_damaged_adversaries_are_made_anew(tmp_path, caplog):
    folder = tmp_path / "kept"
    first = build(tmp_path, adversaries_folder=str(folder), importance=False)
    (file,) = folder.iterdir()
    for damage in (b"junk", None):
        if damage is None:
            save_file({"pixel_values": torch.zeros(2)}, file)
        else:
            file.write_bytes(damage)
        with caplog.at_level(logging.WARNING, "hf_dtl"):
            again = build(tmp_path, adversaries_folder=str(folder), importance=False)
        assert "are made anew" in caplog.text
        caplog.clear()
        assert torch.equal(load_file(file)["pixel_values"], first.train_dataset.retain.pixel_values)
        assert torch.equal(again.train_dataset.retain.pixel_values, first.train_dataset.retain.pixel_values)


@pytest.mark.parametrize(
    ("processor", "mean", "std"),
    [
        (None, 0.0, 1.0),
        (embedded_processor(16), 0.5, 0.5),
        (ViTImageProcessorPil(size={"height": 8, "width": 8}, do_normalize=False), 0.0, 1.0),
        (ViTImageProcessorPil(size={"height": 8, "width": 8}, do_normalize=False, do_rescale=False), 0.0, 1 / 255),
    ],
)
def test_scale_of_pixels(processor, mean, std):
    found = pixel_scale(processor, 3)
    assert torch.allclose(found[0], torch.full((3,), mean), atol=1e-6)
    assert torch.allclose(found[1], torch.full((3,), std), atol=1e-6)


def test_scale_of_each_channel_and_of_grey_images():
    processor = default_processor(CONFIGS["vit"]())
    mean, std = pixel_scale(processor, 3)
    assert np.allclose(mean, processor.image_mean, atol=1e-5) and np.allclose(std, processor.image_std, atol=1e-5)
    grey = ViTImageProcessorPil(
        size={"height": 8, "width": 8}, image_mean=[0.2], image_std=[0.4], do_convert_rgb=False
    )
    assert np.allclose([x.item() for x in pixel_scale(grey, 1)], [0.2, 0.4], atol=1e-5)


def test_pixels_out_of_range_need_their_processor(tmp_path):
    with pytest.raises(ConfigError, match=r"pixels run from -1 to 0.953; .* Give the image processor that made them"):
        build(tmp_path, processor=None)
    forget = known(one_headed())
    forget.pixel_values = forget.pixel_values * 2
    with pytest.raises(ConfigError, match="another image processor than the given one"):
        build(tmp_path, forget=forget)
    build(tmp_path, processor=None, max_steps=1, **PLAIN)  # no adversary, no range


def test_adversaries_beyond_memory_are_refused():
    model = one_headed()
    with pytest.raises(ConfigError, match=r"1000000 adversaries of each of 7 images take 20.0 GiB.*Lower examples"):
        make_adversaries(model, known(model), "source", processing_class=NORMALISED, examples=1_000_000)


# Any classifier, any split ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet", "swin", "convnext", "dinov2"])
def test_architectures_train_and_buffers_stay(tmp_path, name):
    model = two_headed(name)  # with a second head, which is left alone
    t = build(tmp_path, model, known(model, 3), max_steps=2, learning_rate=0.1, importance_weight=1.0)
    t.train()
    buffers = dict(t.teacher.named_buffers())
    assert all(torch.equal(b, buffers[n]) for n, b in t.model.named_buffers()), "running statistics"
    assert any((a != b).any() for a, b in zip(t.model.parameters(), t.teacher.parameters(), strict=True))
    assert_same(t.model.heads["target"], t.teacher.heads["target"])
    assert t.export().config.num_labels == 6


def test_split_does_not_matter_and_resumes(tmp_path):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 2

    options = dict(max_steps=4, num_chunks=4, learning_rate=0.02, save_strategy="steps", save_steps=1)
    options |= {"stop_when_forgotten": False, "goal": "relabel"}
    whole = build(tmp_path / "whole", **options)
    whole.train()
    split = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    two = build(tmp_path / "two", **options | split)
    two.train()
    assert_same(two.model, whole.model, 1e-5)
    build(tmp_path / "cut", callbacks=[Stop()], **options).train()
    resumed = build(tmp_path / "cut", **options)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 4
    assert_same(resumed.model, whole.model)


def test_few_images_are_not_shown_several_times_in_a_step(tmp_path):
    t = build(tmp_path, forget=known(one_headed(), 3), per_device_train_batch_size=64, num_chunks=2, **PLAIN)
    streams = t.train_dataset
    assert streams.forget_indices(0).shape == (2, 2) and streams.steps_per_epoch == 1
    assert set(streams.forget_indices(5).flatten().tolist()) == {0, 1, 2}


CASES = {
    "all": {"project": False, "distillation_weight": 0.5},
    "relabel_projected_resnet": {"goal": "relabel", "project": True, "threshold": 0.5},
    "none": PLAIN,
    "collages": {"strategy": "collages", "optim": "sgd"} | PLAIN,
}


def main(output: Path) -> None:
    """Train every case with 8 forget images and 4 chunks a step, whatever the number of processes."""
    for case, options in CASES.items():
        world = UnlearningConfig(output_dir=str(output), use_cpu=True).world_size
        batch = {"per_device_train_batch_size": 8 // world, "num_chunks": 4, "max_steps": 3, "learning_rate": 0.05}
        batch |= {"examples": 12, "adversaries_folder": str(output / f"kept{world}")}  # more than one batch of them
        model = one_headed("resnet" if "resnet" in case else "vit")
        data = ImageTensors(source().pixel_values[:9], predict(model, source().pixel_values[:9], "source"))
        data.labels[4] = (data.labels[4] + 1) % 6
        t = build(output, model, data, stop_when_forgotten=False, **batch | options)
        assert t.skipped.rows == ([] if t.args.strategy == "collages" else [4])
        t.train()
        retain = t.train_dataset.retain
        state = {n: v.detach().clone().contiguous() for n, v in t.model.state_dict().items()}
        state |= {
            "adversaries": torch.stack([retain[i]["pixel_values"] for i in range(min(len(retain), 200))]),
            "left": torch.tensor(t.remaining_rows()),
        }
        for name in ("disposal_value", "remembered", "importance_penalty", "retain_loss"):
            found = [e[name] for e in t.state.log_history if name in e]
            state[f"log.{name}"] = torch.tensor(found, dtype=torch.float64)
        if t.args.adversarial:  # read, and told to the other process
            again = build(output, one_headed("resnet" if "resnet" in case else "vit"), data, **batch | options)
            assert torch.equal(again.train_dataset.retain.pixel_values, state["adversaries"])
        save_file(state, output / f"{case}-{world}-{t.args.process_index}.safetensors")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    main(folder)
    status, _, err = run_on_two(__file__, folder)
    assert status == 0, err[-4000:]
    return folder


@pytest.mark.distributed
@pytest.mark.parametrize("case", CASES)
def test_two_processes_match_one(runs, case):
    one, *two = (load_file(runs / f"{case}-{suffix}.safetensors") for suffix in ("1-0", "2-0", "2-1"))
    assert all(torch.equal(two[0][name], two[1][name]) for name in one), "the ranks diverged"
    assert torch.equal(one["adversaries"], two[0]["adversaries"]), "bit by bit"
    start = one_headed("resnet" if "resnet" in case else "vit").state_dict()
    moved = torch.cat([(one[n] - start[n]).flatten() for n in start])
    apart = torch.cat([(one[n] - two[0][n]).flatten() for n in start])
    assert moved.norm() > 1e-3 and apart.norm() < 1e-3 * moved.norm(), apart.norm() / moved.norm()
    assert all(torch.allclose(one[n], two[0][n], rtol=1e-3, atol=1e-6) for n in one if n.startswith("log."))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
