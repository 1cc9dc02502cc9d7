"""Projected-gradient unlearning: what the projection promises, for every optimizer and architecture."""

import copy
import logging

import numpy as np
import pytest
import torch
from architectures import CONFIGS
from method_checks import assert_resumes, assert_same, assert_split_does_not_matter, build, trained
from toy_tasks import OPTIONS, digits, part, right, target, two_headed
from transformers import TrainerCallback

from hf_dtl.data import embedded_processor
from hf_dtl.errors import ConfigError
from hf_dtl.functional import bounded_forgetting
from hf_dtl.methods import ProjectedGradientConfig, ProjectedGradientTrainer
from hf_dtl.trainers.projection import collect_subspace, fingerprints, load_subspace

PGU = (ProjectedGradientConfig, ProjectedGradientTrainer)


def one_headed(name="vit"):
    model = two_headed(name)
    model.remove_head("source")
    return model


def moved(trainer):
    """Change of every projected weight, by layer."""
    given = dict(trainer.teacher.named_modules())
    return {
        name: (trainer.model.get_submodule(name).weight - given[name].weight).detach()
        for name in trainer.basis.vectors
    }


@pytest.mark.parametrize(
    ("optim", "options"),
    [
        ("sgd", {}),
        ("sgd", {"optim_args": "momentum=0.9"}),
        ("adamw_torch", {"weight_decay": 0.1, "learning_rate": 1e-2}),
        ("rmsprop", {"learning_rate": 1e-2}),
    ],
)
def test_the_final_update_lies_outside_the_protected_span(tmp_path, optim, options):
    t = trained(PGU, tmp_path, optim=optim, max_steps=5, threshold=0.8, **{"learning_rate": 3.0} | options)
    changes = moved(t)
    assert sum(change.norm() > 0 for change in changes.values()) > len(changes) / 2
    checked = 0
    for name, change in changes.items():
        size = (change.norm() / t.model.get_submodule(name).weight.norm()).item()
        if size > 0.02:  # of a smaller change, the rounding of stored weights alone is more than 1e-5
            checked += 1
            assert t.basis.protected_share(name, change) < 1e-5, name
    assert checked > 2


@pytest.mark.parametrize("name", CONFIGS)
def test_everything_else_is_bit_identical(tmp_path, name):
    t = trained(PGU, tmp_path, model=two_headed(name), max_steps=2, threshold=0.5)
    projected = {f"{layer}.weight" for layer in t.basis.vectors}
    mine, given = t.model.state_dict(), t.teacher.state_dict()
    for parameter in given.keys() - projected:
        assert torch.equal(mine[parameter], given[parameter]), parameter
    if name != "mobilenet_v2":  # whose random features are too alike for a gradient
        assert any(not torch.equal(mine[parameter], given[parameter]) for parameter in projected)
    t.save_subspace(tmp_path / "moments.safetensors")
    load_subspace(tmp_path / "moments.safetensors", fingerprints(t.model, "target", None), torch.device("cpu"))


def test_result_does_not_depend_on_the_split_and_resumes(tmp_path):
    t = assert_split_does_not_matter(PGU, tmp_path, learning_rate=0.1, threshold=0.5)
    assert any(change.norm() > 0 for change in moved(t).values())
    assert_resumes(PGU, tmp_path, learning_rate=0.1, threshold=0.5)


FORGET = OPTIONS | {"max_steps": 30, "learning_rate": 0.2, "threshold": 0.9, "per_device_train_batch_size": 16}


def test_forgets_a_class_and_keeps_the_others_without_their_images(tmp_path):
    model, data, _ = digits()
    forget, keep, nxt = (part(data, chosen) for chosen in (data.labels == 1, data.labels != 1, data.labels == 2))
    assert right(model, data) > 0.95
    options, processor = FORGET, embedded_processor(size=16)
    common = dict(processing_class=processor)

    def config(name, **more):
        return ProjectedGradientConfig(output_dir=str(tmp_path / name), **options | more)

    file, after = str(tmp_path / "moments.safetensors"), str(tmp_path / "after.safetensors")
    made = ProjectedGradientTrainer(copy.deepcopy(model), config("a"), forget, data, **common)
    made.save_subspace(file)  # on all training images, of the model as it is
    t = ProjectedGradientTrainer(copy.deepcopy(model), config("b", subspace_file=file), forget, **common)
    assert t.subspace.images == len(keep.labels)
    wanted = collect_subspace(t.model, keep, "target")
    for name, moment in wanted.moments.items():
        error = (t.subspace.moments[name] - moment).norm() / moment.norm()
        assert error < 1e-5, name
    t.train()
    scrubbed = t.export()
    assert right(scrubbed, forget) < 0.3 and right(scrubbed, keep) > 0.9
    t.save_subspace(after)
    again = ProjectedGradientTrainer(t.export(), config("c", subspace_file=after), nxt, **common)
    assert again.subspace.images == len(keep.labels) - len(nxt.labels), "a second request"


