"""Settings of the study of multi-task unlearning as data: tasks, model, and what is compared."""

from dataclasses import dataclass
from typing import Any

from study.settings import Knob

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
"""Images are forgotten for all tasks, or for those of `TaskSetting.partial` alone."""


@dataclass(frozen=True)
class TaskSetting:
    """Data with several tasks, and a model.

    Args:
        title: for the head of the table.
        options: of `UnlearnOptions`.
        partial: the tasks that images are forgotten for in the scope partial.
    """

    title: str
    options: dict[str, Any]
    partial: tuple[str, ...]


_EVERYWHERE: dict[str, Any] = {
    "forget": "random=10%",
    "train_epochs": 20.0,  # the models then know their training images better than others, which is to be undone
    "max_eval_images": 1000,
    "unlearn_steps": 100,
    "unlearn_batch_size": 32,
    "attacks": "linear_probe,full_published",
    "budgets": "5",
    "audit_seeds": "0,1",
    "attack_learning_rates": "1e-4",
}

TASK_SETTINGS: dict[str, TaskSetting] = {
    "glyphs": TaskSetting(
        "Glyphs (letter, case, family, weight, slant), a ViT of 0.3 M parameters",
        _EVERYWHERE | {"dataset": "glyphs", "task_columns": "letter,case,family,weight,slant", "images": 2000},
        ("letter", "case"),
    ),
    "fashion_groups": TaskSetting(
        "Fashion-MNIST in groups (item, kind, worn on, sleeves, season), a ViT of 0.3 M parameters",
        _EVERYWHERE | {"dataset": "fashion_groups", "images": 2000},
        ("item", "season"),
    ),
}
