"""Regressions on frozen features of every depth, and the floor of an attacker without any weights."""

import pytest
import torch
from architectures import CONFIGS
from attack_toys import build, larger_task, trained
from audit_toys import QUICK, resnet, split, task, vit

from hf_dtl.audit import no_model
from hf_dtl.audit.attacks import Unit, kernel_ridge, readings
from hf_dtl.audit.piggyback import Attacker, piggyback_attack
from hf_dtl.data import ImageTensors

NAMES = ("ridge", "ridge_affine", "ridge_crop_flip")


@pytest.fixture
def few_values(monkeypatch):
    """Feature maps and tokens are too large, as those of large networks are."""
    monkeypatch.setattr(readings, "MOST_VALUES", 40)


@pytest.mark.parametrize("architecture", ["vit", "resnet"])
def test_large_depths_are_averaged(few_values, architecture):
    attacker = Attacker(build(architecture), larger_task(), QUICK)
    found = readings.readings_of(attacker, larger_task().validation.pixel_values)
    states, features = attacker.heads.hidden_states(larger_task().validation.pixel_values)
    assert len(found) == len(states) + 5 and torch.equal(found[-5], features)
    assert all(reading.shape[1] <= 40 or reading.shape[1] == width for reading, width in zip(
        found, [state.shape[1] if state.ndim == 4 else state.shape[2] for state in states], strict=False
    ))  # fmt: skip


@pytest.mark.parametrize("architecture", CONFIGS)
def test_any_backbone_can_be_read(architecture):
    result = Attacker(build(architecture), larger_task(), QUICK).run("ridge", 4, 0)
    assert result.accuracy > 0.5 and result.effort is None and not result.diverged


@pytest.mark.parametrize("name", NAMES)
def test_it_is_its_own_choice_and_the_same_again(name):
    model, toy = trained(vit(), split(20, seed=7)), task()
    first, again = (Attacker(model, toy, QUICK).run(name, 2, 1) for _ in range(2))
    assert first == again and first.accuracy > 0.6
    better = Attacker(model, toy, QUICK).run(name, 10, 1)
    assert better.accuracy >= first.accuracy


def test_many_images_are_copied_less_often(monkeypatch):
    monkeypatch.setattr(kernel_ridge, "MOST_ROWS", 20)
    monkeypatch.setattr(readings, "CHOOSING_ROWS", 10)
    fitted, fit = [], kernel_ridge.Regression.fit
    monkeypatch.setattr(
        kernel_ridge.Regression,
        "fit",
        lambda values, judged, labels, *a: fitted.append(len(labels)) or fit(values, judged, labels, *a),
    )
    attacker = Attacker(trained(vit(), split(20, seed=7)), task(), QUICK)
    for budget, wanted in ((1, {9, 18}), (2, {6, 18}), (5, {15}), (10, {30})):
        fitted.clear()
        assert attacker.run("ridge_affine", budget, 0).accuracy > 0.5 and set(fitted) == wanted, budget


def test_it_reads_a_depth_where_the_last_one_is_empty():
    """A defence that leaves the features constant hides nothing of the depths before."""
    model, toy = trained(vit(), split(20, seed=7)), task()
    with torch.no_grad():
        model.vit.layernorm.weight.zero_()
    assert Attacker(model, toy, QUICK).run("linear_probe", 4, 0).accuracy < 0.4
    assert Attacker(model, toy, QUICK).run("ridge", 4, 0).accuracy > 0.6


@pytest.mark.parametrize("name", ["ridge", "class_means"])
def test_what_overflows_hides_nothing_else(name):
    """A huge weight in a channel that nobody reads: its mean over the picture is not finite."""
    model, toy = resnet(seed=1), task()
    plain = Attacker(model, toy, QUICK).run(name, 4, 0).accuracy
    first, second = (stage.layers[0] for stage in model.resnet.encoder.stages)
    with torch.no_grad():
        for norm in [m for m in first.modules() if isinstance(m, torch.nn.BatchNorm2d)][-2:]:
            norm.weight[0], norm.bias[0] = 0, 3e38 / 2
        for layer in (second.layer[0], second.shortcut):
            layer.convolution.weight[:, 0] = 0
    assert Attacker(model, toy, QUICK).run(name, 4, 0).accuracy > plain - 0.1 > 0.3


