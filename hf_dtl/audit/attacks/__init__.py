"""The attacks: one file a family, listed by name without loading any of them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "attack": ["Attack", "TrainedAttack", "Unit", "each_own", "train"],
        "fine_tuning": ["FineTuning", "schedule"],
        "linear_probe": ["LinearProbe"],
        "lora": ["LoRA"],
        "registry": [
            *("ADAPTIVE", "GRID", "attack_names", "attack_sets", "find_attack", "is_attack", "parse_attacks"),
            "register_attack",
        ],
        "relative": ["RelativeFineTuning"],
        "retain_images": ["RetainFirst", "RetainOnly"],
    },
)
