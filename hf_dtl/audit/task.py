"""The task that is attacked, and the images that the attacker draws from it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from hf_dtl.audit.classifiers import LabelledImages
from hf_dtl.audit.store import Axis
from hf_dtl.errors import ConfigError, DataError


@dataclass(frozen=True)
class AttackedTask:
    """A task that the attacker tries to learn from the published weights.

    Args:
        name: name of the data set, as the report shows it.
        axis: `source_subset` (the task that was to be forgotten) or `novel_downstream` (a task that nobody trained).
        labels: names of the classes; their number is what the attack needs.
        train, validation, test: the attacker's images; the learning rate is chosen on validation, accuracy is
            measured on test.
        retain: images of what the published model was to keep, numbered as its own head; for attacks that use them.
    """

    name: str
    axis: Axis
    labels: tuple[str, ...]
    train: LabelledImages
    validation: LabelledImages
    test: LabelledImages
    retain: LabelledImages | None = None

    def __post_init__(self) -> None:
        if self.axis not in get_args(Axis):
            raise ConfigError(f"Unknown axis {self.axis!r}; there are: {', '.join(get_args(Axis))}.")
        if not self.name:
            raise DataError("An attacked task needs the name of its data set.")


def draw_images(labels: Tensor, num_classes: int, budget: int, seed: int) -> Tensor:
    """Draw the attacker's training images: `budget` of each class, the same ones whatever the model is.

    Args:
        labels: (images,) in 0..num_classes-1.
        num_classes: number of classes.
        budget: images a class.
        seed: together with the budget it seeds the draw.

    Returns:
        (num_classes · budget,) positions in `labels`.

    Raises:
        DataError: a class has fewer than `budget` images; the message names it.
    """
    counts = torch.bincount(labels, minlength=num_classes).tolist()
    short = [f"class {label} has {count}" for label, count in enumerate(counts) if count < budget]
    if short:
        remedy = (
            f"Use budgets up to {min(counts)}, or give" if min(counts) else "Take out classes without images, or give"
        )
        raise DataError(
            f"A budget of {budget} images a class cannot be drawn: {', '.join(short)} training images. {remedy} more "
            "training images."
        )
    return _draw(labels, range(num_classes), budget, 1_000_003 * seed + budget)


def draw_up_to(labels: Tensor, per_class: int, seed: int) -> Tensor:
    """Draw up to `per_class` images of every class that is there; a class with fewer gives all.

    Args:
        labels: (images,) classes.
        per_class: most images a class.
        seed: seed of the draw.

    Returns:
        (drawn,) positions in `labels`.
    """
    return _draw(labels, labels.unique().tolist(), per_class, seed)


def _draw(labels: Tensor, classes: Iterable[int], per_class: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    members = [torch.nonzero(labels == label).flatten() for label in classes]
    return torch.cat([m[torch.randperm(len(m), generator=generator)[:per_class]] for m in members])


def check_task(task: AttackedTask) -> None:
    """Refuse a task that cannot be attacked.

    Raises:
        DataError: one class only, an empty split, labels out of range, or images and labels that differ in number.
    """
    train, validation, test, num_classes = task.train, task.validation, task.test, len(task.labels)
    if num_classes < 2:
        raise DataError(f"An attacked task needs at least 2 classes, got {num_classes}: one class is always right.")
    for name, split in (("train", train), ("validation", validation), ("test", test)):
        labels = split.labels
        if len(labels) == 0:
            raise DataError(f"The {name} split of the attacked task is empty. The attack needs images in every split.")
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= num_classes:
            raise DataError(
                f"The {name} split of the attacked task holds label {low if low < 0 else high}, "
                f"outside 0..{num_classes - 1}. Number the labels from 0 and give the right `num_classes`."
            )
        if len(split.pixel_values) != len(labels):
            raise DataError(f"The {name} split has {len(split.pixel_values)} images but {len(labels)} labels.")
    if len(train.labels.unique()) < 2:
        raise DataError(
            f"The train split of the attacked task holds class {int(train.labels[0])} only; "
            "relearning needs at least two classes."
        )
