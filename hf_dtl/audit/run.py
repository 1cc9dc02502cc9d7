"""Every attack on every model and axis, with one progress bar and nothing done twice."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import get_args

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_dtl.audit.config import Attack, AttackConfig
from hf_dtl.audit.piggyback import Attacker
from hf_dtl.audit.store import AttackStore, ModelName, PiggybackRecord, fingerprint
from hf_dtl.audit.task import AttackedTask, check_task, draw_images
from hf_dtl.errors import ConfigError

PROTOCOL = 1
"""Raised whenever an attack's code changes its numbers, so that stored attacks are not mixed with new ones."""


def _model_fingerprint(model: PreTrainedModel) -> str:
    state = model.state_dict()
    architecture = model.config.to_diff_dict()
    for free in ("_name_or_path", "transformers_version", "id2label", "label2id", "problem_type", "dtype"):
        architecture.pop(free, None)
    return fingerprint([type(model).__name__, architecture, *(part for item in state.items() for part in item)])


def _task_fingerprint(task: AttackedTask) -> str:
    tensors = (t for split in (task.train, task.validation, task.test) for t in (split.labels, split.pixel_values))
    return fingerprint([task.name, task.axis, len(task.labels), *tensors])


def _attack_fingerprint(model: str, task: str, attack: Attack, budget: int, seed: int, config: AttackConfig) -> str:
    names: tuple[str, ...] = ("full_passes", "full_min_steps", "batch_size", "max_gradient_norm")
    if attack == "linear_probe":
        names = ("linear_probe_steps",)
    numbers = [config.learning_rates(attack), config.weight_decay, *(getattr(config, name) for name in names)]
    return fingerprint([PROTOCOL, model, task, attack, budget, seed, numbers])


def run_audit(
    models: Mapping[str, PreTrainedModel],
    axes: Mapping[str, AttackedTask],
    config: AttackConfig | None = None,
    *,
    store: str | Path | None = None,
    progress: bool = True,
    device: torch.device | str | None = None,
) -> list[PiggybackRecord]:
    """Attack every model on every axis with every attack, budget and seed.

    A finished attack is on disk before the next one starts and is never run again: the key is a fingerprint of the
    model's weights, the task's images and the attack's settings. Methods that share a store therefore attack the
    references (undisposed, scratch, retrained) once, and a model that changed is attacked anew.

    Args:
        models: the classifiers by their role: undisposed, scrubbed, scratch, retrained. Not changed.
        axes: the attacked tasks; the keys are free names.
        config: what the attacker may do; None means the defaults.
        store: JSON-lines file of finished attacks; None keeps nothing.
        progress: show one bar over all attacks.
        device: where to attack; None means each model's own device.

    Returns:
        One record an attack, in the order models, axes, attacks, budgets, seeds.

    Raises:
        ConfigError: a model has an unknown role, or there is nothing to do.
        DataError: a task cannot be attacked, for example a class has too few images. Checked before any attack.
        ModelError: a model cannot be attacked. Attacks that were finished before stay in the store.
        OutputError: `store` is a file of another kind.
    """
    config = config or AttackConfig()
    _check(models, axes, config)
    finished = AttackStore(store)
    task_prints = {name: _task_fingerprint(task) for name, task in axes.items()}
    attacks = [(a, b, s) for a in config.attacks for b in config.budgets for s in config.seeds]
    records = []
    with tqdm(total=len(models) * len(axes) * len(attacks), desc="piggyback", disable=not progress) as bar:
        for role, model in models.items():
            model_print = _model_fingerprint(model)
            for name, task in axes.items():
                attacker: Attacker | None = None
                for attack, budget, seed in attacks:
                    bar.set_postfix_str(f"{role}, {task.name}, {attack}, {budget} a class")
                    key = _attack_fingerprint(model_print, task_prints[name], attack, budget, seed, config)
                    record = finished.get(key)
                    if record is None:
                        attacker = attacker or Attacker(
                            model,
                            task.train,
                            task.validation,
                            task.test,
                            num_classes=len(task.labels),
                            config=config,
                            device=device,
                        )
                        result = attacker.run(attack, budget, seed)
                        record = PiggybackRecord(model=role, dataset=task.name, axis=task.axis, **asdict(result))
                        finished.add(key, record)
                    records.append(replace(record, model=role))
                    bar.update()
    return records


def _check(models: Mapping[str, PreTrainedModel], axes: Mapping[str, AttackedTask], config: AttackConfig) -> None:
    """Refuse before the first attack what would stop a later one."""
    if not models or not axes or not set(models) <= set(get_args(ModelName)):
        raise ConfigError(
            f"An audit needs models named {', '.join(get_args(ModelName))} and at least one task; "
            f"got models {list(models)} and tasks {list(axes)}."
        )
    for task in axes.values():
        check_task(task.train, task.validation, task.test, len(task.labels))
        for budget in config.budgets:
            draw_images(task.train.labels, len(task.labels), budget, seed=0)
