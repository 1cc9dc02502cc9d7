"""Fine-tuning from weights that were changed first: rounded, or moved along what the owner's training changed."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import nn

from hf_dtl.audit.attacks.attack import Unit
from hf_dtl.audit.attacks.choice import State
from hf_dtl.audit.attacks.context import AttackContext
from hf_dtl.audit.attacks.fine_tuning import AFFINE, CROP_FLIP, FineTuning
from hf_dtl.audit.attacks.registry import register_attack
from hf_dtl.functional import round_to_bits


class ChangedWeights(FineTuning):
    """Fine-tuning of every weight from other weights than the published ones."""

    @abstractmethod
    def changed(self, context: AttackContext, seed: int) -> State:
        """The weights of the backbone that differ from the published ones, by the names that attacks train."""

    def weights_before(self, context: AttackContext, units: Sequence[Unit], rates: Sequence[float]) -> list[State]:
        own = {seed: self.changed(context, seed) for seed in dict.fromkeys(unit.seed for unit in units)}
        return [own[unit.seed] for unit in units for _ in rates]


def backbone_weights(context: AttackContext) -> State:
    """The published weights without the head, by the names that attacks train."""
    return {name: value for name, value in context.network("full").trained.items() if ".heads." not in name}


@register_attack("rounded_8_affine", "As full_affine, from weights rounded to 8 bits.", **AFFINE)
@register_attack("rounded_8_crop_flip", "As full_crop_flip, from weights rounded to 8 bits.", **CROP_FLIP)
@register_attack("rounded_4_affine", "As full_affine, from weights rounded to 4 bits.", bits=4, **AFFINE)
@register_attack("rounded_4_crop_flip", "As full_crop_flip, from weights rounded to 4 bits.", bits=4, **CROP_FLIP)
class Rounded(ChangedWeights):
    """Fine-tuning from rounded weights, which takes small changes of a disposal away.

    Args:
        bits: of a weight; every row of a matrix, and every vector, has a scale of its own.
    """

    bits: int = 8

    source: ClassVar[str] = "Zhang et al., Catastrophic Failure of LLM Unlearning via Quantization, arXiv 2410.16454"

    def changed(self, context: AttackContext, seed: int) -> State:
        return {name: round_to_bits(value, self.bits) for name, value in backbone_weights(context).items()}


@register_attack("interpolated_affine", "As full_affine, from half way between base and model.", **AFFINE)
@register_attack("interpolated_crop_flip", "As full_crop_flip, from half way between base and model.", **CROP_FLIP)
@register_attack(
    "extrapolated_affine", "As full_affine, from twice the way from the base to the model.", factor=2.0, **AFFINE
)
@register_attack(
    "extrapolated_crop_flip", "As full_crop_flip, from twice the way from the base to the model.",
    factor=2.0, **CROP_FLIP,
)  # fmt: skip
class Difference(ChangedWeights):
    """Fine-tuning from base + factor · (published - base).

    Args:
        factor: 0 is the base, 1 the published model.
    """

    factor: float = 0.5

    source: ClassVar[str] = "Ilharco et al., Editing Models with Task Arithmetic, arXiv 2212.04089"
    needs_base: ClassVar[bool] = True

    def changed(self, context: AttackContext, seed: int) -> State:
        assert context.base is not None
        base = context.weights_of(context.base)
        return {name: base[name].lerp(value, self.factor) for name, value in backbone_weights(context).items()}


@register_attack("reinitialised_last_affine", "As full_affine, with the last block made anew.", **AFFINE)
@register_attack("reinitialised_last_crop_flip", "As full_crop_flip, with the last block made anew.", **CROP_FLIP)
@register_attack(
    "reinitialised_half_affine", "As full_affine, with the last half of the blocks made anew.", share=0.5, **AFFINE
)
@register_attack(
    "reinitialised_half_crop_flip", "As full_crop_flip, with the last half of the blocks made anew.",
    share=0.5, **CROP_FLIP,
)  # fmt: skip
class Reinitialised(ChangedWeights):
    """Fine-tuning with fresh weights in the last blocks and in all that follows them; for late layers that hide.

    A block is an element of the largest list of modules: a layer of a transformer, a stage of a convolutional network.

    Args:
        share: of the blocks, rounded down; at least one, which 0 asks for.
    """

    share: float = 0.0

    source: ClassVar[str] = "Zhang et al., Revisiting Few-sample BERT Fine-tuning, arXiv 2006.05987"

    def changed(self, context: AttackContext, seed: int) -> State:
        fresh = context.fresh_weights(seed)
        return {name: fresh[name] for name in last_blocks(context, self.share)}


def last_blocks(context: AttackContext, share: float) -> list[str]:
    """Names, among the trained tensors, of the weights of the last blocks and of what follows them.

    All weights where the network has no list of blocks.

    Args:
        context: the attacked model.
        share: see `Reinitialised`.
    """
    names = list(backbone_weights(context))
    lists = [(n, m) for n, m in context.heads.backbone.named_modules() if isinstance(m, nn.ModuleList)]
    if not lists:
        return names
    # The largest is the outermost of those that hold one another, as stages hold layers: the first of equals.
    where, blocks = max(lists, key=lambda found: sum(p.numel() for p in found[1].parameters()))
    first = len(blocks) - max(1, int(share * len(blocks)))
    start = next(i for i, name in enumerate(names) if name.startswith(f"model.backbone.{where}.{first}."))
    return names[start:]
