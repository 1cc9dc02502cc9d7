"""What will make an audit's numbers say little, told before its first attack."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from transformers import PreTrainedModel

from hf_dtl.audit.attacks.attack import Unit
from hf_dtl.audit.attacks.registry import find_attack
from hf_dtl.audit.config import AttackConfig
from hf_dtl.audit.piggyback import Attacker
from hf_dtl.audit.references import PixelModel
from hf_dtl.audit.suites import CUSTOM, IMAGES
from hf_dtl.audit.task import AttackedTask
from hf_dtl.functional import mean_and_scale

logger = logging.getLogger(__name__)
LOOKED_AT, FEWEST = 64, 20
"""Images by which features are judged; validation images below which nothing is said of guessing."""


def tell_doubts(
    models: Mapping[str, Sequence[PreTrainedModel]], axes: Mapping[str, AttackedTask], config: AttackConfig
) -> None:
    """Log a warning for each doubt; see `run_audit` for the arguments."""
    for doubt in dict.fromkeys(_doubts(models, axes, config)):
        logger.warning("%s", doubt)


def _doubts(
    models: Mapping[str, Sequence[PreTrainedModel]], axes: Mapping[str, AttackedTask], config: AttackConfig
) -> Iterator[str]:
    suite = config.suite()["name"]
    for task in axes.values():
        counts = {"validation": len(task.validation), "test": len(task.test)}
        few = [f"{count} {name}" for name, count in counts.items() if count < IMAGES]
        if few and suite != CUSTOM:
            yield (
                f"{suite} wants {IMAGES} validation and {IMAGES} test images; {task.name} has {' and '.join(few)} "
                "images. It can be run, and the numbers are noisier than their bounds say."
            )
        for role, (model, *_) in models.items():
            if isinstance(model, PixelModel):
                yield from _inseparable(model, task, config)
            elif _constant(Attacker(model, replace(task, retain=None), config)):
                trained = [name for name in config.attacks if find_attack(name).whole_network]
                yield (
                    f"The {role} model gives the same features for every image of {task.name}. Only the attacks that "
                    f"train the network can relearn: {', '.join(trained) or 'none of those asked for'}."
                )


def _constant(attacker: Attacker) -> bool:
    """Whether images cannot be told apart by what enters the classifier."""
    train = attacker.task.train
    images = train.pixel_values[:: max(1, len(train) // LOOKED_AT)][:LOOKED_AT]
    return not mean_and_scale(attacker.features(images))[1].any()


def _inseparable(model: PixelModel, task: AttackedTask, config: AttackConfig) -> Iterator[str]:
    """Classes that nobody tells apart without weights, so that every use of weights counts."""
    unit, guess = Unit("class_means", max(config.budgets), config.seeds[0]), 1 / len(task.labels)
    attacker = Attacker(model, replace(task, retain=None), config)
    ((_, choice, _),) = find_attack(unit.attack).train(attacker, [unit])
    assert choice is not None  # it is in closed form
    reached = choice.validation_accuracy
    if len(task.validation) >= FEWEST and reached <= guess + 2 * (guess * (1 - guess) / len(task.validation)) ** 0.5:
        yield (
            f"Without weights {unit.budget} images a class of {task.name} teach nothing ({reached:.2f} of validation "
            f"images are named right, {guess:.2f} by guessing): no_model is no floor here. Leakage is measured over "
            "the others: scratch, base, retrained."
        )
