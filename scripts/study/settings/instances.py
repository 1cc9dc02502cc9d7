"""Settings of the study of instance-wise unlearning: models, variants, and how they are trained."""

from typing import Any

from study.settings import Knob

RATES = Knob("learning_rate", (0.001, 0.003, 0.01))
"""The strength of the paper's method and its parts; they take steps of SGD with momentum."""

RESNET_RATES = Knob("learning_rate", (0.001, 0.003, 0.01, 0.03, 0.1))
"""The same for a ResNet, with which the paper's method does nothing at the lower ones."""

COLLAGE_RATES = Knob("learning_rate", (2e-4, 5e-4, 1e-3))
"""The strength of ours, which takes steps of AdamW."""

OURS = "collages"

VARIANTS_BY_NAME: dict[str, str] = {
    "none": "strategy=l2ul:adversarial=false:importance=false",
    "adversarial": "strategy=l2ul:adversarial=true:importance=false",
    "importance": "strategy=l2ul:adversarial=false:importance=true",
    "both": "strategy=l2ul",
    OURS: "strategy=collages",
}
"""What a variant's name stands for; options of `instancewise` may follow it, as in both:delta=0.05."""

VARIANTS = (
    "none",
    "adversarial",
    "importance",
    "both",
    "both:margin=0.05:distillation_weight=1:target_ce_weight=0",  # our loss and retention, on adversarial examples
    OURS,
)

CONTINUAL = ("none", "both", OURS)
"""Variants that also serve requests one after another."""

SEARCH = ("examples", "epsilon", "step_size", "attack_steps")
"""Options that the adversarial examples depend on."""

INSTANCE_OPTIONS: dict[str, Any] = {
    "reference": "none",  # every image is to be misnamed, which no model that is trained again does
    "steps": 600,
    "forget_batch_size": 32,
}
"""Of `ForgetOptions`, over those of the comparison's setting of the same name."""

ADVERSARIES_A_STEP = 64
CHECK_EVERY = 4
"""Steps between two looks at what is forgotten: of 256 images they cost as much as the step."""
