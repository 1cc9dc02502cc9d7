"""Every attack on every model and axis, shared among the processes, with nothing done twice."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from threading import Event, Lock
from typing import Any, get_args

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_dtl.audit.answer_store import Answers
from hf_dtl.audit.attacks import plan
from hf_dtl.audit.attacks.attack import Unit
from hf_dtl.audit.attacks.committee import Committee
from hf_dtl.audit.attacks.context import check_base
from hf_dtl.audit.attacks.registry import find_attack
from hf_dtl.audit.attacks.workers import share_out
from hf_dtl.audit.classifiers import check_finite, check_forward
from hf_dtl.audit.config import AttackConfig
from hf_dtl.audit.doubts import tell_doubts
from hf_dtl.audit.piggyback import Attacker
from hf_dtl.audit.references import PixelModel
from hf_dtl.audit.store import AttackStore, ModelName, PiggybackRecord
from hf_dtl.audit.task import AttackedTask, check_task, draw_images
from hf_dtl.errors import ConfigError
from hf_dtl.fingerprint import fingerprint

Models = Mapping[str, PreTrainedModel | Sequence[PreTrainedModel]]
"""By role; several models of one role are draws of it, and the attack seeds take turns with them."""
Elections = dict[tuple[str, int], tuple[str, ...]]
"""By committee and budget its members."""


@dataclass(frozen=True)
class _Work:
    """Attacks that run together on one model and one task, with their keys in the store."""

    role: str
    model: PreTrainedModel
    base: PreTrainedModel | None
    task: AttackedTask
    group: plan.Group
    keys: tuple[str, ...]
    cost: int
    config: AttackConfig


def run_audit(
    models: Models,
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
        models: the classifiers by their role, see `PiggybackRecord`. Not changed. Several for one role are draws of
            it, of one architecture: the first attack seed takes the first, and so on. With `scratch_models` the noise
            over seeds holds that of the random weights, which one draw would hide. Attacks that need the public
            weights take the first of the role `base`.
        axes: the attacked tasks; the keys are free names.
        config: what the attacker may do; None means the defaults. Attacks that do not apply to a model are left out.
        store: JSON-lines file of finished attacks; None keeps nothing.
        progress: show one bar over this process's attacks (on the first process only).
        device: where to attack; None means each model's own device.

    Returns:
        One record an attack, in the order models, axes, attacks, budgets, seeds; committees last on each axis.

    Raises:
        ConfigError: a model has an unknown role, or there is nothing to do.
        DataError: a task cannot be attacked, for example a class has too few images. Checked before any attack.
        ModelError: a model cannot be attacked: its weights are not finite (checked before any attack) or its
            training fails. Attacks that were finished before stay in the store.
        OutputError: `store` is a file of another kind.
    """
    config = config or AttackConfig()
    _check(models, axes, config)
    finished = AttackStore(store)
    if finished.process == 0:
        tell_doubts({role: _draws(given) for role, given in models.items()}, axes, config)
    tasks = [(task, _task_fingerprint(task), _retain_fingerprint(task)) for task in axes.values()]
    planned = [
        plan
        for role, given in models.items()
        for plan in _Plan.of_role(role, given, _base(role, models, config), tasks, config)
    ]
    if not any(plan.units for plan in planned):
        raise ConfigError(
            f"None of the attacks {', '.join(config.attacks)} applies to these models: they need a published head "
            "with the attacked classes, retain images, or other attacks. Add `full` or `linear_probe`."
        )
    trial = set(config.seeds[: config.trial_seeds] if config.finalists else config.seeds)
    _run(planned, [[u for u in plan.units if u.seed in trial] for plan in planned], config, finished, device, progress)
    elected = finished.agreed(lambda: [plan.elections(finished, trial, config) for plan in planned])
    chosen = [
        plan.going_on(finished, trial, config.finalists, own) for plan, own in zip(planned, elected, strict=True)
    ]
    if any(chosen):
        for own, units in zip(planned, chosen, strict=True):
            own.reuse_rates(units, finished, trial, config)
        _run(planned, chosen, config, finished, device, progress)
    together = finished.agreed(
        lambda: [plan.committees(finished, own, config) for plan, own in zip(planned, elected, strict=True)]
    )
    return [
        replace(record, model=plan.role, dataset=plan.task.name)
        for plan, own, committees in zip(planned, chosen, together, strict=True)
        for record in [finished[plan.keys[u]] for u in plan.units if u.seed in trial or u in own] + committees
    ]


