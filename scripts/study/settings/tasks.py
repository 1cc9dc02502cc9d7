"""Settings of the study of multi-task unlearning: tasks, model, and what is compared."""

from typing import Any

from study.settings import Knob, Setting

RATES = Knob("learning_rate", (3e-4, 1e-3, 3e-3))
"""The strength of every method."""

OURS = "interference_aware"
BASELINES = ("fine_tune", "neg_grad_plus", "scrub", "salun", "pcgrad", "orthograd")
CONTROL = "neg_grad_plus:distillation_weight=1:target_ce_weight=0"
"""The retention of our method without the rest of it."""
ABLATION = (
    f"{OURS}:task_projection=false",
    f"{OURS}:orthogonalisation=none",
    f"{OURS}:task_projection=false:orthogonalisation=none",
    f"{OURS}:distillation_weight=0",
)
"""They take the strength that was chosen for the whole method."""
METHODS = (OURS, *BASELINES, CONTROL, *ABLATION)
"""Strategies of `MultiTaskUnlearningTrainer`, with other options of its config. Retraining is a reference."""

SCOPES = ("full", "partial")
"""Images are forgotten for all tasks, or for those of `Setting.partial` alone."""


_EVERYWHERE: dict[str, Any] = {
    "forget": "random=10%",
    "train_epochs": 20.0,  # the models then know their training images better than others, which is to be undone
    "max_eval_images": 1000,
    "steps": 100,
    "forget_batch_size": 32,
    "attacks": "linear_probe,full_published",
    "budgets": "5",
    "seeds": "0,1",
    "full_learning_rates": "1e-4",
}

SETTINGS: dict[str, Setting] = {
    "glyphs": Setting(
        "Glyphs (letter, case, family, weight, slant), a ViT of 0.3 M parameters",
        _EVERYWHERE | {"retain": "glyphs", "task_columns": "letter,case,family,weight,slant", "images": 2000},
        partial=("letter", "case"),
    ),
    "fashion_groups": Setting(
        "Fashion-MNIST in groups (item, kind, worn on, sleeves, season), a ViT of 0.3 M parameters",
        _EVERYWHERE | {"retain": "fashion_groups", "images": 2000},
        partial=("item", "season"),
    ),
}
