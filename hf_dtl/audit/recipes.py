"""The attacks by name: what each of them trains, and where it starts."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

Attack = Literal[
    "linear_probe",
    "full",
    "head_then_full",
    "lora",
    "linear_probe_published",
    "full_published",
    "head_then_full_published",
    "lora_published",
    "full_rescaled",
    "full_longer",
    "full_large_lr",
    "retain_then_full",
    "retain_only",
]
Trained = Literal["linear_probe", "full", "lora"]


class Unit(NamedTuple):
    """One attack: its name, the images a class, and the seed."""

    attack: str
    budget: int
    seed: int


@dataclass(frozen=True)
class Recipe:
    """How one attack works.

    Args:
        trains: a linear head on frozen features (`linear_probe`), every weight (`full`), or low-rank adapters and the
            head (`lora`). It also names the learning rates that the attack chooses from.
        published_head: start from the published head's rows of the attacked classes, instead of a new head. Only
            where the published model has these classes.
        head_first: train the head on frozen features first, then everything from there.
        relative: train every tensor relative to its own size, so that weights and normalisation layers that were
            rescaled without changing the function are no defence.
        length: factor on the number of steps.
        learning_rate_factor: factor on the learning rates.
        retain: `first` fine-tunes the published head on retain images before the attack; `only` does nothing else and
            reads the attacked classes from the published head ("From Dormant to Deleted", arXiv 2505.22310).
    """

    trains: Trained
    published_head: bool = False
    head_first: bool = False
    relative: bool = False
    length: int = 1
    learning_rate_factor: float = 1.0
    retain: Literal["no", "first", "only"] = "no"


RECIPES: dict[str, Recipe] = {
    "linear_probe": Recipe("linear_probe"),
    "full": Recipe("full"),
    "head_then_full": Recipe("full", head_first=True),
    "lora": Recipe("lora"),
    "linear_probe_published": Recipe("linear_probe", published_head=True),
    "full_published": Recipe("full", published_head=True),
    "head_then_full_published": Recipe("full", published_head=True, head_first=True),
    "lora_published": Recipe("lora", published_head=True),
    "full_rescaled": Recipe("full", relative=True),
    "full_longer": Recipe("full", length=4),
    "full_large_lr": Recipe("full", learning_rate_factor=10.0),
    "retain_then_full": Recipe("full", retain="first"),
    "retain_only": Recipe("full", published_head=True, retain="only"),
}
ADAPTIVE: tuple[Attack, ...] = ("full_rescaled", "full_longer", "full_large_lr", "retain_then_full", "retain_only")
GRID: tuple[Attack, ...] = tuple(attack for attack in get_args(Attack) if attack not in ADAPTIVE)


def applies(attack: str, *, published_head: bool, retain: bool) -> bool:
    """Whether an attack can be run on a model.

    Args:
        attack: name of the attack.
        published_head: the published head has the attacked classes.
        retain: the attacker has retain images.
    """
    recipe = RECIPES[attack]
    return (published_head or not recipe.published_head) and (retain or recipe.retain == "no")
