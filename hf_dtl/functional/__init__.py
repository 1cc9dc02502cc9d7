"""Pure tensor mathematics: every method's formulas stand here once, and import only torch."""

from hf_dtl.functional.collision import (
    Average,
    Collision,
    average_loss,
    calibrate_step,
    default_step,
    gradient_collision,
)
from hf_dtl.functional.losses import distillation, negative_cross_entropy, random_fooling, uniform_fooling

__all__ = [
    "Average",
    "Collision",
    "average_loss",
    "calibrate_step",
    "default_step",
    "distillation",
    "gradient_collision",
    "negative_cross_entropy",
    "random_fooling",
    "uniform_fooling",
]
