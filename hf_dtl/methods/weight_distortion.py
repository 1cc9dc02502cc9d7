"""Distance in weight space: distort the weights once, or push them away from the given ones, and train on retain data.

Source: "From Dormant to Deleted: Tamper-Resistant Unlearning Through Weight-Space Regularization", arXiv 2505.22310,
abstract and released code, which trains by cross-entropy on retain images. Here the retention is the distillation that
all methods share (cross-entropy: target_ce_weight), and distances are relative (see `hf_dtl.functional.weights`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from hf_dtl.functional.collision import Loss
from hf_dtl.functional.weights import add_noise, push_away
from hf_dtl.methods.registry import register_method
from hf_dtl.trainers import DISPOSAL, BatchStatisticsConfig, BatchStatisticsTrainer, Disposal, UnlearningConfig, option

_OFFSET = 3_628_273


@dataclass
class WeightDistortionConfig(BatchStatisticsConfig):
    """Options of weight distortion: those of `UnlearningConfig`, sigma and noise_scale; there is no disposal loss."""

    adapts: ClassVar[bool] = False

    unused: ClassVar[frozenset[str]] = DISPOSAL

    sigma: float = option(0.5, "Deviation of the noise, in units of noise_scale, >= 0.", low=0)
    noise_scale: Literal["relative", "absolute"] = option(
        "relative",
        "Unit of sigma: 'relative' (each tensor's own root mean square) or 'absolute' (the same deviation for every "
        "weight, as in the paper's code, where it is 0.02).",
    )
    forget_weight: float = 0.0


@register_method("weight_distortion")
class WeightDistortionTrainer(BatchStatisticsTrainer):
    """Add Gaussian noise to every weight once, then train on retained images; no forget data is used."""

    config_class: ClassVar[type[UnlearningConfig]] = WeightDistortionConfig

    def prepare(self) -> None:
        super().prepare()
        assert isinstance(self.args, WeightDistortionConfig)
        self.distort(self.args.sigma, relative=self.args.noise_scale == "relative")

    def distort(self, sigma: float, *, relative: bool = True) -> None:
        """Add noise to the backbone and the retained head, the same for equal seeds; see `add_noise`."""
        weights = [*self.model.backbone.parameters(), *self.model.heads[self.retain_task].parameters()]
        generator = torch.Generator().manual_seed(self.args.seed + _OFFSET)
        with torch.no_grad():
            for weight, noisy in zip(weights, add_noise(weights, sigma, generator, relative=relative), strict=True):
                weight.copy_(noisy)


@dataclass
class WeightDistanceRegularisationConfig(BatchStatisticsConfig):
    """Options of weight distance regularisation: those of `UnlearningConfig`, max_distance and start_noise."""

    adapts: ClassVar[bool] = False

    max_distance: float = option(
        1.0,
        "The push ends at this distance from the given weights, as a multiple of their norm, > 0; a fresh model is "
        "about 1.4 away.",
        above=0,
    )
    start_noise: float = option(
        1e-3,
        "Noise at the start, as a multiple of each tensor's root mean square, > 0. At the given weights themselves "
        "neither the distance nor the distillation has a gradient.",
        above=0,
    )


@register_method("weight_distance")
class WeightDistanceRegularisationTrainer(WeightDistortionTrainer):
    """Minimise L_retain - forget_weight * min(|theta - theta_0| / |theta_0|, max_distance); logs the distance.

    Forget images are only looked at for the log.
    """

    config_class = WeightDistanceRegularisationConfig
    args: WeightDistanceRegularisationConfig

    def prepare(self) -> None:
        BatchStatisticsTrainer.prepare(self)
        self.distort(self.args.start_noise)

    def disposal(self, losses: Sequence[Loss], parameters: Sequence[Tensor]) -> Disposal:
        """The push is the same on every process; no chunk has a part in it."""
        with torch.no_grad():
            for loss in losses:  # for the logged source loss
                loss()
        value, gradients, distance = push_away(parameters, self.initial_weights, limit=self.args.max_distance)
        return Disposal(value, gradients, {"weight_distance": distance})
