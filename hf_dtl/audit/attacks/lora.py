"""Fine-tuning of low-rank adapters."""

from typing import ClassVar

from hf_dtl.audit.attacks.fine_tuning import AFFINE, CROP_FLIP, FineTuning
from hf_dtl.audit.attacks.registry import register_attack
from hf_dtl.audit.config import AttackConfig


@register_attack("lora", "Low-rank adapters in every layer, and a new head.")
@register_attack("lora_published", "Low-rank adapters in every layer, and the published head.", published_head=True)
@register_attack("lora_affine", "Low-rank adapters and a new head, trained as full_affine.", **AFFINE)
@register_attack("lora_crop_flip", "Low-rank adapters and a new head, trained as full_crop_flip.", **CROP_FLIP)
class LoRA(FineTuning):
    """Fine-tuning of low-rank adapters and the head; the published weights stay."""

    source: ClassVar[str] = "Hu et al., LoRA, arXiv 2106.09685"
    network: ClassVar[str] = "lora"

    @property
    def reads(self) -> tuple[str, ...]:
        return (*super().reads, "lora_rank")

    def rates(self, config: AttackConfig) -> tuple[float, ...]:
        return config.lora_learning_rates
