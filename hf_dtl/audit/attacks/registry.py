"""The attacks by name: of this package, of other packages (entry points), and those registered in this run.

A new attack is one file: a class of `Attack` under `@register_attack("its_name")`. In another package an entry point
of the group `hf_dtl.attacks` with the attack's name leads to that class; or whoever imports the file has it.
"""

import ast
import re
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hf_dtl.errors import ConfigError
from hf_dtl.options import nearest

if TYPE_CHECKING:
    from hf_dtl.audit.attacks.attack import Attack

GROUP = "hf_dtl.attacks"
_TRAINED = ("linear_probe", "full", "head_then_full", "lora")
GRID = (*_TRAINED, *(f"{name}_published" for name in _TRAINED))
"""{linear probe, full fine-tuning, head then full, LoRA} × {new head, published head}."""
ADAPTIVE = ("full_rescaled", "full_longer", "full_large_lr", "retain_then_full", "retain_only")
"""Attacks on what a defence may have done to the others."""

Family = TypeVar("Family", bound="type[Attack]")
_registered: dict[str, "Attack"] = {}


def register_attack(name: str, description: str = "", **settings: Any) -> Callable[[Family], Family]:
    """Decorate a family of attacks: it has an attack of this name, with these settings. May be given several times.

    Args:
        name: small letters, digits and underscores.
        description: the attack in one sentence; default: the first line of the family's docstring.
        settings: values of the family's fields; the others have their defaults.

    Raises:
        ConfigError: the name is not of that kind, or another family's.

    Example:
        >>> @register_attack("full_twice", "Fine-tuning of every weight, twice as long.", length=2)  # doctest: +SKIP
        ... class Mine(FineTuning): ...
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in ("grid", "adaptive", "all"):
        raise ConfigError(f"The attack {name!r} needs a name of small letters, digits and underscores, and no set's.")

    def register(family: Family) -> Family:
        home, _ = _built_in().get(name, (None, ""))
        if name in _registered:
            home = _registered[name].family.rpartition(".")[0]
        if home not in (None, family.__module__):
            raise ConfigError(f"The attack {name} of {family.__module__} needs another name: {home} has this one.")
        about = description or (family.__doc__ or "").strip().split("\n")[0]
        _registered[name] = family(name=name, description=about, **settings)
        return family

    return register


@cache
def _built_in() -> dict[str, tuple[str, str]]:
    """Module and description of every attack of this folder, read from its sources: importing takes seconds."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for family in (node for node in tree.body if isinstance(node, ast.ClassDef)):
            for call in family.decorator_list:
                match call:
                    case ast.Call(func=ast.Name(id="register_attack"), args=[ast.Constant(value=str(name)), *about]):
                        text = ast.literal_eval(about[0]) if about else ast.get_docstring(family) or ""
                        found[name] = (f"{__package__}.{path.stem}", text.partition("\n")[0])
    return found


def _outside() -> dict[str, EntryPoint]:
    """Entry points of other packages' attacks."""
    return {entry.name: entry for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name)}


def attack_names() -> tuple[str, ...]:
    """Every attack that there is: the grid, the adaptive ones, others of this package, and those from outside."""
    return tuple(dict.fromkeys((*GRID, *ADAPTIVE, *_built_in(), *_outside(), *_registered)))


def attack_summaries() -> dict[str, str]:
    """One sentence an attack, in the order of `attack_names`; of another package's not yet loaded, where it is."""
    about = {name: entry.value for name, entry in _outside().items()}
    about |= {name: attack.description for name, attack in _registered.items()}
    about |= {name: text for name, (_, text) in _built_in().items()}
    return {name: about[name] for name in attack_names()}


def is_attack(name: str) -> bool:
    """Whether there is an attack of this name."""
    return name in _built_in() or name in _registered or name in _outside()


def find_attack(name: str) -> "Attack":
    """The attack of this name; loads its family.

    Raises:
        ConfigError: there is none, or its entry point registers none of this name.
    """
    where = ""
    if name not in _registered and name in _built_in():
        import_module(_built_in()[name][0])
    elif name not in _registered and (entry := _outside().get(name)):
        entry.load()
        where = f" in {entry.value}"
    if name not in _registered:
        raise ConfigError(f"Unknown attack {name!r}{where}. {_suggestion(name)}")
    return _registered[name]


def attack_sets() -> dict[str, tuple[str, ...]]:
    """The sets that have a name of their own: grid, adaptive, all."""
    return {"grid": GRID, "adaptive": ADAPTIVE, "all": attack_names()}


def parse_attacks(text: str) -> tuple[str, ...]:
    """Read a list of attacks; `grid`, `adaptive` and `all` stand for several.

    Raises:
        ConfigError: a name is unknown; the message names the nearest right one.

    Example:
        >>> parse_attacks("full,adaptive")[:2]
        ('full', 'full_rescaled')
    """
    sets, names = attack_sets(), list[str]()
    for word in (part.strip() for part in text.split(",")):
        if word not in sets and not is_attack(word):
            raise ConfigError(f"Unknown attack {word!r} in --attacks {text!r}. {_suggestion(word, *sets)}")
        names += sets.get(word, (word,))
    return tuple(dict.fromkeys(names))


def check_attacks(names: tuple[str, ...]) -> None:
    """Refuse unknown names.

    Raises:
        ConfigError: with the names that there are.
    """
    unknown = sorted(name for name in names if not is_attack(name))
    if unknown:
        raise ConfigError(f"Unknown attacks {', '.join(unknown)}. {_suggestion(unknown[0])}")


def _suggestion(wrong: str, *sets: str) -> str:
    names = (*sets, *attack_names())
    known = f"{nearest(wrong, names)} There are: {', '.join(names)}.".strip()
    return f"{known} One from elsewhere must be installed, or imported first (CONTRIBUTING.md)."
