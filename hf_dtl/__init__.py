"""Scrub a task out of a Hugging Face image classifier, and prove by attack how much of it is left."""

from hf_dtl.audit import AttackConfig, LeakageReport, run_audit
from hf_dtl.config import UnlearningConfig
from hf_dtl.data import load_images, load_task
from hf_dtl.errors import ConfigError, DataError, DivergedError, DTLError, ModelError, OutputError
from hf_dtl.heads import MultiHeadClassifier
from hf_dtl.methods import (
    FeatureEraserConfig,
    FeatureEraserTrainer,
    FreshDistillationConfig,
    GradientCollisionConfig,
    GradientCollisionTrainer,
    NegativeCrossEntropyConfig,
    NegativeCrossEntropyTrainer,
    NoiseThenDistilConfig,
    NoiseThenDistilTrainer,
    NonFineTunableConfig,
    NonFineTunableTrainer,
    RandomFoolingConfig,
    RandomFoolingTrainer,
    RepresentationErasureConfig,
    RepresentationErasureTrainer,
    UniformFoolingConfig,
    UniformFoolingTrainer,
    WeightDistanceRegularisationConfig,
    WeightDistanceRegularisationTrainer,
    WeightDistortionConfig,
    WeightDistortionTrainer,
)
from hf_dtl.trainer import UnlearningTrainer

__version__ = "0.1.0"

__all__ = [
    "AttackConfig",
    "ConfigError",
    "DTLError",
    "DataError",
    "DivergedError",
    "FeatureEraserConfig",
    "FeatureEraserTrainer",
    "FreshDistillationConfig",
    "GradientCollisionConfig",
    "GradientCollisionTrainer",
    "LeakageReport",
    "ModelError",
    "MultiHeadClassifier",
    "NegativeCrossEntropyConfig",
    "NegativeCrossEntropyTrainer",
    "NoiseThenDistilConfig",
    "NoiseThenDistilTrainer",
    "NonFineTunableConfig",
    "NonFineTunableTrainer",
    "OutputError",
    "RandomFoolingConfig",
    "RandomFoolingTrainer",
    "RepresentationErasureConfig",
    "RepresentationErasureTrainer",
    "UniformFoolingConfig",
    "UniformFoolingTrainer",
    "UnlearningConfig",
    "UnlearningTrainer",
    "WeightDistanceRegularisationConfig",
    "WeightDistanceRegularisationTrainer",
    "WeightDistortionConfig",
    "WeightDistortionTrainer",
    "load_images",
    "load_task",
    "run_audit",
]
