"""Attacks in closed form beside kernel ridge: the nearest class mean, and labels that spread among images."""

import pytest
import torch
from architectures import CONFIGS
from attack_checks import assert_attack
from attack_toys import build, larger_task, trained
from audit_toys import QUICK, resnet, split, task, vit

from hf_dtl.audit import no_model
from hf_dtl.audit.attacks import Unit, find_attack, label_spreading
from hf_dtl.audit.attacks.readings import split_readings, training_readings
from hf_dtl.audit.piggyback import Attacker
from hf_dtl.data import ImageTensors

NAMES = ("class_means", "class_means_affine", "class_means_crop_flip", "label_spreading")


@pytest.mark.parametrize("name", NAMES)
def test_it_relearns_the_same_again_and_leaves_the_model_alone(name):
    assert_attack(name)
    assert find_attack(name).source and find_attack(name).description.endswith(".")


@pytest.mark.parametrize("name", ["class_means_affine", "label_spreading"])
@pytest.mark.parametrize("architecture", CONFIGS)
def test_any_backbone_will_do(architecture, name):
    result = Attacker(build(architecture), larger_task(), QUICK).run(name, 4, 0)
    assert result.accuracy > 0.5 and (result.effort, result.curve) == (None, ())


@pytest.mark.parametrize("name", NAMES)
def test_without_weights_it_learns_from_pixels(name):
    toy = task()
    assert Attacker(no_model(toy), toy, QUICK).run(name, 4, 0).accuracy > 0.6


def test_the_class_means_are_those_of_the_chosen_depth():
    """The plain loop over depths, images and classes finds the same classes."""
    toy = task()
    attacker = Attacker(trained(resnet(), split(20, seed=7)), toy, QUICK)
    found = attacker.run("class_means", 4, 1)
    readings, labels = training_readings(attacker, Unit("class_means", 4, 1), "none")
    reached = []
    for depth, values in enumerate(readings):
        deviation = values.std(0, correction=0)
        deviation = deviation + deviation.mean() / 100 + 1e-6
        means = torch.stack([values[labels == i].mean(0) for i in range(3)]) / deviation
        right = [
            (torch.cdist(split_readings(attacker, part)[depth] / deviation, means).argmin(1) == part.labels)
            for part in (toy.validation, toy.test)
        ]
        reached.append(tuple(own.double().mean().item() for own in right))
    best = max(reached, key=lambda pair: pair[0])
    assert (found.validation_accuracy, found.accuracy) == pytest.approx(best)


def test_labels_spread_among_the_images_that_are_classified():
    """With others beside it an image may be classified otherwise; its label is never read."""
    toy, model = task(noise=1.5), trained(vit(), split(20, seed=7))
    unit = Unit("label_spreading", 2, 0)
    _, _, classify = next(iter(find_attack(unit.attack).train(Attacker(model, toy, QUICK), [unit])))
    whole = classify(toy.test)
    half = ImageTensors(toy.test.pixel_values[:6], (toy.test.labels[:6] + 1) % 3)
    assert whole.shape == (60, 3) and not torch.allclose(classify(half), whole[:6])
    turned = ImageTensors(toy.test.pixel_values, (toy.test.labels + 1) % 3)
    assert torch.equal(classify(turned), whole)


def test_many_images_are_classified_in_portions(monkeypatch):
    toy, model = task(), trained(vit(), split(20, seed=7))
    values, labels = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(3).repeat(2)
    others = values.repeat(3, 1) + 0.01
    monkeypatch.setattr(label_spreading, "MOST_TOGETHER", 7)
    (found,) = label_spreading.spread(values, labels, others, 3, [2], [0.5]).values()
    assert torch.equal(found.argmax(1), labels.repeat(3))
    assert Attacker(model, toy, QUICK).run("label_spreading", 4, 0).accuracy > 0.6
