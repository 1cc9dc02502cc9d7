import copy
import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from attack_toys import named, trained
from audit_toys import FINALISTS, QUICK, split, task, vit
from launching import run_on_two

from hf_dtl.audit import leakage, no_model, run_audit, scratch_model, scratch_models
from hf_dtl.audit import run as run_module
from hf_dtl.audit.attacks import plan
from hf_dtl.audit.attacks.registry import find_attack
from hf_dtl.audit.piggyback import Attacker
from hf_dtl.errors import ConfigError, DataError, ModelError, OutputError

QUICK = replace(QUICK, attacks=("linear_probe", "full"))
TASK = task()


def all_models():
    model = vit(4, seed=1)
    return {"undisposed": model, "scrubbed": copy.deepcopy(model), "scratch": scratch_model(model, 5)}


@pytest.fixture
def attacks_run(monkeypatch):
    done = []
    original = Attacker.run_stack
    monkeypatch.setattr(Attacker, "run_stack", lambda self, units: done.extend(units) or original(self, units))
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
    assert len(attacks_run) == 12, "the group that was cut runs as a whole, so that its numbers are the same"
    assert sorted(cut.read_bytes().splitlines()) == sorted(line.strip() for line in lines)
    attacks_run.clear()
    assert run_audit(models, axes, QUICK, store=cut, progress=False) == whole and not attacks_run


def test_finished_attacks_are_kept_when_a_later_one_fails(tmp_path, monkeypatch, attacks_run):
    store, interrupted = tmp_path / "store.jsonl", Attacker.run_stack

    def run_stack(self, units):
        if units[0].attack == "full":
            raise KeyboardInterrupt
        return interrupted(self, units)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Attacker, "run_stack", run_stack)
        run_audit({"undisposed": vit()}, {"toy": TASK}, QUICK, store=store, progress=False)
    assert len(store.read_text().splitlines()) == 4
    attacks_run.clear()
    assert len(run_audit({"undisposed": vit()}, {"toy": TASK}, QUICK, store=store, progress=False)) == 8
    assert {unit.attack for unit in attacks_run} == {"full"}


def test_a_network_that_fails_in_training_is_named_and_finished_attacks_are_kept(tmp_path):
    model, store = vit(), tmp_path / "store.jsonl"

    def fails_when_trained(module, inputs, output):
        if torch.is_grad_enabled():
            raise RuntimeError("no gradient for you")

    model.vit.layernorm.register_forward_hook(fails_when_trained)
    with pytest.raises(ModelError, match="ViTForImageClassification failed in the attack full .* no gradient for you"):
        run_audit({"undisposed": model}, {"toy": TASK}, QUICK, store=store, progress=False)
    assert len(store.read_text().splitlines()) == 4


@pytest.mark.parametrize("broken", ["weights", "forward"])
def test_a_model_that_cannot_be_attacked_is_named_before_the_first_attack(broken, attacks_run):
    model = vit(seed=3)
    if broken == "weights":
        with torch.no_grad():
            model.classifier.bias[0] = float("nan")
    else:
        model.config.num_channels = model.vit.embeddings.patch_embeddings.num_channels = 1
        model.vit.embeddings.patch_embeddings.projection = torch.nn.Conv2d(1, 16, 4, 4)
    with pytest.raises(ModelError, match="(?i)the scratch model"):
        run_audit({"undisposed": vit(), "scratch": model}, {"toy": TASK}, QUICK, progress=False)
    assert not attacks_run


def test_without_weights_there_is_no_published_head():
    """Labels of retain images are those of that head: 3 is none of the attacked classes."""
    retain = split(4, classes=4, seed=6)
    toy, config = (
        replace(TASK, retain=retain),
        replace(QUICK, attacks=("linear_probe", "retain_then_full"), seeds=(0,)),
    )
    found = run_audit(
        {"scrubbed": named(vit(4), [*TASK.labels, "other"]), "no_model": no_model(TASK)},
        {"toy": toy},
        config,
        progress=False,
    )
    assert {(r.model, r.attack) for r in found} == {
        *(("scrubbed", attack) for attack in config.attacks), ("no_model", "linear_probe"),
    }  # fmt: skip


def test_attacks_that_do_not_apply_are_left_out_model_by_model():
    config = replace(QUICK, attacks=("full", "full_published", "retain_only"), budgets=(2,), seeds=(0,))
    records = run_audit({"undisposed": vit(3), "scratch": vit(4)}, {"toy": TASK}, config, progress=False)
    assert [(r.model, r.attack) for r in records] == [
        ("undisposed", "full"), ("undisposed", "full_published"), ("scratch", "full"),
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="retain_only"):
        run_audit({"scratch": vit(4)}, {"toy": TASK}, replace(config, attacks=("retain_only",)), progress=False)


