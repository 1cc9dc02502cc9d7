"""Attacks that train the published network, under its own head, on images of what it was to keep."""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from torch import Tensor

from hf_dtl.audit.attacks.attack import Unit, each_own
from hf_dtl.audit.attacks.choice import State
from hf_dtl.audit.attacks.context import AttackContext
from hf_dtl.audit.attacks.fine_tuning import AFFINE, CROP_FLIP, FineTuning, schedule
from hf_dtl.audit.attacks.registry import register_attack
from hf_dtl.audit.attacks.stack import FineTuning as Member
from hf_dtl.audit.attacks.stack import batch_order
from hf_dtl.audit.config import AttackConfig
from hf_dtl.audit.task import draw_up_to


class _Retaining(FineTuning):
    """What both attacks do with retain images."""

    needs_retain: ClassVar[bool] = True

    def retain_steps(self, config: AttackConfig, images: int) -> int:
        """Training steps on so many retain images."""
        return self.steps(config, images)

    def retaining(
        self, context: AttackContext, units: Sequence[Unit], rates: Sequence[float], per_class: int | None = None
    ) -> list[Member]:
        """Fine-tunings of the published network under its own head, one for every attack and learning rate.

        Args:
            context: the attacked model and task.
            units: the runs.
            rates: the learning rates.
            per_class: most retain images a class; None: the budget of each run.
        """
        retain, config, members = context.task.retain, context.config, list[Member]()
        assert retain is not None
        for unit in units:
            chosen = draw_up_to(retain.labels, per_class or unit.budget, unit.seed)
            images = retain.pixel_values[chosen].to(context.device, context.dtype)
            labels = retain.labels[chosen].to(context.device)
            steps = self.retain_steps(config, len(labels))
            order = batch_order(len(labels), config.batch_size, steps, unit.seed)
            start = context.network("retain").start(context.published_head, unit.seed)
            members += self.at_rates(context, start, rates, images, labels, order)
        return members


@register_attack("retain_then_full", "The published head on retain images first, then every weight on a new head.")
@register_attack("retain_first_affine", "The published head on retain images first, then as full_affine.", **AFFINE)
@register_attack(
    "retain_first_crop_flip", "The published head on retain images first, then as full_crop_flip.", **CROP_FLIP
)
class RetainFirst(_Retaining):
    """Fine-tuning of the published head and network on retain images before the attack."""

    @property
    def reads(self) -> tuple[str, ...]:
        return (*super().reads, "retain_images_per_class")

    def retain_steps(self, config: AttackConfig, images: int) -> int:
        return replace(self, training_steps=None).steps(config, images)

    def weights_before(self, context: AttackContext, units: Sequence[Unit], rates: Sequence[float]) -> list[State]:
        config, network = context.config, context.network("retain")
        members = self.retaining(context, units, rates, config.retain_images_per_class)
        stack = context.stack("retain", network, members, schedule, config.max_gradient_norm)
        stack.advance()
        return [stack.result(position) for position in range(len(members))]


@register_attack("retain_only", "Retain images alone; the attacked classes are read from the published head.")
class RetainOnly(_Retaining):
    """Fine-tuning on retain images alone: do the forgotten classes come back by themselves?"""

    published_head: bool = each_own(True)

    source: ClassVar[str] = '"From Dormant to Deleted", arXiv 2505.22310'
    network: ClassVar[str] = "retain"

    def members(self, context: AttackContext, units: Sequence[Unit], rates: Sequence[float]) -> list[Member]:
        return self.retaining(context, units, rates)

    def read(self, context: AttackContext, logits: Tensor) -> Tensor:
        assert context.rows is not None
        return logits[:, context.rows]
