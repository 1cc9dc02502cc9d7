"""Training on labels alone: anew, from the given weights, and with the forget labels driven away.

Retraining without the forgotten data is what unlearning is measured against; fine-tuning is the least that can be done
instead. NegGrad+ is from Kurmanji, Triantafillou, Hayes and Triantafillou, "Towards Unbounded Machine Unlearning",
arXiv 2302.09880: beta * CE(retain) - (1 - beta) * CE(forget), here divided by beta.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from hf_dtl.errors import ConfigError
from hf_dtl.methods.noise_then_distil import NoiseThenDistilTrainer
from hf_dtl.methods.registry import register_method
from hf_dtl.trainers import (
    DISPOSAL,
    BatchStatisticsConfig,
    BatchStatisticsTrainer,
    Chunk,
    Chunking,
    UnlearningConfig,
    UnlearningTrainer,
    WholeBatchConfig,
)


@dataclass
class RetrainConfig(BatchStatisticsConfig):
    """Options of retraining: those of `UnlearningConfig`; num_chunks are the parts of a step's retain images, each of
    which is one batch to batch normalisation.

    As with every method, an epoch is a pass over the forget images, although none is looked at: set max_steps.
    """

    adapts: ClassVar[bool] = False

    multi_label: ClassVar[bool] = True
    unused: ClassVar[frozenset[str]] = DISPOSAL | {"chunking"}

    num_chunks: int = 1
    chunking: Chunking = "random"
    forget_weight: float = 0.0
    distillation_weight: float = 0.0

    def __post_init__(self):
        if self.distillation_weight:
            raise ConfigError(
                f"distillation_weight={self.distillation_weight}: a retrained model learns from labels alone. Leave "
                "it at 0, or use fresh_distillation."
            )
        super().__post_init__()


@register_method("retrain")
class RetrainTrainer(NoiseThenDistilTrainer):
    """Draw the weights anew and minimise CE(retain): neither the given weights nor forget images have a part in it.

    Batch normalisation is trained as in `BatchStatisticsTrainer`. Heads of other tasks stay as given.
    """

    config_class: ClassVar[type[UnlearningConfig]] = RetrainConfig

    def prepare(self) -> None:
        BatchStatisticsTrainer.prepare(self)
        self.mix_in_fresh(1.0)


@dataclass
class FineTuneConfig(WholeBatchConfig):
    """Options of fine-tuning: those of `UnlearningConfig`; for epochs see `RetrainConfig`."""

    multi_label: ClassVar[bool] = True
    unused: ClassVar[frozenset[str]] = DISPOSAL

    forget_weight: float = 0.0
    distillation_weight: float = 0.0


@register_method("fine_tune")
class FineTuneTrainer(UnlearningTrainer):
    """Minimise CE(retain) from the given weights, and hope that the rest is forgotten on the way."""

    config_class = FineTuneConfig


@dataclass
class NegGradPlusConfig(WholeBatchConfig):
    """Options of NegGrad+: those of `UnlearningConfig`, of which forget_weight is the paper's (1 - beta) / beta; the
    default is a beta of 0.95."""

    multi_label: ClassVar[bool] = True

    forget_weight: float = 0.05 / 0.95
    distillation_weight: float = 0.0


@register_method("neg_grad_plus")
class NegGradPlusTrainer(UnlearningTrainer):
    """Minimise CE(retain) - forget_weight * CE(forget) in one step; unbounded below, as in the paper."""

    config_class = NegGradPlusConfig

    def forget_loss(self, outputs: Any, chunk: Chunk) -> Tensor:
        return -self.label_loss(outputs, chunk.labels)
