"""Piggyback learning: how well an attacker relearns a task from published weights with a few images a class."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PreTrainedModel

from hf_dtl.audit.accuracy import LabelledImages, predict
from hf_dtl.audit.config import Attack, AttackConfig
from hf_dtl.audit.task import check_task, draw_images
from hf_dtl.errors import ModelError
from hf_dtl.heads import MultiHeadClassifier

TASK = "attacked"
Learned = Callable[[LabelledImages], Tensor]
"""What an attack leaves: the logits of a split."""


@dataclass(frozen=True)
class AttackResult:
    """What one attack reached.

    Args:
        attack: name of the attack.
        budget: training images a class.
        seed: seed of the images and of the new head.
        learning_rate: the attacker's choice.
        accuracy: on the test split, in 0..1.
        validation_accuracy: on the validation split, which the choice was made on, in 0..1.
        diverged: every learning rate ended in values that are not finite; the accuracies are then those of guessing,
            1 / classes, and the learning rate is the smallest.
    """

    attack: str
    budget: int
    seed: int
    learning_rate: float
    accuracy: float
    validation_accuracy: float
    diverged: bool = False


class Attacker:
    """An attacker with one model and one task; keeps what several of its attacks share.

    Args:
        model: the published classifier; never changed. Weights in half precision are attacked in single precision.
        train, validation, test: the attacked task's splits.
        num_classes: number of classes of the attacked task.
        config: what the attacker may do.
        device: where to run; None means the model's own device.

    Raises:
        ModelError: the weights are not finite, there is no exchangeable classifier, or the images do not fit.
        DataError: a split is empty, labels are out of range, or there is one class only.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        train: LabelledImages,
        validation: LabelledImages,
        test: LabelledImages,
        *,
        num_classes: int,
        config: AttackConfig,
        device: torch.device | str | None = None,
    ):
        check_task(train, validation, test, num_classes)
        for name, value in model.state_dict().items():
            if not torch.isfinite(value).all():
                raise ModelError(
                    f"Weight `{name}` of the attacked model is not finite, so it cannot be attacked. "
                    "Repeat the training that made it with a smaller learning rate."
                )
        self.train, self.validation, self.test = train, validation, test
        self.num_classes, self.config = num_classes, config
        self.device = torch.device(device) if device is not None else model.device
        # In evaluation mode also while it is trained: dropout and stochastic depth only hurt with so few images.
        self.published = MultiHeadClassifier(copy.deepcopy(model), task="published").to(self.device).eval()
        if model.dtype in (torch.float16, torch.bfloat16):
            self.published.float()
        self.published.requires_grad_(True)
        self._cached_features: dict[int, Tensor] = {}
        try:
            predict(self.published.features, train.pixel_values[:1].to(self.device))
        except (RuntimeError, ValueError, TypeError) as error:
            raise ModelError(
                f"{type(model).__name__} cannot process the attacked images of shape "
                f"{tuple(train.pixel_values.shape[1:])}: {error}. Prepare them with the model's own processor."
            ) from error

    def run(self, attack: Attack, budget: int, seed: int) -> AttackResult:
        """Run one attack with every learning rate, choose on validation, and measure the choice on test.

        The result depends on the arguments only, not on earlier calls; the global random state is left as it was.
        """
        chosen = draw_images(self.train.labels, self.num_classes, budget, seed)
        images = self.train.pixel_values[chosen].to(self.device, self.published.backbone.dtype)
        labels = self.train.labels[chosen].to(self.device)
        learn = self._full if attack == "full" else self._linear_probe
        choice: tuple[float, float, Learned] | None = None
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            for learning_rate in self.config.learning_rates(attack):
                torch.manual_seed(seed)
                learned = learn(images, labels, learning_rate)
                logits = learned(self.validation) if learned else None
                if learned is None or logits is None or not torch.isfinite(logits).all():
                    continue
                validation_accuracy = _share_right(logits, self.validation.labels)
                if choice is None or validation_accuracy > choice[1]:
                    choice = (learning_rate, validation_accuracy, learned)
            if choice is None:
                guess = 1 / self.num_classes
                return AttackResult(attack, budget, seed, self.config.learning_rates(attack)[0], guess, guess, True)
            accuracy = _share_right(choice[2](self.test), self.test.labels)
        return AttackResult(attack, budget, seed, choice[0], accuracy, choice[1])

    def _full(self, images: Tensor, labels: Tensor, learning_rate: float) -> Learned | None:
        """Train every weight under a new head; None when it diverged."""
        model = copy.deepcopy(self.published)
        model.add_head(TASK, [str(i) for i in range(self.num_classes)])
        model.remove_head("published")
        norms = _use_batch_statistics(model)
        batches = _batches(len(labels), self.config.batch_size)
        parameters = list(model.parameters())
        optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=self.config.weight_decay, fused=True)
        steps = self.config.full_steps(len(labels))
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = learning_rate * _schedule(step, steps)
            batch = next(batches).to(labels.device)
            loss = cross_entropy(model(images[batch], task=TASK), labels[batch])
            if not torch.isfinite(loss):
                return None
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, self.config.max_gradient_norm)
            optimizer.step()
        _fix_statistics(norms, model, images.tensor_split(math.ceil(len(images) / self.config.eval_batch_size)))

        def classify(pixel_values: Tensor) -> Tensor:
            return model(pixel_values, task=TASK)

        return lambda split: self._predict(classify, split)

    def _linear_probe(self, images: Tensor, labels: Tensor, learning_rate: float) -> Learned | None:
        """Train a new linear head on frozen, standardised features; None when it diverged."""
        features = predict(self.published.features, images, self.config.eval_batch_size)
        mean, deviation = features.mean(0), features.std(0, correction=0) + 1e-6
        head = nn.Linear(features.shape[1], self.num_classes, device=features.device, dtype=features.dtype)
        optimizer = torch.optim.AdamW(
            head.parameters(), lr=learning_rate, weight_decay=self.config.weight_decay, fused=True
        )
        standardised = (features - mean) / deviation
        for _ in range(self.config.linear_probe_steps):
            loss = cross_entropy(head(standardised), labels)
            if not torch.isfinite(loss):
                return None
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        @torch.no_grad()
        def classify(split: LabelledImages) -> Tensor:
            return head((self._features(split) - mean) / deviation)

        return classify

    def _features(self, split: LabelledImages) -> Tensor:
        """Features of the validation or test split, computed once for all linear probes."""
        if id(split) not in self._cached_features:
            self._cached_features[id(split)] = self._predict(self.published.features, split)
        return self._cached_features[id(split)]

    def _predict(self, classify: Callable[[Tensor], Tensor], split: LabelledImages) -> Tensor:
        def on_device(pixel_values: Tensor) -> Tensor:
            return classify(pixel_values.to(self.device, self.published.backbone.dtype))

        return predict(on_device, split.pixel_values, self.config.eval_batch_size)


