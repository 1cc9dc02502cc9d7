"""The attacks that train as long as anybody would: where each starts, and the accuracy that it has on the way."""

import copy
from dataclasses import replace
from functools import cache

import pytest
import torch
from architectures import CONFIGS
from attack_toys import ALL, build, larger, larger_task, named, trained
from audit_toys import QUICK, split, task, vit
from transformers import AutoModelForImageClassification

from hf_dtl.audit import no_model, run_audit
from hf_dtl.audit.attacks import Unit, find_attack, plan, registry
from hf_dtl.audit.attacks.changed_weights import last_blocks
from hf_dtl.audit.attacks.choice import share_right
from hf_dtl.audit.attacks.context import AttackContext
from hf_dtl.audit.piggyback import Attacker
from hf_dtl.audit.references import scratch_model
from hf_dtl.errors import ConfigError, ModelError
from hf_dtl.models.heads import MultiHeadClassifier

STARTS = (
    "full", "head_first", "published", "prototype", "reinitialised_last", "reinitialised_half", "relative", "lora",
    "retain_first", "rounded_8", "rounded_4", "interpolated", "extrapolated",
)  # fmt: skip
NAMES = [f"{start}_{form}" for start in STARTS for form in ("affine", "crop_flip")]


@pytest.fixture
def short(monkeypatch):
    """The attacks as they are, but for 24 steps."""
    for name in NAMES:
        own = find_attack(name)
        assert (own.training_steps, own.checkpoints) == (400, (50, 100, 200)) and own.description.endswith(".")
        monkeypatch.setitem(registry._registered, name, replace(own, training_steps=24, checkpoints=(6, 12)))


@cache
def learned(architecture):
    base = trained(build(architecture), larger(split(10, seed=5)), steps=10)
    return base, named(trained(base, larger(split(20, seed=7))), [f"class {i}" for i in range(6)])


def models(architecture="vit"):
    """A base that learned other classes, and a model that was trained from it on the attacked ones."""
    return copy.deepcopy(learned(architecture))


@pytest.mark.parametrize("start", STARTS)
def test_it_relearns_the_same_again_and_tells_every_checkpoint(short, start):
    config = replace(ALL, full_learning_rates=(1e-2,), lora_learning_rates=(1e-2,))
    units = [Unit(f"{start}_affine", 4, seed) for seed in (0, 1)]
    for architecture in ("vit", "resnet"):
        base, model = models(architecture)
        before = copy.deepcopy(model.state_dict())
        attacker = Attacker(model, larger_task(), config, base=base)
        found = attacker.run_stack(units)
        assert architecture == "resnet" or attacker.run_stack(units) == found
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        for result in found:
            assert [steps for steps, _, _ in result.curve] == [6, 12, 24]
            highest = max(validation for _, validation, _ in result.curve)
            own = next(point for point in result.curve if point[1] == highest)  # the first of equals
            assert result.effort == own[0] and result.validation_accuracy >= highest
            # Copies of the images that it answers count from the chosen point on, where validation says so.
            assert result.accuracy == own[2] or result.validation_accuracy > highest
        assert max(result.accuracy for result in found) > 0.5, "three classes: guessing gives a third"
        config, units = ALL, [Unit(f"{start}_crop_flip", 4, 1)]


def test_the_curve_is_that_of_shorter_attacks_until_the_rate_falls(short, monkeypatch):
    """Each point is what `share_right` gives with the tensors of that checkpoint; the plain loop finds the same."""
    monkeypatch.setattr("hf_dtl.audit.attacks.fine_tuning.schedule", lambda step, steps: 1.0)  # no fall: nested
    _, model = models()
    config = replace(ALL, full_learning_rates=(1e-3,))
    curve = Attacker(model, larger_task(), config).run("full_affine", 4, 0).curve
    for steps, validation, test in curve:
        own = replace(find_attack("full_affine"), training_steps=steps, checkpoints=(), answers=0)
        monkeypatch.setitem(registry._registered, "full_affine", own)
        alone = Attacker(model, larger_task(), config).run("full_affine", 4, 0)
        assert (alone.curve, alone.effort) == ((), steps)
        assert (alone.validation_accuracy, alone.accuracy) == pytest.approx((validation, test), abs=0.02)


