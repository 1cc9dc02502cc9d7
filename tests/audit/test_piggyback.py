import copy
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from attack_toys import ALL, named, trained
from audit_toys import QUICK, resnet, split, task, vit
from safetensors.torch import save
from torch import nn

from hf_dtl.audit import AttackConfig, accuracy, piggyback_attack
from hf_dtl.audit.attacks import GRID, Unit, find_attack
from hf_dtl.audit.piggyback import Attacker
from hf_dtl.audit.task import draw_images
from hf_dtl.data import ImageTensors
from hf_dtl.errors import ConfigError, DataError, ModelError
from hf_dtl.models.labels import check_named, published_rows
from hf_dtl.models.published_heads import PublishedHeads

TASK = task()
WRONG_SIZE = ImageTensors(torch.zeros(9, 3, 12, 12), torch.arange(3).repeat(3))


def attack(model, attacked=TASK, *, name="full", budget=4, seed=0, config=QUICK):
    return piggyback_attack(
        model, attacked.train, attacked.validation, attacked.test,
        num_classes=len(attacked.labels), attack=name, budget=budget, seed=seed, config=config,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["linear_probe", "full", "head_then_full", "lora", "full_rescaled", "full_longer"])
@pytest.mark.parametrize("build", [vit, resnet])
def test_an_attack_learns_a_separable_task_and_leaves_the_model_and_the_random_state_alone(build, name):
    model = build(seed=1)
    before, random_state = save(model.state_dict()), torch.get_rng_state()
    config = replace(
        QUICK, full_min_steps=40, linear_probe_steps=60, full_learning_rates=(1e-2,),
        linear_probe_learning_rates=(1e-1,), lora_learning_rates=(5e-2,),
    )  # fmt: skip
    result = attack(model, task(noise=0.2), name=name, config=config)
    assert result.accuracy > (0.75 if name == "lora" else 0.85) and not result.diverged
    assert save(model.state_dict()) == before
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize("name", ["linear_probe", "full"])
def test_the_result_depends_on_the_arguments_only(name):
    model = vit(dropout=0.5).train()
    first = attack(model, name=name)
    torch.manual_seed(12345)
    attack(model, name=name, seed=1)
    model.train()
    assert attack(model, name=name) == first
    attacker = Attacker(model, TASK, QUICK)
    attacker.run("linear_probe", 2, 1)
    assert attacker.run(name, 4, 0) == first
    assert model.training


def test_attacks_from_the_published_head_use_its_rows_by_name():
    images = split(40, noise=1.0, seed=5)
    model = named(trained(vit(3, seed=1), images), ("Cat", "dog", "bird"))
    permuted = named(copy.deepcopy(model), ("bird", "cat", "Dog"))
    with torch.no_grad():
        order = [2, 0, 1]
        permuted.classifier.weight.copy_(model.classifier.weight[order])
        permuted.classifier.bias.copy_(model.classifier.bias[order])
    attacked = replace(TASK, labels=("cat", "dog", "bird"))
    slow = replace(ALL, full_learning_rates=(1e-6,), linear_probe_learning_rates=(1e-6,), lora_learning_rates=(1e-6,))
    for name in (attack for attack in GRID if attack.endswith("_published")):
        results = [Attacker(m, attacked, slow).run(name, 2, 0) for m in (model, permuted)]
        # Hardly trained, so what is read is the published head.
        assert results[0] == results[1] and results[0].accuracy > 0.9
        assert Attacker(model, attacked, slow).run(name.removesuffix("_published"), 2, 0).accuracy < 0.9


