"""Every attack on every model and axis, shared among the processes, with nothing done twice."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_dtl.audit import plan
from hf_dtl.audit.config import AttackConfig
from hf_dtl.audit.piggyback import Attacker
from hf_dtl.audit.published import check_finite, check_forward
from hf_dtl.audit.recipes import RECIPES, Unit
from hf_dtl.audit.store import AttackStore, ModelName, PiggybackRecord, fingerprint
from hf_dtl.audit.task import AttackedTask, check_task, draw_images
from hf_dtl.errors import ConfigError

PROTOCOL = 2
"""Raised whenever an attack's code changes its numbers, so that stored attacks are not mixed with new ones."""


@dataclass(frozen=True)
class _Work:
    """Attacks that run together on one model and one task, with their keys in the store."""

    role: str
    axis: str
    group: plan.Group
    keys: tuple[str, ...]
    cost: int


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

    Attacks that train alike run together (`vmap`). A finished one is on disk before the next starts and is never run
    again: the key is a fingerprint of the model's weights, the task's images and the attack's settings. Methods that
    share a store therefore attack the references (undisposed, scratch, retrained) once, and a model that changed is
    attacked anew. With several processes (`accelerate launch`) each runs a share and all return everything; every
    process must be given the same models and tasks.

    Args:
        models: the classifiers by their role: undisposed, scrubbed, scratch, retrained. Not changed.
        axes: the attacked tasks; the keys are free names.
        config: what the attacker may do; None means the defaults. Attacks that do not apply to a model are left out.
        store: JSON-lines file of finished attacks; None keeps nothing.
        progress: show one bar over this process's attacks (on the first process only).
        device: where to attack; None means each model's own device.

    Returns:
        One record an attack, in the order models, axes, attacks, budgets, seeds.

    Raises:
        ConfigError: a model has an unknown role, or there is nothing to do.
        DataError: a task cannot be attacked, for example a class has too few images. Checked before any attack.
        ModelError: a model cannot be attacked: its weights are not finite (checked before any attack) or its
            training fails. Attacks that were finished before stay in the store.
        OutputError: `store` is a file of another kind.
    """
    config = config or AttackConfig()
    _check(models, axes, config)
    model_prints = {role: _model_fingerprint(model) for role, model in models.items()}
    task_prints = {name: _task_fingerprint(task) for name, task in axes.items()}
    wanted: list[tuple[str, str, str]] = []  # role, axis, key
    work: dict[tuple[str, ...], _Work] = {}
    for role, model in models.items():
        for name, task in axes.items():
            units = plan.units(model, task, config)
            rows = plan.rows(model, task)
            keys = {
                u: _attack_fingerprint(model_prints[role], rows, task_prints[name], task, u, config) for u in units
            }
            wanted += [(role, name, keys[unit]) for unit in units]
            for group in plan.groups(units, model, task, config, torch.device(device or model.device)):
                piece = _Work(role, name, group, tuple(keys[u] for u in group), plan.cost(group, task, config))
                work.setdefault(piece.keys, piece)  # models with the same weights are attacked once
    if not wanted:
        raise ConfigError(
            f"None of the attacks {', '.join(config.attacks)} applies to these models: they need a published head "
            "with the attacked classes, or retain images. Add `full` or `linear_probe`."
        )
    finished = AttackStore(store)
    missing = [piece for piece in work.values() if not all(finished.get(key) for key in piece.keys)]
    owner = plan.share([piece.cost for piece in missing], finished.processes)
    own = [piece for piece, process in zip(missing, owner, strict=True) if process == finished.process]
    with finished.shared():
        _attack(own, models, axes, config, finished, device, progress and finished.process == 0)
    return [replace(_found(finished, key), model=role, dataset=axes[name].name) for role, name, key in wanted]


def _attack(
    work: list[_Work],
    models: Mapping[str, PreTrainedModel],
    axes: Mapping[str, AttackedTask],
    config: AttackConfig,
    finished: AttackStore,
    device: torch.device | str | None,
    progress: bool,
) -> None:
    attacker, current = None, None
    with tqdm(total=sum(len(piece.group) for piece in work), desc="piggyback", disable=not progress) as bar:
        for piece in work:
            task, first = axes[piece.axis], piece.group[0]
            bar.set_postfix_str(f"{piece.role}, {task.name}, {first.attack}, {first.budget} a class")
            if current != (piece.role, piece.axis):
                attacker, current = Attacker(models[piece.role], task, config, device), (piece.role, piece.axis)
            assert attacker is not None
            # The whole group also when a part of it is stored: so the numbers do not depend on interruptions.
            for key, result in zip(piece.keys, attacker.run_stack(piece.group), strict=True):
                if finished.get(key) is None:
                    finished.add(key, PiggybackRecord(piece.role, task.name, task.axis, **asdict(result)))
            bar.update(len(piece.group))


def _found(finished: AttackStore, key: str) -> PiggybackRecord:
    record = finished.get(key)
    assert record is not None
    return record


def _model_fingerprint(model: PreTrainedModel) -> str:
    state = model.state_dict()
    architecture = model.config.to_diff_dict()
    for free in ("_name_or_path", "transformers_version", "id2label", "label2id", "problem_type", "dtype"):
        architecture.pop(free, None)
    return fingerprint([type(model).__name__, architecture, *(part for item in state.items() for part in item)])


def _task_fingerprint(task: AttackedTask) -> str:
    tensors = (t for split in (task.train, task.validation, task.test) for t in (split.labels, split.pixel_values))
    return fingerprint([task.name, task.axis, len(task.labels), *tensors])


def _attack_fingerprint(
    model: str, rows: list[int] | None, task_print: str, task: AttackedTask, unit: Unit, config: AttackConfig
) -> str:
    parts: list[Any] = [PROTOCOL, model, task_print, *unit, config.numbers(unit.attack)]
    if RECIPES[unit.attack].published_head:
        parts.append(rows)
    if RECIPES[unit.attack].retain != "no" and task.retain is not None:
        parts += [task.retain.labels, task.retain.pixel_values]
    return fingerprint(parts)


def _check(models: Mapping[str, PreTrainedModel], axes: Mapping[str, AttackedTask], config: AttackConfig) -> None:
    """Refuse before the first attack what would stop a later one."""
    if not models or not axes or not set(models) <= set(get_args(ModelName)):
        raise ConfigError(
            f"An audit needs models named {', '.join(get_args(ModelName))} and at least one task; "
            f"got models {list(models)} and tasks {list(axes)}."
        )
    for task in axes.values():
        check_task(task)
        for budget in config.budgets:
            draw_images(task.train.labels, len(task.labels), budget, seed=0)
    for role, model in models.items():
        check_finite(model, f"the {role} model")
        for task in axes.values():
            check_forward(model, task.train.pixel_values, f"The {role} model")
