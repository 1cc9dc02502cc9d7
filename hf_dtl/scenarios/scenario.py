"""What every scenario is: images by name, what an attacker relearns from them, and a spec to build it again."""

import copy
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Self

import torch
from datasets import Dataset
from transformers import BaseImageProcessor, PreTrainedModel

from hf_dtl.audit import AttackedTask, accuracy
from hf_dtl.audit.classifiers import per_label
from hf_dtl.audit.task import draw_up_to
from hf_dtl.data.images import ImageTensors, LazyImages, load_images
from hf_dtl.data.transfer import load_transfer
from hf_dtl.errors import DataError
from hf_dtl.models.labels import head_names, unnamed
from hf_dtl.scenarios.spec import ScenarioKind, ScenarioSpec

logger = logging.getLogger(__name__)

Images = ImageTensors | LazyImages
Models = Mapping[str, PreTrainedModel | Sequence[PreTrainedModel]]
POOL = 400
"""Images a class, at least, that attacks and membership inference draw from where not all are kept in memory."""


@dataclass
class Measurements:
    """What models answer, before any attack trains them.

    Args:
        accuracy: by split, then by role of the model; of several tasks by task before that.
        membership: one object an attack on a model, see `LeakageReport`.
        notes: what was left out, as sentences.
    """

    accuracy: dict[str, dict[str, Any]] = field(default_factory=dict)
    membership: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __add__(self, other: "Measurements") -> "Measurements":
        """The measurements of both; the models must differ."""
        return Measurements(
            _merged(self.accuracy, other.accuracy),
            self.membership + other.membership,
            list(dict.fromkeys(self.notes + other.notes)),
        )


def _merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The values of two nested dictionaries; those of the other come last."""
    nested = {key: _merged(one[key], value) for key, value in other.items() if isinstance(one.get(key), dict)}
    return one | other | nested


class Scenario(ABC):
    """What is forgotten and what is kept.

    Making one opens the data sets and checks names, columns, classes and counts; no image is decoded. `load` does
    that, with the processor of a model.

    Args:
        spec: what decides the images.
        most_budget: largest number of images a class that an attacker will draw.

    Raises:
        DataError: data, a class, a column or a split cannot be used.
    """

    kind: ClassVar[ScenarioKind]
    spec: ScenarioSpec
    processor: BaseImageProcessor
    channels: int
    images: Mapping[str, Any]
    """By name, once `load` was called."""

    def __init__(self, spec: ScenarioSpec, most_budget: int):
        self.spec, self.most_budget = spec, most_budget
        self._open()

    @abstractmethod
    def _open(self) -> None:
        """Open the data sets."""

    @abstractmethod
    def load(self, processor: BaseImageProcessor, model: Any) -> None:
        """Decode the images as a model takes them.

        Args:
            processor: the model's image processor.
            model: the classifier, or of several tasks the `MultiHeadClassifier`; its head and channels are read.
        """

    @property
    @abstractmethod
    def attacked(self) -> dict[str, AttackedTask]:
        """What an attacker relearns, by a name of its own."""

    @property
    @abstractmethod
    def names(self) -> dict[str, str]:
        """What is forgotten (`source`), kept (`target`) and, where there is one, novel, as a report may show it."""

    @property
    @abstractmethod
    def labels(self) -> tuple[str, ...]:
        """Classes that a new model is trained on first."""

    @cached_property
    def transfer(self) -> Images | None:
        """Images that a teacher may name for a student, loaded when they are asked for; None where none are named."""
        s = self.spec
        if s.transfer_dataset is None:
            return None
        chosen: dict[str, Any] = {"image_column": s.image_column, "count": s.transfer_images, "seed": s.seed}
        chosen["background"] = s.background
        images = load_transfer(s.transfer_dataset, **chosen, **self._guard())
        return load_images(images, self.processor, num_channels=self.channels, desc="transfer")

    def _guard(self) -> dict[str, Any]:
        """What `load_transfer` compares them with."""
        raise NotImplementedError

    def public_spec(self) -> dict[str, Any]:
        """The spec as a report holds it: data sets by the names that are safe to publish."""
        return self.spec.to_dict()

    def counts(self) -> dict[str, Any]:
        """Number of images by name, for the report."""
        return {name: len(images) for name, images in self.images.items()}

    @abstractmethod
    def findings(self, measurements: Measurements, cost: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What was measured as a report holds it: the fields of `LeakageReport` that depend on the kind of scenario.

        Args:
            found: of the undisposed and the scrubbed model, and the retrained one where there is one.
            cost: of the trainings by role, where it is known.
        """

    def with_test(self, split: str) -> Self:
        """The same images with every number taken on another split; `validation` is for tuning."""
        other = copy.copy(self)
        other.spec = self.spec.with_test(split)  # type: ignore[arg-type]
        other.__dict__.pop("attacked", None)
        return other

    def _read(self, dataset: Dataset, name: str, channels: int, *, held_out: bool, whole: bool = True) -> Images:
        """Images of a split; a held-out one is cut to max_eval_images, and in memory, as all are if not `whole`."""
        cap = self.spec.max_eval_images
        if held_out and cap is not None and cap < len(dataset):
            dataset = dataset.shuffle(seed=0).select(range(cap))
        # the audit keeps held-out splits in memory; training data above the limit are decoded on the fly
        limit = {"memory_limit_gib": float("inf")} if held_out or not whole else {}
        images = load_images(dataset, self.processor, num_channels=channels, desc=name, **limit)
        images.names = None  # the scenario numbers its labels as the heads do
        return images

    def capped(self, images: Images) -> ImageTensors:
        """At most max_eval_images of some training images, in memory, to measure a model on."""
        cap = self.spec.max_eval_images
        if cap is not None and cap < len(images):
            images = images.subset(range(cap))
        return in_memory(images, len(images))


