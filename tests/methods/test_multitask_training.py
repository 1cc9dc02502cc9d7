"""Joint training: the losses by hand, every task learned, untouched heads untouched, one process or two."""

import copy
import gc
import json
import math
import os
import sys
from pathlib import Path

import pytest
import torch
from architectures import CONFIGS
from launching import run_on_two
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification, HfArgumentParser, TrainerCallback

from hf_dtl.data import MultiTaskImages, embedded_processor, load_multitask
from hf_dtl.errors import ConfigError, DataError, ModelError
from hf_dtl.functional import augment
from hf_dtl.models.heads import MultiHeadClassifier
from hf_dtl.trainers.multitask_training import (
    MultiTaskTrainer,
    MultiTaskTrainingConfig,
    measure_tasks,
    predict_tasks,
    with_task_heads,
)

TASKS = {"side": ("left", "right"), "level": ("low", "middle", "high"), "tilt": ()}
OPTIONS = {
    "use_cpu": True,
    "report_to": "none",
    "disable_tqdm": True,
    "save_strategy": "no",
    "logging_steps": 1,
    "max_steps": 3,
    "per_device_train_batch_size": 16,
    "optim": "sgd",
    "max_grad_norm": 0,  # a bound would hide a wrong factor
    "learning_rate": 0.1,
    "lr_scheduler_type": "constant",
    "seed": 3,
}


def bars(number: int = 64, seed: int = 0) -> MultiTaskImages:
    """A bright column on the left or right and a bright row at one of three heights, over a brightness gradient."""
    draw = torch.Generator().manual_seed(seed)
    side = torch.randint(2, (number,), generator=draw)
    level = torch.randint(3, (number,), generator=draw)
    tilt = torch.rand(number, generator=draw) * 2 - 1
    pixels = 0.1 * torch.randn(number, 3, 16, 16, generator=draw)
    pixels += tilt[:, None, None, None] * torch.linspace(-1, 1, 16)[:, None]
    for n in range(number):
        pixels[n, :, :, 2 + 9 * side[n] : 5 + 9 * side[n]] += 2.0
        pixels[n, :, 1 + 5 * level[n] : 4 + 5 * level[n]] += 2.0
    return MultiTaskImages(pixels, {"side": side, "level": level, "tilt": tilt})


def network(name: str = "vit", tasks=TASKS) -> MultiHeadClassifier:
    torch.manual_seed(0)
    return with_task_heads(AutoModelForImageClassification.from_config(CONFIGS[name]()), tasks)


def build(
    folder, name: str = "vit", data=None, model=None, evaluation=None, processor=None, callbacks=None, **options
):
    args = MultiTaskTrainingConfig(output_dir=str(folder), **OPTIONS | options)
    return MultiTaskTrainer(
        model or network(name), args, data or bars(), eval_dataset=evaluation, processing_class=processor,
        callbacks=callbacks,
    )  # fmt: skip


def state(model) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def distance(one: dict, other: dict) -> float:
    """Relative distance of two state dictionaries."""
    vectors = [torch.cat([s[n].double().flatten() for n in one if s[n].is_floating_point()]) for s in (one, other)]
    return ((vectors[0] - vectors[1]).norm() / vectors[0].norm()).item()


