"""Options of a method as fields of its config: a help text and a range beside each, checked in one place."""

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, Field, field, fields
from typing import Any, Literal, get_args, get_origin

from hf_dtl.errors import ConfigError
from hf_dtl.options import check_types


class Explanation(str):
    """A help text with the range of its option: `HfArgumentParser` hands all other metadata on to argparse."""

    limits: dict[str, Any]


def option(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    finite: bool = False,
    choices: Collection[str] | None = None,
    says: str = "",
) -> Any:
    """A dataclass field with a help text, and what its value may be; None is always allowed.

    Args:
        default: as of `dataclasses.field`.
        help: what it does, with its unit.
        low, above: least value, or what it must be larger than.
        high: largest value.
        finite: whether infinity is refused.
        choices: the values that there are; default: those of a `Literal`.
        says: what it must be, in words; default: the range.
    """
    text = Explanation(help)
    text.limits = {"low": low, "above": above, "high": high, "finite": finite, "choices": choices, "says": says}
    return field(default=default, metadata={"help": text})


def inherit_options(config_class: type) -> None:
    """Let a config change the default of an inherited option by a plain value: help and range stay as they are."""
    known: dict[str, Field] = {}
    for parent in reversed(config_class.__mro__[1:]):
        known |= parent.__dict__.get("__dataclass_fields__", {})
    for name in config_class.__dict__.get("__annotations__", {}):
        value = config_class.__dict__.get(name, MISSING)
        if name in known and value is not MISSING and not isinstance(value, Field):
            setattr(config_class, name, field(default=value, metadata=known[name].metadata))


def check_options(config: Any) -> None:
    """Refuse values of another type than their fields', or out of the ranges that these name.

    Raises:
        ConfigError: with the option, its value, and what it may be.
    """
    check_types(config)
    for own in fields(config):
        value, text = getattr(config, own.name), own.metadata.get("help")
        if value is None or not isinstance(text, Explanation):
            continue
        limits = text.limits
        there = limits["choices"] or (get_args(own.type) if get_origin(own.type) is Literal else None)
        if there is not None and value not in there:
            refusal = "must be" if limits["choices"] else "is unknown; use"
            raise ConfigError(f"{own.name}={value!r} {refusal} one of: {', '.join(there)}.")
        if there is None and not _within(value, **limits):
            raise ConfigError(f"{own.name}={value} must be {limits['says'] or _range(**limits)}.")


def _within(value: float, low: Any, above: Any, high: Any, finite: bool, **_: Any) -> bool:
    fine = (low is None or value >= low) and (above is None or value > above) and (high is None or value <= high)
    return fine and not (finite and value == math.inf)


def _range(low: Any, above: Any, high: Any, finite: bool, **_: Any) -> str:
    if high is not None:
        return f"in ({above}, {high}]" if low is None else f"in {low}..{high}"
    return (f">= {low}" if above is None else f"> {above}") + (" and finite" if finite else "")


@contextmanager
def refused(opening: str = "", remedy: str = "") -> Iterator[None]:
    """Turn a `ValueError` into a `ConfigError` that says what to do.

    Args:
        opening, remedy: put before and after its text.

    Raises:
        ConfigError: instead of a `ValueError`.
    """
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"{opening}{error}{remedy and f' {remedy}'}") from None
