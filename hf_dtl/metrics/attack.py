"""The metric `piggyback_accuracy` of a model: run the attacks, and say in plain values what they reached."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from transformers import BaseImageProcessor, PreTrainedModel

from hf_dtl.audit import AttackConfig, AxisLeakage, leakage, no_model, run_audit, scratch_models
from hf_dtl.audit.store import Axis
from hf_dtl.audit.suites import CUSTOM, find_suite
from hf_dtl.data import load_processor
from hf_dtl.data.processors import channels_of
from hf_dtl.errors import ConfigError, ModelError
from hf_dtl.metrics.attacked import Images, attacked_task
from hf_dtl.models.loading import check_same_processors, load_classifier

Model = PreTrainedModel | str | Path


def attack_model(
    model: Model,
    train_dataset: Images | None = None,
    test_dataset: Images | None = None,
    *,
    validation_dataset: Images | None = None,
    undisposed: Model | None = None,
    scratch: Model | bool | None = None,
    retrained: Model | None = None,
    processor: BaseImageProcessor | str | Path | None = None,
    num_classes: int | None = None,
    labels: Sequence[str] | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    axis: Axis = "source_subset",
    suite: str | None = None,
    store: str | Path | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
    **attack: Any,
) -> dict[str, Any]:
    """Compute the piggyback learning (PL) accuracy of a model: how well an attacker relearns a task from it.

    Args:
        model: the published classifier: a `PreTrainedModel`, a Hub id or a folder (safetensors only, no remote code).
        train_dataset: what the attacker draws from: a `datasets.Dataset`, an object with `pixel_values` and `labels`
            as `ImageTensors` has, or the name of a whole task as `load_task` reads it, such as `"mnist[0,1,2]"`.
        test_dataset: likewise; left out for a whole task. No image may be in both.
        validation_dataset: what the attacker chooses its learning rate on. None takes a fifth of each class of the
            training images, at most 100, and always the same ones; the attacker draws from the others.
        undisposed: the model before disposal, the ceiling.
        scratch: the floor: a model, or True for random weights of the same architecture. None means True where
            `undisposed` is given.
        retrained: a model that never saw the task.
        processor: prepares the images for every model, where the data are no tensors; None takes that of the model.
        num_classes: number of classes; None counts them.
        labels: names of the classes, for tensors; None means their numbers.
        image_column, label_column: columns of data sets; None finds them.
        axis: `source_subset` (the task that was to be forgotten) or `novel_downstream` (one that nobody trained).
        suite: attacks that are fixed by name; None means quick-1, or custom where `attack` says something else.
        store: file that keeps finished attacks, so that an interrupted call continues.
        device: where to attack; None means the device of the model.
        progress: show a bar.
        **attack: options of `AttackConfig` for an attacker of one's own (`custom`), such as `budgets=(1, 5, 20)`,
            `seeds=(0, 1, 2)` or `attacks=("full",)`.

    Returns:
        Plain values that JSON can hold:

        - `piggyback_accuracy`: in 0..1. At each budget the strongest attack counts, chosen by mean validation
          accuracy; its test accuracy is averaged over seeds, and that over budgets.
        - `deviation`: of that over seeds (n - 1), None for one seed.
        - `slc_auc`: area under the accuracies over log(budget), as a mean height in 0..1.
        - `chance`: 1 / classes.
        - `per_budget`: budget → `mean`, `deviation`, `attack` and the `values` of the seeds.
        - `attacks`: every attack on every model, as in a leakage report.
        - `references`: model → the first five of these, for each reference that was given.
        - `suite`: `name` and `hash` of the suite of attacks.
        - `leakage`, where undisposed is there: the fields of `hf_dtl.audit.Ratio` over the floor that is best on
          validation at each budget; `leakage_over`: the same over each floor, `no_model` among them.

    Raises:
        ConfigError, DataError, ModelError: arguments, images or a model cannot be used; before the first attack.

    Source: Koh et al., ICCV 2023, arXiv 2308.09971, name PL accuracy; the protocol is that of `hf_dtl.audit`.
    """
    if train_dataset is None:
        raise ConfigError("train_dataset is missing: what does the attacker learn from?")
    loaded = _classifier(model)
    config = _config(loaded, suite, attack)
    optional = {"undisposed": undisposed, "scratch": scratch, "retrained": retrained}
    references = {role: one for role, one in optional.items() if one is not None and not isinstance(one, bool)}
    models: dict[str, Any] = {"scrubbed": loaded, **{role: _classifier(one) for role, one in references.items()}}
    if scratch is True or (scratch is None and undisposed is not None):
        models["scratch"] = scratch_models(loaded, len(config.seeds))
    channels = channels_of(loaded.config)

    def prepare() -> BaseImageProcessor:
        if processor is not None:
            return _processor(processor, loaded)
        processors = {"attacked": _processor(model, loaded)}
        for role, one in references.items():
            if isinstance(one, (str, Path)):
                processors[role] = _processor(one, models[role])
        check_same_processors(processors, channels, "Give processor= to prepare the images of all models alike.")
        return processors["attacked"]

    task = attacked_task(
        train_dataset, test_dataset, validation_dataset, most_budget=max(config.budgets), num_channels=channels,
        processor=prepare, labels=labels, num_classes=num_classes, image_column=image_column,
        label_column=label_column, axis=axis,
    )  # fmt: skip
    device = device or loaded.device
    if undisposed is not None:
        models["no_model"] = no_model(task)
    records = run_audit(models, {"attacked": task}, config, store=store, progress=progress, device=device)
    found = leakage(records, axis)
    assert found is not None
    accuracies = {name: _accuracy(found, name) | {"chance": 1 / len(task.labels)} for name in models}
    result = accuracies.pop("scrubbed") | {"attacks": [asdict(record) for record in records], "references": accuracies}
    result["suite"] = config.suite()
    if "undisposed" in accuracies:
        result["leakage"] = asdict(found.headline)
        result["leakage_over"] = {floor: asdict(ratio) for floor, ratio in found.by_floor.items()}
    return result


def _classifier(model: Model) -> PreTrainedModel:
    if isinstance(model, PreTrainedModel):
        return model
    if not isinstance(model, (str, Path)):
        raise ModelError(
            f"A model is a transformers PreTrainedModel, a Hub id or a folder, got {type(model).__name__}."
        )
    return load_classifier(model)


def _processor(source: BaseImageProcessor | Model, model: PreTrainedModel) -> BaseImageProcessor:
    if isinstance(source, BaseImageProcessor):
        return source
    place = source if isinstance(source, (str, Path)) else model.name_or_path
    if not place:
        raise ConfigError(
            "Which processor prepares the images? The model was not loaded from the Hub or a folder that would say. "
            "Give processor=, for example AutoImageProcessor.from_pretrained(…), or tensors as data sets."
        )
    return load_processor(place, model.config)


def _config(model: PreTrainedModel, suite: str | None, options: dict[str, Any]) -> AttackConfig:
    known = {field.name: field.default for field in fields(AttackConfig)}
    unknown = sorted(options.keys() - known.keys())
    if unknown:
        raise ConfigError(f"Unknown arguments {', '.join(unknown)}. Options of the attacker: {', '.join(known)}.")
    cost = {"max_stack", "workers", "eval_batch_size"}
    if suite is None:
        suite = CUSTOM if options.keys() - cost else "quick-1"
    if suite != CUSTOM:
        if own := sorted(options.keys() - cost):
            raise ConfigError(
                f"suite={suite!r} fixes the attacker: leave out {', '.join(own)}, or give suite='custom'."
            )
        return find_suite(suite).config(model.num_parameters(), **options)
    for name in options.keys() & {name for name, default in known.items() if isinstance(default, tuple)}:
        value = options[name]
        options[name] = (value,) if isinstance(value, (int, float, str)) else tuple(value)
    return AttackConfig.for_model(model.num_parameters(), **options)


def _accuracy(axis: AxisLeakage, model: str) -> dict[str, Any]:
    points = [point for point in axis.pl_accuracy if point.model == model]
    seeds = [fmean(values) for values in zip(*(point.values for point in points), strict=True)]
    per_budget = {
        p.budget: {"mean": p.mean, "deviation": p.deviation, "attack": p.attack, "values": list(p.values)}
        for p in points
    }
    return {
        "piggyback_accuracy": fmean(seeds),
        "deviation": stdev(seeds) if len(seeds) > 1 else None,
        "slc_auc": axis.slc_auc[model].mean,
        "per_budget": per_budget,
    }