def test_only_finalists_go_on_to_later_seeds_on_each_model_and_the_order_breaks_ties(attacks_run):
    models = {"undisposed": trained(vit(), split(10)), "scratch": vit(seed=4)}
    found = run_audit(models, {"toy": TASK}, FINALISTS, progress=False)
    whole = run_audit(models, {"toy": TASK}, replace(FINALISTS, finalists=0), progress=False)
    winners = {}
    for role in models:
        trial = {
            attack: sum(
                r.validation_accuracy for r in whole if (r.model, r.attack) == (role, attack) and r.seed in (3, 0)
            )
            for attack in FINALISTS.attacks
        }
        winners[role] = max(trial, key=trial.get)  # the first of equals
    assert found == [r for r in whole if r.seed in (3, 0) or r.attack == winners[r.model]]
    assert len(found) == 2 * (3 * 2 + 2)
    two = run_audit({"scratch": models["scratch"]}, {"toy": TASK}, replace(FINALISTS, finalists=2), progress=False)
    assert len(two) == 3 * 2 + 2 * 2 and set(two) > {r for r in found if r.model == "scratch"}
    assert leakage([replace(r, model="scrubbed") for r in two]) is not None, "a report takes it"


@pytest.mark.parametrize("lines", [0, 3, 6, 7])
def test_finalists_are_the_same_after_an_interruption(lines, tmp_path, attacks_run):
    whole = run_audit({"undisposed": vit()}, {"toy": TASK}, FINALISTS, store=tmp_path / "whole.jsonl", progress=False)
    stored = (tmp_path / "whole.jsonl").read_bytes().splitlines(keepends=True)
    assert len(stored) == 8
    (tmp_path / "cut.jsonl").write_bytes(b"".join(stored[:lines]))
    attacks_run.clear()
    assert (
        run_audit({"undisposed": vit()}, {"toy": TASK}, FINALISTS, store=tmp_path / "cut.jsonl", progress=False)
        == whole
    )
    (winner,) = {record.attack for record in whole if record.seed in (1, 4)}
    assert {unit.attack for unit in attacks_run if unit.seed in (1, 4)} == {winner}
    # What another choice left in the store makes no attack a finalist.
    everything = replace(FINALISTS, finalists=0)
    run_audit({"undisposed": vit()}, {"toy": TASK}, everything, store=tmp_path / "whole.jsonl", progress=False)
    attacks_run.clear()
    again = run_audit({"undisposed": vit()}, {"toy": TASK}, FINALISTS, store=tmp_path / "whole.jsonl", progress=False)
    assert again == whole and not attacks_run


def test_later_draws_try_the_rates_that_won_a_trial_draw(monkeypatch):
    config = replace(FINALISTS, attacks=("full",), finalists=1, full_learning_rates=(1e-6, 1e-5, 1e-2))
    tried, run_stack = {}, Attacker.run_stack

    def watched(self, units):
        tried.update({unit.seed: find_attack("full").learning_rates(self.config) for unit in units})
        return run_stack(self, units)

    monkeypatch.setattr(Attacker, "run_stack", watched)
    found = run_audit({"undisposed": trained(vit(), split(10))}, {"toy": TASK}, config, progress=False)
    won = tuple(sorted({r.learning_rate for r in found if r.seed in (3, 0)}))
    assert tried == {3: config.full_learning_rates, 0: config.full_learning_rates, 1: won, 4: won}
    assert len(won) < 3 and {r.learning_rate for r in found} <= {*won}


TOGETHER = replace(FINALISTS, attacks=(*FINALISTS.attacks, "class_means", "committee"), finalists=2)


def test_a_committee_answers_for_the_attacks_that_it_elects_and_they_go_on(tmp_path, attacks_run):
    models = {"undisposed": trained(vit(), split(10)), "no_model": no_model(TASK)}
    store = tmp_path / "attacks.jsonl"
    found = run_audit(models, {"toy": TASK}, TOGETHER, store=store, progress=False)
    for role in models:
        own = {(r.attack, r.seed): r for r in found if r.model == role}
        tried = {attack for attack, _ in own} - {"committee"}
        going_on = {attack for attack, seed in own if seed in (1, 4)} - {"committee"}
        assert {seed for attack, seed in own if attack == "committee"} == {3, 0, 1, 4}
        assert 1 <= len(going_on) <= 3 and ("full" in tried) == (role == "undisposed")
        trial = {a: sum(own[a, seed].validation_accuracy for seed in (3, 0)) for a in (*tried, "committee")}
        assert trial["committee"] >= max(trial.values()) - 1e-9
    assert "committee" not in {unit.attack for unit in attacks_run}
    attacks_run.clear()
    assert run_audit(models, {"toy": TASK}, TOGETHER, store=store, progress=False) == found and not attacks_run
    lost = sorted((tmp_path / "attacks.answers").iterdir())
    lost[0].unlink()
    lost[1].write_bytes(b"cut")
    assert run_audit(models, {"toy": TASK}, TOGETHER, store=store, progress=False) == found, (
        "lost answers are found again"
    )
    assert 1 <= len(attacks_run) <= 8 and len(list((tmp_path / "attacks.answers").iterdir())) == len(lost)
    alone = replace(TOGETHER, attacks=("committee",))
    with pytest.raises(ConfigError, match="other attacks"):
        run_audit(models, {"toy": TASK}, alone, progress=False)