def by_hand(model, images, labels, weights) -> torch.Tensor:
    outputs = model(images)
    side = -outputs["side"].log_softmax(-1)[range(len(images)), labels["side"]].mean()
    level = -outputs["level"].log_softmax(-1)[range(len(images)), labels["level"]].mean()
    tilt = ((outputs["tilt"][:, 0] - labels["tilt"]) ** 2).mean()
    return weights[0] * side + weights[1] * level + weights[2] * tilt


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.5, 2.0, 3.0)])
def test_one_step_equals_a_computation_by_hand(tmp_path, weights):
    data = bars(16)
    given = dict(zip(TASKS, weights, strict=True)) if weights != (1.0, 1.0, 1.0) else None
    t = build(tmp_path, data=data, max_steps=1, task_weights=given)
    oracle = copy.deepcopy(t.model).train()
    loss = by_hand(oracle, data.pixel_values, data.labels, weights)
    parameters = [p for p in oracle.parameters() if p.requires_grad]
    with torch.no_grad():
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter -= 0.1 * gradient
    t.train()
    assert t.state.log_history[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert distance(state(oracle), state(t.model)) < 1e-6


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_every_task_is_learned_and_evaluation_says_so(tmp_path, name):
    held_out = bars(50, seed=1)
    t = build(
        tmp_path, name, bars(200), evaluation=held_out, max_steps=60, per_device_train_batch_size=32,
        optim="adamw_torch", learning_rate=3e-3, per_device_eval_batch_size=16,
    )  # fmt: skip
    before = measure_tasks(t.model, held_out)
    t.train()
    after, told = measure_tasks(t.model, held_out), t.evaluate()
    assert after["side"] > 0.9 and after["level"] > 0.8 and after["tilt"] < 0.25 < before["tilt"]
    assert told["eval_side_accuracy"] == after["side"] and told["eval_level_accuracy"] == after["level"]
    assert told["eval_tilt_mean_absolute_error"] == pytest.approx(after["tilt"], rel=1e-5)
    with torch.no_grad():
        loss = by_hand(t.model.eval(), held_out.pixel_values, held_out.labels, (1, 1, 1))
        outputs = t.model(held_out.pixel_values)
    assert told["eval_loss"] == pytest.approx(loss.item(), rel=1e-4)
    right = sum(o.argmax() == y for o, y in zip(outputs["side"], held_out.labels["side"], strict=True))
    assert after["side"] == pytest.approx(right.item() / 50)
    wrong = (outputs["tilt"][:, 0] - held_out.labels["tilt"]).abs().sum().item() / 50
    assert after["tilt"] == pytest.approx(wrong, rel=1e-5)


def test_a_single_task_and_other_data_are_evaluated(tmp_path):
    only = MultiTaskImages(bars(20).pixel_values, {"level": bars(20).labels["level"]})
    t = build(tmp_path, data=only, max_steps=1)
    assert t.evaluate(only)["eval_level_accuracy"] == measure_tasks(t.model, only)["level"]
    told = t.evaluate(bars(20))
    assert {f"eval_{k}" for k in ("side_accuracy", "level_accuracy", "tilt_mean_absolute_error")} < told.keys()


def test_heads_without_data_or_weight_stay_bit_identical_and_nothing_unused_is_trained(tmp_path):
    model = network("dinov2")
    model.add_head("other", ["a", "b"])
    before = state(model)
    t = build(
        tmp_path, model=model, task_weights={"level": 0}, optim="adamw_torch", weight_decay=0.5, learning_rate=1e-2
    )
    assert set(t.weights) == {"side", "tilt"}
    frozen = {n for n, p in t.model.named_parameters() if not p.requires_grad}
    assert {n for n in frozen if n.startswith("heads")} == {
        f"heads.{task}.{part}" for task in ("other", "level") for part in ("weight", "bias")
    }
    assert any("mask_token" in n for n in frozen)
    t.train()
    after = state(t.model)
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    assert not changed & frozen and {"heads.side.weight", "heads.tilt.bias"} < changed


def test_split_of_the_batch_does_not_matter(tmp_path):
    """Four micro-batches of 8 a step against one of 32; and the augmentation is that of the seed."""
    whole = build(tmp_path, per_device_train_batch_size=32)
    whole.train()
    parts = build(tmp_path, per_device_train_batch_size=8, gradient_accumulation_steps=4)
    parts.train()
    assert distance(state(whole.model), state(parts.model)) < 1e-5
    assert distance(state(whole.model), state(network())) > 1e-3
    moved = [build(tmp_path, augmentation="affine", seed=s) for s in (3, 3, 4)]
    for t in moved:
        t.train()
    states = [state(t.model) for t in moved]
    assert distance(states[0], states[1]) == 0 < distance(states[0], states[2])


def test_training_images_are_transformed_and_evaluated_ones_are_not(tmp_path):
    data, seen = bars(16), []
    t = build(tmp_path, data=data, augmentation="affine_flip", max_steps=2, gradient_accumulation_steps=2,
              num_train_epochs=2, evaluation=data, per_device_train_batch_size=8)  # fmt: skip
    t.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    t.train()
    assert len(seen) == 4 and len({x.sum().item() for x in seen}) == 4
    expected = []
    for number, batch in enumerate(t.get_train_dataloader()):  # the first epoch again
        draw = torch.Generator().manual_seed(3 * 1_000_003 + number)
        expected.append(augment(batch["pixel_values"], "affine_flip", draw))
    order = lambda batches: sorted(x.sum().item() for x in batches)  # noqa: E731
    assert not set(order(seen)) & {data.pixel_values[:8].sum().item()}
    assert all(any(torch.equal(x, e) for e in expected) for x in seen[:2])
    seen.clear()
    t.evaluate()
    assert torch.equal(torch.cat(seen), data.pixel_values)


def test_resumes(tmp_path):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 2

    options = dict(max_steps=5, save_strategy="steps", save_steps=1, optim="adamw_torch", learning_rate=1e-2)
    options |= {"augmentation": "affine", "gradient_accumulation_steps": 2, "per_device_train_batch_size": 8}
    build(tmp_path / "a", callbacks=[Stop()], **options).train()
    resumed, whole = build(tmp_path / "a", **options), build(tmp_path / "b", **options)
    resumed.train(resume_from_checkpoint=True)
    whole.train()
    assert resumed.state.global_step == 5 and distance(state(whole.model), state(resumed.model)) < 1e-6


def test_the_saved_folder_holds_every_head_and_nothing_else(tmp_path):
    t = build(tmp_path / "run", processor=embedded_processor(16))
    t.train()
    t.save_model(tmp_path / "saved")
    names = {file.name for file in (tmp_path / "saved").iterdir()}
    assert names == {"model.safetensors", "config.json", "tasks.json", "preprocessor_config.json"}
    loaded = MultiHeadClassifier.load(tmp_path / "saved")
    assert loaded.labels == TASKS and measure_tasks(loaded, bars(30)) == measure_tasks(t.model, bars(30))


def test_data_sets_are_processed_and_predictions_are_in_order(tmp_path):
    data = load_multitask("fashion_groups", task_columns=["kind", "season"], images=40)
    few = data.test.select(range(20))
    model = network(tasks=data.tasks)
    t = build(tmp_path, data=data.train, model=model, evaluation=few, processor=embedded_processor(16), max_steps=2)
    t.train()
    assert isinstance(t.train_dataset, MultiTaskImages) and len(t.train_dataset) == 40
    assert t.evaluate()["eval_kind_accuracy"] == measure_tasks(model, t.eval_dataset)["kind"]
    assert t.evaluate(few)["eval_kind_accuracy"] == measure_tasks(model, t.eval_dataset)["kind"]
    training = model.training
    outputs = predict_tasks(model, t.eval_dataset, batch_size=7)
    assert model.training == training and {t: o.shape for t, o in outputs.items()} == {
        "kind": (20, 3),
        "season": (20, 3),
    }
    with torch.no_grad():
        assert torch.allclose(outputs["kind"], model.eval()(t.eval_dataset.pixel_values, task="kind"), atol=1e-6)


def test_options_from_the_command_line(tmp_path):
    parser = HfArgumentParser(MultiTaskTrainingConfig)
    (args,) = parser.parse_args_into_dataclasses(
        ["--output_dir", str(tmp_path), "--use_cpu", "--task_weights", '{"side": 0.5}', "--augmentation", "affine"]
    )
    assert args.task_weights == {"side": 0.5} and args.augmentation == "affine"
    assert "task_weights" in parser.format_help()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task_weights": {"side": -1}}, "weight of 'side' is -1"),
        ({"task_weights": {"side": math.nan}}, "weight of 'side' is nan"),
        ({"task_weights": {"side": "much"}}, "weight of 'side' is 'much'"),
        ({"task_weights": "side=1"}, "not JSON"),
        ({"task_weights": "[1]"}, "task: weight pairs"),
        ({"task_weights": {"sied": 1}}, "'sied', which the data do not have. Tasks: side, level, tilt"),
        ({"task_weights": dict.fromkeys(TASKS, 0)}, "every task the weight 0"),
        ({"augmentation": "blur"}, "augmentation='blur'"),
        ({"fsdp": "full_shard"}, "fsdp has not been verified"),
    ],
)
def test_options_that_cannot_be_used(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        build(tmp_path, **options)


def labelled(**labels) -> MultiTaskImages:
    return MultiTaskImages(bars(4).pixel_values, {task: torch.tensor(values) for task, values in labels.items()})


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (labelled(sides=[0, 1, 0, 1]), ModelError, "no head for the task 'sides' of the data; its tasks are: side"),
        (
            labelled(tilt=[0, 1, 0, 1]),
            ModelError,
            "labels of 'tilt' are those of classes, its head is for a regression",
        ),
        (labelled(side=[0.0, 1, 0, 1]), ModelError, "labels of 'side' are those of a regression task"),
        (labelled(side=[0, 1, 2, 1]), DataError, r"'side' has labels that are not 0\.\.1"),
        (labelled(side=[0, 1, -1, 1]), DataError, r"'side' has labels that are not 0\.\.1"),
        (labelled(tilt=[0.0, 1, math.nan, 1]), DataError, "'tilt' has labels that are not finite"),
    ],
)
def test_labels_that_do_not_fit_the_heads(tmp_path, data, error, message):
    for case in ({"data": data}, {"evaluation": data}):
        with pytest.raises(error, match=message):
            build(tmp_path, **case)
    with pytest.raises(error, match=message):
        measure_tasks(network(), data)


