"""Fine-tuning that rescaled weights do not hinder."""

from torch import Tensor

from hf_dtl.audit.attacks.context import AttackContext
from hf_dtl.audit.attacks.fine_tuning import AFFINE, CROP_FLIP, FineTuning
from hf_dtl.audit.attacks.registry import register_attack


@register_attack("full_rescaled", "Fine-tuning of every weight relative to its own size.")
@register_attack("relative_affine", "As full_affine, every weight relative to its own size.", **AFFINE)
@register_attack("relative_crop_flip", "As full_crop_flip, every weight relative to its own size.", **CROP_FLIP)
class RelativeFineTuning(FineTuning):
    """Fine-tuning of every tensor relative to its own size.

    So weights and normalisation layers that were rescaled without changing the function are no defence.
    """

    def scale(self, context: AttackContext) -> dict[str, Tensor]:
        return context.relative_scale
