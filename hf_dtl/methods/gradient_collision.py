"""Gradient collision (GC): learning from one chunk of source images undoes learning from another.

Source: arXiv 2308.09971 (ICCV 2023); loss and retention are reconstructions, see `hf_dtl.functional.collision`. The
heads other than "frozen", `collide` and `noise` are this project's.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_dtl.errors import ConfigError
from hf_dtl.functional import calibrate_step, gradient_collision
from hf_dtl.functional.collision import Loss
from hf_dtl.methods.registry import register_method
from hf_dtl.trainers import Disposal, ProbeConfig, ProbedTrainer, option

logger = logging.getLogger(__name__)


@dataclass
class GradientCollisionConfig(ProbeConfig):
    """Options of gradient collision.

    Parameters that control the collision:
        normalize, head, collide, noise, create, finite_difference_step, those of `ProbeConfig`, and from
        `UnlearningConfig` num_chunks and chunking. Every image is a chunk of its own with chunking="random" and
        num_chunks = forget images of a step.

    With chunking="random" the expected loss is the squared norm of the source gradient, whose nearest zero is the
    source task's own minimum: the loss falls while the model knows the source task better than before.
    """

    normalize: bool = option(False, "Use the normalised loss (NGC): collide directions, not magnitudes.")
    head: Literal["frozen", "refreshed", "new", "probes"] = option(
        "frozen",
        "Whose loss collides: 'frozen' (the source head), 'refreshed' (a linear probe of the features, fitted anew "
        "every refresh_every steps), 'new' (a random linear head every step) or 'probes' (mean over probes with a "
        "hidden layer at every depth). The first three set the probes' options accordingly.",
    )
    collide: Literal["all", "features"] = option(
        "all",
        "Parameters whose gradients collide: 'all', or 'features' (those that the middle hidden state does not depend "
        "on: the later stages).",
    )
    noise: float = option(
        0.0, "Norm of Gaussian noise on the disposal gradient, as a share of its own, >= 0.", low=0, finite=True
    )
    create: Literal["exact", "finite_difference"] = option(
        "exact",
        "'exact' (double backward, eager attention) or 'finite_difference' (central differences of the gradient, "
        "keeps fused attention; its error is logged).",
    )
    finite_difference_step: float | None = option(
        None, "Relative step of the finite difference, > 0; default: calibrated on the first chunk.", above=0
    )

    def __post_init__(self):
        super().__post_init__()
        if self.num_chunks < 2:
            raise ConfigError(f"A collision needs num_chunks >= 2, got {self.num_chunks}.")
        if self.head in ("refreshed", "new"):
            self.depths, self.probe_hidden = "final", 0
        if self.head == "new":
            self.refresh_every, self.probe_steps, self.probe_updates = 1, 0, 0


@register_method("gradient_collision")
class GradientCollisionTrainer(ProbedTrainer):
    """Minimise L_retain + forget_weight * L_GC; logs the collision's value, cosine and norms apart."""

    config_class = GradientCollisionConfig
    args: GradientCollisionConfig

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.collided = self._collided(self.trained)
        self.step = self.args.finite_difference_step
        if self.args.create == "finite_difference" and self.step is None:
            self.step = self._calibrate(list(compress(self.trained, self.collided)))

    def _collided(self, parameters: Sequence[Tensor]) -> list[bool]:
        """Which parameters collide; the middle depth is found by its gradients, whatever the architecture."""
        if self.args.collide == "all":
            return [True] * len(parameters)
        states, _ = self.model.hidden_states(self.train_dataset[0]["retain"]["pixel_values"].to(self.args.device))
        gradients = torch.autograd.grad(states[len(states) // 2].sum(), parameters, allow_unused=True)
        return [g is None for g in gradients]

    def _calibrate(self, parameters: Sequence[Tensor]) -> float:
        """The best step on the untouched model and the first chunk: the same on every process and after a resume."""
        chunk = self.chunk(**self._prepare_inputs(self.train_dataset[0]["forget"]), number=0)
        if self.probed:
            self.refresh_probes()

        def loss() -> Tensor:
            with self.accelerator.autocast():
                return self.chunk_loss(chunk)[0]

        with torch.random.fork_rng(devices=[]):
            step, error = calibrate_step(loss, parameters)
        logger.info("Finite difference: relative step %.1e, relative error about %.1e", step, error)
        if not error < 0.1:
            logger.warning(
                "The finite difference of this model's gradient is off by about %.0f %% at its best step. Use "
                "create='exact', or float32 instead of bf16.",
                100 * error,
            )
        return step

    def needs_double_backward(self) -> bool:
        """Finite differences keep the fused attention kernels."""
        return self.args.create == "exact"

    @property
    def probed(self) -> bool:
        """Every head but the source head is a probe."""
        return self.args.head != "frozen"

    def probe_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits.flatten(0, 1), labels.repeat(len(logits)))

    def disposal(self, losses: Sequence[Loss], parameters: Sequence[Tensor]) -> Disposal:
        """Collide the chunks of all processes and micro-batches; measure what costs extra on logged steps only."""
        will_log = (self.state.global_step + 1) % max(1, self.state.logging_steps or 1) == 0
        result = gradient_collision(
            losses,
            list(compress(parameters, self.collided)),
            normalize=self.args.normalize,
            reduce=self.reduce,
            create=self.args.create,
            step=self.step,
            diagnostics=will_log,
        )
        metrics = {"mean_cosine": result.mean_cosine, "mean_gradient_norm": result.mean_norm}
        if self.args.create == "finite_difference":
            metrics["finite_difference_error"] = result.error
        found = iter(self._noisy(result.gradients))
        gradients = [next(found) if c else torch.zeros_like(p) for p, c in zip(parameters, self.collided, strict=True)]
        return Disposal(result.value, gradients, metrics)

    def _noisy(self, gradients: list[Tensor]) -> list[Tensor]:
        """Add noise of the expected norm `noise` * |gradients|, drawn by the seed and the step on every process."""
        if not self.args.noise:
            return gradients
        generator = torch.Generator().manual_seed((self.args.seed * 1_000_003 + self.state.global_step) ^ 0x0153)
        size = torch.nn.utils.get_total_norm(gradients) / sum(g.numel() for g in gradients) ** 0.5
        draws = (torch.randn(g.shape, generator=generator).to(g) for g in gradients)
        return [g + self.args.noise * size * draw for g, draw in zip(gradients, draws, strict=True)]
