"""What an attack is: a name, settings as fields, and from all of them the key of its runs."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self, dataclass_transform, final

from torch import Tensor

from hf_dtl.audit.attacks.registry import find_attack
from hf_dtl.errors import ConfigError
from hf_dtl.fingerprint import fingerprint

if TYPE_CHECKING:
    from hf_dtl.audit.attacks.choice import Choice
    from hf_dtl.audit.attacks.context import AttackContext
    from hf_dtl.audit.classifiers import LabelledImages
    from hf_dtl.audit.config import AttackConfig

PROTOCOL = 3
"""Raised whenever an attack's code changes its numbers, so that stored attacks are not mixed with new ones."""

_BY_NAME: dict[str, tuple[str, dict[str, Any]]] = {
    "linear_probe": ("LinearProbe", {}),
    "full": ("FineTuning", {}),
    "head_then_full": ("FineTuning", {"head_first": True}),
    "lora": ("LoRA", {}),
    "linear_probe_published": ("LinearProbe", {"published_head": True}),
    "full_published": ("FineTuning", {"published_head": True}),
    "head_then_full_published": ("FineTuning", {"published_head": True, "head_first": True}),
    "lora_published": ("LoRA", {"published_head": True}),
    "full_rescaled": ("RelativeFineTuning", {}),
    "full_longer": ("FineTuning", {"length": 4}),
    "full_large_lr": ("FineTuning", {"learning_rate_factor": 10.0}),
    "retain_then_full": ("RetainFirst", {}),
    "retain_only": ("RetainOnly", {}),
}
"""Attacks whose runs were stored under their names alone: with just these settings they are found under them still."""

TrainedAttack = tuple["Unit", "Choice | None", Callable[["LabelledImages"], Tensor]]
"""An attack, the learning rate that it chose (None: all diverged), and the logits that it gives to a split."""


class Unit(NamedTuple):
    """One attack: its name, the images a class, and the seed."""

    attack: str
    budget: int
    seed: int


def each_own(default: Any) -> Any:
    """A setting that `train` reads from the attack of each unit, so that units that differ in it train together."""
    return field(default=default, metadata={"each_own": True})


def train(context: AttackContext, units: Sequence[Unit]) -> Iterator[TrainedAttack]:
    """Run attacks of equal group keys; see `Attack.train`."""
    return find_attack(units[0].attack).train(context, units)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field, each_own))
