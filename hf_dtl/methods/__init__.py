"""One file a method: a config and a thin trainer."""

from hf_dtl.methods.baselines import (
    NegativeCrossEntropyConfig,
    NegativeCrossEntropyTrainer,
    RandomFoolingConfig,
    RandomFoolingTrainer,
    UniformFoolingConfig,
    UniformFoolingTrainer,
)
from hf_dtl.methods.gradient_collision import GradientCollisionConfig, GradientCollisionTrainer

__all__ = [
    "GradientCollisionConfig",
    "GradientCollisionTrainer",
    "NegativeCrossEntropyConfig",
    "NegativeCrossEntropyTrainer",
    "RandomFoolingConfig",
    "RandomFoolingTrainer",
    "UniformFoolingConfig",
    "UniformFoolingTrainer",
]
