"""Bad teaching: an incompetent teacher for the forget images, the frozen original for the others.

Source: Chundawat, Tarun, Mandal and Kankanhalli, "Can Bad Teaching Induce Forgetting? Unlearning in Deep Networks
using an Incompetent Teacher", arXiv 2205.08096.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from hf_dtl.functional import distillation
from hf_dtl.methods.noise_then_distil import fresh_model
from hf_dtl.methods.registry import register_method
from hf_dtl.models.heads import MultiHeadClassifier
from hf_dtl.trainers.config import WholeBatchConfig
from hf_dtl.trainers.trainer import UnlearningTrainer


@dataclass
class BadTeachingConfig(WholeBatchConfig):
    """Options of bad teaching: those of `UnlearningConfig`, without cross-entropy and at temperature 1."""

    temperature: float = field(default=1.0, metadata={"help": "Temperature of both teachers, > 0."})
    target_ce_weight: float = field(
        default=0.0, metadata={"help": "Weight of an additional cross-entropy on the retain images' labels, >= 0."}
    )


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

    def chunk_loss(self, pixel_values: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model(pixel_values, task=self.forget_task)
        with torch.no_grad():
            wanted = self.incompetent(pixel_values, task="new")
        return distillation(logits, wanted, self.args.temperature), logits
