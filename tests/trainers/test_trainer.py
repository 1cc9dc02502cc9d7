import copy
import logging
from pathlib import Path

import pytest
import torch
from architectures import CONFIGS
from safetensors import safe_open
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector
from toy_tasks import OPTIONS, source, target, two_headed
from transformers import AutoModelForImageClassification, HfArgumentParser, TrainerCallback

from hf_dtl import methods
from hf_dtl.data import embedded_processor, load_task
from hf_dtl.errors import ConfigError, DivergedError, ModelError
from hf_dtl.functional import augment
from hf_dtl.methods import GradientCollisionConfig, GradientCollisionTrainer
from hf_dtl.trainers.config import UnlearningConfig
from hf_dtl.trainers.trainer import UnlearningTrainer

METHODS = ["GradientCollision", "NegativeCrossEntropy", "RandomFooling", "UniformFooling"]
AS_THEY_ARE = {"retain_augmentation": "none"}


def trainer(tmp_path, method="GradientCollision", model=None, callbacks=None, **options):
    config = getattr(methods, f"{method}Config")(output_dir=str(tmp_path), **OPTIONS | options)
    model = two_headed() if model is None else model
    return getattr(methods, f"{method}Trainer")(
        model=model, args=config, forget_dataset=source(), retain_dataset=target(), callbacks=callbacks
    )


def trained(tmp_path, *args, **kwargs):
    t = trainer(tmp_path, *args, **kwargs)
    t.train()
    return t


def flat(model):
    return parameters_to_vector(model.parameters())


def distance(a, b, start=None):
    """Relative difference of two models' weights; with `start`, relative to how far `b` moved from it."""
    origin = 0 if start is None else flat(start)
    return ((flat(a) - flat(b)).norm() / (flat(b) - origin).norm()).item()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_logs_and_leaves_the_source_head_alone(tmp_path, method):
    start = two_headed()
    t = trained(tmp_path, method)
    assert distance(t.model.backbone, start.backbone) > 1e-4
    assert torch.equal(flat(t.model.heads["source"]), flat(start.heads["source"]))
    logs = [entry for entry in t.state.log_history if "disposal_value" in entry]
    assert len(logs) == 3
    wanted = {"disposal_value", "disposal_grad_norm", "source_loss", "retain_loss", "loss"}
    if method == "GradientCollision":
        wanted |= {"mean_cosine", "mean_gradient_norm"}
    assert all(wanted <= entry.keys() for entry in logs)
    assert all(e["loss"] == pytest.approx(e["retain_loss"] + e["disposal_value"], rel=1e-4, abs=1e-6) for e in logs)


def test_first_logged_values_equal_a_computation_by_hand(tmp_path):
    """One step: GC value, cosine, norm, source loss and retention loss against plain autograd on the same chunks."""
    t = trainer(tmp_path, max_steps=1, retain_inputs="both", temperature=3.0)
    model, streams = copy.deepcopy(t.model).eval(), t.train_dataset
    t.train()
    log = next(e for e in t.state.log_history if "mean_cosine" in e)
    chunks = [streams[i] for i in range(4)]
    parameters = [p for p in model.parameters() if p.requires_grad]
    losses = [
        F.cross_entropy(model(c["forget"]["pixel_values"], task="source"), c["forget"]["labels"]) for c in chunks
    ]
    gradients = [torch.autograd.grad(loss, parameters, materialize_grads=True) for loss in losses]
    g = torch.stack([parameters_to_vector(row) for row in gradients])
    gram, unit = g @ g.T, F.normalize(g) @ F.normalize(g).T
    assert log["disposal_value"] == pytest.approx((gram.sum() - gram.trace()).item() / 12, rel=1e-3)
    assert log["mean_cosine"] == pytest.approx((unit.sum() - unit.trace()).item() / 12, rel=1e-3)
    assert log["mean_gradient_norm"] == pytest.approx(g.norm(dim=1).mean().item(), rel=1e-3)
    assert log["source_loss"] == pytest.approx(torch.stack(losses).mean().item(), rel=1e-3)
    assert log["retain_loss"] == pytest.approx(0, abs=1e-5), "the model still equals its teacher"