def in_memory(images: Images, per_class: int) -> ImageTensors:
    """The images themselves, or a fixed draw of a data set that is too large to keep decoded."""
    if isinstance(images, ImageTensors):
        return images
    chosen = draw_up_to(images.labels, per_class, seed=0)
    return ImageTensors(torch.stack([images[int(i)]["pixel_values"] for i in chosen]), images.labels[chosen])


def check_budget(counts: Sequence[int], labels: Sequence[str], budget: int, name: str) -> None:
    """Refuse a budget that some class has too few training images for.

    Raises:
        DataError: naming these classes.
    """
    few = [f"'{label}' has {n}" for label, n in zip(labels, counts, strict=True) if n < budget]
    if few:
        raise DataError(
            f"A budget of {budget} images a class cannot be drawn from '{name}': of its training images the class "
            f"{', '.join(few)}. {f'Use --budgets up to {min(counts)}, or give' if min(counts) else 'Give'} more."
        )


def model_pair(values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Those of the undisposed and the scrubbed model."""
    return {role: values.get(role) for role in ("undisposed", "scrubbed")}


def accuracy_notes(models: Mapping[str, Any]) -> list[str]:
    """What a reader has to know of the accuracies of some models."""
    if not any(map(per_label, models.values())):
        return []
    return [
        "Accuracies of published heads are shares of labels, not of images: the head has a sigmoid for each label "
        "(multi_label_classification), and one that says no to every label is right in all but one of an image's."
    ]


def tell_order(models: Mapping[str, Any], found: Mapping[str, float | None], classes: int) -> None:
    """Warn where a head without names, taken by the order of the classes, is right less than half as often as a guess.

    Args:
        models, found: the models and their accuracies, in 0..1, by role.
        classes: among which they choose.
    """
    model, share = models.get("undisposed"), found.get("undisposed")
    if share is None or share > 0.5 / classes or not isinstance(model, PreTrainedModel) or per_label(model):
        return
    if unnamed(head_names(model)):
        told = "The undisposed model is right on %.3f of the images to keep, guessing on %.3f: its head has no names, "
        told += "and hardly the order of the classes. Write the names into id2label of its config.json."
        logger.warning(told, share, 1 / classes)


def accuracies(models: Models, images: Images, device: torch.device) -> dict[str, float]:
    """Accuracy of single models on images, by role; several draws of one role are left out."""
    return {
        role: accuracy(model.to(device), images)  # type: ignore[arg-type]
        for role, model in models.items()
        if isinstance(model, PreTrainedModel)
    }
