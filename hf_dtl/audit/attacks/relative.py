"""Fine-tuning that rescaled weights do not hinder."""

from hf_dtl.audit.attacks.choice import State
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

    def scale(self, context: AttackContext, state: State) -> State:
        """As of every fine-tuning, and times the size that a tensor has left relative to the usual one."""
        found, sizes = super().scale(context, state), context.sizes(self.network)
        for name, value in state.items():
            weight = name.removesuffix("bias") + "weight"
            weight = weight if name.endswith("bias") and weight in state and state[weight].dim() == 1 else name
            left = state[weight] / found.get(weight, 1.0)
            size = left.float().square().mean().sqrt().item() / sizes[weight]
            found[name] = found.get(name, value.new_ones(())) * (size or 1.0)
        return found
