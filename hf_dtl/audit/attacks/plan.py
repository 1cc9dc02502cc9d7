"""Which attacks apply to a model, which of them run together, and which process runs them."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from hf_dtl.audit.attacks.attack import Unit
from hf_dtl.audit.attacks.registry import find_attack
from hf_dtl.audit.config import AttackConfig
from hf_dtl.audit.references import PixelModel
from hf_dtl.audit.task import AttackedTask
from hf_dtl.models.labels import published_rows

Group = tuple[Unit, ...]


def rows(model: PreTrainedModel, task: AttackedTask) -> list[int] | None:
    """Rows of the published head that stand for the attacked classes, or None where they do not fit."""
    if isinstance(model, PixelModel):
        return None  # nobody published that head
    return published_rows(model, int(model.config.num_labels or 0), task.labels)


def units(
    model: PreTrainedModel, task: AttackedTask, config: AttackConfig, base: PreTrainedModel | None = None
) -> list[Unit]:
    """Every attack that applies to this model and task, in the order attacks, budgets, seeds; no committee.

    Args:
        model, task, config: the attacked model and task, and what the attacker may do.
        base: the public weights that the owner started from, if the attacker has them.
    """
    given = {"published_head": rows(model, task), "retain": task.retain, "base": base}
    there = {name: value is not None for name, value in given.items()}
    fitting = [name for name in config.attacks if (own := find_attack(name)).applies(**there) and not own.of_others]
    if isinstance(model, PixelModel):  # there is no network
        fitting = [name for name in fitting if not find_attack(name).whole_network]
    return [Unit(a, budget, seed) for a in fitting for budget in config.budgets for seed in config.seeds]


def groups(
    attacks: Sequence[Unit], model: PreTrainedModel, task: AttackedTask, config: AttackConfig, device: torch.device
) -> list[Group]:
    """Split attacks into those that are trained together; see `Attack.group_key`."""
    alike: dict[tuple, list[Unit]] = {}
    for unit in attacks:
        key = find_attack(unit.attack).group_key(unit.budget, unit.budget * len(task.labels), config)
        alike.setdefault(key, []).append(unit)
    found: list[Group] = []
    for members in alike.values():
        rates = len(find_attack(members[0].attack).learning_rates(config))
        size = max(1, most_together(members[0], model, task, config, device) // rates)
        found += [tuple(members[i : i + size]) for i in range(0, len(members), size)]
    return found


def most_together(
    unit: Unit, model: PreTrainedModel, task: AttackedTask, config: AttackConfig, device: torch.device
) -> int:
    """Fine-tunings at once: bounded by memory for their weights, gradients and moments, and by pixels a step."""
    attack = find_attack(unit.attack)
    if attack.ignores_model:
        return 1  # so that the same runs are found again on every model
    if config.max_stack is not None:
        return config.max_stack
    if not attack.whole_network:
        return 64
    room = 8 if device.type == "cuda" else 1
    copies = 4 * 4 * sum(p.numel() for p in model.parameters())
    pixels = task.train.pixel_values[0].numel() * min(config.batch_size, unit.budget * len(task.labels))
    return max(1, min(room * 2**30 // copies, room * 1_500_000 // pixels))


def cost(group: Group, task: AttackedTask, config: AttackConfig) -> int:
    """About how much a group costs, in images that are trained on; a linear probe counts as an evaluation."""
    attack, images = find_attack(group[0].attack), group[0].budget * len(task.labels)
    evaluation = (1 + getattr(attack, "answers", 0)) * (len(task.validation) + len(task.test)) // 3
    if not attack.whole_network and not attack.ignores_model:
        return evaluation
    trained = attack.steps(config, images) * min(config.batch_size, images)
    return len(group) * len(attack.learning_rates(config)) * (trained + evaluation)


def share(costs: Sequence[int], processes: int) -> list[int]:
    """Give every piece of work a process, the most expensive first, each to the one with the least so far.

    Example:
        >>> share([1, 5, 3, 1], processes=2)
        [1, 0, 1, 1]
    """
    load, owner = [0] * processes, [0] * len(costs)
    for piece in sorted(range(len(costs)), key=lambda piece: -costs[piece]):
        owner[piece] = min(range(processes), key=lambda process: load[process])
        load[owner[piece]] += costs[piece]
    return owner
