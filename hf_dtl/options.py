"""Options of a command line: fields of a dataclass with help texts, and lists of numbers."""

from collections.abc import Iterable
from dataclasses import MISSING, field
from difflib import get_close_matches
from typing import Any

from hf_dtl.errors import ConfigError


def option(default: Any = MISSING, help: str = "", *, group: str = "", aliases: tuple[str, ...] = ()) -> Any:
    """A dataclass field with a help text for the command line; without a default it must be given.

    Args:
        default: of the field.
        help: what it means, one sentence.
        group: heading that it stands under in the help of a command.
        aliases: further names of the option.
    """
    return field(default=default, metadata={"help": help, "group": group, "aliases": aliases})


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
