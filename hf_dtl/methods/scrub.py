"""SCRUB: steps away from the original model on forget images alternate with steps toward it on retain images.

Source: Kurmanji, Triantafillou, Hayes and Triantafillou, "Towards Unbounded Machine Unlearning", arXiv 2302.09880,
abstract and released code, which alternates passes over the data; here phases are counted in optimizer steps.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_dtl.errors import ConfigError
from hf_dtl.methods.registry import register_method
from hf_dtl.trainers import Chunk, UnlearningTrainer, WholeBatchConfig, option


@dataclass
class PhaseOptions:
    """Options that say which steps are max steps, on forget images, and which are min steps, on retain images."""

    min_phase: int = option(2, "scrub: min steps before each phase of max steps, >= 1.", low=1)
    max_phase: int = option(1, "scrub: max steps in a row, >= 1.", low=1)
    max_until: float = option(
        0.5,
        "scrub: share of the steps after which only min steps follow, in (0, 1].",
        above=0,
        high=1,
        says="in (0, 1]; without max steps use fine_tune",
    )


@dataclass
class ScrubConfig(PhaseOptions, WholeBatchConfig):
    """Options of SCRUB.

    Parameters that control the max steps, on forget images:
        max_phase, max_until, and from `UnlearningConfig` forget_weight, temperature and max_forget_grad_norm.
    Parameters that control the min steps, on retain images:
        min_phase, and from `UnlearningConfig` distillation_weight (the paper's alpha), target_ce_weight (its gamma)
        and temperature.
    """

    multi_label: ClassVar[bool] = True

    distillation_weight: float = 0.001
    target_ce_weight: float = 0.99
    temperature: float = 4.0


@register_method("scrub")
class ScrubTrainer(UnlearningTrainer):
    """Alternate: min alpha KL(original || f) + gamma CE on retain images, max KL(original || f) on forget images.

    A step looks at the images of one kind only. Min steps come first: at the given weights the divergence has no
    gradient. The log's disposal_value is -KL(original || f).

    Raises:
        ConfigError: when training starts, if no step would be a max step.
    """

    config_class = ScrubConfig
    args: ScrubConfig

    def active_streams(self) -> tuple[bool, bool]:
        args, state = self.args, self.state
        last = args.max_until * state.max_steps  # max steps come before this one
        if last <= args.min_phase:
            raise ConfigError(
                f"With {state.max_steps} steps, min_phase={args.min_phase} and max_until={args.max_until} there is no "
                "max step, so nothing would be forgotten. Train longer, lower min_phase or raise max_until."
            )
        place = state.global_step % (args.min_phase + args.max_phase)
        maximises = place >= args.min_phase and state.global_step < last
        return not maximises, maximises

    def forget_loss(self, outputs: Any, chunk: Chunk) -> Tensor:
        with torch.no_grad():
            original = self.outputs(self.teacher, chunk.pixel_values)
        return -self.distance(outputs, original, chunk)
