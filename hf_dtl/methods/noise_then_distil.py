"""Noise, then distil: move the weights toward a random initialisation and let the frozen model teach them the target.

Source: "Distillation Robustifies Unlearning" (Unlearn-Noise-Distill-on-Outputs, UNDO), arXiv 2506.06278, abstract and
released code. The paper first unlearns, then noises, then distils language models on outputs. Here the first stage is
dropped: the teacher's retained head never names the forgotten classes, and only retained images are shown.
"""

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch

from hf_dtl.functional.weights import mix_weights
from hf_dtl.methods.registry import register_method
from hf_dtl.models.heads import MultiHeadClassifier
from hf_dtl.trainers import DISPOSAL, BatchStatisticsConfig, BatchStatisticsTrainer, UnlearningConfig, option

_OFFSET = 5_915_587  # so that the draw is neither the one that pre-training started from, nor the audit's reference


@dataclass
class StartOptions:
    """Option that says where the weights start."""

    alpha: float = option(
        0.5,
        "Share of a random initialisation in the weights at the start.",
        low=0,
        high=1,
        says="between 0 (the given weights) and 1 (random weights)",
    )


@dataclass
class NoiseThenDistilConfig(StartOptions, BatchStatisticsConfig):
    """Options of noise-then-distil: those of `UnlearningConfig`, and alpha; there is no disposal loss."""

    adapts: ClassVar[bool] = False

    unused: ClassVar[frozenset[str]] = DISPOSAL

    forget_weight: float = 0.0
    alpha: float = 0.7


@dataclass
class FreshDistillationConfig(NoiseThenDistilConfig):
    """Options of the distillation into a fresh model: those of `NoiseThenDistilConfig`, with alpha = 1.

    Nothing of the given weights is left, only what the teacher and the labels say about retained images: the ceiling
    of removal.
    """

    alpha: float = 1.0


@register_method("noise_then_distil")
class NoiseThenDistilTrainer(BatchStatisticsTrainer):
    """Mix the weights with random ones once, then distil the given model on retained images; forget data is unused."""

    config_class: ClassVar[type[UnlearningConfig]] = NoiseThenDistilConfig

    def prepare(self) -> None:
        super().prepare()
        assert isinstance(self.args, StartOptions)
        self.mix_in_fresh(self.args.alpha)

    def mix_in_fresh(self, alpha: float) -> None:
        """Move the backbone and the retained head a share `alpha`, 0..1, of the way to weights drawn by the seed."""
        model = self.model
        fresh = fresh_model(model, self.retain_task, self.args.seed)
        theirs = dict(fresh.backbone.named_parameters()) | dict(fresh.backbone.named_buffers())
        mine = dict(model.backbone.named_parameters()) | dict(model.backbone.named_buffers())
        names = [name for name, weight in mine.items() if weight.is_floating_point()]
        weights, others = [mine[name] for name in names], [theirs[name] for name in names]
        weights += model.heads[self.retain_task].parameters()
        others += fresh.heads["new"].parameters()
        with torch.no_grad():
            for weight, mixed in zip(weights, mix_weights(weights, others, alpha), strict=True):
                weight.copy_(mixed)


@register_method("fresh_distillation")
class FreshDistillationTrainer(NoiseThenDistilTrainer):
    """Noise-then-distil from random weights alone."""

    config_class = FreshDistillationConfig


def fresh_model(model: MultiHeadClassifier, task: str, seed: int) -> MultiHeadClassifier:
    """Draw the same architecture anew, with a head "new" as wide as that of `task`.

    Args:
        model: whose architecture is wanted; not changed.
        task: one of its tasks.
        seed: of the weights. The global random state is not touched, and equal seeds give equal weights.

    Returns:
        A model on the CPU.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed + _OFFSET)
        config = copy.deepcopy(model.backbone.config)
        config.num_labels = len(model.labels[task])  # so that the exported model's configuration gives the same draws
        fresh = MultiHeadClassifier(type(model.backbone)(config), task="old")
        fresh.add_head("new", model.labels[task])
    return fresh
