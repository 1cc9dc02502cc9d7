import copy
import json
from dataclasses import replace

import pytest
import torch
from audit_toys import QUICK, resnet, split, task, vit
from safetensors.torch import save
from torch import nn

from hf_dtl.audit import AttackConfig, accuracy, leakage, piggyback_attack, run_audit, scratch_model
from hf_dtl.audit import run as run_module
from hf_dtl.audit.piggyback import Attacker
from hf_dtl.audit.task import draw_images
from hf_dtl.data import ImageTensors
from hf_dtl.errors import ConfigError, DataError, ModelError, OutputError

TASK = task()
WRONG_SIZE = ImageTensors(torch.zeros(9, 3, 12, 12), torch.arange(3).repeat(3))


def attack(model, attacked=TASK, *, name="full", budget=4, seed=0, config=QUICK):
    return piggyback_attack(
        model, attacked.train, attacked.validation, attacked.test,
        num_classes=len(attacked.labels), attack=name, budget=budget, seed=seed, config=config,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["linear_probe", "full"])
@pytest.mark.parametrize("build", [vit, resnet])
def test_an_attack_learns_a_separable_task_and_leaves_the_model_and_the_random_state_alone(build, name):
    model = build(seed=1)
    before, random_state = save(model.state_dict()), torch.get_rng_state()
    config = replace(QUICK, full_min_steps=60, linear_probe_steps=60)
    result = attack(model, task(noise=0.2), name=name, config=config)
    assert result.accuracy > 0.85 and not result.diverged
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
    attacker = Attacker(model, TASK.train, TASK.validation, TASK.test, num_classes=3, config=QUICK)
    attacker.run("linear_probe", 2, 1)
    assert attacker.run(name, 4, 0) == first
    assert model.training


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


def choose(monkeypatch, outcomes, learning_rates):
    """Run the choice of a learning rate over attacks with given (validation, test) accuracies."""
    labels = torch.zeros(10, dtype=torch.long)
    train = split(10)
    validation, test = ImageTensors(torch.zeros(10, 3, 8, 8), labels), ImageTensors(torch.zeros(10, 3, 8, 8), labels)

    def learned(outcome):
        if outcome is None:
            return None

        def classify(images):
            share = outcome[0] if images is validation else outcome[1]
            if share is None:
                return torch.full((10, 3), float("nan"))
            right = torch.arange(10) < round(10 * share)
            return torch.stack([right, ~right, torch.zeros_like(right)], dim=1).float()

        return classify

    monkeypatch.setattr(Attacker, "_full", lambda self, images, labels, rate: learned(outcomes[rate]))
    config = replace(QUICK, full_learning_rates=learning_rates)
    return piggyback_attack(
        vit(), train, validation, test, num_classes=3, attack="full", budget=2, seed=0, config=config
    )


def test_the_learning_rate_is_chosen_on_validation_never_on_test(monkeypatch):
    result = choose(monkeypatch, {1e-3: (0.6, 0.9), 1e-2: (0.8, 0.3)}, (1e-3, 1e-2))
    assert (result.learning_rate, result.validation_accuracy, result.accuracy) == (1e-2, 0.8, 0.3)


def test_of_equal_learning_rates_the_smaller_one_wins_in_any_order(monkeypatch):
    outcomes = {1e-3: (0.6, 0.5), 1e-2: (0.6, 0.9)}
    assert choose(monkeypatch, outcomes, (1e-2, 1e-3)).learning_rate == 1e-3


@pytest.mark.parametrize("lost", [None, (None, 1.0)])
def test_a_learning_rate_that_diverges_loses(monkeypatch, lost):
    result = choose(monkeypatch, {1e-3: (0.4, 0.4), 1e-2: lost}, (1e-3, 1e-2))
    assert result.learning_rate == 1e-3 and not result.diverged
    result = choose(monkeypatch, {1e-3: lost, 1e-2: lost}, (1e-3, 1e-2))
    assert result.diverged and result.accuracy == pytest.approx(1 / 3) and result.learning_rate == 1e-3


