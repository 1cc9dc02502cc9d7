"""Regressions on frozen features of every depth, and the floor of an attacker without any weights."""

import pytest
import torch
from architectures import CONFIGS
from attack_toys import build, larger_task, trained
from audit_toys import QUICK, split, task, vit

from hf_dtl.audit import no_model
from hf_dtl.audit.attacks import kernel_ridge
from hf_dtl.audit.piggyback import Attacker, piggyback_attack
from hf_dtl.data import ImageTensors

NAMES = ("ridge", "ridge_affine", "ridge_crop_flip")


@pytest.fixture
def few_values(monkeypatch):
    """Feature maps and tokens are too large, as those of large networks are."""
    monkeypatch.setattr(kernel_ridge, "MOST_VALUES", 40)


@pytest.mark.parametrize("architecture", ["vit", "resnet"])
def test_large_depths_are_averaged(few_values, architecture):
    attacker = Attacker(build(architecture), larger_task(), QUICK)
    readings = kernel_ridge.readings_of(attacker, larger_task().validation.pixel_values)
    states, features = attacker.heads.hidden_states(larger_task().validation.pixel_values)
    assert len(readings) == len(states) + 2 and torch.equal(readings[-2], features)
    assert all(reading.shape[1] <= 40 or reading.shape[1] == width for reading, width in zip(
        readings, [state.shape[1] if state.ndim == 4 else state.shape[2] for state in states], strict=False
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
    monkeypatch.setattr(kernel_ridge, "CHOOSING_ROWS", 10)
    fitted, fit = [], kernel_ridge.Regression.fit
    monkeypatch.setattr(
        kernel_ridge.Regression,
        "fit",
        lambda readings, labels, *a: fitted.append(len(labels)) or fit(readings, labels, *a),
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


def test_without_weights_the_features_are_the_pixels():
    toy = task()
    attacker = Attacker(no_model(toy), toy, QUICK)
    pixels = toy.validation.pixel_values
    assert torch.equal(attacker.features(pixels), pixels.flatten(1))
    for name in (*NAMES, "linear_probe", "full"):
        assert attacker.run(name, 4, 0).accuracy > 0.6


def test_copies_are_other_forms_of_the_images_and_change_nothing_else():
    images, attack = task().train.pixel_values[:3], kernel_ridge.KernelRidge(name="x", augmentation="affine")
    copies = attack._copies(images, 3, seed=4)
    assert copies.shape[0] == 9 and torch.equal(copies[:3], images)
    assert not any(torch.equal(copies[i], copies[j]) for i in range(9) for j in range(i))
    assert torch.equal(copies, attack._copies(images, 3, seed=4))


def test_the_test_split_decides_nothing():
    """With other labels on the test split the choice, and so the validation accuracy, is the same."""
    model, toy = trained(vit(), split(20, seed=7)), task()
    own = {"num_classes": 3, "attack": "ridge_affine", "budget": 2, "seed": 0, "config": QUICK}
    turned = ImageTensors(toy.test.pixel_values, (toy.test.labels + 1) % 3)
    one, other = (piggyback_attack(model, toy.train, toy.validation, test, **own) for test in (toy.test, turned))
    assert one.validation_accuracy == other.validation_accuracy and one.accuracy > 0.6 > other.accuracy