def stopped(folder, rule, forget, retain, held_out, **options):
    model, *_ = digits()
    args = ProjectedGradientConfig(output_dir=str(folder), stop=rule, **FORGET | {"check_every": 2} | options)
    return ProjectedGradientTrainer(copy.deepcopy(model), args, forget, retain, eval_dataset=held_out)


def test_stops_once_forgotten_images_are_named_like_held_out_ones(tmp_path):
    _, data, held_out = digits()
    chosen = torch.arange(len(data.labels)) % 5 == 0
    t = stopped(tmp_path, "validation_accuracy", part(data, chosen), part(data, ~chosen), held_out, threshold=0.6)
    t.train()
    logs = [e for e in t.state.log_history if "forget_accuracy" in e]
    gaps = [e["forget_accuracy"] - e["held_out_accuracy"] for e in logs]
    assert 0 < t.state.global_step < 30 and gaps[-1] <= 0 and all(gap > 0 for gap in gaps[:-1])
    assert right(t.export(), part(data, chosen)) == pytest.approx(logs[-1]["forget_accuracy"])


def test_a_measurement_looks_at_a_fixed_draw_of_so_many_images(tmp_path):
    _, data, held_out = digits()
    t = stopped(tmp_path, "validation_accuracy", data, data, held_out, check_images=7, max_steps=2)
    t.train()
    (log,) = [e for e in t.state.log_history if "forget_accuracy" in e]
    order = np.random.default_rng(0).permutation(len(data.labels))[:7]
    assert log["forget_accuracy"] == pytest.approx(right(t.export(), data.subset(order.tolist())))


def test_keeps_the_best_weights_before_the_others_suffer_also_after_an_interruption(tmp_path):
    _, data, held_out = digits()
    forget, others = part(data, data.labels == 1), part(held_out, held_out.labels != 1)
    keep = part(data, data.labels != 1)
    options = dict(
        threshold=0.05, learning_rate=0.15, retain_margin=0.1, max_steps=60, check_every=1
    )  # protects next to nothing
    t = stopped(tmp_path / "whole", "retain_drop", forget, keep, others, **options)
    t.train()
    logs = [e for e in t.state.log_history if "forget_accuracy" in e]
    start = right(digits()[0], others)
    allowed = [e for e in logs if e["held_out_accuracy"] >= start - 0.1]
    assert logs[-1]["held_out_accuracy"] < start - 0.1 and t.state.global_step < 60
    best = min(allowed, key=lambda e: (e["forget_accuracy"], -e["held_out_accuracy"]))
    kept = t.export()
    assert right(kept, forget) == pytest.approx(best["forget_accuracy"]) and best["forget_accuracy"] < 0.1
    assert right(kept, others) == pytest.approx(best["held_out_accuracy"])

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop |= state.global_step == 3

    options |= {"save_strategy": "steps", "save_steps": 1}
    cut = stopped(tmp_path / "cut", "retain_drop", forget, keep, others, **options)
    cut.add_callback(Stop())
    cut.train()
    again = stopped(tmp_path / "cut", "retain_drop", forget, keep, others, **options)
    again.train(resume_from_checkpoint=True)
    assert_same(again.model, t.model)


def test_nothing_is_forgotten_where_the_margin_is_left_at_once(tmp_path, caplog):
    _, data, held_out = digits()
    forget = part(data, data.labels == 1)
    t = stopped(
        tmp_path, "retain_drop", forget, data, held_out, threshold=0.01, learning_rate=50.0, retain_margin=0.0,
        max_forget_grad_norm=0.0,
    )  # fmt: skip
    with caplog.at_level(logging.WARNING, "hf_dtl"):
        t.train()
    assert "nothing is forgotten" in " ".join(caplog.text.split())
    assert_same(t.model, t.teacher)