def _share_right(logits: Tensor, labels: Tensor) -> float:
    right = (logits.argmax(-1).cpu() == labels.cpu()) & torch.isfinite(logits).all(-1).cpu()
    return right.double().mean().item()


def _batches(count: int, batch_size: int) -> Iterator[Tensor]:
    """Positions of endless batches of equal sizes (±1): each pass over the images is a new permutation."""
    while True:
        yield from torch.randperm(count).tensor_split(math.ceil(count / batch_size))


def _schedule(step: int, steps: int) -> float:
    """Factor on the learning rate: rises over the first tenth, stays at 1, falls to zero over the last 30 %.

    Weights that start far from a solution (scratch, or scrubbed ones) need the long stay: in trials a cosine of the
    same length left the scratch model four points behind.
    """
    return min(1.0, (step + 1) / max(1, 0.1 * steps), (steps - step) / max(1, 0.3 * steps))


def _use_batch_statistics(model: nn.Module) -> list[_BatchNorm]:
    """Let batch normalisation take its statistics from each training batch, and name those layers.

    Published statistics may not suit the attacked images, or may be damaged on purpose. In trials on a small ResNet
    this was stronger than statistics fixed before training, by 2 to 4 points from scratch and 1 to 2 pre-trained.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.train()
    return norms


@torch.no_grad()
def _fix_statistics(norms: list[_BatchNorm], model: MultiHeadClassifier, batches: Sequence[Tensor]) -> None:
    """Give the trained network's batch normalisation the statistics of all training images, for evaluation."""
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    for batch in batches if norms else ():
        model(batch, task=TASK)
    for norm in norms:
        norm.eval()


def piggyback_attack(
    model: PreTrainedModel,
    train: LabelledImages,
    validation: LabelledImages,
    test: LabelledImages,
    *,
    num_classes: int,
    attack: Attack,
    budget: int,
    seed: int,
    config: AttackConfig | None = None,
    device: torch.device | str | None = None,
) -> AttackResult:
    """Relearn a task from published weights with `budget` images a class, and measure how well that went.

    The attacker attaches a new head, tries every learning rate, keeps the one with the best validation accuracy
    (the smaller one of equals; one that diverges loses), and only that one is measured on the test split.
    Source: Koh et al., ICCV 2023, arXiv 2308.09971, name PL accuracy; the protocol is ours.

    Args:
        model: the published classifier; never changed.
        train: the images that the attacker draws from, the same ones for every model.
        validation, test: the attacked task's other splits.
        num_classes: number of classes of the attacked task.
        attack: `linear_probe` or `full`.
        budget: training images a class.
        seed: seed of the images and of the new head.
        config: learning rates, steps and batch sizes; its lists of attacks, budgets and seeds are not used.
        device: where to run; None means the model's own device.

    Returns:
        The result; it depends on the arguments only.

    Raises:
        ModelError: the weights are not finite, there is no exchangeable classifier, or the images do not fit.
        DataError: a class has fewer images than the budget, there is one class only, a split is empty, or labels
            are out of range.
    """
    attacker = Attacker(
        model, train, validation, test, num_classes=num_classes, config=config or AttackConfig(), device=device
    )
    return attacker.run(attack, budget, seed)
