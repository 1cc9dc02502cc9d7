"""One file a method: a config and a thin trainer."""

from hf_dtl.methods.bad_teaching import BadTeachingConfig, BadTeachingTrainer
from hf_dtl.methods.baselines import (
    NegativeCrossEntropyConfig,
    NegativeCrossEntropyTrainer,
    RandomFoolingConfig,
    RandomFoolingTrainer,
    UniformFoolingConfig,
    UniformFoolingTrainer,
)
from hf_dtl.methods.feature_eraser import FeatureEraserConfig, FeatureEraserTrainer
from hf_dtl.methods.fine_tuning import (
    FineTuneConfig,
    FineTuneTrainer,
    NegGradPlusConfig,
    NegGradPlusTrainer,
    RetrainConfig,
    RetrainTrainer,
)
from hf_dtl.methods.gradient_collision import GradientCollisionConfig, GradientCollisionTrainer
from hf_dtl.methods.noise_then_distil import FreshDistillationConfig, NoiseThenDistilConfig, NoiseThenDistilTrainer
from hf_dtl.methods.non_fine_tunable import NonFineTunableConfig, NonFineTunableTrainer
from hf_dtl.methods.projected_gradient import ProjectedGradientConfig, ProjectedGradientTrainer
from hf_dtl.methods.random_label import RandomLabelConfig, RandomLabelTrainer, SalUnConfig, SalUnTrainer
from hf_dtl.methods.representation_erasure import RepresentationErasureConfig, RepresentationErasureTrainer
from hf_dtl.methods.scrub import ScrubConfig, ScrubTrainer
from hf_dtl.methods.synaptic_dampening import SelectiveSynapticDampeningConfig, SelectiveSynapticDampeningTrainer
from hf_dtl.methods.weight_distortion import (
    WeightDistanceRegularisationConfig,
    WeightDistanceRegularisationTrainer,
    WeightDistortionConfig,
    WeightDistortionTrainer,
)

__all__ = [
    "BadTeachingConfig",
    "BadTeachingTrainer",
    "FeatureEraserConfig",
    "FeatureEraserTrainer",
    "FineTuneConfig",
    "FineTuneTrainer",
    "FreshDistillationConfig",
    "GradientCollisionConfig",
    "GradientCollisionTrainer",
    "NegGradPlusConfig",
    "NegGradPlusTrainer",
    "NegativeCrossEntropyConfig",
    "NegativeCrossEntropyTrainer",
    "NoiseThenDistilConfig",
    "NoiseThenDistilTrainer",
    "NonFineTunableConfig",
    "NonFineTunableTrainer",
    "ProjectedGradientConfig",
    "ProjectedGradientTrainer",
    "RandomFoolingConfig",
    "RandomFoolingTrainer",
    "RandomLabelConfig",
    "RandomLabelTrainer",
    "RepresentationErasureConfig",
    "RepresentationErasureTrainer",
    "RetrainConfig",
    "RetrainTrainer",
    "SalUnConfig",
    "SalUnTrainer",
    "ScrubConfig",
    "ScrubTrainer",
    "SelectiveSynapticDampeningConfig",
    "SelectiveSynapticDampeningTrainer",
    "UniformFoolingConfig",
    "UniformFoolingTrainer",
    "WeightDistanceRegularisationConfig",
    "WeightDistanceRegularisationTrainer",
    "WeightDistortionConfig",
    "WeightDistortionTrainer",
]