PROGRAM = """
import json
import sys
from dataclasses import asdict, replace

import torch.distributed
from audit_toys import FINALISTS, task, vit

from hf_dtl.audit import run_audit

torch.distributed.init_process_group("gloo")
models = {"undisposed": vit(), "scratch": vit(seed=4)}
config = replace(FINALISTS, attacks=(*FINALISTS.attacks, "committee"))
found = run_audit(models, {"toy": task()}, config, store=sys.argv[1], progress=False)
with open(f"{sys.argv[1]}.{torch.distributed.get_rank()}", "w") as file:
    json.dump([asdict(record) for record in found], file)
torch.distributed.destroy_process_group()
"""


@pytest.mark.distributed
def test_two_processes_choose_the_finalists_that_one_chooses(tmp_path):
    program, store = tmp_path / "program.py", tmp_path / "attacks.jsonl"
    program.write_text(PROGRAM)
    status, _, errors = run_on_two(program, store)
    assert status == 0, errors[-3000:]
    models = {"undisposed": vit(), "scratch": vit(seed=4)}
    config = replace(FINALISTS, attacks=(*FINALISTS.attacks, "committee"))
    alone = [asdict(record) for record in run_audit(models, {"toy": TASK}, config, progress=False)]
    for rank in (0, 1):
        assert json.loads(Path(f"{store}.{rank}").read_text()) == json.loads(json.dumps(alone))
    trained_ones = [record for record in alone if record["attack"] != "committee"]
    assert len(store.read_text().splitlines()) == len(trained_ones) == len(alone) - 8 == 16, "none is run twice"


def test_attacks_that_train_alike_run_together_and_give_what_they_give_alone():
    models, together = {"undisposed": vit(4), "scratch": vit(4, seed=3)}, replace(QUICK, full_min_steps=12)
    found = run_audit(models, {"toy": TASK}, together, progress=False)
    alone = run_audit(models, {"toy": TASK}, replace(together, max_stack=1), progress=False)
    groups = plan.groups(plan.units(vit(4), TASK, together), vit(4), TASK, together, torch.device("cpu"))
    assert [len(group) for group in groups] == [2, 2, 2, 2]
    assert found == alone


def test_the_seeds_take_turns_with_the_draws_of_a_reference():
    config = replace(QUICK, attacks=("full",), budgets=(2,), seeds=(5, 6, 7))
    first, second = scratch_models(vit(4), 2)
    assert not torch.equal(first.classifier.weight, second.classifier.weight)
    found = run_audit({"scratch": [first, second]}, {"toy": TASK}, config, progress=False)
    alone = {model: run_audit({"scratch": model}, {"toy": TASK}, config, progress=False) for model in (first, second)}
    assert found == [alone[first][0], alone[second][1], alone[first][2]]
    with pytest.raises(ConfigError, match="scratch"):
        run_audit({"scratch": []}, {"toy": TASK}, config, progress=False)


def test_threads_side_by_side_find_what_one_finds(tmp_path):
    models = {"undisposed": vit(4), "scratch": vit(4, seed=3)}
    config = replace(QUICK, attacks=("linear_probe", "full", "lora", "full_rescaled"), lora_learning_rates=(1e-3,))
    random_state = torch.get_rng_state()
    alone = run_audit(models, {"toy": TASK}, config, progress=False)
    store = tmp_path / "store.jsonl"
    found = run_audit(models, {"toy": TASK}, replace(config, workers=3), store=store, progress=False)
    assert found == alone and len(store.read_text().splitlines()) == 32
    assert torch.equal(torch.get_rng_state(), random_state)


def test_an_error_on_one_thread_stops_all_and_what_was_finished_is_kept(tmp_path, monkeypatch):
    store, original = tmp_path / "store.jsonl", Attacker.run_stack

    def run_stack(self, units):
        if units[0].attack == "full":
            raise KeyboardInterrupt
        return original(self, units)

    monkeypatch.setattr(Attacker, "run_stack", run_stack)
    config = replace(QUICK, workers=2, full_min_steps=100_000, attacks=("linear_probe", "full", "full_longer"))
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_audit({"undisposed": vit(4)}, {"toy": TASK}, config, store=store, progress=False)
    assert time.monotonic() - start < 30, "the long attack on the other thread was stopped"
    assert len(store.read_text().splitlines()) >= 2


def test_the_most_expensive_work_is_shared_out_first_and_evenly():
    costs = [2, 3, 4, 3]
    owner = plan.share(costs, 2)
    assert [sum(c for c, o in zip(costs, owner, strict=True) if o == p) for p in (0, 1)] == [6, 6]
    assert plan.share(costs, 1) == [0] * 4


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
