"""What an attacker may do."""

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from hf_dtl.errors import ConfigError

Attack = Literal["linear_probe", "full"]


@dataclass(frozen=True)
class AttackConfig:
    """What the attacker may do: attacks × budgets × seeds, with a choice of learning rate for each of them.

    Parameters that control what is run:
        attacks: `linear_probe` (a new linear head on frozen features) and `full` (a new head, every weight trained).
        budgets: images a class that the attacker may train on.
        seeds: each draws other images and another head; the deviation of the result is over seeds.

    Parameters that control the attacks:
        linear_probe_learning_rates, full_learning_rates: the attacker tries all of them and keeps the one with the
            best validation accuracy, anew for every model, budget and seed. The defaults suit small networks (0.3 M
            parameters); for a ViT-S or larger add 1e-4 and 3e-5, so that the attacker is not the weak part.
        linear_probe_steps: steps of AdamW on all training images at once.
        full_passes, full_min_steps: length of the full attack, in passes over its images, and the fewest steps. The
            learning rate rises over the first tenth of the steps, stays, and falls to zero over the last 30 %.
        batch_size: most images a step of the full attack; the batches of a pass are of equal size.
        weight_decay: decoupled weight decay of both attacks.
        max_gradient_norm: bound on the gradient's norm in the full attack, so that steep weights are no defence.
        eval_batch_size: images a forward pass of an evaluation; does not change any number.

    Raises:
        ConfigError: a value is empty, unknown or not positive.
    """

    attacks: tuple[Attack, ...] = field(default=("linear_probe", "full"), metadata={"help": "Attacks to run."})
    budgets: tuple[int, ...] = field(default=(5, 20), metadata={"help": "Training images a class."})
    seeds: tuple[int, ...] = field(default=(0, 1, 2), metadata={"help": "Seeds of the images and of the new head."})
    linear_probe_learning_rates: tuple[float, ...] = field(
        default=(1e-3, 1e-2, 1e-1), metadata={"help": "Learning rates that the linear probe chooses from."}
    )
    full_learning_rates: tuple[float, ...] = field(
        default=(6e-4, 2e-3), metadata={"help": "Learning rates that full fine-tuning chooses from."}
    )
    linear_probe_steps: int = field(default=200, metadata={"help": "Full-batch steps of the linear probe."})
    full_passes: int = field(default=16, metadata={"help": "Passes over the images in full fine-tuning."})
    full_min_steps: int = field(default=48, metadata={"help": "Fewest steps of full fine-tuning."})
    batch_size: int = field(default=20, metadata={"help": "Images a step of full fine-tuning."})
    weight_decay: float = field(default=0.01, metadata={"help": "Decoupled weight decay of both attacks."})
    max_gradient_norm: float = field(default=1.0, metadata={"help": "Bound on the gradient norm of the full attack."})
    eval_batch_size: int = field(default=200, metadata={"help": "Images a forward pass of an evaluation."})

    def __post_init__(self) -> None:
        unknown = set(self.attacks) - set(get_args(Attack))
        if unknown:
            raise ConfigError(
                f"Unknown attacks {', '.join(sorted(unknown))}; there are: {', '.join(get_args(Attack))}."
            )
        for name in ("attacks", "budgets", "seeds", "linear_probe_learning_rates", "full_learning_rates"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ConfigError(f"`{name}` must hold at least one value and none twice, got {values}.")
        positive = ("budgets", "linear_probe_learning_rates", "full_learning_rates", "linear_probe_steps")
        for name in (*positive, "full_passes", "full_min_steps", "batch_size", "max_gradient_norm", "eval_batch_size"):
            values = getattr(self, name)
            for value in values if isinstance(values, tuple) else (values,):
                if not value > 0:
                    raise ConfigError(f"`{name}` must be positive, got {value}.")

    def full_steps(self, images: int) -> int:
        """Steps of the full attack on `images` training images."""
        return max(self.full_min_steps, self.full_passes * math.ceil(images / self.batch_size))

    def learning_rates(self, attack: Attack) -> tuple[float, ...]:
        """Learning rates that `attack` chooses from, the smallest first."""
        return tuple(sorted(getattr(self, f"{attack}_learning_rates")))