def start(name, unit_seed=0, base=None, model=None):
    base_, model_ = models()
    model = model or model_
    context = AttackContext(model, larger_task(), ALL, base=(base or base_) if find_attack(name).needs_base else None)
    unit, attack = Unit(name, 4, unit_seed), find_attack(name)
    (member,) = attack.members(context, [unit], [1e-3])
    return context, model, base or base_, member.start


def backbone(model):
    return {f"model.backbone.{n}": p for n, p in MultiHeadClassifier(copy.deepcopy(model)).backbone.named_parameters()}


@pytest.mark.parametrize(("name", "layers"), [("reinitialised_last_affine", "3"), ("reinitialised_half_affine", "23")])
def test_reinitialised_blocks_are_fresh_and_the_others_are_published(name, layers):
    deep = CONFIGS["vit"]()
    deep.num_hidden_layers = 4
    model = trained(AutoModelForImageClassification.from_config(deep), larger(split(4)), steps=2)
    *_, found = start(name, 3, model=model)
    published, fresh = backbone(model), backbone(scratch_model(model, 3))
    last = tuple(f"model.backbone.vit.{part}." for part in (*(f"layers.{layer}" for layer in layers), "layernorm"))
    for key in published:
        assert torch.equal(found[key], (fresh if key.startswith(last) else published)[key]), key
    weight = "model.backbone.vit.layers.3.mlp.fc1.weight"
    assert not torch.equal(found[weight], published[weight])
    assert not torch.equal(found[weight], start(name, 4, model=model)[3][weight])


@pytest.mark.parametrize("architecture", CONFIGS)
def test_the_last_blocks_of_any_backbone_are_a_part_that_grows(architecture):
    model = build(architecture)
    context = AttackContext(model, larger_task(), QUICK)
    everything = [name for name in context.network("full").trained if ".heads." not in name]
    one, half, all_blocks = (last_blocks(context, share) for share in (0.0, 0.5, 1.0))
    assert 0 < len(one) <= len(half) < len(everything) and len(half) < len(all_blocks) <= len(everything)
    assert everything[-len(one) :] == one and everything[-len(half) :] == half


def test_without_blocks_everything_is_made_anew():
    toy = task()
    attacker = Attacker(no_model(toy), toy, QUICK)
    assert last_blocks(attacker, 0.0) == [n for n in attacker.network("full").trained if ".heads." not in n]


@pytest.mark.parametrize(("name", "factor"), [("interpolated_affine", 0.5), ("extrapolated_affine", 2.0)])
def test_the_difference_starts_from_a_point_on_the_line_through_base_and_model(name, factor):
    _, model, base, found = start(name)
    published, public = backbone(model), backbone(base)
    for key, value in published.items():
        torch.testing.assert_close(found[key], public[key] + factor * (value - public[key]))


