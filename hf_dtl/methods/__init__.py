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
from hf_dtl.methods.continual import Served, unlearn_in_sequence
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
from hf_dtl.methods.instancewise import AlreadyForgottenError, InstanceUnlearningTrainer
from hf_dtl.methods.instancewise_config import InstanceUnlearningConfig
from hf_dtl.methods.multitask import MultiTaskUnlearningTrainer
from hf_dtl.methods.multitask_config import MultiTaskUnlearningConfig
from hf_dtl.methods.noise_then_distil import FreshDistillationConfig, NoiseThenDistilConfig, NoiseThenDistilTrainer
from hf_dtl.methods.non_fine_tunable import NonFineTunableConfig, NonFineTunableTrainer
from hf_dtl.methods.projected_gradient import ProjectedGradientConfig, ProjectedGradientTrainer
from hf_dtl.methods.random_label import RandomLabelConfig, RandomLabelTrainer, SalUnConfig, SalUnTrainer
from hf_dtl.methods.representation_erasure import RepresentationErasureConfig, RepresentationErasureTrainer
from hf_dtl.methods.scrub import ScrubConfig, ScrubTrainer
from hf_dtl.methods.synaptic_dampening import SelectiveSynapticDampeningConfig, SelectiveSynapticDampeningTrainer
from hf_dtl.methods.task_pairs import full_task, partial_task
from hf_dtl.methods.unseen_label import UnseenLabelConfig, UnseenLabelTrainer
from hf_dtl.methods.weight_distortion import (
    WeightDistanceRegularisationConfig,
    WeightDistanceRegularisationTrainer,
    WeightDistortionConfig,
    WeightDistortionTrainer,
)
from hf_dtl.trainers.multitask_training import (
    MultiTaskTrainer,
    MultiTaskTrainingConfig,
    measure_tasks,
    predict_tasks,
    with_task_heads,
)

__all__ = [
    "AlreadyForgottenError",
    "BadTeachingConfig",
    "BadTeachingTrainer",
    "FeatureEraserConfig",
    "FeatureEraserTrainer",
    "FineTuneConfig",
    "FineTuneTrainer",
    "FreshDistillationConfig",
    "GradientCollisionConfig",
    "GradientCollisionTrainer",
    "InstanceUnlearningConfig",
    "InstanceUnlearningTrainer",
    "MultiTaskTrainer",
    "MultiTaskTrainingConfig",
    "MultiTaskUnlearningConfig",
    "MultiTaskUnlearningTrainer",
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
    "Served",
    "UniformFoolingConfig",
    "UniformFoolingTrainer",
    "UnseenLabelConfig",
    "UnseenLabelTrainer",
    "WeightDistanceRegularisationConfig",
    "WeightDistanceRegularisationTrainer",
    "WeightDistortionConfig",
    "WeightDistortionTrainer",
    "full_task",
    "measure_tasks",
    "partial_task",
    "predict_tasks",
    "unlearn_in_sequence",
    "with_task_heads",
]