@dataclass(frozen=True)
class _Plan:
    """Every attack on the models of one role and one task."""

    role: str
    draws: tuple[PreTrainedModel, ...]
    base: PreTrainedModel | None
    task: AttackedTask
    units: tuple[Unit, ...]
    parts: tuple[tuple[Any, ...], ...]
    keys: dict[Unit, str]
    configs: dict[Unit, AttackConfig]

    @classmethod
    def of_role(
        cls,
        role: str,
        given: Any,
        base: PreTrainedModel | None,
        tasks: Sequence[tuple[AttackedTask, str, str | None]],
        config: AttackConfig,
    ) -> Iterator["_Plan"]:
        """One plan for each task, which comes with the fingerprints of its images and of its retain images."""
        draws = _draws(given)
        prints = [_model_fingerprint(model) for model in draws]
        base_print = None if base is None else _model_fingerprint(base)
        for task, task_print, retain in tasks:
            if isinstance(draws[0], PixelModel):  # there is no published head that could know the retain classes
                task, retain = replace(task, retain=None), None
            units = tuple(plan.units(draws[0], task, config, base))
            parts = tuple(
                (own, task_print, plan.rows(model, task), retain, base_print)
                for model, own in zip(draws, prints, strict=True)
            )
            made = cls(role, draws, base, task, units, parts, {}, {})
            for unit in units:
                made._set(unit, config, config)
            yield made

    def _set(self, unit: Unit, own: AttackConfig, config: AttackConfig) -> None:
        """Run an attack under a config of its own."""
        parts = self.parts[self.draw(unit, config)]
        self.configs[unit], self.keys[unit] = own, find_attack(unit.attack).fingerprint(unit, own, *parts)

    def draw(self, unit: Unit, config: AttackConfig) -> int:
        """Which of the role's models an attack takes."""
        return config.seeds.index(unit.seed) % len(self.draws)

    def reuse_rates(
        self, units: Collection[Unit], finished: AttackStore, trial: set[int], config: AttackConfig
    ) -> None:
        """Let fine-tuning try, in further draws, only the learning rates that won a trial draw."""
        for unit in units:
            if find_attack(unit.attack).whole_network:
                won = {finished[self.keys[Unit(unit.attack, unit.budget, seed)]].learning_rate for seed in trial}
                self._set(unit, replace(config, chosen_rates=tuple(sorted(won))), config)

    def pieces(self, units: Sequence[Unit], config: AttackConfig, device: Any) -> Iterator[_Work]:
        """Some of the attacks, in groups that run together."""
        for number, model in enumerate(self.draws):
            drawn = [unit for unit in units if self.draw(unit, config) == number]
            for own in dict.fromkeys(self.configs[unit] for unit in drawn):
                alike = [unit for unit in drawn if self.configs[unit] == own]
                for group in plan.groups(alike, model, self.task, own, torch.device(device or model.device)):
                    names, cost = tuple(self.keys[unit] for unit in group), plan.cost(group, self.task, own)
                    yield _Work(self.role, model, self.base, self.task, group, names, cost, own)

    def elections(self, finished: AttackStore, trial: set[int], config: AttackConfig) -> Elections:
        """By committee and budget the attacks that it is made of, one as often as it has votes."""
        found: Elections = {}
        for attack, budget in product(config.committees, config.budgets):
            answers: dict[str, list[Answers | None]] = {}
            for unit in self.units:
                if unit.budget == budget and unit.seed in trial:
                    answers.setdefault(unit.attack, []).append(finished.answers.get(self.keys[unit]))
            there = {name: [a for a in own if a is not None] for name, own in answers.items() if None not in own}
            if there:
                labels = self.task.validation.labels
                found[attack, budget] = Committee.of(Unit(attack, budget, 0)).members(
                    there, labels, config.finalists or None
                )
        return found

    def going_on(self, finished: AttackStore, trial: set[int], finalists: int, elected: Elections) -> set[Unit]:
        """The attacks on further seeds: of those that were best on validation so far, the order breaking ties.

        Where there is a committee, its members go on, and the best attack.
        """
        value: dict[tuple[int, str], float] = {}
        for unit in self.units:
            if unit.seed in trial:
                place = (unit.budget, unit.attack)
                value[place] = value.get(place, 0.0) + finished[self.keys[unit]].validation_accuracy
        best: dict[int, list[str]] = {}
        for budget, attack in sorted(value, key=value.__getitem__, reverse=True):
            best.setdefault(budget, []).append(attack)
        for budget, ranked in best.items():
            members = [name for (_, own), votes in elected.items() if own == budget for name in votes]
            best[budget] = [ranked[0], *members] if members else ranked[:finalists]
        return {u for u in self.units if u.seed not in trial and u.attack in best[u.budget]}

    def committees(self, finished: AttackStore, elected: Elections, config: AttackConfig) -> list[PiggybackRecord]:
        """What the elected committees reach in every draw in which all of their members answer."""
        found = []
        for ((attack, budget), votes), seed in product(elected.items(), config.seeds):
            own = [finished.answers.get(self.keys[Unit(name, budget, seed)]) for name in votes]
            there = [answers for answers in own if answers is not None]
            if len(there) == len(own):
                validation, test = Committee.reached(there, self.task.validation.labels, self.task.test.labels)
                where = (self.role, self.task.name, self.task.axis, attack, budget, seed)
                found.append(PiggybackRecord(*where, 0.0, test, validation))
        return found


