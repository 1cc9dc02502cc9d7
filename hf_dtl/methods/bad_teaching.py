"""Bad teaching: an incompetent teacher for the forget images, the frozen original for the others.

Source: Chundawat, Tarun, Mandal and Kankanhalli, "Can Bad Teaching Induce Forgetting? Unlearning in Deep Networks
using an Incompetent Teacher", arXiv 2205.08096.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_dtl.methods.noise_then_distil import fresh_model
from hf_dtl.methods.registry import register_method
from hf_dtl.models.heads import MultiHeadClassifier
from hf_dtl.trainers import Chunk, UnlearningTrainer, WholeBatchConfig


@dataclass
class BadTeachingConfig(WholeBatchConfig):
    """Options of bad teaching: those of `UnlearningConfig`, without cross-entropy and at temperature 1."""

    multi_label: ClassVar[bool] = True

    temperature: float = 1.0
    target_ce_weight: float = 0.0


@register_method("bad_teaching")
class BadTeachingTrainer(UnlearningTrainer):
    """Minimise KL(original || f) on retain images + forget_weight * KL(incompetent || f) on forget images.

    The incompetent teacher is the same architecture with random weights, drawn by the seed and never trained.
    """

    config_class = BadTeachingConfig

    incompetent: MultiHeadClassifier

    def prepare(self) -> None:
        fresh = fresh_model(self.model, self.forget_task, self.args.seed)
        self.incompetent = fresh.requires_grad_(False).eval().to(self.args.device)

    def forget_loss(self, outputs: Tensor, chunk: Chunk) -> Tensor:
        with torch.no_grad():
            wanted = self.incompetent(chunk.pixel_values, task="new")
        return self.distance(outputs, wanted, chunk)
