"""The disposal losses that arXiv 2308.09971 compares with (standard readings), each as L_retain + lambda L."""

from dataclasses import dataclass

from torch import Tensor

from hf_dtl.functional import negative_cross_entropy, random_fooling, uniform_fooling
from hf_dtl.methods.registry import register_method
from hf_dtl.trainers import Chunk, UnlearningConfig, UnlearningTrainer, option


@dataclass
class NegativeCrossEntropyConfig(UnlearningConfig):
    """Options of negative cross-entropy: those of `UnlearningConfig`, and cap."""

    cap: float = option(10.0, "An image stops pushing at this cross-entropy, in nats, > 0.", above=0)


@register_method("negative_ce")
class NegativeCrossEntropyTrainer(UnlearningTrainer):
    """Gradient ascent on the source loss: -CE(f(x), y), capped."""

    config_class = NegativeCrossEntropyConfig
    args: NegativeCrossEntropyConfig

    def forget_loss(self, outputs: Tensor, chunk: Chunk) -> Tensor:
        return negative_cross_entropy(outputs, chunk.labels, self.args.cap)


@dataclass
class RandomFoolingConfig(UnlearningConfig):
    """Options of random-target fooling: those of `UnlearningConfig`."""


@register_method("random_fooling")
class RandomFoolingTrainer(UnlearningTrainer):
    """Train the source head toward targets drawn uniformly anew every time: CE(f(x), y~)."""

    config_class = RandomFoolingConfig

    def forget_loss(self, outputs: Tensor, chunk: Chunk) -> Tensor:
        return random_fooling(outputs)


@dataclass
class UniformFoolingConfig(UnlearningConfig):
    """Options of uniform fooling: those of `UnlearningConfig`."""


@register_method("uniform_fooling")
class UniformFoolingTrainer(UnlearningTrainer):
    """Train the source head toward the uniform distribution: CE(f(x), 1/C)."""

    config_class = UniformFoolingConfig

    def forget_loss(self, outputs: Tensor, chunk: Chunk) -> Tensor:
        return uniform_fooling(outputs)