@pytest.mark.parametrize(
    ("names", "labels", "rows"),
    [
        (("a", "b", "c"), ("C", "a"), [2, 0]),
        (("a", "b", "c"), ("a", "d"), None),
        (("LABEL_0", "LABEL_1"), ("x", "y"), [0, 1]),
        (("LABEL_0", "LABEL_1", "LABEL_2"), ("x", "y"), None),
        (tuple(f"LABEL_{i}" for i in range(12)), ("0", "1", "10", "11", *"23456789"), [0, 1, 10, 11, *range(2, 10)]),
        (("LABEL_0", "LABEL_1", "LABEL_2"), ("1", "10", "2"), [0, 2, 1]),
        (("A", "B", "a"), ("a", "A", "b"), [2, 0, 1]),
        (("caf\u00e9", "jus"), ("jus", "cafe\u0301"), [1, 0]),
        (("crane", "crane", "dog"), ("dog", "cat"), None),
    ],
)
def test_a_published_head_fits_by_name_or_by_number_where_it_has_no_names(names, labels, rows):
    assert published_rows(named(vit(len(names)), names), len(names), labels) == rows


@pytest.mark.parametrize(
    ("names", "labels", "message"),
    [
        (("crane", "crane", "dog"), ("dog", "crane"), "'crane' could be 'crane' .0. or 'crane' .1."),
        (("a", "b"), ("a", "A"), "'a' and 'A' could both be 'a'"),
    ],
)
def test_a_class_that_could_be_two_rows_is_refused(names, labels, message):
    with pytest.raises(ModelError, match=message):
        published_rows(named(vit(len(names)), names), len(names), labels)


@pytest.mark.parametrize(
    ("names", "labels", "fits"),
    [
        (("LABEL_0", "LABEL_1"), ("0", "1"), True),
        (("LABEL_0", "LABEL_1"), ("01", "00"), True),
        (("LABEL_0", "LABEL_1"), ("LABEL_1", "label_0"), True),
        (("LABEL_0", "LABEL_1"), ("1", "2"), False),
        (("LABEL_0", "LABEL_1"), ("cat", "dog"), False),
        (("LABEL_0", "LABEL_1", "LABEL_2"), ("cat", "dog"), True),
        (("cat", "dog"), ("dog", "cat"), True),
    ],
)
def test_which_row_of_a_head_without_names_is_which_class_is_not_guessed(names, labels, fits):
    model = named(vit(len(names)), names)
    check_named(model, labels, by_position=True)
    with nullcontext() if fits else pytest.raises(ModelError, match="scrubbed model has no names.*--head_by_position"):
        check_named(model, labels, False, "scrubbed")


@pytest.mark.parametrize(
    ("names", "labels"),
    [(("cat", "dog"), ("0", "1")), (("0", "1"), ("cat", "dog")), (("3", "7"), ("LABEL_0", "LABEL_1"))],
)
def test_the_position_is_refused_where_the_head_has_names_that_the_data_do_not(names, labels):
    """The option would change nothing, and its user would not know."""
    model = named(vit(len(names)), names)
    with pytest.raises(ModelError, match="is for a head without names .* scrubbed model names .* in both"):
        check_named(model, labels, True, "scrubbed")
    check_named(model, labels, False)
    check_named(model, (*labels, "more"), True)  # of another task


def test_a_whole_task_asks_which_head_is_meant():
    models = {role: named(vit(2), ("LABEL_0", "LABEL_1")) for role in ("undisposed", "scrubbed")}
    kept = {"source": ("cat", "dog"), "target": ("0", "1")}
    assert PublishedHeads.find(models, kept).target == {"undisposed": [0, 1], "scrubbed": [0, 1]}
    for labels in (kept | {"target": ("owl", "fox")}, {"source": ("cat", "dog")}):
        with pytest.raises(ModelError, match="undisposed model has no names"):
            PublishedHeads.find(models, labels)
        assert PublishedHeads.find(models, labels, by_position=True).notes


def test_a_head_that_does_not_count_from_0_is_refused():
    model = vit(3)
    model.config.id2label = {1: "a", 2: "b", 3: "c"}
    with pytest.raises(ModelError, match="names the rows 1, 2, 3; a head of 3 classes has the rows 0 to 2"):
        published_rows(model, 3, ["a", "b"])


