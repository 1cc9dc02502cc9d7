"""Pure tensor mathematics: every method's formulas stand here once, and import only torch."""

from hf_dtl.functional.augmentation import Augmentation, augment, random_affine
from hf_dtl.functional.collision import (
    Average,
    Collision,
    average_loss,
    calibrate_step,
    default_step,
    gradient_collision,
)
from hf_dtl.functional.dampening import dampening_factors, squared_gradients
from hf_dtl.functional.erasure import probe_generalisation
from hf_dtl.functional.losses import (
    bounded_forgetting,
    distillation,
    negative_cross_entropy,
    random_fooling,
    uniform_fooling,
)
from hf_dtl.functional.metrics import (
    average_gap,
    js_divergence,
    relearn_time,
    slc_auc,
    tug_of_war,
    unlearning_impact_score,
    zrf_score,
)
from hf_dtl.functional.relabelling import wrong_labels
from hf_dtl.functional.saliency import saliency_mask
from hf_dtl.functional.subspace import Basis, GradientSubspace

__all__ = [
    "Augmentation",
    "Average",
    "Basis",
    "Collision",
    "GradientSubspace",
    "augment",
    "average_gap",
    "average_loss",
    "bounded_forgetting",
    "calibrate_step",
    "dampening_factors",
    "default_step",
    "distillation",
    "gradient_collision",
    "js_divergence",
    "negative_cross_entropy",
    "probe_generalisation",
    "random_affine",
    "random_fooling",
    "relearn_time",
    "saliency_mask",
    "slc_auc",
    "squared_gradients",
    "tug_of_war",
    "uniform_fooling",
    "unlearning_impact_score",
    "wrong_labels",
    "zrf_score",
]
