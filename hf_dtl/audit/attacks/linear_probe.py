"""Linear probes: a linear head on frozen features."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from hf_dtl.audit.attacks.attack import Attack, TrainedAttack, Unit, each_own
from hf_dtl.audit.attacks.choice import Choice, State, choose
from hf_dtl.audit.attacks.context import AttackContext
from hf_dtl.audit.attacks.registry import register_attack
from hf_dtl.audit.attacks.stack import FineTuning
from hf_dtl.audit.classifiers import LabelledImages
from hf_dtl.audit.config import AttackConfig
from hf_dtl.functional import mean_and_scale, standardised


@register_attack("linear_probe", "A new linear head on frozen features.")
@register_attack("linear_probe_published", "The published head, trained on frozen features.", published_head=True)
class LinearProbe(Attack):
    """A linear head, trained on frozen, standardised features.

    Args:
        published_head: start from the published head's rows of the attacked classes, instead of a new head.
    """

    published_head: bool = each_own(False)

    @property
    def reads(self) -> tuple[str, ...]:
        return ("linear_probe_steps",)

    @property
    def needs_published_head(self) -> bool:
        return self.published_head

    def steps(self, config: AttackConfig, images: int) -> int:
        return config.linear_probe_steps

    def learning_rates(self, config: AttackConfig) -> tuple[float, ...]:
        return probe_rates(config)

    def train(self, context: AttackContext, units: Sequence[Unit]) -> Iterator[TrainedAttack]:
        for unit, choice in probes(context, {unit: self.of(unit).published_head for unit in units}):
            yield unit, choice, partial(_logits, context, choice.state if choice else {})


def probe_rates(config: AttackConfig) -> tuple[float, ...]:
    """Learning rates of linear probes, the smallest first."""
    return tuple(sorted(config.linear_probe_learning_rates))


def probes(context: AttackContext, starts: Mapping[Unit, bool]) -> list[tuple[Unit, Choice | None]]:
    """Train linear heads on frozen, standardised features; they are given back for the features as they are.

    Args:
        context: the attacked model and task.
        starts: the runs, and whether each starts from the published head.
    """
    config, units, rates = context.config, list(starts), probe_rates(context.config)
    members, scaling = [], {}
    for unit, from_published in starts.items():
        images, labels = context.images(unit)
        features = context.features(images)
        scaling[unit] = mean, scale = mean_and_scale(features)
        weight, bias = context.head(unit.seed, from_published)
        if from_published:
            weight, bias = weight / scale.where(scale > 0, torch.inf), bias + weight.double() @ mean
        everything = [torch.arange(len(labels))] * config.linear_probe_steps
        start, (rows,) = (
            {"weight": weight.to(features), "bias": bias.to(features)},
            standardised(mean, scale, features),
        )
        members += [FineTuning(start, rows, labels, everything, rate) for rate in rates]

    def unscaled(unit: Unit, state: State) -> State:
        mean, scale = scaling[unit]
        weight = state["weight"] * scale
        return {"weight": weight.to(context.dtype), "bias": (state["bias"] - weight @ mean).to(context.dtype)}

    def classify(unit: Unit, state: State, split: LabelledImages) -> Tensor:
        return _logits(context, unscaled(unit, state), split)

    size = (context.heads.num_features, context.num_classes)
    network = nn.utils.skip_init(nn.Linear, *size, device=context.device, dtype=context.dtype)
    stack = context.stack("linear_probe", network, members, lambda step, steps: 1.0, None)
    chosen = choose(stack, units, classify, context.task.validation, halving=config.successive_halving)
    return [(unit, choice and replace(choice, state=unscaled(unit, choice.state))) for unit, choice in chosen]


def _logits(context: AttackContext, state: State, split: LabelledImages) -> Tensor:
    return linear(context.split_features(split), state["weight"], state["bias"])
