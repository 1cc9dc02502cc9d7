"""Options of a command line: fields of a dataclass with help texts, and lists of numbers."""

from dataclasses import MISSING, field
from typing import Any

from hf_dtl.errors import ConfigError


def option(default: Any = MISSING, help: str = "") -> Any:
    """A dataclass field with a help text for the command line; without a default it must be given."""
    return field(default=default, metadata={"help": help})


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
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        what, example = ("whole numbers", "5,20") if kind is int else ("numbers", "1e-4,1e-3")
        raise ConfigError(f"--{name} {text!r} must be {what} separated by commas, for example {example}.") from None