def test_attacks_that_use_retain_images():
    """A class is unlearned at the output: its logits fall, its features stay."""
    attacked, images = task(noise=2.0), split(60, noise=2.0, seed=5)
    model = named(trained(vit(3, seed=1), images), attacked.labels)
    forget, hidden = images.labels == 0, copy.deepcopy(model)
    optimizer = torch.optim.SGD(hidden.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        kept, lost = (
            nn.functional.cross_entropy(hidden(images.pixel_values[chosen]).logits, images.labels[chosen])
            for chosen in (~forget, forget)
        )
        (kept - 0.5 * lost).backward()
        optimizer.step()
    before = accuracy(hidden.eval(), attacked.test)
    assert before < accuracy(model, attacked.test) - 0.2
    retain = split(10, noise=2.0, seed=6)
    others = retain.labels > 0
    attacked = replace(attacked, retain=ImageTensors(retain.pixel_values[others], retain.labels[others]))
    config = replace(ALL, full_learning_rates=(1e-3, 3e-3), full_min_steps=40)
    assert Attacker(hidden, attacked, config).run("retain_only", 8, 0).accuracy > before
    assert Attacker(hidden, attacked, config).run("retain_then_full", 8, 0).accuracy > before + 0.1


@pytest.mark.parametrize("name", ["full_published", "retain_only", "retain_then_full"])
def test_an_attack_that_does_not_apply_is_refused_with_what_it_needs(name):
    with pytest.raises(ConfigError, match="published head" if name == "full_published" else "retain images"):
        attack(vit(4), name=name)


@pytest.mark.parametrize(("labels", "words"), [([0, 7], "0..7"), ([], "no image")])
def test_retain_images_must_be_numbered_as_the_published_head(labels, words):
    retain = ImageTensors(torch.zeros(len(labels), 3, 8, 8), torch.tensor(labels, dtype=torch.long))
    with pytest.raises(DataError, match=words):
        Attacker(vit(), replace(TASK, retain=retain), QUICK)


NOISY = task(noise=2.2)


@pytest.fixture(scope="module")
def trap():
    """A trained model, and the same function with normalisation at 1e-3 and the next layers at 1e3 of their size."""
    model = trained(vit(seed=1), split(100, noise=1.5, seed=8), steps=100)
    rescaled = copy.deepcopy(model)
    with torch.no_grad():
        for layer in rescaled.vit.layers:
            attention = (layer.attention.q_proj, layer.attention.k_proj, layer.attention.v_proj)
            for norm, followers in ((layer.layernorm_before, attention), (layer.layernorm_after, (layer.mlp.fc1,))):
                norm.weight *= 1e-3
                norm.bias *= 1e-3
                for follower in followers:
                    follower.weight *= 1e3
    pixels = NOISY.test.pixel_values
    torch.testing.assert_close(rescaled(pixels).logits, model(pixels).logits, rtol=1e-3, atol=1e-3)
    return model, rescaled


def relearned(model, name, *rates, seeds=3):
    attacker = Attacker(model, NOISY, replace(QUICK, full_learning_rates=rates, full_min_steps=40))
    results = attacker.run_stack([Unit(name, 4, seed) for seed in range(seeds)])
    return sum(result.accuracy for result in results) / seeds, {result.learning_rate for result in results}


@pytest.mark.parametrize("name", ["full", "full_rescaled"])
def test_rescaled_weights_hinder_no_fine_tuning(trap, name, monkeypatch):
    found = [relearned(which, name, 1e-3)[0] for which in trap]
    assert found[1] == pytest.approx(found[0], abs=0.02)
    monkeypatch.setattr(find_attack("full").__class__, "scale", lambda self, context, state: {})
    assert relearned(trap[1], "full", 1e-3)[0] < found[0] - 0.05  # the trap is one


def test_a_model_on_which_one_learning_rate_fails_is_broken_by_the_choice_of_another(trap):
    model, rescaled = trap
    failed, _ = relearned(rescaled, "head_then_full", 1e-2)
    chosen, rates = relearned(rescaled, "head_then_full", 1e-6, 1e-2)
    assert failed < chosen - 0.1 and rates == {1e-6}, (failed, chosen, rates)
    assert chosen > relearned(model, "head_then_full", 1e-6, 1e-2)[0] - 0.02


def test_halving_is_part_of_the_result_and_the_numbers_are_those_of_the_rate_that_was_kept():
    config = replace(QUICK, full_learning_rates=(1e-6, 1e-2), full_min_steps=40)
    whole = attack(vit(seed=1), config=config)
    halved = attack(vit(seed=1), config=replace(config, successive_halving=True))
    assert whole.learning_rate == halved.learning_rate == 1e-2
    assert abs(whole.accuracy - halved.accuracy) < 0.05
    assert find_attack("full").numbers(config) != find_attack("full").numbers(replace(config, successive_halving=True))


def test_the_published_head_and_its_number_of_labels_do_not_matter():
    model, wider = vit(3), vit(7)
    wider.vit.load_state_dict(model.vit.state_dict())
    assert attack(model) == attack(wider)


def test_every_model_is_attacked_with_the_same_images_drawn_by_seed_and_budget():
    labels = torch.tensor([0, 1] * 50)
    drawn = draw_images(labels, 2, 5, seed=0)
    assert torch.equal(drawn, draw_images(labels, 2, 5, seed=0))
    assert labels[drawn].bincount().tolist() == [5, 5] and len(drawn.unique()) == 10
    others = [draw_images(labels, 2, 5, seed=1), draw_images(labels, 2, 6, seed=0)[:5]]
    assert not torch.equal(drawn, others[0]) and not torch.equal(drawn[:5], others[1])


@pytest.mark.parametrize("name", ["linear_probe", "full", "lora"])
def test_a_real_divergence_is_flagged_and_another_learning_rate_still_breaks_the_model(name):
    rates = ("full_learning_rates", "linear_probe_learning_rates", "lora_learning_rates")
    config = replace(QUICK, **dict.fromkeys(rates, (1e38,)))
    assert attack(vit(), name=name, config=config).diverged
    config = replace(QUICK, **dict.fromkeys(rates, (3e-3, 1e38)))
    assert not attack(vit(), name=name, config=config).diverged


def test_damaged_normalisation_statistics_are_no_defence():
    model, config = resnet(seed=1), replace(QUICK, attacks=("full",))
    damaged = copy.deepcopy(model)
    for module in damaged.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=10)
            module.running_var.fill_(1e4)
    assert attack(damaged, config=config) == attack(model, config=config)