def _run(
    planned: Sequence[_Plan],
    units: Sequence[Collection[Unit]],
    config: AttackConfig,
    finished: AttackStore,
    device: torch.device | str | None,
    progress: bool,
) -> None:
    """Run some attacks of every plan that are not finished, shared among the processes."""
    work: dict[tuple[str, ...], _Work] = {}
    for own, wanted in zip(planned, units, strict=True):
        for piece in own.pieces([unit for unit in own.units if unit in wanted], config, device):
            work.setdefault(piece.keys, piece)  # models with the same weights are attacked once
    asked = bool(config.committees)
    there = finished.agreed(lambda: [all(finished.has(key, answers=asked) for key in keys) for keys in work])
    missing = [piece for piece, known in zip(work.values(), there, strict=True) if not known]
    owner = plan.share([piece.cost for piece in missing], finished.processes)
    share = [piece for piece, process in zip(missing, owner, strict=True) if process == finished.process]
    on_cpu = all(torch.device(device or model.device).type == "cpu" for own in planned for model in own.draws)
    workers = max(1, min(config.workers, len(share))) if on_cpu else 1
    with finished.shared():
        _attack(share, config, finished, device, progress and finished.process == 0, workers)


def _attack(
    work: list[_Work],
    config: AttackConfig,
    finished: AttackStore,
    device: torch.device | str | None,
    progress: bool,
    workers: int,
) -> None:
    stop, writing = Event(), Lock()

    def start() -> Callable[[_Work], None]:
        attackers: dict[tuple[int, ...], Attacker] = {}  # one at a time: each holds networks

        def do(piece: _Work) -> None:
            task, first = piece.task, piece.group[0]
            if (where := (id(piece.model), id(piece.base), id(task))) not in attackers:
                attackers.clear()
                attackers[where] = Attacker(piece.model, task, config, device, stop, piece.base)
            attackers[where].config = piece.config
            # The whole group also when a part of it is stored: so the numbers do not depend on interruptions.
            results = attackers[where].run_stack(piece.group)
            with writing:
                for key, result in zip(piece.keys, results, strict=True):
                    finished.add(key, result.record(piece.role, task), result.answers)
                bar.set_postfix_str(f"{piece.role}, {task.name}, {first.attack}, {first.budget} a class")
                bar.update(len(piece.group))

        return do

    with tqdm(total=sum(len(piece.group) for piece in work), desc="piggyback", disable=not (progress and work)) as bar:
        share_out(work, start, workers, stop)


def _draws(given: PreTrainedModel | Sequence[PreTrainedModel]) -> tuple[PreTrainedModel, ...]:
    return tuple(given) if isinstance(given, Sequence) else (given,)


def _base(role: str, models: Models, config: AttackConfig) -> PreTrainedModel | None:
    """The public weights that an attacker of this model has beside it, where an attack needs them."""
    if role in ("no_model", "scratch", "base") or not any(find_attack(name).needs_base for name in config.attacks):
        return None  # the first two are floors of an attacker without any weights
    given = models.get("base")
    return given[0] if isinstance(given, Sequence) else given


def _model_fingerprint(model: PreTrainedModel) -> str:
    state = model.state_dict()
    architecture = model.config.to_diff_dict()
    for free in ("_name_or_path", "transformers_version", "id2label", "label2id", "problem_type", "dtype"):
        architecture.pop(free, None)
    return fingerprint([type(model).__name__, architecture, *(part for item in state.items() for part in item)])


def _task_fingerprint(task: AttackedTask) -> str:
    tensors = (t for split in (task.train, task.validation, task.test) for t in (split.labels, split.pixel_values))
    return fingerprint([task.name, task.axis, len(task.labels), *tensors])


def _retain_fingerprint(task: AttackedTask) -> str | None:
    return None if task.retain is None else fingerprint([task.retain.labels, task.retain.pixel_values])


def _check(models: Models, axes: Mapping[str, AttackedTask], config: AttackConfig) -> None:
    """Refuse before the first attack what would stop a later one."""
    empty = [role for role, given in models.items() if isinstance(given, Sequence) and not given]
    if not models or not axes or empty or not set(models) <= set(get_args(ModelName)):
        raise ConfigError(
            f"An audit needs models named {', '.join(get_args(ModelName))} and at least one task; "
            f"got models {list(models)} and tasks {list(axes)}."
        )
    for task in axes.values():
        check_task(task)
        for budget in config.budgets:
            draw_images(task.train.labels, len(task.labels), budget, seed=0)
    for role, given in models.items():
        for model in _draws(given):
            check_finite(model, f"the {role} model")
            if (base := _base(role, models, config)) is not None:
                check_base(model, base)
            for task in axes.values():
                check_forward(model, task.train.pixel_values, f"The {role} model")
