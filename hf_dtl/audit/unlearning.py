"""What unlearning a part of a data set did, beside the model that was trained again without that part."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from hf_dtl.audit.report_fields import OBJECT, SHARE, TEXT, check_fields, each, is_number
from hf_dtl.errors import DataError
from hf_dtl.functional.metrics import average_gap, tug_of_war

SPLITS = ("forget", "retain", "test", "forgotten_test")
GAP_SPLITS = ("forget", "retain", "test")
ROLES = ("undisposed", "scrubbed", "retrained")
_COMPUTED = ("average_gap", "tug_of_war")


@dataclass(frozen=True)
class Unlearning:
    """Accuracies on what was forgotten and what was kept, and what it cost.

    Args:
        request: what was to be forgotten, as the user wrote it.
        images: number of training images under `forget` and `retain`.
        accuracy: by split, then by model (`undisposed`, `scrubbed`, and `retrained` where there is one), in 0..1.
            `forget` and `retain` are training images; `test` are held-out images of what is retained, and
            `forgotten_test` those of classes that were forgotten as a whole.
        cost: by model (`scrubbed`, `retrained`), CPU seconds of the first process (`cpu`), wall-clock seconds
            (`wall`) and memory in MiB beyond what was there before (`peak_mib`) of its training; None where it was
            not measured in one piece.

    Raises:
        DataError: a value is missing, unknown or out of its range.
    """

    request: str
    images: dict[str, int]
    accuracy: dict[str, dict[str, float]]
    cost: dict[str, dict[str, float] | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        of = "of `unlearning`"
        check_fields(self, of, request=TEXT, images=OBJECT, accuracy=OBJECT, cost=OBJECT)
        counts = self.images.values()
        if set(self.images) != {"forget", "retain"} or not all(isinstance(n, int) and is_number(n, 1) for n in counts):
            raise DataError(f"`images` of `unlearning` needs positive counts of forget and retain, got {self.images}.")
        if not set(GAP_SPLITS) <= set(self.accuracy) <= set(SPLITS):
            raise DataError(f"`accuracy` of `unlearning` needs {', '.join(GAP_SPLITS)}, got {list(self.accuracy)}.")
        models = set(self.accuracy["forget"]) if isinstance(self.accuracy["forget"], dict) else set()
        if not {"undisposed", "scrubbed"} <= models <= set(ROLES):
            raise DataError(f"`accuracy` of `unlearning` needs undisposed and scrubbed, got {sorted(models)}.")
        for split, values in self.accuracy.items():
            if not isinstance(values, dict) or set(values) != models:
                raise DataError(f"`accuracy.{split}` of `unlearning` lacks a model: {values!r}.")
            each(SHARE)(values, f"accuracy.{split}", of)
        for model, cost in self.cost.items():
            if cost is not None and (
                not isinstance(cost, dict)
                or set(cost) - {"peak_mib"} != {"cpu", "wall"}
                or not all(is_number(seconds, 0) for seconds in cost.values())
            ):
                raise DataError(
                    f"`cost.{model}` of `unlearning` must hold cpu and wall seconds (and peak_mib), got {cost!r}."
                )

    @property
    def has_retrained(self) -> bool:
        """Whether there is a retrained model to compare with."""
        return "retrained" in self.accuracy["forget"]

    def average_gap(self, model: str = "scrubbed") -> float | None:
        """Mean distance of a model's accuracies to the retrained model's; None without that. Lower is better."""
        return average_gap(*self._pair(model)) if self.has_retrained else None

    def tug_of_war(self, model: str = "scrubbed") -> float | None:
        """Product of one minus these distances; None without a retrained model. Higher is better."""
        return tug_of_war(*self._pair(model)) if self.has_retrained else None

    def _pair(self, model: str) -> tuple[dict[str, float], dict[str, float]]:
        own, retrained = ({s: self.accuracy[s][role] for s in GAP_SPLITS} for role in (model, "retrained"))
        return own, retrained

    @property
    def relative_cost(self) -> float | None:
        """CPU seconds of the unlearning as a share of those of retraining; None where one is not known."""
        own, retrained = self.cost.get("scrubbed"), self.cost.get("retrained")
        return own["cpu"] / retrained["cpu"] if own and retrained and retrained["cpu"] > 0 else None

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON values, with the numbers that follow."""
        return {**asdict(self), "average_gap": self.average_gap(), "tug_of_war": self.tug_of_war()}

    @classmethod
    def from_dict(cls, content: object) -> "Unlearning":
        """Read what `to_dict` gave, and check that its numbers follow from the accuracies.

        Raises:
            DataError: they do not, or a value is missing or of the wrong kind.
        """
        if not isinstance(content, Mapping) or set(content) != {*cls.__dataclass_fields__, *_COMPUTED}:
            found = ", ".join(content) if isinstance(content, Mapping) else repr(content)
            raise DataError(f"`unlearning` needs {', '.join((*cls.__dataclass_fields__, *_COMPUTED))}; got {found}.")
        result = cls(**{name: content[name] for name in cls.__dataclass_fields__})
        for name in _COMPUTED:
            own, claimed = getattr(result, name)(), content[name]
            if not agree(own, claimed):
                raise DataError(
                    f"`unlearning` says {name} {claimed!r}, but its accuracies give {own!r}. Run the audit again."
                )
        return result


def agree(computed: float | None, claimed: object) -> bool:
    """Whether a number written in a file is the one that follows from the rest of it, but for rounding."""
    if isinstance(computed, float) and isinstance(claimed, (int, float)):
        return math.isclose(computed, claimed, abs_tol=1e-6)
    return computed is None and claimed is None
