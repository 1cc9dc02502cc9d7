"""What an attacker may do."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from hf_dtl.audit.attacks.registry import GRID, check_attacks, find_attack
from hf_dtl.errors import ConfigError


def _option(default: Any, help: str, *, decides: bool = True, positive: bool = True) -> Any:
    """A field; `decides`: it is a part of what the numbers of an attack depend on, beside budget and seed."""
    return field(default=default, metadata={"help": help, "decides": decides, "positive": positive})


@dataclass(frozen=True)
class AttackConfig:
    """What the attacker may do: attacks × budgets × seeds, with a choice of learning rate for each of them.

    Parameters that control what is run:
        attacks: names of `attack_names()`; default: the grid {new head, published head} × {linear probe, full
            fine-tuning, head then full, LoRA}. The adaptive ones are in `ADAPTIVE`. An attack that does not apply to a
            model (its head has other classes, or there are no retain images) is left out for that model.
        budgets: images a class that the attacker may train on.
        seeds: each draws other images and another head; the deviation of the result is over seeds.

    Parameters that control the attacks:
        linear_probe_learning_rates, full_learning_rates, lora_learning_rates: the attacker tries all of them and keeps
            the one with the best validation accuracy, anew for every model, attack, budget and seed. The defaults suit
            small networks (0.3 M parameters); see `for_model`.
        chosen_rates: of the learning rates of fine-tuning those that are tried; None: all. An audit with finalists
            tries in its further draws those that won a trial draw.
        linear_probe_steps: steps of AdamW on all training images at once.
        full_passes, full_min_steps: length of the full and LoRA attacks, in passes over their images, and the fewest
            steps. The learning rate rises over the first tenth of the steps, stays, and falls to zero over the last
            30 %.
        batch_size: most images a step of these attacks; the batches of a pass are of equal size.
        weight_decay: decoupled weight decay of all attacks.
        max_gradient_norm: bound on the gradient's norm in full and LoRA attacks, so that steep weights are no defence.
        lora_rank: rank of the adapters; they are scaled by 2 (alpha is twice the rank).
        retain_images_per_class: most retain images a class in `retain_then_full`.

    Parameters that control the cost:
        trial_seeds, finalists: after the first `trial_seeds` seeds only the `finalists` attacks that are best on
            validation go on to the others, on each model at each budget; 0 finalists: all go on. With a committee
            its members go on, of which there are at most so many.
        successive_halving: give up the worse half of the learning rates after a quarter of the steps, and again after
            half of them. It makes the attacker weaker: a rate that is slow at first is lost. The report says so.
        max_stack: fine-tunings that run together; None chooses by the size of the network, 1 runs one after another.
        workers: threads that attack side by side on a CPU, each with networks of its own; for networks so small that
            more threads for one of them gain nothing (call `torch.set_num_threads(1)` with it).
        eval_batch_size: images a forward pass of an evaluation.

    Raises:
        ConfigError: a value is empty, unknown or not positive.
    """

    attacks: tuple[str, ...] = _option(GRID, "Attacks to run.", decides=False, positive=False)
    budgets: tuple[int, ...] = _option((1, 5, 20, 100), "Training images a class.", decides=False)
    seeds: tuple[int, ...] = _option(
        (0, 1, 2), "Seeds of the images and of the new head.", decides=False, positive=False
    )
    trial_seeds: int = _option(2, "Seeds that every attack is run with.", decides=False)
    finalists: int = _option(0, "Attacks that go on to the other seeds; 0: all.", decides=False, positive=False)
    linear_probe_learning_rates: tuple[float, ...] = _option(
        (1e-3, 1e-2, 1e-1), "Learning rates that the linear probe chooses from."
    )
    full_learning_rates: tuple[float, ...] = _option((6e-4, 2e-3), "Learning rates of full fine-tuning.")
    lora_learning_rates: tuple[float, ...] = _option((2e-3, 1e-2), "Learning rates of LoRA.")
    chosen_rates: tuple[float, ...] | None = _option(None, "Rates that trial draws chose; else all.", positive=False)
    linear_probe_steps: int = _option(200, "Full-batch steps of the linear probe.")
    full_passes: int = _option(16, "Passes over the images in full fine-tuning and LoRA.")
    full_min_steps: int = _option(48, "Fewest steps of full fine-tuning and LoRA.")
    batch_size: int = _option(20, "Images a step of full fine-tuning and LoRA.")
    weight_decay: float = _option(0.01, "Decoupled weight decay of all attacks.", positive=False)
    max_gradient_norm: float = _option(1.0, "Bound on the gradient norm of full fine-tuning and LoRA.")
    lora_rank: int = _option(8, "Rank of LoRA's adapters.")
    retain_images_per_class: int = _option(50, "Most retain images a class that the attacker fine-tunes on first.")
    successive_halving: bool = _option(False, "Give up learning rates early: a weaker attacker.", positive=False)
    max_stack: int | None = _option(None, "Fine-tunings that run together; 1: one by one.", decides=False)
    workers: int = _option(1, "Threads that attack side by side on a CPU.", decides=False)
    eval_batch_size: int = _option(200, "Images a forward pass of an evaluation.", decides=False)

    def __post_init__(self) -> None:
        check_attacks(self.attacks)
        for f in fields(self):
            values = getattr(self, f.name)
            if isinstance(values, tuple) and (not values or len(set(values)) < len(values)):
                raise ConfigError(f"`{f.name}` must hold at least one value and none twice, got {values}.")
            for value in values if isinstance(values, tuple) else (values,):
                if f.metadata["positive"] and value is not None and not value > 0:
                    raise ConfigError(f"`{f.name}` must be positive, got {value}.")
        if self.finalists < 0:
            raise ConfigError(f"`finalists` must not be negative, got {self.finalists}.")
        if min(self.seeds) < 0:
            raise ConfigError(f"`seeds` must not be negative, got {min(self.seeds)}.")

    @classmethod
    def for_model(cls, parameters: int, **options: Any) -> "AttackConfig":
        """The defaults with learning rates for a network of `parameters` parameters; `options` come first.

        Above 2 M parameters full fine-tuning chooses from 3e-5 to 1e-3 and LoRA from 3e-4 to 1e-2.
        """
        if parameters > 2_000_000:
            options.setdefault("full_learning_rates", (3e-5, 1e-4, 3e-4, 1e-3))
            options.setdefault("lora_learning_rates", (3e-4, 2e-3, 1e-2))
        return cls(**options)

    @property
    def committees(self) -> tuple[str, ...]:
        """Those of the attacks that are made of the others' answers."""
        return tuple(name for name in self.attacks if find_attack(name).of_others)

    def deciding(self) -> dict[str, Any]:
        """Every setting that may decide the result of an attack; the others only choose runs, or change their cost."""
        free = {f.name for f in fields(self) if not f.metadata["decides"]}
        return {name: value for name, value in asdict(self).items() if name not in free}

    def suite(self) -> dict[str, str]:
        """Name of the suite that these settings are, else `custom`, and the hash of all that decides numbers."""
        from hf_dtl.audit.suites import name_of

        found = self.hash()
        return {"name": name_of(found), "hash": found}

    def hash(self) -> str:
        """Hash of everything about the attacker that decides numbers."""
        from hf_dtl.audit.attacks.attack import PROTOCOL  # both load torch
        from hf_dtl.fingerprint import fingerprint

        attacks = [find_attack(name) for name in self.attacks]
        told = [[own.name, own.family, own.settings(), own.numbers(self)] for own in attacks]
        chosen = [self.trial_seeds, self.finalists] if self.finalists else []
        return fingerprint([PROTOCOL, self.budgets, self.seeds, told, *chosen])
