"""Images of the tasks that a report speaks of, where they are among the data that come with the library."""

from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import torch
from datasets import Dataset
from PIL import Image
from transformers import BaseImageProcessor

from hf_dtl.audit import AttackedTask, LeakageReport
from hf_dtl.audit.task import draw_up_to
from hf_dtl.data import DatasetSpec, ImageTensors, TaskData, load_images, load_task
from hf_dtl.data.sources import EMBEDDED_NAMES
from hf_dtl.errors import DataError, DTLError

PER_CLASS, PER_CLASS_OF_LARGE, LARGE = 20, 5, 3 * 64 * 64
"""Images a class behind each class mean, and as many others that test the means; fewer of large ones (in values)."""
SHOWN_SIDE = 224
ROOM = 300_000_000
"""Bytes of processed images of one task; a model with large inputs gets a part of them."""


@dataclass(frozen=True)
class Example:
    """An image to probe with, and what it shows."""

    image: Image.Image
    caption: str


@dataclass(frozen=True)
class Tasks:
    """Images of the source and the target task.

    Args:
        attacked: the source task, as the audit attacked it.
        classes: names of the source classes, then of the target classes, each with its task.
        sources: how many of these are source classes.
        means: training images that class means are taken of, labels counting through both tasks.
        tests: others that test the means.
        examples: one test image of every class.
    """

    attacked: AttackedTask
    classes: tuple[str, ...]
    sources: int
    means: ImageTensors
    tests: ImageTensors
    examples: tuple[Example, ...]


def tasks_of(report: LeakageReport, processor: BaseImageProcessor, channels: int) -> Tasks | str:
    """Load the tasks that a report names; a text that says why where they cannot be had.

    Only embedded data sets are opened: a report may come from anybody, and names what it likes.
    """
    names = {record.dataset for record in report.piggyback if record.axis == "source_subset"}
    target = report.settings.get("target_dataset")
    if report.unlearning is not None or len(names) != 1 or not isinstance(target, str):
        return "This model was made to forget a part of its own data, which is not published with it."
    source = names.pop()
    try:
        for name in (source, target):
            if DatasetSpec.parse(name).name not in EMBEDDED_NAMES:
                return f"Its images ({name[:80]}) do not come with this page. Attack it with scripts/audit.py."
        count, seed, cap = (report.settings.get(k) for k in ("forget_images_per_class", "seed", "max_eval_images"))
        for value in (count, seed, cap):
            if value is not None and (type(value) is not int or value < 0):
                raise DataError(f"the report's settings have {str(value)[:40]!r} where a number of images belongs.")
        return _load(source, target, count, seed or 0, cap or None, _Prepares(processor), channels)
    except DTLError as error:
        return f"Its images cannot be used here: {error}"


class _Prepares:
    """A processor as a key: equal to another one that prepares images in the same way."""

    def __init__(self, processor: BaseImageProcessor):
        self.processor, self._settings = processor, processor.to_json_string()

    def __hash__(self) -> int:
        return hash(self._settings)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Prepares) and self._settings == other._settings


@lru_cache(maxsize=2)
def _load(
    source: str, target: str, count: int | None, seed: int, cap: int | None, prepares: _Prepares, channels: int
) -> Tasks:
    """Load both tasks; pairs of the same tasks share them."""

    def tensors(dataset: Dataset) -> ImageTensors:
        return cast(ImageTensors, load_images(dataset, prepares.processor, num_channels=channels))

    def images(dataset: Dataset, cap: int | None = None) -> ImageTensors:
        cap = min(most, len(dataset) if cap is None else cap)
        if cap < len(dataset):
            dataset = dataset.shuffle(seed=0).select(range(cap))  # the cut of the main job
        return tensors(dataset)

    def few(split: str) -> ImageTensors:
        """A few images of every class of both tasks, labels counted through."""
        parts = []
        for dataset in (getattr(forget, split), getattr(keep, split)):
            rows = draw_up_to(torch.tensor(dataset["label"]), PER_CLASS_OF_LARGE if large else PER_CLASS, seed=0)
            parts.append(tensors(dataset.select(rows.tolist())))
        labels = torch.cat([parts[0].labels, parts[1].labels + len(forget.labels)])
        return ImageTensors(torch.cat([part.pixel_values for part in parts]), labels)

    forget, keep = load_task(source, images_per_class=count, seed=seed), load_task(target)
    values = tensors(forget.test.select([0])).pixel_values.numel()
    large, most = values > LARGE, ROOM // (3 * 4 * values)
    attacked = AttackedTask(
        name=source, axis="source_subset", labels=forget.labels, train=images(forget.train),
        validation=images(forget.validation, cap), test=images(forget.test, cap),
    )  # fmt: skip
    classes = [f"{label} (source)" for label in forget.labels] + [f"{label} (target)" for label in keep.labels]
    examples = (*_first_of_each(forget), *_first_of_each(keep))
    return Tasks(attacked, tuple(classes), len(forget.labels), few("train"), few("test"), examples)


def _first_of_each(data: TaskData) -> list[Example]:
    labels = list(data.test["label"])
    images = [data.test[labels.index(label)]["image"].convert("RGB") for label in range(len(data.labels))]
    sharp = [image.resize((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.NEAREST) for image in images]
    return [Example(image, label) for image, label in zip(sharp, data.labels, strict=True)]