@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """An attack of a family. The family's annotated attributes are its settings, each with a default.

    Subclasses become frozen dataclasses by themselves. Both keys of a run hold every setting that is not the default,
    so none can be forgotten: not `group_key`, which says what trains together, but for settings made by `each_own`;
    nor `fingerprint`, under which a run is stored.

    Args:
        name: of the attack, as the report shows it.
        description: the attack in one sentence.

    Raises:
        ConfigError: a setting is no JSON value.
    """

    name: str
    description: str = ""

    source: ClassVar[str] = ""
    """Where the attack was published."""
    whole_network: ClassVar[bool] = False
    """Whether it trains the whole network, which takes memory and time; else it counts as an evaluation."""
    needs_retain: ClassVar[bool] = False
    """Whether it needs retain images."""
    needs_base: ClassVar[bool] = False
    """Whether it needs the public weights that the owner started from."""
    ignores_model: ClassVar[bool] = False
    """Whether the published model plays no part, so that one run serves every model."""
    of_others: ClassVar[bool] = False
    """Whether it is made of the answers of the audit's other attacks, and trains nothing."""
    version: ClassVar[int] = 1
    """Raised when a family's code changes its numbers; it is in the keys of all but the attacks of `_BY_NAME`."""

    def __init_subclass__(cls) -> None:
        if {"group_key", "fingerprint", "settings"} & cls.__dict__.keys():
            raise TypeError(f"{cls.__name__} must not change its keys: they follow from its settings.")
        dataclass(frozen=True, kw_only=True)(cls)

    def __post_init__(self) -> None:
        try:
            json.dumps(self.settings())
        except TypeError as error:
            raise ConfigError(f"The settings of the attack {self.name} must be JSON values: {error}.") from error

    # Keys -----------------------------------------------------------------------------------------------------

    @final
    def settings(self, *, shared: bool = False) -> dict[str, Any]:
        """The settings that differ from their defaults; `shared`: without those that each unit has of its own."""
        found = {f.name: getattr(self, f.name) for f in fields(self) if not (shared and f.metadata.get("each_own"))}
        defaults = {f.name: f.default for f in fields(self)}
        return {n: v for n, v in found.items() if n not in ("name", "description") and v != defaults[n]}

    @property
    def family(self) -> str:
        """Module and name of the class."""
        return f"{type(self).__module__}.{type(self).__qualname__}"

    @final
    def group_key(self, budget: int, images: int, config: AttackConfig) -> tuple:
        """What attacks must have in common to train together.

        Args:
            budget: training images a class.
            images: training images.
            config: what the attacker may do.
        """
        own = json.dumps(self.settings(shared=True), sort_keys=True)
        return (self.family, own, budget, self.steps(config, images), self.learning_rates(config))

    @final
    def fingerprint(
        self,
        unit: Unit,
        config: AttackConfig,
        model: str,
        task: str,
        rows: list[int] | None,
        retain: str | None,
        base: str | None = None,
    ) -> str:
        """The key of a stored run: everything that its numbers depend on.

        Args:
            unit: the run.
            config: what the attacker may do.
            model, task, retain, base: fingerprints of the model, the task, its retain images if there are any, and
                the public weights, which only an attack that needs them depends on.
            rows: of the published head that stand for the attacked classes, if they do.
        """
        if self.ignores_model:
            return fingerprint([PROTOCOL, task, *unit, self.numbers(config), self.family, self.settings()])
        parts: list[Any] = [PROTOCOL, model, task, *unit, self.numbers(config)]
        if not self._known_by_name:
            own = [base] if self.needs_base else []
            return fingerprint([*parts, rows, retain, self.family, self.settings(), *own])
        parts += [rows] if self.needs_published_head else []
        return fingerprint(parts + ([retain] if self.needs_retain else []))

    def numbers(self, config: AttackConfig) -> list[Any]:
        """Every setting of the config that decides the result, and the version; all but the cost's where it may be."""
        if not self._known_by_name:
            return [self.version, self.learning_rates(config), config.deciding()]
        own = (getattr(config, name) for name in self.reads)
        return [self.learning_rates(config), config.weight_decay, config.successive_halving, *own]

    @property
    def _known_by_name(self) -> bool:
        family, settings = _BY_NAME.get(self.name, ("", {}))
        here = type(self).__module__.startswith(f"{__package__}.")
        return here and type(self).__qualname__ == family and self.settings() == settings

    # What a family says of itself -----------------------------------------------------------------------------

    @property
    def reads(self) -> tuple[str, ...]:
        """Fields of the config that this attack reads, in the order of its stored fingerprint."""
        return ()

    @property
    def needs_published_head(self) -> bool:
        """Whether the published head must have the attacked classes."""
        return False

    @property
    def needs(self) -> str:
        """What it needs, in words."""
        return " and ".join(
            ["retain images"] * self.needs_retain
            + ["a published head with the attacked classes"] * self.needs_published_head
            + ["a base model"] * self.needs_base
        )

    def applies(self, *, published_head: bool, retain: bool, base: bool = False) -> bool:
        """Whether it can be run on a model.

        Args:
            published_head: the published head has the attacked classes.
            retain: the attacker has retain images.
            base: the attacker has the public weights that the owner started from.
        """
        has = ((published_head, self.needs_published_head), (retain, self.needs_retain), (base, self.needs_base))
        return all(given or not needed for given, needed in has)

    def steps(self, config: AttackConfig, images: int) -> int:
        """Training steps on so many images; 0 for an attack in closed form."""
        return 0

    def learning_rates(self, config: AttackConfig) -> tuple[float, ...]:
        """Learning rates that it chooses from, the smallest first; (0,) for an attack in closed form."""
        return (0.0,)

    @abstractmethod
    def train(self, context: AttackContext, units: Sequence[Unit]) -> Iterator[TrainedAttack]:
        """Run attacks that have this one's group key, and choose of each the learning rate best on validation.

        Args:
            context: the attacked model and task.
            units: the runs.
        """

    @classmethod
    def of(cls, unit: Unit) -> Self:
        """The attack of a unit, which must be of this family."""
        found = find_attack(unit.attack)
        assert isinstance(found, cls)
        return found
