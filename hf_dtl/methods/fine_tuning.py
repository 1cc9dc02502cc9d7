"""Training on labels alone: anew, from the given weights, and with the forget labels driven away.

Retraining without the forgotten data is what unlearning is measured against; fine-tuning is the least that can be done
instead. NegGrad+ is from Kurmanji, Triantafillou, Hayes and Triantafillou, "Towards Unbounded Machine Unlearning",
arXiv 2302.09880: beta * CE(retain) - (1 - beta) * CE(forget), here divided by beta.
"""

import math
from dataclasses import dataclass, field

from torch import Tensor

from hf_dtl.errors import ConfigError
from hf_dtl.functional import negative_cross_entropy
from hf_dtl.methods.noise_then_distil import NoiseThenDistilTrainer
from hf_dtl.methods.registry import register_method
from hf_dtl.trainers.batch_statistics import BatchStatisticsConfig, BatchStatisticsTrainer
from hf_dtl.trainers.config import WholeBatchConfig
from hf_dtl.trainers.streams import Chunking
from hf_dtl.trainers.trainer import UnlearningTrainer


@dataclass
class RetrainConfig(BatchStatisticsConfig):
    """Options of retraining: those of `UnlearningConfig`.

    As with every method, an epoch is a pass over the forget images, although none is looked at: set max_steps.
    """

    num_chunks: int = field(
        default=1,
        metadata={"help": "Parts of a step's retain images, each of which is one batch to batch normalisation."},
    )
    chunking: Chunking = field(default="random", metadata={"help": "Without effect: no forget image is looked at."})
    forget_weight: float = field(default=0.0, metadata={"help": "Set to 0: no forget image is looked at."})
    distillation_weight: float = field(
        default=0.0, metadata={"help": "Must be 0: a model that is retrained learns from labels alone."}
    )

    def __post_init__(self):
        if self.distillation_weight:
            raise ConfigError(
                f"distillation_weight={self.distillation_weight}: a retrained model learns from labels alone. Leave "
                "it at 0, or use fresh_distillation."
            )
        self.forget_weight = 0.0
        super().__post_init__()


@register_method("retrain")
class RetrainTrainer(NoiseThenDistilTrainer):
    """Draw the weights anew and minimise CE(retain): neither the given weights nor forget images have a part in it.

    Batch normalisation is trained as in `BatchStatisticsTrainer`. Heads of other tasks stay as given.
    """

    config_class = RetrainConfig

    def prepare(self) -> None:
        BatchStatisticsTrainer.prepare(self)
        self.mix_in_fresh(1.0)


@dataclass
class FineTuneConfig(WholeBatchConfig):
    """Options of fine-tuning: those of `UnlearningConfig`; for epochs see `RetrainConfig`."""

    forget_weight: float = field(default=0.0, metadata={"help": "Set to 0: no forget image is looked at."})
    distillation_weight: float = field(
        default=0.0, metadata={"help": "Weight of the distillation from the frozen original model, >= 0."}
    )

    def __post_init__(self):
        self.forget_weight = 0.0
        super().__post_init__()


@register_method("fine_tune")
class FineTuneTrainer(UnlearningTrainer):
    """Minimise CE(retain) from the given weights, and hope that the rest is forgotten on the way."""

    config_class = FineTuneConfig


@dataclass
class NegGradPlusConfig(WholeBatchConfig):
    """Options of NegGrad+: those of `UnlearningConfig`, of which forget_weight is the paper's (1 - beta) / beta."""

    forget_weight: float = field(
        default=0.05 / 0.95,
        metadata={"help": "Weight of -CE(forget) against CE(retain), >= 0; the default is a beta of 0.95."},
    )
    distillation_weight: float = field(
        default=0.0, metadata={"help": "Weight of the distillation from the frozen original model, >= 0."}
    )


@register_method("neg_grad_plus")
class NegGradPlusTrainer(UnlearningTrainer):
    """Minimise CE(retain) - forget_weight * CE(forget) in one step; unbounded below, as in the paper."""

    config_class = NegGradPlusConfig

    def forget_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return negative_cross_entropy(logits, labels, cap=math.inf)
