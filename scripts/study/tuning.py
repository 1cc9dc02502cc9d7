"""The rule that chooses each method's strength; it knows validation accuracy of the target and nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass

from hf_dtl.errors import DivergedError

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Chosen:
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


def choose_strength(tried: Mapping[float, float | None], before: float, margin: float) -> Chosen:
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
    return Chosen(max(within, default=best), bool(within), before, dict(tried))
