"""Fine-tuning of every weight, from a new head, the published one, or one that was trained first."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from torch import Tensor

from hf_dtl.audit.attacks.answers import Answer, better_answer, copy_of
from hf_dtl.audit.attacks.attack import Attack, TrainedAttack, Unit, each_own
from hf_dtl.audit.attacks.choice import State, choose
from hf_dtl.audit.attacks.context import AttackContext, Head
from hf_dtl.audit.attacks.linear_probe import probes
from hf_dtl.audit.attacks.registry import register_attack
from hf_dtl.audit.attacks.stack import FineTuning as Member
from hf_dtl.audit.attacks.stack import batch_order
from hf_dtl.audit.classifiers import LabelledImages
from hf_dtl.audit.config import AttackConfig
from hf_dtl.functional import Augmentation

LONG: dict[str, Any] = {"training_steps": 400, "checkpoints": (50, 100, 200)}
AFFINE = LONG | {"augmentation": "affine", "answers": 8}
CROP_FLIP = LONG | {"augmentation": "crop_flip", "answers": 8}
PHOTOMETRIC = LONG | {"augmentation": "photometric", "answers": 8}
"""Settings of the attacks that train as long as anybody would; validation stops them sooner where that is better."""


def schedule(step: int, steps: int) -> float:
    """Factor on the learning rate: rises over the first tenth, stays at 1, falls to zero over the last 30 %.

    Weights that start far from a solution (scratch, or scrubbed ones) need the long stay: in trials a cosine of the
    same length left the scratch model four points behind.
    """
    return min(1.0, (step + 1) / max(1, 0.1 * steps), (steps - step) / max(1, 0.3 * steps))


@register_attack("full", "Fine-tuning of every weight.")
@register_attack("head_then_full", "A new head on frozen features first, then every weight.", head_first=True)
@register_attack("full_published", "Fine-tuning of every weight from the published head.", published_head=True)
@register_attack(
    "head_then_full_published", "The published head on frozen features first, then every weight.",
    published_head=True, head_first=True,
)  # fmt: skip
@register_attack(
    "full_affine", "Fine-tuning of every weight for 400 steps on images that are shifted, turned and stretched.",
    **AFFINE,
)  # fmt: skip
@register_attack(
    "full_crop_flip", "Fine-tuning of every weight for 400 steps on images that are shifted and mirrored.", **CROP_FLIP
)
@register_attack(
    "head_first_affine", "A new head on frozen features first, then as full_affine.", head_first=True, **AFFINE
)
@register_attack(
    "head_first_crop_flip",
    "A new head on frozen features first, then as full_crop_flip.",
    head_first=True,
    **CROP_FLIP,
)
@register_attack(
    "head_first_photometric", "As head_first_affine, on images whose contrast, polarity and noise change.",
    head_first=True, **PHOTOMETRIC,
)  # fmt: skip
@register_attack("published_affine", "As full_affine, from the published head.", published_head=True, **AFFINE)
@register_attack(
    "published_crop_flip", "As full_crop_flip, from the published head.", published_head=True, **CROP_FLIP
)
@register_attack("head_first_400", "A new head on frozen features first, then as full_400.", head_first=True, **LONG)
@register_attack("full_400", "Fine-tuning of every weight for 400 steps.", **LONG)
@register_attack("full_longer", "Fine-tuning of every weight, four times as long.", length=4)
@register_attack("full_large_lr", "Fine-tuning of every weight, ten times as fast.", learning_rate_factor=10.0)
class FineTuning(Attack):
    """Fine-tuning of every weight.

    Args:
        published_head: start from the published head's rows of the attacked classes, instead of a new head.
        head_first: train the head on frozen features first, then everything from there.
        length: factor on the number of steps.
        learning_rate_factor: factor on the learning rates.
        training_steps: number of steps; None follows from the images.
        checkpoints: steps after which validation may also stop it.
        augmentation: of the images of every step.
        answers: copies of an image to be classified that are looked at beside it, where validation says so; only at
            the chosen checkpoint.
    """

    published_head: bool = each_own(False)
    head_first: bool = each_own(False)
    length: int = 1
    learning_rate_factor: float = 1.0
    training_steps: int | None = None
    checkpoints: tuple[int, ...] = ()
    augmentation: Augmentation = "none"
    answers: int = 0

    whole_network: ClassVar[bool] = True
    network: ClassVar[str] = "full"
    """Which network of `AttackContext.network` is trained."""

    @property
    def reads(self) -> tuple[str, ...]:
        names: tuple[str, ...] = ("full_passes", "full_min_steps", "batch_size", "max_gradient_norm")
        return names + (("linear_probe_steps", "linear_probe_learning_rates") if self.head_first else ())

    @property
    def needs_published_head(self) -> bool:
        return self.published_head

    def steps(self, config: AttackConfig, images: int) -> int:
        if self.training_steps is not None:
            return self.training_steps
        return self.length * max(config.full_min_steps, config.full_passes * math.ceil(images / config.batch_size))

    def learning_rates(self, config: AttackConfig) -> tuple[float, ...]:
        found = tuple(sorted(rate * self.learning_rate_factor for rate in self.rates(config)))
        return tuple(rate for rate in found if rate in (config.chosen_rates or found)) or found

    def rates(self, config: AttackConfig) -> tuple[float, ...]:
        """The learning rates before their factor."""
        return config.full_learning_rates

    def train(self, context: AttackContext, units: Sequence[Unit]) -> Iterator[TrainedAttack]:
        config, network = context.config, context.network(self.network)
        rates = self.learning_rates(config)
        members = self.members(context, units, rates)
        stack = context.stack(self.network, network, members, schedule, config.max_gradient_norm)

        def classify(unit: Unit, state: State, split: LabelledImages) -> Tensor:
            images = members[units.index(unit) * len(rates)].images
            with network.evaluating(state, images, config.eval_batch_size):
                return self.read(context, context.predict(network, split.pixel_values))

        halving = config.successive_halving
        validation, checkpoints = context.task.validation, self.checkpoints
        for unit, choice in choose(stack, units, classify, validation, halving=halving, checkpoints=checkpoints):
            if choice is None or not self.answers:
                yield unit, choice, partial(classify, unit, choice.state if choice else {})
                continue

            def probabilities(split: LabelledImages, unit: Unit = unit, state: State = choice.state) -> Tensor:
                return classify(unit, state, split).softmax(-1)

            def of_copy(split: LabelledImages, number: int, answer: Answer = probabilities) -> Tensor:
                return answer(copy_of(split, self.augmentation, number))

            answer, reached = better_answer(
                probabilities, of_copy, self.answers, validation, choice.validation_accuracy
            )
            yield unit, replace(choice, validation_accuracy=reached), answer

    def members(self, context: AttackContext, units: Sequence[Unit], rates: Sequence[float]) -> list[Member]:
        """Fine-tunings on images of the attacked task, one for every attack and learning rate."""
        config, network = context.config, context.network(self.network)
        before = self.weights_before(context, units, rates)
        heads, members = self.heads(context, units), list[Member]()
        for unit in units:
            images, labels = context.images(unit)
            order = batch_order(len(labels), config.batch_size, self.steps(config, len(labels)), unit.seed)
            for together in (
                [[rate] for rate in rates] if before else [rates]
            ):  # rates that start from the same weights
                start = network.start(heads[unit], unit.seed, before[len(members)] if before else None)
                given = (images, labels, order, self.augmentation, unit.seed)
                members += self.at_rates(context, start, together, *given)
        return members

    def at_rates(
        self,
        context: AttackContext,
        start: State,
        rates: Sequence[float],
        images: Tensor,
        labels: Tensor,
        order: Sequence[Tensor],
        *augmentation: Any,
    ) -> list[Member]:
        """Fine-tunings from these tensors, each in units of its usual size; adapters, made anew, are in them."""
        scale = self.scale(context, start)
        own = {name: v if ".lora_" in name else v / scale.get(name, 1.0) for name, v in start.items()}
        return [Member(own, images, labels, order, rate, scale, *augmentation) for rate in rates]

    # What families of it change -------------------------------------------------------------------------------

    def heads(self, context: AttackContext, units: Sequence[Unit]) -> dict[Unit, Head]:
        """The heads that attacks start from: trained on frozen features first where the attack says so."""
        heads = dict[Unit, Head]()
        for unit in units:
            weight, bias = context.head(unit.seed, published := self.of(unit).published_head)
            heads[unit] = (weight if published else weight.to(context.device) * context.columns(self.network), bias)
        for attack in dict.fromkeys(unit.attack for unit in units if self.of(unit).head_first):
            starts = {unit: self.of(unit).published_head for unit in units if unit.attack == attack}
            for unit, choice in probes(context, starts):
                if choice is not None:
                    heads[unit] = (choice.state["weight"], choice.state["bias"])
        return heads

    def scale(self, context: AttackContext, state: State) -> State:
        """Factors by which the trained tensors enter the network, by name; 1 of what it lacks."""
        return context.scale(self.network, state)

    def weights_before(
        self, context: AttackContext, units: Sequence[Unit], rates: Sequence[float]
    ) -> Sequence[State] | None:
        """Weights that each attack and learning rate starts from, in place of the published ones."""
        return None

    def read(self, context: AttackContext, logits: Tensor) -> Tensor:
        """Logits of the attacked classes from those of the network."""
        return logits
