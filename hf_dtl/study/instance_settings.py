"""Settings of the study of instance-wise unlearning as data: models, variants, and how they are trained."""

from typing import Any

from hf_dtl.study.settings import Knob

RATES = Knob("learning_rate", (0.001, 0.003, 0.01))
"""The strength of every variant; they take steps of SGD with momentum."""

ABLATION: dict[str, str] = {
    "none": "adversarial=false:importance=false",
    "adversarial": "adversarial=true:importance=false",
    "importance": "adversarial=false:importance=true",
    "both": "adversarial=true:importance=true",
}
"""What a variant's name stands for; options of `instancewise` may follow it, as in both:delta=0.05."""

VARIANTS = (
    *ABLATION,
    "both:delta=0.05",
    "both:project=true",
    "both:distillation_weight=1",
    "both:delta=0.05:distillation_weight=1:project=true",
)

CONTINUAL = ("none", "both", "both:delta=0.05", "both:delta=0.05:distillation_weight=1:project=true")
"""Variants that also serve requests one after another."""

SEARCH = ("examples", "epsilon", "step_size", "attack_steps")
"""Options that the adversarial examples depend on."""

INSTANCE_OPTIONS: dict[str, Any] = {
    "reference": "none",  # every image is to be misnamed, which no model that is trained again does
    "unlearn_steps": 200,
    "unlearn_batch_size": 32,
}
"""Of `UnlearnOptions`, over those of the comparison's setting of the same name."""

ADVERSARIES_A_STEP = 64
