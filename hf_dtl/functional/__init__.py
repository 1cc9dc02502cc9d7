"""Pure tensor mathematics: every method's formulas stand here once, and import only torch."""

from hf_dtl.functional.adversarial import targeted_l2_pgd
from hf_dtl.functional.augmentation import Augmentation, augment, random_affine
from hf_dtl.functional.channel_scale import channel_scale
from hf_dtl.functional.collage import collages
from hf_dtl.functional.collision import (
    Average,
    Collision,
    average_loss,
    calibrate_step,
    default_step,
    gradient_collision,
)
from hf_dtl.functional.committee import calibration, elect
from hf_dtl.functional.erasure import probe_generalisation
from hf_dtl.functional.framing import framed
from hf_dtl.functional.gradient_histograms import centred, gradient_histograms
from hf_dtl.functional.held_out import held_out_answers, unseen_labels
from hf_dtl.functional.importance import importance_penalty, weight_importance
from hf_dtl.functional.kernel_ridge import kernel_ridge, rbf, squared_distances
from hf_dtl.functional.label_spreading import neighbour_graph, spread_labels
from hf_dtl.functional.losses import (
    bounded_forgetting,
    classification_loss,
    distillation,
    margin_loss,
    negative_cross_entropy,
    random_fooling,
    uniform_fooling,
)
from hf_dtl.functional.metrics import (
    average_gap,
    js_divergence,
    relearn_time,
    slc_auc,
    task_impact,
    tug_of_war,
    unlearning_impact_score,
    zrf_score,
)
from hf_dtl.functional.orthogonal import orthogonalise, pcgrad
from hf_dtl.functional.per_sample import per_sample_gradients
from hf_dtl.functional.preconditioning import preconditioner
from hf_dtl.functional.prototypes import class_means, mean_and_scale, nearest_mean, standardised
from hf_dtl.functional.relabelling import wrong_labels
from hf_dtl.functional.rounding import round_to_bits
from hf_dtl.functional.saliency import saliency_mask
from hf_dtl.functional.subspace import Basis, GradientSubspace
from hf_dtl.functional.synaptic_dampening import dampening_factors, squared_gradients
from hf_dtl.functional.task_subspace import TaskSubspace, output_moments, task_subspace

__all__ = [
    "Augmentation",
    "Average",
    "Basis",
    "Collision",
    "GradientSubspace",
    "TaskSubspace",
    "augment",
    "average_gap",
    "average_loss",
    "bounded_forgetting",
    "calibrate_step",
    "calibration",
    "centred",
    "channel_scale",
    "class_means",
    "classification_loss",
    "collages",
    "dampening_factors",
    "default_step",
    "distillation",
    "elect",
    "framed",
    "gradient_collision",
    "gradient_histograms",
    "held_out_answers",
    "importance_penalty",
    "js_divergence",
    "kernel_ridge",
    "margin_loss",
    "mean_and_scale",
    "nearest_mean",
    "negative_cross_entropy",
    "neighbour_graph",
    "orthogonalise",
    "output_moments",
    "pcgrad",
    "per_sample_gradients",
    "preconditioner",
    "probe_generalisation",
    "random_affine",
    "random_fooling",
    "rbf",
    "relearn_time",
    "round_to_bits",
    "saliency_mask",
    "slc_auc",
    "spread_labels",
    "squared_distances",
    "squared_gradients",
    "standardised",
    "targeted_l2_pgd",
    "task_impact",
    "task_subspace",
    "tug_of_war",
    "uniform_fooling",
    "unlearning_impact_score",
    "unseen_labels",
    "weight_importance",
    "wrong_labels",
    "zrf_score",
]
