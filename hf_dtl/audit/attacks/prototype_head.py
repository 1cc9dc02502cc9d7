"""Fine-tuning from a head of class means."""

from collections.abc import Sequence
from typing import ClassVar

from hf_dtl.audit.attacks.attack import Unit
from hf_dtl.audit.attacks.context import AttackContext, Head
from hf_dtl.audit.attacks.fine_tuning import AFFINE, CROP_FLIP, LONG, PHOTOMETRIC, FineTuning
from hf_dtl.audit.attacks.registry import register_attack
from hf_dtl.functional import nearest_mean


@register_attack("prototype_400", "As full_400, from a head of class means.", **LONG)
@register_attack(
    "prototype_photometric", "As prototype_affine, on images whose contrast, polarity and noise change.", **PHOTOMETRIC
)
@register_attack("prototype_affine", "As full_affine, from a head of class means.", **AFFINE)
@register_attack("prototype_crop_flip", "As full_crop_flip, from a head of class means.", **CROP_FLIP)
class PrototypeHead(FineTuning):
    """Fine-tuning of every weight from a head whose rows are the class means of the standardised features.

    The logits are divided by the root of the number of features, so that the loss starts neither flat nor saturated.
    """

    source: ClassVar[str] = "Qi et al., Low-Shot Learning with Imprinted Weights, CVPR 2018"

    def heads(self, context: AttackContext, units: Sequence[Unit]) -> dict[Unit, Head]:
        found = {}
        for unit in units:
            images, labels = context.images(unit)
            features = context.features(images)
            weight, bias = nearest_mean(features, labels, context.num_classes)
            size = features.shape[1] ** 0.5
            found[unit] = (weight / size, bias / size)
        return found
