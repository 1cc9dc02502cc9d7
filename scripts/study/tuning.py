"""A method with the strengths that tuning chooses from, and the rules by which it does."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hf_dtl.errors import DivergedError
from study.settings import Knob

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Method:
    """A method with options of its own, and the strengths that tuning chooses from, ascending; one is no choice."""

    text: str
    knob: str
    strengths: tuple[float, ...]

    @classmethod
    def of(cls, text: str, knob: Knob, given: Any) -> "Method":
        """The method that a command line names; a strength among its own options (`given`) is not tuned."""
        strengths = knob.values if given is None else (float(given),)
        return cls(without_option(text, knob.option), knob.option, strengths)

    def at(self, strength: float) -> str:
        """The method at one strength, as a command line names it."""
        return f"{self.text}:{self.knob}={strength:g}"


def without_option(text: str, option: str) -> str:
    """A method as a command line names it, without one of its options.

    Example:
        >>> without_option("salun:learning_rate=0.001:saliency=0.3", "learning_rate")
        'salun:saliency=0.3'
    """
    return ":".join(part for part in text.split(":") if not part.startswith(f"{option}="))


def least(values: Mapping[float, float | None]) -> float | None:
    """The strength with the least value, of equals the first; None where the training diverged at every one.

    Example:
        >>> least({0.1: None, 1.0: 0.2, 3.0: 0.1})
        3.0
    """
    finite = {strength: value for strength, value in values.items() if value is not None}
    return min(finite, key=lambda strength: finite[strength], default=None)


@dataclass(frozen=True)
class ChosenStrength:
    """The strength of one method.

    Args:
        strength: the value of its knob.
        kept: whether the target kept its validation accuracy within the margin at that strength; None when the
            strength was given and not tuned.
        before: validation accuracy of the undisposed model of the tuning seed; None when not tuned.
        tried: validation accuracy at every strength, None where the training diverged.
    """

    strength: float
    kept: bool | None
    before: float | None
    tried: dict[float, float | None]


def choose_strength(tried: Mapping[float, float | None], before: float, margin: float) -> ChosenStrength:
    """Choose the largest strength that keeps the target, or else the one that keeps most of it.

    Args:
        tried: validation accuracy in 0..1 by strength, None where the training diverged.
        before: validation accuracy of the undisposed model, in 0..1.
        margin: most that it may fall, in 0..1.

    Raises:
        DivergedError: the training diverged at every strength.

    Example:
        >>> choose_strength({0.3: 0.95, 1.0: 0.945, 3.0: 0.90}, before=0.95, margin=0.01).strength
        1.0
    """
    finite = {strength: value for strength, value in tried.items() if value is not None}
    if not finite:
        raise DivergedError(f"The training diverged at every strength: {', '.join(f'{s:g}' for s in tried)}.")
    within = [strength for strength, value in finite.items() if value >= before - margin - _ROUNDING]
    best = max(finite, key=lambda strength: (finite[strength], strength))
    return ChosenStrength(max(within, default=best), bool(within), before, dict(tried))