def test_a_stop_rule_needs_held_out_images(tmp_path):
    _, data, _ = digits()
    with pytest.raises(ConfigError, match="give eval_dataset"):
        stopped(tmp_path, "retain_drop", data, data, None)


def test_loss_by_hand():
    logits, labels = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.5]], dtype=torch.float64), torch.tensor([0, 2])
    p = logits.softmax(-1)
    own = p[[0, 1], labels]
    wanted = -(1.05 - own).log().mean() + 0.2 * (p * p.log()).sum(-1).mean()
    assert bounded_forgetting(logits, labels).item() == pytest.approx(wanted.item(), rel=1e-5)
    others = torch.tensor([[0.0, -1.0], [0.0, 1.0]], dtype=torch.float64).softmax(-1)
    wanted = -(1.1 - own).log().mean() - 0.2 * (others * others.log()).sum(-1).mean()
    got = bounded_forgetting(logits, labels, delta=0.1, depoison=True)
    assert got.item() == pytest.approx(wanted.item(), rel=1e-5)
    sure = torch.tensor([[50.0, 0.0, 0.0]], requires_grad=True)
    for poison in (False, True):
        (gradient,) = torch.autograd.grad(bounded_forgetting(sure, torch.tensor([0]), depoison=poison), sure)
        assert torch.isfinite(gradient).all()


def test_layers_that_cannot_be_projected_are_named(tmp_path, caplog):
    model = two_headed("vit")

    class Odd(torch.nn.Linear):
        """A layer whose weight is used without calling it."""

    model.backbone.odd = Odd(4, 4)
    with caplog.at_level(logging.WARNING, "hf_dtl"):
        build(PGU, tmp_path, model=model)
    assert "backbone.odd" in caplog.text


def test_statistics_that_do_not_fit_are_refused(tmp_path):
    args = ProjectedGradientConfig(output_dir=str(tmp_path / "a"), **OPTIONS | {"forget_task": "target"})
    t = ProjectedGradientTrainer(one_headed(), args, target(), target())
    file, options = tmp_path / "moments.safetensors", OPTIONS | {"forget_task": "target"}
    t.save_subspace(file)

    def start(model=None, path=file, processor=None):
        args = ProjectedGradientConfig(output_dir=str(tmp_path / "b"), subspace_file=str(path), **options)
        return ProjectedGradientTrainer(model or one_headed(), args, target(), processing_class=processor)

    before = one_headed()
    for change, message in (
        ({"model": one_headed("swin")}, "weights differ"),
        ({"processor": embedded_processor(size=16)}, "processing differ"),
        ({"path": tmp_path / "none.safetensors"}, "does not exist"),
    ):
        with pytest.raises(ConfigError, match=message):
            start(**change)
    t.subspace.images = 5
    t.save_subspace(file)
    with pytest.raises(ConfigError, match="none would be left"):
        start(before)
    assert_same(before, one_headed())
    file.write_bytes(b"junk")
    with pytest.raises(ConfigError, match="cannot be used"):
        start()
    with pytest.raises(ConfigError, match="Give the images to retain"):
        ProjectedGradientTrainer(before, ProjectedGradientConfig(output_dir=str(tmp_path), **options), target())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0.0}, "threshold=0.0"), ({"threshold": 1.5}, "threshold=1.5"), ({"delta": 0.0}, "delta=0.0"),
        ({"entropy_weight": -1.0}, "entropy_weight=-1.0"), ({"criterion": "rank"}, "criterion='rank'"),
        ({"goal": "hide"}, "goal='hide'"), ({"stop": "now"}, "stop='now'"), ({"check_every": 0}, "check_every=0"),
        ({"check_images": 0}, "check_images=0"),
        ({"retain_margin": 2.0}, "retain_margin=2.0"),
    ],
)  # fmt: skip
def test_bad_options(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        build(PGU, tmp_path, **options)


def test_fingerprints():
    model = one_headed()
    first = fingerprints(model, "target", embedded_processor(size=16))
    assert first == fingerprints(copy.deepcopy(model), "target", embedded_processor(size=16))
    assert first["processing"] != fingerprints(model, "target", embedded_processor(size=20))["processing"]
    model.heads["target"].bias.data[0] += 1e-3
    assert first["weights"] != fingerprints(model, "target", None)["weights"]