@pytest.mark.parametrize("method", ["GradientCollision", "RandomFooling"])
def test_same_weights_however_the_step_is_split(tmp_path, method):
    """Chunks are collided over the whole optimizer step: accumulation must not change the result."""
    start = two_headed()
    one = trained(tmp_path, method, per_device_train_batch_size=16)
    two = trained(tmp_path, method, per_device_train_batch_size=8, gradient_accumulation_steps=2)
    assert distance(two.model, one.model, start) < 1e-4
    if method == "GradientCollision":
        assert distance(trained(tmp_path, method, num_chunks=2).model, one.model, start) > 0.01, "chunks matter"


def test_activation_checkpointing_and_finite_difference_change_nothing(tmp_path):
    start, plain = two_headed(), trained(tmp_path)
    assert distance(trained(tmp_path, activation_checkpointing=True).model, plain.model, start) < 1e-4
    difference = trained(tmp_path, create="finite_difference")
    assert distance(difference.model, plain.model, start) < 0.01
    log = next(e for e in difference.state.log_history if "finite_difference_error" in e)
    assert 0 < log["finite_difference_error"] < 0.01
    assert difference.model.backbone.config._attn_implementation == "sdpa"
    assert plain.model.backbone.config._attn_implementation == "eager"


@pytest.mark.parametrize("create", ["exact", "finite_difference"])
def test_bf16_autocast_trains_near_the_float32_path(tmp_path, create):
    start, plain = two_headed(), trained(tmp_path, max_steps=1)
    half = trained(tmp_path, bf16=True, create=create, max_steps=1)
    assert all(p.dtype == torch.float32 for p in half.model.parameters())
    assert 0 < distance(half.model, plain.model, start) < (0.1 if create == "exact" else 0.4)


