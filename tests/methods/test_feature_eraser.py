"""The eraser; run as a program by every process of a launcher, this file trains its cases and saves what came out."""

import copy
import sys
from pathlib import Path

import pytest
import torch
from architectures import CONFIGS
from launching import run_on_two
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from toy_tasks import OPTIONS, source, target, two_headed
from transformers import TrainerCallback

from hf_dtl.errors import ConfigError
from hf_dtl.functional import uniform_fooling
from hf_dtl.methods.feature_eraser import FeatureEraserConfig, FeatureEraserTrainer
from hf_dtl.methods.gradient_collision import GradientCollisionConfig, GradientCollisionTrainer
from hf_dtl.trainers.probes import Probes, read

PROBES = {"probe_images": 40, "probe_steps": 10, "refresh_every": 2, "probe_hidden": 8}
CASES = {
    "eraser": (FeatureEraserConfig, FeatureEraserTrainer, {}),
    "collision": (GradientCollisionConfig, GradientCollisionTrainer, {"head": "probes", "noise": 0.1}),
}


def trainer(folder, model=None, callbacks=None, **options):
    args = FeatureEraserConfig(output_dir=str(folder), **OPTIONS | PROBES | options)
    model = two_headed() if model is None else model
    return FeatureEraserTrainer(model, args, source(), target(), callbacks=callbacks)


def trained(*args, **kwargs):
    t = trainer(*args, **kwargs)
    t.train()
    return t


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def distance(a, b, start):
    return ((flat(a) - flat(b)).norm() / (flat(b) - flat(start)).norm()).item()


def test_first_step_equals_a_computation_by_hand(tmp_path):
    """Probes fitted on the drawn images; the value is their mean cross-entropy to uniform on the chunks."""
    t = trainer(tmp_path, max_steps=1, probe_updates=0)
    model, streams = copy.deepcopy(t.model).eval(), t.train_dataset
    t.train()
    log = next(e for e in t.state.log_history if "disposal_value" in e)
    seed = (3 * 1_000_003) ^ 0x9B0BE
    chosen = torch.randperm(len(source()), generator=torch.Generator().manual_seed(seed))[:40]
    with torch.no_grad():
        readings = read(*model.hidden_states(source().pixel_values[chosen]))
        probes = Probes([r.shape[1] for r in readings], 6, hidden=8)
    probes.reset(seed)
    probes.fit(readings, torch.as_tensor(source().labels)[chosen], steps=10, seed=seed)
    assert torch.allclose(t.model.probes.weights, probes.weights, atol=1e-6)
    x, y = (torch.cat([streams[i]["forget"][k] for i in range(4)]) for k in ("pixel_values", "labels"))
    with torch.no_grad():
        states, features = model.hidden_states(x)
        logits = probes(read(states, features))
        source_loss = torch.nn.functional.cross_entropy(model.heads["source"](features), y)
    assert log["disposal_value"] == pytest.approx(uniform_fooling(logits).item(), rel=1e-4)
    assert log["probe_accuracy"] == pytest.approx((logits.argmax(-1) == y).float().mean().item(), abs=1e-4)
    assert log["source_loss"] == pytest.approx(source_loss.item(), rel=1e-4)


def test_probes_are_refreshed_on_time_and_trained_in_between(tmp_path):
    counts = []

    class Count(TrainerCallback):
        def on_step_end(self, args, state, control, model, **kwargs):
            counts.append(int(model.probes.updates))

    trained(tmp_path, callbacks=[Count()], max_steps=4, refresh_every=3, probe_updates=2)
    assert counts == [12, 14, 16, 12], "a fit of 10 steps, then 2 a step"


def test_fresh_probes_find_less_after_the_eraser(tmp_path):
    """Against probes that the run never met, on a model whose features tell the classes."""

    def found(model):
        labels = torch.as_tensor(source().labels)
        with torch.no_grad():
            readings = read([], model.eval().features(source().pixel_values))
        probes = Probes([readings[0].shape[1]], 6, learning_rate=3e-3)
        probes.reset(77)
        probes.fit(readings, labels, steps=150, seed=77)
        return (probes(readings).argmax(-1) == labels).float().mean().item()

    start = two_headed()
    options = dict(max_steps=60, optim="adamw_torch", learning_rate=3e-3, forget_weight=3.0, refresh_every=20)
    t = trained(tmp_path, model=copy.deepcopy(start), probe_steps=40, probe_learning_rate=3e-3, **options)
    before, after = found(start), found(t.model)
    assert before > 0.5 and after < 0.3, "chance is 1/6"
    assert torch.equal(flat(t.model.heads["source"]), flat(start.heads["source"])), "the source head stays"


def test_a_plain_hub_model_forgets_with_its_only_head(tmp_path):
    plain = two_headed().export("source")
    t = trained(tmp_path, model=plain, max_steps=2)
    assert t.forget_task == t.retain_task
    before = two_headed().export("source").state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in t.export().state_dict().items())


