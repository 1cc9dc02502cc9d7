"""Feature eraser: make what probes read at every depth say nothing about the source classes.

Not from the paper of gradient collision; related to adversarial representation learning (DANN, Ganin et al.,
arXiv 1505.07818), with the uniform distribution as the aim in place of a reversed gradient. An attacker brings a new
head, so what must become uninformative is the representation, against classifiers that are trained anew:

    probes:    min over psi    mean_d CE(h_d(f_d(x); psi_d), y)         depths d, backbone features f_d
    backbone:  min over theta  L_retain + forget_weight * mean_d CE(h_d(f_d(x; theta)), 1/C)

It needs forget data of at least two classes: probes of one class have nothing to tell apart.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hf_dtl.functional import uniform_fooling
from hf_dtl.methods.registry import register_method
from hf_dtl.trainers import ProbeConfig, ProbedTrainer


@dataclass
class FeatureEraserConfig(ProbeConfig):
    """Options of the feature eraser: those of `ProbeConfig`."""

    least_classes: ClassVar[int] = 2


@register_method("feature_eraser")
class FeatureEraserTrainer(ProbedTrainer):
    """Minimise L_retain + forget_weight * CE(probes, uniform), the mean over probes; logs the probes' accuracy.

    The value is at least log(C), reached when no probe tells any class from another.
    """

    config_class = FeatureEraserConfig

    def probe_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return uniform_fooling(logits)