@pytest.mark.parametrize("name", ["linear_probe", "full"])
def test_a_real_divergence_is_flagged_and_another_learning_rate_still_breaks_the_model(name):
    config = replace(QUICK, full_learning_rates=(1e38,), linear_probe_learning_rates=(1e38,))
    assert attack(vit(), name=name, config=config).diverged
    config = replace(QUICK, full_learning_rates=(3e-3, 1e38), linear_probe_learning_rates=(1e-2, 1e38))
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


@pytest.mark.parametrize("change", [{"attacks": ("lora",)}, {"budgets": ()}, {"seeds": (0, 0)}, {"batch_size": 0}])
def test_a_config_that_makes_no_sense_is_refused(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        AttackConfig(**change)


def all_models():
    model = vit(seed=1)
    return {"undisposed": model, "scrubbed": copy.deepcopy(model), "scratch": scratch_model(model, 5)}


@pytest.fixture
def attacks_run(monkeypatch):
    done = []
    original = Attacker.run
    monkeypatch.setattr(Attacker, "run", lambda self, *unit: done.append(unit) or original(self, *unit))
    return done


def test_an_interrupted_audit_continues_without_repeating_and_ends_as_an_undisturbed_one(tmp_path, attacks_run):
    models, axes = {"undisposed": vit(), "scratch": vit(seed=4)}, {"toy": TASK}
    whole = run_audit(models, axes, QUICK, store=tmp_path / "whole.jsonl", progress=False)
    assert len(whole) == len(attacks_run) == 16
    lines = (tmp_path / "whole.jsonl").read_bytes().splitlines(keepends=True)
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(b"".join(lines[:5]) + lines[5][:40])
    attacks_run.clear()
    assert run_audit(models, axes, QUICK, store=cut, progress=False) == whole
    assert len(attacks_run) == 11
    assert sorted(cut.read_bytes().splitlines()) == sorted(line.strip() for line in lines)
    attacks_run.clear()
    assert run_audit(models, axes, QUICK, store=cut, progress=False) == whole and not attacks_run


def test_finished_attacks_are_kept_when_a_later_one_fails(tmp_path, monkeypatch, attacks_run):
    original, store = Attacker._full, tmp_path / "store.jsonl"
    monkeypatch.setattr(Attacker, "_full", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run_audit({"undisposed": vit()}, {"toy": TASK}, QUICK, store=store, progress=False)
    assert len(store.read_text().splitlines()) == 4
    monkeypatch.setattr(Attacker, "_full", original)
    attacks_run.clear()
    assert len(run_audit({"undisposed": vit()}, {"toy": TASK}, QUICK, store=store, progress=False)) == 8
    assert {unit[0] for unit in attacks_run} == {"full"}


def test_references_are_attacked_once_for_all_methods_and_a_changed_model_anew(tmp_path, attacks_run):
    models, store = all_models(), tmp_path / "store.jsonl"
    config = replace(QUICK, attacks=("linear_probe",))
    found = run_audit(models, {"toy": TASK}, config, store=store, progress=False)
    assert len(attacks_run) == 8, "the un-scrubbed copy has the fingerprint of the undisposed model"
    assert [r.model for r in found] == [role for role in models for _ in range(4)]
    with torch.no_grad():
        models["scrubbed"].vit.layernorm.weight += 0.1
    attacks_run.clear()
    run_audit(models, {"toy": TASK}, config, store=store, progress=False)
    assert len(attacks_run) == 4
    attacks_run.clear()
    run_audit(models, {"toy": TASK}, replace(config, linear_probe_steps=21), store=store, progress=False)
    run_audit(models, {"toy": replace(TASK, test=split(20, seed=77))}, config, store=store, progress=False)
    assert len(attacks_run) == 2 * 12
    attacks_run.clear()
    run_audit(models, {"toy": TASK}, replace(config, budgets=(2,), eval_batch_size=7), store=store, progress=False)
    assert not attacks_run


@pytest.mark.parametrize("name", ["linear_probe", "full"])
def test_an_unscrubbed_copy_leaks_exactly_one_and_a_scratch_copy_exactly_nothing(name):
    attacked = task(noise=2.0)
    model = vit(seed=1)
    pixels, labels = split(60, noise=2.0, seed=8).pixel_values, split(60, noise=2.0, seed=8).labels
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(pixels).logits, labels).backward()
        optimizer.step()
    config = replace(QUICK, attacks=(name,), seeds=(0, 1, 2))
    scratch = scratch_model(model, 5)
    for scrubbed, expected in ((copy.deepcopy(model), 1.0), (scratch_model(model, 5), 0.0)):
        models = {"undisposed": model, "scrubbed": scrubbed, "scratch": scratch}
        ratio = leakage(run_audit(models, {"toy": attacked}, config, progress=False)).over_scratch
        assert ratio.undefined is None and ratio.mean == pytest.approx(expected, abs=1e-9)


def test_a_task_that_cannot_be_attacked_stops_the_audit_before_the_first_attack(tmp_path, attacks_run):
    with pytest.raises(DataError, match="budget of 40"):
        run_audit({"undisposed": vit()}, {"toy": TASK}, replace(QUICK, budgets=(2, 40)), progress=False)
    with pytest.raises(ConfigError, match="undisposed"):
        run_audit({"other": vit()}, {"toy": TASK}, QUICK, progress=False)
    foreign = tmp_path / "notes.jsonl"
    foreign.write_text(json.dumps({"something": "else"}) + "\n")
    with pytest.raises(OutputError, match="Line 1"):
        run_audit({"undisposed": vit()}, {"toy": TASK}, QUICK, store=foreign, progress=False)
    assert not attacks_run and foreign.read_text() == '{"something": "else"}\n'


def test_one_progress_bar_counts_every_attack(monkeypatch):
    bars = []

    class Bar(run_module.tqdm):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            bars.append(self)

    monkeypatch.setattr(run_module, "tqdm", Bar)
    config = replace(QUICK, attacks=("linear_probe",), seeds=(0,))
    run_audit({"undisposed": vit(), "scratch": vit(seed=2)}, {"a": TASK, "b": task(name="other")}, config)
    assert [(bar.total, bar.n) for bar in bars] == [(8, 8)]


def test_accuracy_of_models_and_functions_and_the_mode_of_each_module_is_kept():
    images, model = split(7), vit(dropout=0.5).train()
    model.vit.embeddings.eval()
    modes = [module.training for module in model.modules()]
    expected = (copy.deepcopy(model).eval()(images.pixel_values).logits.argmax(-1) == images.labels).float().mean()
    assert accuracy(model, images, batch_size=4) == pytest.approx(expected.item())
    assert [module.training for module in model.modules()] == modes
    assert accuracy(lambda x: nn.functional.one_hot(torch.zeros(len(x), dtype=torch.long), 3), images) == 1 / 3
    with pytest.raises(DataError, match="zero images"):
        accuracy(model, split(0))
    with pytest.raises(ModelError, match="not finite"):
        accuracy(lambda x: torch.full((len(x), 3), float("nan")), images)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scratch_is_the_same_architecture_with_fresh_weights_by_seed(dtype):
    model = vit(4).to(dtype)
    state = torch.get_rng_state()
    first, again, other = scratch_model(model, 0), scratch_model(model, 0), scratch_model(model, 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.dtype == dtype and first.config.num_labels == 4 and type(first) is type(model)
    assert save(first.state_dict()) == save(again.state_dict()) != save(other.state_dict())
    assert not torch.equal(first.vit.embeddings.cls_token, model.vit.embeddings.cls_token)