@pytest.mark.parametrize("name", CONFIGS)
def test_every_architecture_trains(tmp_path, name):
    start = two_headed(name)
    buffers = {n: b.clone() for n, b in start.named_buffers()}
    t = trained(tmp_path, model=copy.deepcopy(start), max_steps=2, learning_rate=1e-2)
    assert all(torch.isfinite(p).all() for p in t.model.parameters())
    assert not torch.equal(flat(t.model.backbone), flat(start.backbone))
    assert all(torch.equal(dict(t.model.named_buffers())[n], b) for n, b in buffers.items()), "statistics are frozen"


def test_resumes_between_refreshes_to_the_same_weights(tmp_path):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 4

    def model():
        m = two_headed()
        for module in m.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.1
        return m

    options = dict(max_steps=8, save_strategy="steps", save_steps=1, refresh_every=3)
    whole = trained(tmp_path / "whole", model=model(), **options)
    trained(tmp_path / "cut", model=model(), callbacks=[Stop()], **options)
    resumed = trainer(tmp_path / "cut", model=model(), **options)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 8
    states = whole.model.state_dict(), resumed.model.state_dict()
    assert "probes.moment" in states[0] and states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])

    class Forget(TrainerCallback):
        def on_train_begin(self, args, state, control, model, **kwargs):
            model.probes.reset(0)

    restarted = trainer(tmp_path / "cut", model=model(), callbacks=[Forget()], **options)
    restarted.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-4"))
    assert not torch.equal(flat(whole.model), flat(restarted.model)), "without the probes' state it would not"


def test_same_weights_however_the_step_is_split(tmp_path):
    start = two_headed()
    one = trained(tmp_path, per_device_train_batch_size=16)
    two = trained(tmp_path, per_device_train_batch_size=8, gradient_accumulation_steps=2)
    assert distance(two.model, one.model, start) < 1e-4
    assert torch.allclose(one.model.probes.weights, two.model.probes.weights, atol=1e-4)


def test_bf16_and_activation_checkpointing_stay_near(tmp_path):
    start, plain = two_headed(), trained(tmp_path, max_steps=1)
    half = trained(tmp_path, max_steps=1, bf16=True)
    assert 0 < distance(half.model, plain.model, start) < 0.1
    assert half.model.probes.weights.dtype == torch.float32
    assert distance(trained(tmp_path, max_steps=1, activation_checkpointing=True).model, plain.model, start) < 1e-4


def test_the_exported_model_holds_neither_probes_nor_the_source_head(tmp_path):
    t = trained(tmp_path / "run", max_steps=1)
    t.save_model(tmp_path / "scrubbed")
    with safe_open(tmp_path / "scrubbed" / "model.safetensors", "pt") as f:
        assert not [key for key in f.keys() if "probes" in key or "heads" in key or "source" in key]
    assert sum(p.numel() for p in t.export().parameters()) == sum(
        p.numel() for p in two_headed().export("target").parameters()
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"refresh_every": 0}, "refresh_every=0 must be >= 1"),
        ({"probe_images": 0}, "probe_images=0 must be >= 1"),
        ({"probe_steps": -1}, "probe_steps=-1 must be >= 0"),
        ({"probe_updates": -1}, "probe_updates=-1"),
        ({"probe_hidden": -1}, "probe_hidden=-1"),
        ({"probe_learning_rate": 0.0}, "probe_learning_rate=0.0 must be > 0"),
        ({"depths": "some"}, "depths='some' is unknown; use one of: all, final"),
    ],
)
def test_bad_options(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        trainer(tmp_path, **options)


def main(output: Path) -> None:
    """Train every case with 32 forget images and 4 chunks a step, whatever the number of processes."""
    for case, (config, method, options) in CASES.items():
        world = config(output_dir=str(output), use_cpu=True).world_size
        batch = {"per_device_train_batch_size": 32 // world, "max_steps": 4, "refresh_every": 3}
        args = config(output_dir=str(output), **OPTIONS | PROBES | options | batch)
        t = method(two_headed(), args, source(), target())
        t.train()
        state = {n: v.detach().clone().contiguous() for n, v in t.model.state_dict().items()}
        logs = [e for e in t.state.log_history if "disposal_value" in e]
        for name in ("disposal_value", "source_loss", "probe_accuracy"):
            state[f"log.{name}"] = torch.tensor([e[name] for e in logs], dtype=torch.float64)
        save_file(state, output / f"{case}-{args.world_size}-{args.process_index}.safetensors")


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
    start = two_headed().state_dict()
    moved = torch.cat([(one[n] - start[n]).flatten() for n in start])
    apart = torch.cat([(one[n] - two[0][n]).flatten() for n in start])
    assert moved.norm() > 1e-3 and apart.norm() < 1e-3 * moved.norm(), apart.norm() / moved.norm()
    assert torch.allclose(one["probes.weights"], two[0]["probes.weights"], atol=1e-3)
    assert all(torch.allclose(one[n], two[0][n], rtol=1e-3, atol=1e-6) for n in one if n.startswith("log."))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
