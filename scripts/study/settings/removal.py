"""Settings of the study of removal where weights matter: tasks, models, and what is compared."""

from typing import Any

from study.settings import Setting

GATE_GAP, GATE_TRANSFER = 0.20, 0.08
"""A setting counts where the undisposed model is relearned so much better than the best floor, and is so much better
at the target than the retrained one; on the tuning seed's validation images."""
GOAL_KEPT, GOAL_BYTES = 0.90, 1000
"""The goal: at least so much of transfer's benefit kept, by a method with at most so many bytes to its bound."""

COLLISION = "gradient_collision:max_steps=100"
"""In every table, whether it is among the finalists or not."""
CONTENDERS = (
    "labels", "labels@100", "labels@300", "labels@1000",
    "outputs:4@300", "outputs", "outputs@1000",
    "representation_erasure", "noise_then_distil:max_steps=600", "weight_distortion:max_steps=600", COLLISION,
)  # fmt: skip
"""CHANNEL[@N] is anchored distillation through a channel with N unlabelled images of the target a class (none: views
of the labelled ones); others are methods as a command line names them."""

_GLYPHS: dict[str, Any] = {"novel": "none", "retain": "glyphs[N,Q,R,T]", "augmentation": "affine"}
_RESNET: dict[str, Any] = {"model": "{resnet}", "train_learning_rate": 3e-3, "adapt_learning_rate": 1e-3}
SETTINGS: dict[str, Setting] = {
    "letters": Setting(
        "Six glyph letters → four, 10 labelled images a class, a ViT of 0.3 M parameters",
        _GLYPHS | {"forget": "glyphs[A,B,D,E,G,H]", "retain_images_per_class": 10, "adapt_learning_rate": 5e-4},
        CONTENDERS,
    ),
}
