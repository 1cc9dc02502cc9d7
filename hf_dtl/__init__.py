"""Scrub a task out of a Hugging Face image classifier, and prove by attack how much of it is left."""

from hf_dtl.audit import AttackConfig, LeakageReport, run_audit
from hf_dtl.config import UnlearningConfig
from hf_dtl.data import load_images, load_task
from hf_dtl.errors import ConfigError, DataError, DivergedError, DTLError, ModelError, OutputError
from hf_dtl.heads import MultiHeadClassifier
from hf_dtl.methods import (
    GradientCollisionConfig,
    GradientCollisionTrainer,
    NegativeCrossEntropyConfig,
    NegativeCrossEntropyTrainer,
    RandomFoolingConfig,
    RandomFoolingTrainer,
    UniformFoolingConfig,
    UniformFoolingTrainer,
)
from hf_dtl.trainer import UnlearningTrainer

__version__ = "0.1.0"

__all__ = [
    "AttackConfig",
    "ConfigError",
    "DTLError",
    "DataError",
    "DivergedError",
    "GradientCollisionConfig",
    "GradientCollisionTrainer",
    "LeakageReport",
    "ModelError",
    "MultiHeadClassifier",
    "NegativeCrossEntropyConfig",
    "NegativeCrossEntropyTrainer",
    "OutputError",
    "RandomFoolingConfig",
    "RandomFoolingTrainer",
    "UniformFoolingConfig",
    "UniformFoolingTrainer",
    "UnlearningConfig",
    "UnlearningTrainer",
    "load_images",
    "load_task",
    "run_audit",
]