@pytest.mark.parametrize(("workers", "forget_weight"), [(0, 1.0), (1, 1.0), (0, 0.0)])
def test_resumes_to_the_same_weights(tmp_path, workers, forget_weight):
    """Interrupted inside the second epoch, in a new trainer, with dropout on."""

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 11

    def model():
        m = two_headed()
        for module in m.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.1
        return m

    options = dict(
        max_steps=14,
        save_strategy="steps",
        save_steps=1,
        dataloader_num_workers=workers,
        lr_scheduler_type="linear",
        forget_weight=forget_weight,
    )
    whole = trained(tmp_path / "whole", model=model(), **options)
    assert whole.train_dataset.steps_per_epoch == 8, "step 11 lies in the second epoch"
    trained(tmp_path / "cut", model=model(), callbacks=[Stop()], **options)
    resumed = trainer(tmp_path / "cut", model=model(), **options)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 14
    for (name, a), b in zip(whole.model.state_dict().items(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert all(
        torch.equal(a, b) for a, b in zip(whole.teacher.parameters(), resumed.teacher.parameters(), strict=True)
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_every_architecture_trains(tmp_path, name):
    start = two_headed(name)
    buffers = {n: b.clone() for n, b in start.named_buffers()}
    t = trained(tmp_path, model=copy.deepcopy(start), max_steps=2, learning_rate=1e-3)
    assert all(torch.isfinite(p).all() for p in t.model.parameters())
    assert distance(t.model.backbone, start.backbone) > 0
    assert all(torch.equal(b, buffers[n]) for n, b in t.model.named_buffers()), "BatchNorm statistics are frozen"


def test_retention_follows_its_options(tmp_path):
    """Distillation is on the images asked for; a model that already differs from its teacher shows it."""
    values = {}
    for inputs in ("target", "source", "both"):
        t = trainer(tmp_path, max_steps=1, retain_inputs=inputs, temperature=1.0, **AS_THEY_ARE)
        torch.manual_seed(1)
        with torch.no_grad():
            for p in t.model.heads["target"].parameters():
                p.add_(torch.randn_like(p))
        chunks = [t.train_dataset[i] for i in range(4)]
        with torch.no_grad():
            expected = {}
            for stream, name in (("retain", "target"), ("forget", "source")):
                x = torch.cat([c[stream]["pixel_values"] for c in chunks])
                p, q = (m(x, task="target").log_softmax(-1) for m in (t.model.eval(), t.teacher))
                expected[name] = (q.exp() * (q - p)).sum(-1).mean().item()
        t.train()
        values[inputs] = next(e["retain_loss"] for e in t.state.log_history if "retain_loss" in e)
    assert values["target"] == pytest.approx(expected["target"], rel=1e-4)
    assert values["source"] == pytest.approx(expected["source"], rel=1e-4)
    assert values["both"] == pytest.approx((expected["target"] + expected["source"]) / 2, rel=1e-4)
    t = trainer(tmp_path, max_steps=1, retain_inputs="source", target_ce_weight=0.5)
    t.train()
    log = next(e for e in t.state.log_history if "target_cross_entropy" in e)
    assert log["loss"] == pytest.approx(
        log["retain_loss"] + 0.5 * log["target_cross_entropy"] + log["disposal_value"], rel=1e-4
    )


def test_distillation_has_its_weight_and_without_one_the_original_model_is_not_asked(tmp_path, monkeypatch):
    t = trained(tmp_path, retain_inputs="both", distillation_weight=0.3, target_ce_weight=0.5)
    log = [e for e in t.state.log_history if "retain_loss" in e][-1]
    assert log["retain_loss"] > 1e-4
    assert log["loss"] == pytest.approx(
        0.3 * log["retain_loss"] + 0.5 * log["target_cross_entropy"] + log["disposal_value"], rel=1e-4
    )
    t = trainer(tmp_path, retain_inputs="both", distillation_weight=0.0, target_ce_weight=0.5, **AS_THEY_ARE)
    monkeypatch.setattr(t.teacher, "forward", lambda *args, **kwargs: pytest.fail("the original model was asked"))
    batch = [t.train_dataset[i]["retain"] for i in range(4)]
    with torch.no_grad():
        logits = t.model.eval()(torch.cat([b["pixel_values"] for b in batch]), task="target")
    t.train()
    log = next(e for e in t.state.log_history if "retain_loss" in e)
    expected = F.cross_entropy(logits, torch.cat([b["labels"] for b in batch])).item()
    assert log["retain_loss"] == log["target_cross_entropy"] == pytest.approx(expected, rel=1e-4)
    assert log["loss"] == pytest.approx(0.5 * expected + log["disposal_value"], rel=1e-4)
    nothing = dict(distillation_weight=0.0, target_ce_weight=0.0)
    methods.ProjectedGradientConfig(str(tmp_path), **OPTIONS | nothing)  # has no retention
    with pytest.raises(ConfigError, match="leave nothing that retains"):
        trainer(tmp_path, **nothing)


def test_weights_are_corrected_after_every_step_also_when_training_goes_on(tmp_path, monkeypatch):
    t, seen = trainer(tmp_path, "UniformFooling"), []
    monkeypatch.setattr(t, "constrain", lambda: seen.append(flat(t.model).clone()))
    t.train()
    t.train()
    assert len(seen) == 6 and torch.equal(seen[-1], flat(t.model))
    assert not any(torch.equal(a, b) for a, b in zip(seen, seen[1:], strict=False)), "after the step, not before"


def test_retain_images_are_transformed_chunk_by_chunk(tmp_path, monkeypatch):
    """What the model sees follows from the seed and the chunk alone, however the chunks are grouped into batches."""

    def seen(**options):
        t, batches = trainer(tmp_path, max_steps=2, **options), []
        retention = type(t).retention

        def watched(self, model, inputs):
            hook = model.register_forward_pre_hook(lambda m, args: batches.append(args[0]))
            loss = retention(self, model, inputs)
            hook.remove()
            return loss

        monkeypatch.setattr(type(t), "retention", watched)
        t.train()
        monkeypatch.undo()
        return torch.cat(batches), [t.train_dataset[i]["retain"]["pixel_values"] for i in range(8)]

    whole, chunks = seen()
    parts, _ = seen(per_device_train_batch_size=8, gradient_accumulation_steps=2)
    assert whole.shape == (32, 3, 16, 16) and torch.equal(whole, parts)
    assert not any(torch.allclose(a, b) for a, b in zip(whole, torch.cat(chunks), strict=True)), "every image moved"
    other, _ = seen(seed=4)
    assert not torch.equal(whole, other)
    generator = torch.Generator().manual_seed((3 * 1_000_003 + 5) ^ 0x5EED)
    assert torch.equal(whole[20:24], augment(chunks[5], "affine", generator))
    assert torch.equal(seen(**AS_THEY_ARE)[0], torch.cat(chunks))


def test_without_a_forget_weight_only_retention_is_left(tmp_path, monkeypatch):
    """Forget images are not looked at, whatever the disposal would do; the step is plain distillation."""
    options = dict(forget_weight=0.0, max_steps=2)
    changed = []
    for method in ("UniformFooling", "NegativeCrossEntropy"):
        cls = getattr(methods, f"{method}Trainer")
        monkeypatch.setattr(cls, "prepare", lambda self: self.model.heads["target"].weight.data.mul_(-5.0))
        monkeypatch.setattr(cls, "chunk_loss", lambda *args: pytest.fail("a forget image was looked at"))
        changed.append(trained(tmp_path, method, **options))
    assert torch.equal(flat(changed[0].model), flat(changed[1].model))
    logs = [e for e in changed[0].state.log_history if "retain_loss" in e]
    assert len(logs) == 2 and "disposal_value" not in logs[0] and logs[0]["retain_loss"] > 0
    assert all(e["loss"] == pytest.approx(e["retain_loss"], rel=1e-4) for e in logs)
    assert distance(changed[0].model.backbone, two_headed().backbone) > 1e-5
    with pytest.raises(DivergedError, match="retention loss became non-finite"):
        trained(tmp_path, "UniformFooling", forget_weight=0.0, learning_rate=1e30, max_steps=10)


def test_disposal_gradient_is_bounded_before_its_weight(tmp_path):
    """SGD at rate 1 without retention: the first step moves by exactly weight * bound."""
    start = two_headed()
    options = dict(max_steps=1, optim="sgd", learning_rate=1.0, max_grad_norm=0.0)
    t = trained(tmp_path, "NegativeCrossEntropy", max_forget_grad_norm=0.01, forget_weight=3.0, **options)
    moved = flat(t.model) - flat(start)
    assert moved.norm().item() == pytest.approx(0.03, rel=1e-2)
    log = next(e for e in t.state.log_history if "disposal_grad_norm" in e)
    free = trained(tmp_path, "NegativeCrossEntropy", max_forget_grad_norm=0.0, **options)
    moved = flat(free.model) - flat(start)
    assert moved.norm().item() == pytest.approx(log["disposal_grad_norm"], rel=1e-2)


def test_stops_on_a_non_finite_value_and_says_what_to_do(tmp_path):
    with pytest.raises(DivergedError, match=r"non-finite.*Lower learning_rate \(1e\+20\).*forget_weight"):
        trained(tmp_path, learning_rate=1e20, max_steps=20)


def test_a_plain_hub_model_forgets_with_its_only_head(tmp_path):
    """Raw `datasets` with a processor, one head, as a user of class unlearning would call it."""
    torch.manual_seed(0)
    plain = AutoModelForImageClassification.from_config(CONFIGS["vit"]())
    task = load_task("mnist[0,1,2,3,4,5]", images_per_class=8)
    common = dict(
        processing_class=embedded_processor(size=16), forget_dataset=task.train, retain_dataset=task.validation
    )
    with pytest.raises(ConfigError, match="retain_inputs='target'"):
        GradientCollisionTrainer(
            model=copy.deepcopy(plain),
            args=GradientCollisionConfig(str(tmp_path), **OPTIONS, retain_inputs="both"),
            **common,
        )
    with pytest.raises(ConfigError, match="forget_task='digits': ViTForImageClassification has one head"):
        args = GradientCollisionConfig(str(tmp_path), **OPTIONS, forget_task="digits")
        GradientCollisionTrainer(model=copy.deepcopy(plain), args=args, **common)
    t = GradientCollisionTrainer(model=plain, args=GradientCollisionConfig(str(tmp_path), **OPTIONS), **common)
    t.train()
    t.save_model(tmp_path / "scrubbed")
    AutoModelForImageClassification.from_pretrained(tmp_path / "scrubbed")


def test_saved_model_is_plain_and_private(tmp_path):
    t = trainer(tmp_path / "run", max_steps=1)
    t.processing_class = embedded_processor(size=16)
    t.train()
    t.save_model(tmp_path / "scrubbed")
    assert {f.name for f in Path(tmp_path / "scrubbed").iterdir()} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "scrubbed").eval()
    x = source().pixel_values[:5]
    with torch.no_grad():
        assert torch.allclose(loaded(x).logits, t.model.eval()(x, task="target"), atol=1e-6)
    with safe_open(tmp_path / "scrubbed" / "model.safetensors", "pt") as f:
        assert not any("heads" in key or "source" in key for key in f.keys())
    with pytest.raises(ConfigError, match="save_model"):
        t.push_to_hub()


def test_evaluate_measures_the_retained_task(tmp_path):
    t = trainer(tmp_path)
    t.eval_dataset = target()
    with torch.no_grad():
        expected = F.cross_entropy(t.model.eval()(target().pixel_values, task="target"), target().labels).item()
    assert t.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-4)


def test_parameters_without_gradient_are_frozen_and_named(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="hf_dtl.trainers.readiness"):
        t = trainer(tmp_path, model=two_headed("dinov2"))
    assert "mask_token" in caplog.text
    assert not t.model.backbone.get_parameter("dinov2.embeddings.mask_token").requires_grad


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fp16": True}, "use bf16"),
        ({"deepspeed": {"zero_optimization": {"stage": 2}}}, "deepspeed is not supported.*use DDP"),
        ({"torch_compile": True}, "torch_compile is not supported.*leave it off"),
        ({"push_to_hub": True}, "save_model"),
        ({"auto_find_batch_size": True}, "set the batch size"),
        ({"num_chunks": 3}, "num_chunks=3 must be a multiple"),
        ({"gradient_accumulation_steps": 8}, "num_chunks=4 must be a multiple"),
        ({"num_chunks": 1}, "num_chunks >= 2, got 1"),
        ({"num_chunks": 8, "chunking": "class"}, "6 classes for num_chunks=8"),
        ({"forget_weight": -1}, "forget_weight=-1 must be >= 0"),
        ({"forget_weight": "x"}, "forget_weight='x' must be a number, not str"),
        ({"learning_rate": "1e-4"}, "learning_rate='1e-4' must be a number, not str"),
        ({"num_chunks": 2.0}, "num_chunks=2.0 must be a whole number, not float"),
        ({"bf16": "False"}, "bf16='False' must be True or False, not str"),
        ({"temperature": True}, "temperature=True must be a number, not bool"),
        ({"temperature": 0}, "temperature=0 must be > 0"),
        ({"max_steps": 0}, "max_steps=0 trains nothing"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0 trains nothing"),
        ({"learning_rate": 0}, "learning_rate=0 trains nothing.* a rate above 0"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size=0 must be >= 1"),
        ({"per_device_train_batch_size": -4}, "per_device_train_batch_size=-4 must be >= 1"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps=0 must be >= 1"),
        ({"distillation_weight": -0.5}, "distillation_weight=-0.5 must be >= 0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"chunking": "alphabet"}, "alphabet"),
        ({"retain_augmentation": "colour"}, "'colour' is unknown; use one of: none, affine, affine_flip"),
        ({"retain_inputs": "none"}, "'none' is unknown"),
        ({"create": "magic"}, "magic"),
        ({"finite_difference_step": 0.0}, "finite_difference_step=0.0 must be > 0"),
    ],
)
def test_bad_options(tmp_path, options, message):
    HfArgumentParser(GradientCollisionConfig)  # it writes other types into the fields
    with pytest.raises(ConfigError, match=message):
        trainer(tmp_path, **options)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ACCELERATE_MIXED_PRECISION", "fp16"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR"),
        ("ACCELERATE_USE_DEEPSPEED", "true"),
        ("ACCELERATE_USE_FSDP", "true"),
    ],
)
def test_what_the_launcher_asks_for_is_refused_too(tmp_path, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=f"{variable}={value.lower()}, which is not supported. Instead: use"):
        UnlearningConfig(str(tmp_path), **OPTIONS)


def test_raw_images_need_a_processor(tmp_path):
    task = load_task("mnist[0,1,2,3,4,5]", images_per_class=2)
    with pytest.raises(ConfigError, match="processing_class"):
        UnlearningTrainer(two_headed(), UnlearningConfig(str(tmp_path), **OPTIONS), task.train, target())


def test_missing_task_and_base_class(tmp_path):
    with pytest.raises(ModelError, match="no task 'aim'; its tasks are: source, target"):
        trainer(tmp_path, retain_task="aim")
    config = UnlearningConfig(str(tmp_path), **OPTIONS)
    t = UnlearningTrainer(two_headed(), config, source(), target())
    assert t.train().global_step == 3, "the base class minimises the mean forget loss"