def test_half_precision_weights_are_attacked_in_single_precision():
    result = attack(vit().half())
    assert not result.diverged and result.accuracy == attack(vit().half().float()).accuracy


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"budget": 11}, DataError, ["class 0 has 10", "budget of 11", "up to 10"]),
        ({"attacked": replace(TASK, test=split(0))}, DataError, ["test", "empty"]),
        ({"attacked": replace(TASK, labels=("a", "b"))}, DataError, ["label 2", "0..1"]),
        ({"attacked": replace(TASK, train=split(5, classes=1))}, DataError, ["class 0 only"]),
        ({"attacked": replace(TASK, labels=("a",))}, DataError, ["at least 2"]),
        ({"attacked": replace(TASK, train=WRONG_SIZE)}, ModelError, ["12"]),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_the_value_and_the_remedy(change, error, words):
    with pytest.raises(error) as caught:
        attack(vit(), **change)
    assert all(word in str(caught.value) for word in words)


def test_a_model_with_a_damaged_weight_is_named():
    model = vit()
    with torch.no_grad():
        model.classifier.bias[0] = float("nan")
    with pytest.raises(ModelError, match="classifier.bias"):
        attack(model)


@pytest.mark.parametrize(
    "change",
    [
        {"attacks": ("loar",)},
        {"budgets": ()},
        {"seeds": (0, 0)},
        {"batch_size": 0},
        {"max_stack": 0},
        {"seeds": (-1,)},
    ],
)
def test_a_config_that_makes_no_sense_is_refused(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        AttackConfig(**change)