def test_models_and_numbers_that_cannot_be_measured(tmp_path):
    plain = AutoModelForImageClassification.from_config(CONFIGS["vit"]())
    with pytest.raises(ModelError, match="with_task_heads"):
        build(tmp_path, model=plain)
    with pytest.raises(ModelError, match="No task is named"):
        with_task_heads(plain, {})
    with pytest.raises(ConfigError, match="processing_class"):
        build(tmp_path, data=load_multitask("fashion_groups", images=40).train)
    with pytest.raises(DataError, match="zero images"):
        measure_tasks(network(), bars(4).subset([]))
    broken = network()
    broken.heads["tilt"].bias.data.fill_(math.nan)
    with pytest.raises(ModelError, match="head of 'tilt' gave values that are not finite"):
        measure_tasks(broken, bars(4))


def train_and_save(folder: Path) -> None:
    """What every process of the launched check does: 64 images, 4 micro-batches of 8 a step, uneven evaluation."""
    world = int(os.environ.get("WORLD_SIZE", 1))
    t = build(
        folder, "dinov2", evaluation=bars(21, seed=1), augmentation="affine", task_weights={"level": 0},
        per_device_train_batch_size=8, gradient_accumulation_steps=4 // world, per_device_eval_batch_size=4,
    )  # fmt: skip
    t.train()
    told = {name: value for name, value in t.evaluate().items() if name.endswith(("accuracy", "error"))}
    t.save_model(folder / "model")
    (folder / f"told-{t.args.process_index}.json").write_text(json.dumps(told | {"world": t.args.world_size}))
    del t
    gc.collect()  # a DDP model that outlives its process group can wait forever when it is freed
    if world > 1:
        torch.distributed.destroy_process_group()


@pytest.mark.distributed
def test_two_processes_match_one(tmp_path):
    folders = [tmp_path / "1", tmp_path / "2"]
    train_and_save(folders[0])
    status, _, err = run_on_two(__file__, folders[1])
    assert status == 0, err[-4000:]
    one, two = (load_file(folder / "model" / "model.safetensors") for folder in folders)
    assert distance(one, two) < 1e-5 and distance(one, state(network("dinov2"))) > 1e-3
    told = [json.loads((tmp_path / f).read_text()) for f in ("1/told-0.json", "2/told-0.json", "2/told-1.json")]
    assert [t.pop("world") for t in told] == [1, 2, 2]
    assert told[1] == told[2] == pytest.approx(told[0], rel=1e-4)


if __name__ == "__main__":
    train_and_save(Path(sys.argv[1]))
