"""Options of anchored distillation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch.utils.data import Dataset

from hf_dtl.errors import ConfigError
from hf_dtl.functional.channel import parse_channel
from hf_dtl.trainers import (
    DISPOSAL,
    BatchStatisticsConfig,
    Chunking,
    PairedStreams,
    Request,
    option,
    refused,
)
from hf_dtl.trainers.learning_rates import ADAPT, TRAIN, VIT_B, rate

STEPS = 1500
"""Of the student, about the training of the small model itself."""


@dataclass
class AnchoredDistillationConfig(BatchStatisticsConfig):
    """Options of anchored distillation: those of `UnlearningConfig`, and the channel; there is no disposal loss.

    An epoch is a pass over the transfer images.
    """

    adapts: ClassVar[bool] = False
    transfers: ClassVar[bool] = True
    unused: ClassVar[frozenset[str]] = DISPOSAL | {
        "chunking", "retain_inputs", "distillation_weight", "target_ce_weight",
    }  # fmt: skip

    channel: str = option(
        "labels",
        "What the given model says about transfer images: labels (its hard label of each, made once and stored), "
        "outputs:q (probabilities rounded to q levels, likewise), outputs (function matching: all of its outputs, on "
        "every view), features:r (its features in r directions too, on every view). The first two have a bound.",
    )
    base_model: str | None = option(
        None, "Public weights that the student starts from, Hub id or folder; default: random weights."
    )
    views: int = option(
        4000, "Views of the labelled images that are named where there are no transfer images, >= 0.", low=0
    )
    confidence: float = option(
        0.0, "Images that the given model is less sure of are left out, in 0..1; a further label.", low=0, high=1
    )
    rounds: int = option(
        1,
        "Rounds of self-training, in equal parts of the steps: from the second on the student names the images, those "
        "left out too. The given model speaks in the first alone.",
        low=1,
    )
    choices: int = option(
        1, "Settings that were tried, the best on validation kept: told in the bound, log2 of it, in bits.", low=1
    )
    num_chunks: int = 1
    chunking: Chunking = "random"
    forget_weight: float = 0.0

    def _check_together(self) -> None:
        super()._check_together()
        with refused():
            kind, _ = parse_channel(self.channel)
        if kind == "features" or self.channel == "outputs":
            for name in ("confidence", "rounds"):
                if getattr(self, name) != getattr(type(self), name):
                    raise ConfigError(
                        f"{name}={getattr(self, name)} is for what is said once (channel=labels or outputs:q), not "
                        f"for channel={self.channel}: leave it out."
                    )

    def streams(self, forget: Dataset, retain: Dataset) -> PairedStreams:
        """Both of them the images to learn from: forget images have no part in it."""
        return super().streams(retain, retain)

    @classmethod
    def for_request(cls, request: Request, user_options: Mapping[str, Any]) -> dict[str, Any]:
        parameters = (0 if request.small else VIT_B) if request.parameters is None else request.parameters
        own: dict[str, Any] = {
            "max_steps": STEPS,
            "learning_rate": rate(ADAPT if user_options.get("base_model") else TRAIN, parameters),
            "lr_scheduler_type": "cosine",
            "warmup_steps": 0.1,
        }
        chosen = super().for_request(request, user_options) | own
        return {name: value for name, value in chosen.items() if name not in user_options}