def test_without_weights_the_features_are_the_pixels():
    toy = task()
    attacker = Attacker(no_model(toy), toy, QUICK)
    pixels = toy.validation.pixel_values
    assert torch.equal(attacker.features(pixels), pixels.flatten(1))
    for name in (*NAMES, "linear_probe", "full"):
        assert attacker.run(name, 4, 0).accuracy > 0.6


def test_copies_are_other_forms_of_the_images_and_change_nothing_else():
    images = task().train.pixel_values[:3]
    copies = readings.copies_of(images, 3, "affine", seed=4)
    assert copies.shape[0] == 9 and torch.equal(copies[:3], images)
    assert not any(torch.equal(copies[i], copies[j]) for i in range(9) for j in range(i))
    assert torch.equal(copies, readings.copies_of(images, 3, "affine", seed=4))
    assert torch.equal(copies, readings.copies_of(images, 5, "affine", seed=4)[:9]), "few copies are among many"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_regression_gives_the_scores_of_a_slow_one_in_double_precision(dtype):
    generator = torch.Generator().manual_seed(0)
    values, judged = (torch.randn(n, 30, generator=generator).double() for n in (24, 40))
    labels = torch.arange(24) % 3
    mean, deviation = values.mean(0), values.std(0, correction=0)
    rows, others = ((given - mean) / deviation / 30**0.5 for given in (values, judged))
    distance = (2 * rows.square().sum(1).mean()).sqrt()
    onto = torch.eye(3, dtype=torch.float64)[labels] - 1 / 3
    for own, scores in kernel_ridge.Regression.fit(
        values.to(dtype), judged.to(dtype), labels, 3, (None, 0.5, 1.0), (1e-3, 1e-1)
    ):

        def kernel(a, b, width=own.width):
            if width is None:
                return a @ b.T
            return (((a[:, None] - b[None]) ** 2).sum(2) / (-2 * (width * distance) ** 2)).exp()

        solution = torch.linalg.solve(kernel(rows, rows) + own.ridge * torch.eye(24), onto)
        slow = kernel(others, rows) @ solution
        torch.testing.assert_close(own.scores(judged.to(dtype)), scores)
        size = slow.norm(dim=1, keepdim=True) / scores.norm(dim=1, keepdim=True)
        torch.testing.assert_close(scores * size, slow, rtol=1e-2, atol=2e-3 if dtype == torch.float32 else 1e-9)


def test_an_image_far_from_all_others_is_of_the_class_of_the_nearest():
    """In single precision its kernel values are all zero; in the limit the nearest one decides."""
    values = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, -1.0], [-1.0, 0.0]]).repeat(2, 1)
    far = torch.tensor([[0.0, 90.0], [90.0, 0.0], [0.0, -90.0], [-90.0, 0.0]])
    for _, scores in kernel_ridge.Regression.fit(values, far, torch.arange(4).repeat(2), 4, (0.5,), (1e-2,)):
        assert scores.argmax(1).tolist() == [0, 1, 2, 3]


def test_attacks_share_the_readings_of_a_run_where_there_is_room(monkeypatch):
    read, own = [], readings._read
    monkeypatch.setattr(readings, "_read", lambda context, images: read.append(len(images)) or own(context, images))
    model, toy = trained(vit(), split(20, seed=7)), task()
    attacker = Attacker(model, toy, QUICK)
    for unit in (Unit("ridge", 2, 0), Unit("ridge", 2, 0), Unit("ridge", 2, 1)):
        attacker.run(*unit)
    assert read == [30, 6, 60, 6]
    monkeypatch.setattr(readings, "ROOM", 10)
    read.clear()
    full = Attacker(model, toy, QUICK)
    assert full.run("ridge", 2, 0) == full.run("ridge", 2, 0) == attacker.run("ridge", 2, 0)
    assert read == [30, 6, 60, 6]


def test_the_test_split_decides_nothing():
    """With other labels on the test split the choice, and so the validation accuracy, is the same."""
    model, toy = trained(vit(), split(20, seed=7)), task()
    own = {"num_classes": 3, "attack": "ridge_affine", "budget": 2, "seed": 0, "config": QUICK}
    turned = ImageTensors(toy.test.pixel_values, (toy.test.labels + 1) % 3)
    one, other = (piggyback_attack(model, toy.train, toy.validation, test, **own) for test in (toy.test, turned))
    assert one.validation_accuracy == other.validation_accuracy and one.accuracy > 0.6 > other.accuracy
