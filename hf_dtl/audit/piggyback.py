"""Piggyback learning: how well an attacker relearns a task from published weights with a few images a class."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import torch
from transformers import PreTrainedModel

from hf_dtl.audit.answer_store import Answers
from hf_dtl.audit.attacks.attack import Unit
from hf_dtl.audit.attacks.attack import train as train_attacks
from hf_dtl.audit.attacks.choice import share_right
from hf_dtl.audit.attacks.context import AttackContext
from hf_dtl.audit.attacks.registry import find_attack
from hf_dtl.audit.classifiers import LabelledImages
from hf_dtl.audit.config import AttackConfig
from hf_dtl.audit.store import PiggybackRecord
from hf_dtl.audit.task import AttackedTask
from hf_dtl.errors import ConfigError, DataError, ModelError


@dataclass(frozen=True)
class AttackResult:
    """What one attack reached; see the fields of the same names of `PiggybackRecord`."""

    attack: str
    budget: int
    seed: int
    learning_rate: float
    accuracy: float
    validation_accuracy: float
    diverged: bool = False
    effort: int | None = None
    curve: tuple[tuple[int, float, float], ...] = ()
    answers: Answers | None = field(default=None, compare=False, repr=False)
    """Of an attack that did not diverge, where the audit has a committee."""

    def record(self, role: str, task: AttackedTask) -> PiggybackRecord:
        """The same as a report holds it."""
        told = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "answers"}
        return PiggybackRecord(role, task.name, task.axis, **told)


class Attacker(AttackContext):
    """An attacker with one model and one task; keeps what several of its attacks share. Made as `AttackContext` is."""

    def run(self, attack: str, budget: int, seed: int) -> AttackResult:
        """Run one attack with every learning rate, choose on validation, and measure the choice on test.

        The result depends on the arguments only, not on earlier calls; the global random state is left as it was.
        """
        return self.run_stack([Unit(attack, budget, seed)])[0]

    def run_stack(self, units: Sequence[Unit]) -> list[AttackResult]:
        """Run attacks of equal group keys; see `hf_dtl.audit.attacks.plan`.

        Raises:
            ConfigError: an attack does not apply to this model.
            ModelError: the network cannot be trained.
        """
        for unit in units:
            attack = find_attack(unit.attack)
            given = {"published_head": self.rows, "retain": self.task.retain, "base": self.base}
            if not attack.applies(**{name: value is not None for name, value in given.items()}):
                raise ConfigError(f"The attack {unit.attack} does not apply: it needs {attack.needs}.")
        results, test, validation = list[AttackResult](), self.task.test, self.task.validation
        asked = bool(self.config.committees)
        try:
            for unit, choice, classify in train_attacks(self, units):
                if choice is None:
                    guess = 1 / self.num_classes
                    rate = find_attack(unit.attack).learning_rates(self.config)[0]
                    results.append(AttackResult(*unit, rate, guess, guess, True))
                else:
                    told = {point.effort: (point, point.classify(test)) for point in choice.curve}
                    curve = tuple(
                        (effort, point.validation_accuracy, share_right(scores, test.labels))
                        for effort, (point, scores) in told.items()
                    )
                    point, scores = told.get(choice.effort or 0, (None, None))
                    if scores is None or point is None or point.validation_accuracy != choice.validation_accuracy:
                        scores = classify(test)  # with copies: better on validation than the curve's
                    chosen = (choice.learning_rate, share_right(scores, test.labels), choice.validation_accuracy)
                    answers = Answers.of(classify(validation), scores, validation.labels) if asked else None
                    results.append(AttackResult(*unit, *chosen, False, choice.effort, curve, answers))
        except (RuntimeError, TypeError) as error:
            raise ModelError(
                f"{type(self.model).__name__} failed in the attack {units[0].attack} with {units[0].budget} "
                f"images a class: {error}"
            ) from error
        return results


def piggyback_attack(
    model: PreTrainedModel,
    train: LabelledImages,
    validation: LabelledImages,
    test: LabelledImages,
    *,
    num_classes: int,
    attack: str,
    budget: int,
    seed: int,
    labels: Sequence[str] | None = None,
    retain: LabelledImages | None = None,
    config: AttackConfig | None = None,
    device: torch.device | str | None = None,
) -> AttackResult:
    """Relearn a task from published weights with `budget` images a class, and measure how well that went.

    The attacker tries every learning rate, keeps the one with the best validation accuracy (the smaller one of
    equals; one that diverges loses), and only that one is measured on the test split.
    Source: Koh et al., ICCV 2023, arXiv 2308.09971, name PL accuracy; the protocol is ours.

    Args:
        model: the published classifier; never changed.
        train: the images that the attacker draws from, the same ones for every model.
        validation, test: the attacked task's other splits.
        num_classes: number of classes of the attacked task.
        attack: name of the attack, one of `attack_names()`.
        budget: training images a class.
        seed: seed of the images and of the new head.
        labels: names of the classes, for attacks that start from the published head.
        retain: images of classes that the published head knows, for attacks that use them.
        config: learning rates, steps and batch sizes; its lists of attacks, budgets and seeds are not used.
        device: where to run; None means the model's own device.

    Returns:
        The result; it depends on the arguments only.

    Raises:
        ConfigError: the attack does not apply to this model.
        ModelError: the weights are not finite, there is no exchangeable classifier, or the images do not fit.
        DataError: a class has fewer images than the budget, there is one class only, a split is empty, or labels
            are out of range.
    """
    names = tuple(labels) if labels is not None else tuple(f"class {i}" for i in range(num_classes))
    if len(names) != num_classes:
        raise DataError(f"There are {len(names)} names of classes for `num_classes` {num_classes}. Give one a class.")
    task = AttackedTask("attacked", "source_subset", names, train, validation, test, retain)
    return Attacker(model, task, config or AttackConfig(), device).run(attack, budget, seed)
