"""The number that an audit is made for: leakage over a floor, its bound, the gate before it, and the word for it.

Source: Fieller, Some Problems in Interval Estimation, JRSS B 1954; levels and words are the audit's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student

CONFIDENCE = 0.95
"""Of every bound, one-sided."""
GAP = 0.10
"""Mean gap between the undisposed model and the floor from which on weights matter."""
FORGOTTEN, SHOWN_BELOW = 0.10, 0.20
"""Largest leakage that is called forgotten, and the level that it must be shown to lie below."""

Gate = Literal["defined", "weights do not matter", "unresolved"]
Word = Literal["forgotten", "leaks", "not shown"]


@dataclass(frozen=True)
class Bounds:
    """A mean over draws, and what it is at least and at most; None from a single draw."""

    mean: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, draws: ArrayLike) -> "Bounds":
        """Of independent draws (n,): mean -/+ the t quantile times the standard error.

        Example:
            >>> Bounds.of([0.0, 1.0]).mean, Bounds.of([0.5])
            (0.5, Bounds(mean=0.5, low=None, high=None))
        """
        values = np.asarray(draws, dtype=float)
        mean, count = float(values.mean()), len(values)
        if count < 2:
            return cls(mean, None, None)
        margin = float(student.ppf(CONFIDENCE, count - 1) * values.std(ddof=1) / count**0.5)
        return cls(mean, mean - margin, mean + margin)


@dataclass(frozen=True)
class Estimate:
    """Leakage from PL accuracies; every array has the shape (draws, budgets) and the same draws of images.

    Args:
        scrubbed, undisposed: PL accuracy of the model after and before disposal, in 0..1.
        floor: that of the floor which is best on validation at each budget.

    Raises:
        ValueError: the shapes differ, or there is no draw.
    """

    scrubbed: NDArray[np.float64]
    undisposed: NDArray[np.float64]
    floor: NDArray[np.float64]

    def __post_init__(self) -> None:
        for name in ("scrubbed", "undisposed", "floor"):
            object.__setattr__(self, name, np.atleast_2d(np.asarray(getattr(self, name), dtype=float)))
        shapes = {self.scrubbed.shape, self.undisposed.shape, self.floor.shape}
        if len(shapes) > 1 or self.scrubbed.size == 0:
            raise ValueError(f"PL accuracies need one shape (draws, budgets) with a draw at least, got {shapes}.")

    @property
    def gap(self) -> Bounds:
        """Mean over budgets of the undisposed model's PL accuracy over the floor's."""
        return Bounds.of((self.undisposed - self.floor).mean(1))

    @property
    def gate(self) -> Gate:
        """Whether the gap is large enough for a ratio to mean anything."""
        gap = self.gap
        if gap.low is not None and gap.low >= GAP:
            return "defined"
        return "weights do not matter" if gap.high is not None and gap.high < GAP else "unresolved"

    @property
    def leakage(self) -> float | None:
        """Ratio of the sums over draws and budgets; None unless the gate says that it is defined.

        0: the weights help nobody; 1: as much as before disposal; below 0: they hinder.
        """
        if self.gate != "defined":
            return None
        return float((self.scrubbed - self.floor).sum() / (self.undisposed - self.floor).sum())

    def over(self, level: float, budget: int | None = None) -> Bounds:
        """Bounds of (scrubbed - floor) - level * (undisposed - floor): above 0 the leakage is above the level.

        Args:
            level: of leakage.
            budget: position of one budget; None for the mean over all.
        """
        excess = (self.scrubbed - self.floor) - level * (self.undisposed - self.floor)
        return Bounds.of(excess.mean(1) if budget is None else excess[:, budget])

    def shown_below(self, level: float) -> bool:
        """Whether the leakage is shown to lie below a level (Fieller)."""
        high = self.over(level).high
        return high is not None and high < 0

    def shown_above(self, level: float, budget: int | None = None) -> bool:
        """Whether it is shown to lie above a level, over all budgets or at one."""
        low = self.over(level, budget).low
        return low is not None and low > 0

    @property
    def interval(self) -> tuple[float, float] | None:
        """Levels that the leakage is shown neither below nor above; None unless the gate says that it is defined.

        They are the roots of (A - level G)^2 = t^2 / n (s_AA - 2 level s_AG + level^2 s_GG), with A and G the means
        over draws of scrubbed and undisposed over the floor. A gap that passes the gate is so far above its noise
        that there are two, around the leakage.
        """
        if self.gate != "defined":
            return None
        draws = np.stack([(self.scrubbed - self.floor).mean(1), (self.undisposed - self.floor).mean(1)])
        count, (a, g) = draws.shape[1], draws.mean(1)
        (aa, ag), (_, gg) = np.cov(draws) * student.ppf(CONFIDENCE, count - 1) ** 2 / count
        square, half, rest = g**2 - gg, a * g - ag, a**2 - aa
        root = max(0.0, half**2 - square * rest) ** 0.5  # below 0 by rounding alone
        return float((half - root) / square), float((half + root) / square)

    def word(self, others: Sequence["Estimate"] = ()) -> Word | None:
        """What is shown of forgetting; None where the weights do not matter or that is unresolved.

        Forgotten: leakage at most .10, shown below .20, and shown above .10 at no budget and no effort. Leaks: shown
        above .10.

        Args:
            others: the same of single efforts.
        """
        leakage = self.leakage
        if leakage is None:
            return None
        if self.shown_above(FORGOTTEN):
            return "leaks"
        single = any(
            one.shown_above(FORGOTTEN, budget) for one in (self, *others) for budget in range(one.scrubbed.shape[1])
        )
        return "forgotten" if leakage <= FORGOTTEN and self.shown_below(SHOWN_BELOW) and not single else "not shown"
