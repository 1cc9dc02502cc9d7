"""Options of a command line: fields of a dataclass with help texts, and lists of numbers."""

from collections.abc import Iterable
from dataclasses import MISSING, field, fields
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any, get_args, get_type_hints

import numpy as np

from hf_dtl.errors import ConfigError

TYPE_WORDS = {int: "a whole number", float: "a number", bool: "True or False"}
_FITTING: dict[type, tuple[type, ...]] = {int: (Integral,), float: (Real,), bool: (bool, np.bool_)}


def option(default: Any = MISSING, help: str = "", *, group: str = "", aliases: tuple[str, ...] = ()) -> Any:
    """A dataclass field with a help text for the command line; without a default it must be given.

    Args:
        default: of the field.
        help: what it means, one sentence.
        group: heading that it stands under in the help of a command.
        aliases: further names of the option.
    """
    return field(default=default, metadata={"help": help, "group": group, "aliases": aliases})


def check_types(options: Any) -> None:
    """Refuse values of fields for numbers and truth values that are something else, such as text of a YAML file.

    Args:
        options: a dataclass; fields that may hold text or objects are left alone, and None is always allowed.

    Raises:
        ConfigError: with the option, its value, and what it must be.
    """
    types = get_type_hints(type(options))  # transformers' HfArgumentParser writes other ones into the fields
    for own in fields(options):
        value, kind = getattr(options, own.name), types[own.name]
        kinds = set(get_args(kind) or (kind,)) - {type(None)}
        if value is None or not kinds <= TYPE_WORDS.keys():
            continue
        truth = isinstance(value, _FITTING[bool])
        if not any(isinstance(value, _FITTING[kind]) and truth == (kind is bool) for kind in kinds):  # type: ignore[index]
            words = " or ".join(TYPE_WORDS[kind] for kind in TYPE_WORDS if kind in kinds)
            raise ConfigError(f"{own.name}={value!r} must be {words}, not {type(value).__name__}.")


def numbers(text: str, name: str, kind: type) -> tuple:
    """Read a comma-separated list of numbers.

    Args:
        text: the list.
        name: of the option, for the message.
        kind: `int` or `float`.

    Raises:
        ConfigError: an entry is no such number.

    Example:
        >>> numbers("5, 20", "budgets", int)
        (5, 20)
    """
    try:
        return tuple(kind(part) for part in str(text).split(","))
    except ValueError:
        what, example = ("whole numbers", "5,20") if kind is int else ("numbers", "1e-4,1e-3")
        raise ConfigError(f"--{name} {text!r} must be {what} separated by commas, for example {example}.") from None


def nearest(word: str, choices: Iterable[str], quoted: bool = False, cutoff: float = 0.6) -> str:
    """A question that names the nearest right word, whatever its case, with a blank before it; else nothing.

    Args:
        word: the wrong one.
        choices: the right ones.
        quoted: put the right word into quotes.
        cutoff: lowest likeness, 0 to 1.

    Example:
        >>> nearest("bugdet", ["budget", "seed"])
        ' Did you mean budget?'
    """
    folded = {name.casefold(): name for name in choices}
    near = get_close_matches(word.casefold(), folded, n=1, cutoff=cutoff)
    mark = "'" if quoted else ""
    return f" Did you mean {mark}{folded[near[0]]}{mark}?" if near else ""
