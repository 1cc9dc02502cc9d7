"""Gradient collision (GC): learning from one chunk of source images undoes learning from another.

Source: arXiv 2308.09971 (ICCV 2023); loss and retention are reconstructions, see `hf_dtl.functional.collision`.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from hf_dtl.config import UnlearningConfig
from hf_dtl.errors import ConfigError
from hf_dtl.functional import calibrate_step, gradient_collision
from hf_dtl.functional.collision import Loss
from hf_dtl.trainer import Disposal, UnlearningTrainer

logger = logging.getLogger(__name__)


@dataclass
class GradientCollisionConfig(UnlearningConfig):
    """Options of gradient collision.

    Parameters that control the collision:
        normalize, create, finite_difference_step, and from `UnlearningConfig` num_chunks and chunking.

    With chunking="random" the expected loss is the squared norm of the source gradient, whose nearest zero is the
    source task's own minimum: the loss falls while the model knows the source task better than before.
    """

    normalize: bool = field(
        default=False, metadata={"help": "Use the normalised loss (NGC): collide directions, not magnitudes."}
    )
    create: Literal["exact", "finite_difference"] = field(
        default="exact",
        metadata={
            "help": "'exact' (double backward, eager attention) or 'finite_difference' (central differences of the "
            "gradient, keeps fused attention; its error is logged)."
        },
    )
    finite_difference_step: float | None = field(
        default=None,
        metadata={"help": "Relative step of the finite difference, > 0; default: calibrated on the first chunk."},
    )

    def __post_init__(self):
        super().__post_init__()
        if self.num_chunks < 2:
            raise ConfigError(f"A collision needs num_chunks >= 2, got {self.num_chunks}.")
        if self.create not in ("exact", "finite_difference"):
            raise ConfigError(f"create={self.create!r} is unknown; use 'exact' or 'finite_difference'.")
        if self.finite_difference_step is not None and not self.finite_difference_step > 0:
            raise ConfigError(f"finite_difference_step={self.finite_difference_step} must be > 0.")


class GradientCollisionTrainer(UnlearningTrainer):
    """Minimise L_retain + forget_weight * L_GC; logs the collision's value, cosine and norms apart.

    Example:
        trainer = GradientCollisionTrainer(
            model=model, args=GradientCollisionConfig(output_dir="scrubbing"),
            forget_dataset=source, retain_dataset=target, processing_class=processor,
        )
        trainer.train()
        trainer.save_model("scrubbed")
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.step = self.args.finite_difference_step
        if self.args.create == "finite_difference" and self.step is None:
            self.step = self._calibrate()

    def _calibrate(self) -> float:
        """The best step on the untouched model and the first chunk: the same on every process and after a resume."""
        chunk = self._prepare_inputs(self.train_dataset[0]["forget"])
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        with torch.random.fork_rng(devices=[]):
            step, error = calibrate_step(partial(self._calibration_loss, chunk), parameters)
        logger.info("Finite difference: relative step %.1e, relative error about %.1e", step, error)
        if not error < 0.1:
            logger.warning(
                "The finite difference of this model's gradient is off by about %.0f %% at its best step. Use "
                "create='exact', or float32 instead of bf16.",
                100 * error,
            )
        return step

    def _calibration_loss(self, chunk: dict[str, Tensor]) -> Tensor:
        with self.accelerator.autocast():
            logits = self.model(chunk["pixel_values"], task=self.forget_task)
        return self.forget_loss(logits, chunk["labels"])

    @property
    def needs_double_backward(self) -> bool:
        """Finite differences keep the fused attention kernels."""
        return self.args.create == "exact"

    def disposal(self, losses: Sequence[Loss], parameters: Sequence[Tensor]) -> Disposal:
        """Collide the chunks of all processes and micro-batches; measure what costs extra on logged steps only."""
        will_log = (self.state.global_step + 1) % max(1, self.state.logging_steps or 1) == 0
        result = gradient_collision(
            losses,
            parameters,
            normalize=self.args.normalize,
            reduce=self.reduce,
            create=self.args.create,
            step=self.step,
            diagnostics=will_log,
        )
        metrics = {"mean_cosine": result.mean_cosine, "mean_gradient_norm": result.mean_norm}
        if self.args.create == "finite_difference":
            metrics["finite_difference_error"] = result.error
        return Disposal(result.value, result.gradients, metrics)
