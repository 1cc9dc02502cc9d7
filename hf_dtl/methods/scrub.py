"""SCRUB: steps away from the original model on forget images alternate with steps toward it on retain images.

Source: Kurmanji, Triantafillou, Hayes and Triantafillou, "Towards Unbounded Machine Unlearning", arXiv 2302.09880,
abstract and released code, which alternates passes over the data; here phases are counted in optimizer steps.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from hf_dtl.errors import ConfigError
from hf_dtl.functional import distillation
from hf_dtl.methods.registry import register_method
from hf_dtl.trainers.config import WholeBatchConfig
from hf_dtl.trainers.trainer import UnlearningTrainer


@dataclass
class ScrubConfig(WholeBatchConfig):
    """Options of SCRUB.

    Parameters that control the max steps, on forget images:
        max_phase, max_until, and from `UnlearningConfig` forget_weight, temperature and max_forget_grad_norm.
    Parameters that control the min steps, on retain images:
        min_phase, and from `UnlearningConfig` distillation_weight (the paper's alpha), target_ce_weight (its gamma)
        and temperature.
    """

    min_phase: int = field(default=2, metadata={"help": "Min steps before each phase of max steps, >= 1."})
    max_phase: int = field(default=1, metadata={"help": "Max steps in a row, >= 1."})
    max_until: float = field(
        default=0.5, metadata={"help": "Share of the steps after which only min steps follow, in (0, 1]."}
    )
    distillation_weight: float = field(
        default=0.001, metadata={"help": "Weight (alpha) of KL(original || f) in a min step, >= 0."}
    )
    target_ce_weight: float = field(
        default=0.99, metadata={"help": "Weight (gamma) of the cross-entropy in a min step, >= 0."}
    )
    temperature: float = field(default=4.0, metadata={"help": "Temperature of both divergences, > 0."})

    def __post_init__(self):
        super().__post_init__()
        for name in ("min_phase", "max_phase"):
            if not getattr(self, name) >= 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be >= 1.")
        if not 0 < self.max_until <= 1:
            raise ConfigError(f"max_until={self.max_until} must be in (0, 1]; without max steps use fine_tune.")


@register_method("scrub")
class ScrubTrainer(UnlearningTrainer):
    """Alternate: min alpha KL(original || f) + gamma CE on retain images, max KL(original || f) on forget images.

    A step looks at the images of one kind only. Min steps come first: at the given weights the divergence has no
    gradient. The log's disposal_value is -KL(original || f).

    Raises:
        ConfigError: when training starts, if no step would be a max step.
    """

    config_class = ScrubConfig

    def shown(self) -> tuple[bool, bool]:
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

    def chunk_loss(self, pixel_values: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model(pixel_values, task=self.forget_task)
        with torch.no_grad():
            original = self.teacher(pixel_values, task=self.forget_task)
        return -distillation(logits, original, self.args.temperature), logits
