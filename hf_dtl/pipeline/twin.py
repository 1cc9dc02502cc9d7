"""The floor `twin`: a model that never saw the source, as good at the target as the scrubbed one."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import sqrt
from typing import Any

WITHIN = 0.01
"""A twin is as good at the target where its validation accuracy differs by no more."""
FINEST = 1.1
"""Numbers of labels that differ by a smaller factor are not told apart: training is noisier than that."""


@dataclass(frozen=True)
class Twin:
    """A twin and how it was found.

    Args:
        model: trained on the target alone.
        labels: true labels a class that it was given.
        accuracy, wanted: on validation images of the target, its own and the scrubbed model's, in 0..1.
    """

    model: Any
    labels: int
    accuracy: float
    wanted: float

    @property
    def note(self) -> str:
        """A sentence for the report."""
        off = "" if abs(self.accuracy - self.wanted) <= WITHIN else ", the nearest that these labels give"
        return (
            f"The twin never saw the source and had {self.labels} true labels a class of the target: it is right on "
            f"{self.accuracy:.3f} of the validation images, the scrubbed model on {self.wanted:.3f}{off}."
        )


def as_good(accuracy: Callable[[int], float], wanted: float, fewest: int, most: int) -> int:
    """Find with how many labels training comes to an accuracy, by bisection of their logarithm.

    Args:
        accuracy: of training with so many labels, in 0..1; asked once for a number. The numbers asked for depend on
            the answers through their order alone, so searches for several accuracies share most of them.
        wanted: the accuracy.
        fewest, most: labels that there may be.

    Returns:
        The first number found that comes within a point; else of all that were tried the one that comes nearest.

    Example:
        >>> as_good(lambda labels: labels / 100, wanted=0.4, fewest=10, most=90)
        39
    """
    within = WITHIN + 1e-9
    ask, low, high, tried = cache(accuracy), fewest, most, [fewest, most]
    if ask(fewest) >= wanted - within:
        return fewest
    if ask(most) > wanted + within:
        while high > FINEST * low and low + 1 < high:
            tried.append(between := middle(low, high))
            if abs(ask(between) - wanted) <= within:
                return between
            low, high = (between, high) if ask(between) < wanted else (low, between)
    return min(tried, key=lambda labels: (abs(ask(labels) - wanted), labels))


def middle(low: int, high: int) -> int:
    """Where a bisection looks next: the geometric mean of two numbers, between them where there is room.

    Example:
        >>> middle(10, 90), middle(10, 11)
        (30, 10)
    """
    return max(low, min(max(round(sqrt(low * high)), low + 1), high - 1))