@pytest.mark.parametrize(("name", "levels"), [("rounded_8_affine", 255), ("rounded_4_affine", 15)])
def test_rounded_weights_have_few_values_a_row(name, levels):
    _, model, _, found = start(name)
    for key, value in backbone(model).items():
        rows = found[key].reshape(len(value) if value.dim() > 1 else 1, -1)
        assert all(len(row.unique()) <= levels for row in rows)
        step = value.reshape(rows.shape).abs().amax(1, keepdim=True) / (levels // 2)
        assert ((rows - value.reshape(rows.shape)).abs() <= step / 2 * 1.001).all()


def test_the_head_of_class_means_classifies_by_the_nearest_mean():
    context, _, _, found = start("prototype_affine")
    images, labels = context.images(Unit("prototype_affine", 4, 0))
    features, queries = context.features(images), context.split_features(context.task.test)
    mean, deviation = features.mean(0), features.std(0, correction=0)
    deviation = deviation + 1e-2 * deviation.mean() + 1e-6
    means = torch.stack([((features[labels == i] - mean) / deviation).mean(0) for i in range(3)])
    nearest = torch.cdist((queries - mean) / deviation, means).argmin(1)
    weight, bias = found["model.heads.attacked.weight"], found["model.heads.attacked.bias"]
    logits = queries @ weight.T + bias
    assert torch.equal(logits.argmax(1), nearest) and share_right(logits, context.task.test.labels) > 0.6


def test_retain_first_trains_as_long_on_retain_images_as_without_the_length():
    long, plain = find_attack("retain_first_affine"), find_attack("retain_then_full")
    assert long.retain_steps(QUICK, 90) == plain.retain_steps(QUICK, 90) == plain.steps(QUICK, 90) == 20
    assert long.steps(QUICK, 90) == 400


def test_a_base_is_needed_is_of_the_same_architecture_and_is_in_the_key(short):
    base, model = models()
    toy, config = larger_task(), replace(ALL, attacks=("interpolated_affine", "ridge"), budgets=(4,), seeds=(0,))
    assert [unit.attack for unit in plan.units(model, toy, config)] == ["ridge"]
    assert [unit.attack for unit in plan.units(model, toy, config, base)] == list(config.attacks)
    with pytest.raises(ConfigError, match="it needs a base model"):
        Attacker(model, toy, config).run("interpolated_affine", 4, 0)
    with pytest.raises(ModelError, match="base model .ResNet.* has another architecture .* weights differ in shape"):
        Attacker(model, toy, config, base=build("resnet"))
    with pytest.raises(ModelError, match="another architecture"):
        run_audit({"scrubbed": model, "base": build("deit")}, {"a": toy}, config, progress=False)
    wider = copy.deepcopy(base)
    wider.classifier = torch.nn.Linear(wider.config.hidden_size, 9)
    wider.config.num_labels = 9
    assert Attacker(model, toy, config, base=wider).base is wider
    keys = [
        find_attack(name).fingerprint(Unit(name, 4, 0), config, "model", "task", None, None, print_)
        for name in config.attacks
        for print_ in ("one", "other")
    ]
    assert keys[0] != keys[1] and keys[2] == keys[3]


def test_the_role_base_is_the_base_of_all_that_may_have_come_from_it(short, tmp_path):
    base, model = models()
    given = {"undisposed": model, "scrubbed": build("vit", 4), "scratch": build("vit", 5), "base": base}
    config = replace(ALL, attacks=("interpolated_affine", "ridge"), budgets=(4,), seeds=(0,))
    found = run_audit(given, {"a": larger_task()}, config, progress=False, store=tmp_path / "store.jsonl")
    assert {record.model for record in found if record.attack == "interpolated_affine"} == {"undisposed", "scrubbed"}
    assert {record.model for record in found if record.attack == "ridge"} == set(given)
    assert run_audit(given, {"a": larger_task()}, config, progress=False, store=tmp_path / "store.jsonl") == found
    other = given | {"base": vit_like(base)}
    run_audit(other, {"a": larger_task()}, config, progress=False, store=tmp_path / "store.jsonl")
    assert len((tmp_path / "store.jsonl").read_text().splitlines()) == 6 + 3, "two with another base, and its ridge"


def vit_like(base):
    other = copy.deepcopy(base)
    with torch.no_grad():
        other.vit.layernorm.weight.mul_(1.1)
    return other


def test_an_attack_that_needs_no_base_is_not_stopped_by_one_of_another_architecture():
    toy, config = task(), replace(QUICK, attacks=("ridge",), budgets=(4,), seeds=(0,))
    found = run_audit({"scrubbed": vit(), "base": vit(4)}, {"a": toy}, config, progress=False)
    assert len(found) == 2
