"""Non-fine-tunable learning: simulate an attacker's fine-tuning and spoil what it arrives at.

Source: SOPHON, arXiv 2404.12699, abstract and released code: MAML-like simulation of fine-tuning with a re-drawn last
layer, then a suppression loss at the adapted weights (KL divergence from uniform, or inverse cross-entropy) beside
ordinary training on the original task. A **reconstruction**: first-order gradients, one attack a chunk, plain gradient
descent as the attacker, and the retention that all methods share.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from hf_dtl.errors import ConfigError
from hf_dtl.functional import uniform_fooling
from hf_dtl.functional.weights import inverse_cross_entropy, simulate_fine_tuning
from hf_dtl.methods.registry import register_method
from hf_dtl.trainers import Chunk, Chunking, UnlearningConfig, UnlearningTrainer, option


@dataclass
class NonFineTunableConfig(UnlearningConfig):
    """Options of non-fine-tunable learning.

    Parameters that control the simulated attack:
        inner_steps, inner_learning_rate, suppression, and from `UnlearningConfig` num_chunks (attacks a step) and
        chunking: 'random' is an attack on all classes, 'class' one on its own classes.
    """

    adapts: ClassVar[bool] = False

    least_classes: ClassVar[int] = 2

    inner_steps: int = option(5, "Steps of the simulated fine-tuning, >= 0; 0 only spoils a random head.", low=0)
    inner_learning_rate: float = option(
        0.05, "Learning rate of the simulated fine-tuning (gradient descent), > 0.", above=0
    )
    suppression: Literal["uniform", "inverse_ce"] = option(
        "uniform",
        "Loss after the simulated fine-tuning: 'uniform' (cross-entropy to uniform outputs) or 'inverse_ce' (-log of "
        "the probability of not naming the true class).",
    )
    chunking: Chunking = "random"

    def __post_init__(self):
        super().__post_init__()
        if self.chunk_size < 2:
            raise ConfigError(
                f"A simulated attack needs images to train and to test on: chunks of {self.chunk_size} image are too "
                f"small. {self.larger_chunks}"
            )
        if self.activation_checkpointing:
            raise ConfigError(
                "activation_checkpointing would compute the simulated attack again with other weights; leave it off "
                "for this method."
            )


@register_method("non_fine_tunable")
class NonFineTunableTrainer(UnlearningTrainer):
    """Minimise L_retain + forget_weight * L_suppress(query; weights fine-tuned on support), the mean over chunks.

    A chunk is one attack: half of its images, of every class alike, are the attacker's (support), the others test what
    the attack reached (query). The log's attack_cross_entropy is the attacker's loss on the query.
    """

    config_class = NonFineTunableConfig
    args: NonFineTunableConfig

    def chunk_loss(self, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """One simulated attack under a new head; the chunk's seed draws the head."""
        pixel_values, labels = chunk.pixel_values, chunk.labels
        with torch.no_grad():
            logged = self.model(pixel_values, task=self.forget_task)
        backbone = {n: p for n, p in self.model.backbone.named_parameters() if p.requires_grad}
        head = nn.init.xavier_uniform_(torch.empty(logged.shape[-1], self.model.num_features))
        start = [*backbone.values(), head.to(logged.device), torch.zeros(len(head), device=logged.device)]
        logits = partial(self._logits, backbone)
        order = labels.argsort(stable=True)
        support, query = order[::2], order[1::2]
        adapted = simulate_fine_tuning(
            lambda now: F.cross_entropy(logits(now, pixel_values[support]), labels[support]),
            start,
            steps=self.args.inner_steps,
            learning_rate=self.args.inner_learning_rate,
        )
        reached = logits(adapted, pixel_values[query])
        self.record("attack_cross_entropy", F.cross_entropy(reached.detach(), labels[query]))
        if self.args.suppression == "uniform":
            return uniform_fooling(reached), logged
        return inverse_cross_entropy(reached, labels[query]), logged

    def _logits(self, names: Iterable[str], weights: Sequence[Tensor], images: Tensor) -> Tensor:
        """The attacker's logits: the backbone with other weights, then the last two of them as a linear head."""
        *backbone, head, bias = weights
        with self.accelerator.autocast():
            state = dict(zip(names, backbone, strict=True))
            features = functional_call(self.model.backbone, state, kwargs={"pixel_values": images}).logits
            return F.linear(features, head, bias).float()
