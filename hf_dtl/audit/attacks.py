"""The attacks: linear probes on frozen features, full fine-tuning, and LoRA."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from hf_dtl.audit.choice import Choice, State, choose
from hf_dtl.audit.classifiers import LabelledImages
from hf_dtl.audit.published import Head, Published
from hf_dtl.audit.recipes import RECIPES, Unit
from hf_dtl.audit.stack import FineTuning, batch_order
from hf_dtl.audit.task import draw_up_to

Attacked = tuple[Unit, Choice | None, Callable[[LabelledImages], Tensor]]
"""An attack, the learning rate that it chose (None: all diverged), and the logits that it gives to a split."""


def train(published: Published, units: Sequence[Unit]) -> Iterator[Attacked]:
    """Run attacks that train the same tensors for the same number of steps."""
    trains = RECIPES[units[0].attack].trains
    return _train_probes(published, units) if trains == "linear_probe" else _train_networks(published, units)


def schedule(step: int, steps: int) -> float:
    """Factor on the learning rate: rises over the first tenth, stays at 1, falls to zero over the last 30 %.

    Weights that start far from a solution (scratch, or scrubbed ones) need the long stay: in trials a cosine of the
    same length left the scratch model four points behind.
    """
    return min(1.0, (step + 1) / max(1, 0.1 * steps), (steps - step) / max(1, 0.3 * steps))


def _train_probes(published: Published, units: Sequence[Unit]) -> Iterator[Attacked]:
    for unit, choice in _probes(published, units):

        def classify(split: LabelledImages, choice: Choice | None = choice) -> Tensor:
            assert choice is not None
            return linear(published.split_features(split), choice.state["weight"], choice.state["bias"])

        yield unit, choice, classify


def _probes(published: Published, units: Sequence[Unit]) -> list[tuple[Unit, Choice | None]]:
    """Train linear heads on frozen, standardised features; they are given back for the features as they are."""
    config, device, dtype = published.config, published.device, published.dtype
    rates = config.learning_rates(units[0].attack)
    members, scaling = [], {}
    for unit in units:
        images, labels = published.images(unit)
        features = published.features(images)
        mean, deviation = features.mean(0), features.std(0, correction=0)
        deviation = deviation + 1e-2 * deviation.mean() + 1e-6  # a feature that is nearly constant stays small
        weight, bias = (t.to(features) for t in published.head(unit))
        if RECIPES[unit.attack].published_head:
            weight, bias = weight * deviation, bias + weight @ mean
        scaling[unit] = (mean, deviation)
        everything = [torch.arange(len(labels))] * config.linear_probe_steps
        start, standardised = {"weight": weight, "bias": bias}, (features - mean) / deviation
        members += [FineTuning(start, standardised, labels, everything, rate) for rate in rates]

    def unscaled(unit: Unit, state: State) -> State:
        mean, deviation = scaling[unit]
        weight = state["weight"] / deviation
        return {"weight": weight, "bias": state["bias"] - weight @ mean}

    def classify(unit: Unit, state: State, split: LabelledImages) -> Tensor:
        own = unscaled(unit, state)
        return linear(published.split_features(split), own["weight"], own["bias"])

    size = (published.heads.num_features, published.num_classes)
    network = nn.utils.skip_init(nn.Linear, *size, device=device, dtype=dtype)
    stack = published.stack("linear_probe", network, members, lambda step, steps: 1.0, None)
    chosen = choose(stack, units, classify, published.task.validation, halving=config.successive_halving)
    return [(unit, choice and replace(choice, state=unscaled(unit, choice.state))) for unit, choice in chosen]


def _heads(published: Published, units: Sequence[Unit]) -> dict[Unit, Head]:
    """The heads that attacks start from: trained on frozen features first where the recipe says so."""
    heads = {unit: published.head(unit) for unit in units}
    for attack in dict.fromkeys(unit.attack for unit in units if RECIPES[unit.attack].head_first):
        kind = "linear_probe_published" if RECIPES[attack].published_head else "linear_probe"
        for probe, choice in _probes(
            published, [unit._replace(attack=kind) for unit in units if unit.attack == attack]
        ):
            if choice is not None:
                heads[probe._replace(attack=attack)] = (choice.state["weight"], choice.state["bias"])
    return heads


def _train_networks(published: Published, units: Sequence[Unit]) -> Iterator[Attacked]:
    config, recipe = published.config, RECIPES[units[0].attack]
    kind = "retain" if recipe.retain == "only" else recipe.trains
    network, rates = published.network(kind), config.learning_rates(units[0].attack)
    if recipe.retain == "only":
        members = [_retaining(published, unit, rate, unit.budget) for unit in units for rate in rates]
    else:
        members = _relearning(published, units, rates)
    stack = published.stack(kind, network, members, schedule, config.max_gradient_norm)

    def classify(unit: Unit, state: State, split: LabelledImages) -> Tensor:
        images = members[units.index(unit) * len(rates)].images
        with network.evaluating(state, images, config.eval_batch_size):
            logits = published.predict(network, split.pixel_values)
        return logits[:, published.rows] if recipe.retain == "only" and published.rows is not None else logits

    for unit, choice in choose(stack, units, classify, published.task.validation, halving=config.successive_halving):

        def chosen(split: LabelledImages, unit: Unit = unit, choice: Choice | None = choice) -> Tensor:
            assert choice is not None
            return classify(unit, choice.state, split)

        yield unit, choice, chosen


def _relearning(published: Published, units: Sequence[Unit], rates: Sequence[float]) -> list[FineTuning]:
    """Fine-tunings on images of the attacked task, one for every attack and learning rate."""
    config, recipe = published.config, RECIPES[units[0].attack]
    network, scale = published.network(recipe.trains), published.relative_scale if recipe.relative else None
    before = _after_retaining(published, units, rates) if recipe.retain == "first" else None
    heads, members = _heads(published, units), list[FineTuning]()
    for unit in units:
        images, labels = published.images(unit)
        order = batch_order(len(labels), config.batch_size, config.steps(unit.attack, len(labels)), unit.seed)
        for rate in rates:
            start = network.start(heads[unit], unit.seed, before[len(members)] if before else None)
            if scale is not None:
                start = {name: value / scale[name] for name, value in start.items()}
            members.append(FineTuning(start, images, labels, order, rate, scale))
    return members


def _retaining(published: Published, unit: Unit, rate: float, per_class: int) -> FineTuning:
    """Fine-tuning of the published network on retain images, under its published head."""
    retain, config = published.task.retain, published.config
    assert retain is not None
    chosen = draw_up_to(retain.labels, per_class, unit.seed)
    images = retain.pixel_values[chosen].to(published.device, published.dtype)
    labels = retain.labels[chosen].to(published.device)
    order = batch_order(len(labels), config.batch_size, config.steps(unit.attack, len(labels)), unit.seed)
    start = published.network("retain").start(published.published_head, unit.seed)
    return FineTuning(start, images, labels, order, rate)


def _after_retaining(published: Published, units: Sequence[Unit], rates: Sequence[float]) -> list[State]:
    """What fine-tuning on retain images leaves, for every attack and learning rate."""
    config, network = published.config, published.network("retain")
    members = [_retaining(published, unit, rate, config.retain_images_per_class) for unit in units for rate in rates]
    stack = published.stack("retain", network, members, schedule, config.max_gradient_norm)
    stack.advance()
    return [stack.result(position) for position in range(len(members))]


from hf_dtl.audit_options import SETS as ATTACK_SETS  # noqa
from hf_dtl.audit_options import attack_names as parse_attacks  # noqa
