"""The attacked task from what a user of the metric has: the name of a task, data sets, or tensors."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, TypeAlias

import datasets
import torch
from torch import Tensor
from transformers import BaseImageProcessor

from hf_dtl.audit import AttackedTask
from hf_dtl.audit.classifiers import LabelledImages
from hf_dtl.audit.store import Axis
from hf_dtl.data import ImageTensors, columns, load_images, load_task
from hf_dtl.data.decoding import read_alike
from hf_dtl.errors import ConfigError, DataError, listing
from hf_dtl.fingerprint import fingerprint

Images: TypeAlias = str | datasets.Dataset | LabelledImages

VALIDATION_FRACTION, MOST_VALIDATION = 0.2, 100
POOL = 20
"""The attacker draws from at most so many times its largest budget; other images of a data set are not decoded."""


def attacked_task(
    train_dataset: Images,
    test_dataset: Images | None = None,
    validation_dataset: Images | None = None,
    *,
    most_budget: int,
    num_channels: int,
    processor: Callable[[], BaseImageProcessor],
    labels: Sequence[str] | None = None,
    num_classes: int | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    axis: Axis = "source_subset",
) -> AttackedTask:
    """Prepare the images of an attack; every split of the task is in memory then.

    Args:
        most_budget: largest budget, in images a class.
        num_channels: as the model takes.
        processor: gives the image processor; called only where images have to be decoded.

    The other arguments and the errors are those of `hf_dtl.metrics.attack.attack_model`.
    """
    given: dict[str, Any] = {"train": train_dataset, "validation": validation_dataset, "test": test_dataset}
    given = {split: images for split, images in given.items() if images is not None}
    _check_kinds(given, labels=labels, image_column=image_column, label_column=label_column)
    name = "attacked task"
    if isinstance(train_dataset, str):
        task = load_task(train_dataset, image_column=image_column, label_column=label_column)
        name, names = task.name, task.labels
        parts = {split: getattr(task, split) for split in ("train", "validation", "test")}
    elif isinstance(train_dataset, datasets.Dataset):
        parts, names = _from_datasets(given, image_column, label_column)
    else:
        parts = {split: _tensors(images, split) for split, images in given.items()}
        parts, known = _by_name(parts)
        names = _names(parts, labels if labels is not None else known, num_classes)
    if num_classes not in (None, len(names)):
        raise ConfigError(f"num_classes is {num_classes}, but there are {len(names)} classes: {', '.join(names)}.")
    if "validation" not in parts:
        held_out = validation_rows(_labels(parts["train"]), most_budget, names)
        parts["validation"] = _select(parts["train"], held_out)
        parts["train"] = _select(parts["train"], ~held_out)
    _check_judged(_labels(parts["train"]), _labels(parts["test"]), names)
    if isinstance(parts["train"], datasets.Dataset):
        parts["train"] = _select(parts["train"], _draw(_labels(parts["train"]), lambda count: POOL * most_budget))
        prepare, options = processor(), dict[str, Any](num_channels=num_channels, memory_limit_gib=float("inf"))
        parts = {s: load_images(part, prepare, desc=f"{name} {s}", **options) for s, part in parts.items()}
    if not isinstance(train_dataset, str):
        _check_apart(parts, given)
    return AttackedTask(name=name, axis=axis, labels=names, **parts)


def _check_judged(train: Tensor, test: Tensor, names: Sequence[str]) -> None:
    """Refuse test labels without some classes that are learned: an accuracy would speak of the others alone."""
    seen, judged = {*train.tolist()}, {*test.tolist()}
    if lacking := [names[label] for label in sorted(seen - judged)]:
        raise DataError(
            f"The test images have none of the classes {listing(lacking, 5)}, which the attacker learns: "
            f"{len(lacking)} of {len(seen)}. Give test images of every class, or train images of the others alone."
        )


def _check_apart(parts: Mapping[str, LabelledImages], given: Iterable[str]) -> None:
    """Refuse pictures on which the attacker trains or chooses, and is measured too."""
    digests = {split: [fingerprint([image]) for image in part.pixel_values] for split, part in parts.items()}
    for split in {"train", "validation"} - {*given}:  # drawn from the training images
        digests["train"] += digests.pop(split)
    for one, other in combinations([split for split in ("train", "validation", "test") if split in digests], 2):
        known = set(digests[one])
        if rows := [row for row, digest in enumerate(digests[other]) if digest in known]:
            raise DataError(
                f"{len(rows)} of {len(digests[other])} pictures of {other}_dataset are in {one}_dataset too: row "
                f"{listing(rows, 5)}. What the attacker remembers would count as learned: take them out of one."
            )


def validation_rows(labels: Tensor, most_budget: int, names: Sequence[str]) -> Tensor:
    """Choose the training images that become validation images, always the same ones.

    Args:
        labels: (images,) classes of the training images.
        most_budget: images that every class must keep.
        names: of the classes, for the message.

    Returns:
        (images,) bool.

    Raises:
        DataError: a class has no image to spare.
    """

    def share(count: int) -> int:
        return min(max(1, round(VALIDATION_FRACTION * count)), MOST_VALIDATION, count - most_budget)

    for label, count in zip(*(values.tolist() for values in labels.unique(return_counts=True)), strict=True):
        if share(count) < 1:
            raise DataError(
                f"The class '{names[label]}' has {count} training images: too few for a budget of {most_budget} and "
                "for validation images beside it. Give a validation_dataset, smaller budgets or more images."
            )
    return _draw(labels, share)


def _draw(labels: Tensor, share: Callable[[int], int]) -> Tensor:
    """Mask of a fixed random draw of `share(images of the class)` from each class."""
    mask = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        rows = torch.nonzero(labels == label).flatten()
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(label))
        mask[rows[order[: share(len(rows))]]] = True
    return mask


def _check_kinds(arguments: Mapping[str, Images], **options: object) -> None:
    """Refuse arguments that contradict each other, before anything is read."""
    train = arguments["train"]
    if isinstance(train, str):
        if len(arguments) > 1:
            raise ConfigError(
                f"train_dataset {train!r} names a whole task, which has validation and test images of its own. Leave "
                "out test_dataset and validation_dataset, or give data sets for all of them."
            )
    elif "test" not in arguments:
        raise ConfigError("test_dataset is missing: PL accuracy is measured on images that the attacker never sees.")
    kinds = {
        next((kind for kind in (str, datasets.Dataset) if isinstance(one, kind)), None) for one in arguments.values()
    }
    if len(kinds) > 1:
        raise ConfigError(
            "train_dataset, validation_dataset and test_dataset must be of one kind, got "
            f"{', '.join(type(images).__name__ for images in arguments.values())}."
        )
    for one, other in combinations(arguments, 2):
        if arguments[one] is arguments[other]:
            raise ConfigError(f"{one}_dataset and {other}_dataset are the same images. They must share none.")
    tensors = kinds == {None}
    for name in ("image_column", "label_column") if tensors else ("labels",):
        if options[name] is not None:
            kind = "data sets" if tensors else "tensors"
            raise ConfigError(f"{name} is {options[name]!r}, but it is for {kind} only. Leave it out.")


def _from_datasets(
    splits: Mapping[str, datasets.Dataset], image_column: str | None, label_column: str | None
) -> tuple[dict[str, datasets.Dataset], tuple[str, ...]]:
    for split, part in splits.items():
        if part.format["type"] == "custom":
            raise ConfigError(
                f"{split}_dataset has a transform (with_transform), which would not be used: the attack prepares "
                f"images by the processor. Take it off, {split}_dataset.with_format(None), or give ImageTensors of "
                "what it makes."
            )
    features = splits["train"].features
    image_column = columns.find_image_column(features, image_column, "train_dataset", "Give image_column.")
    label_column = columns.find_label_column(features, label_column, "train_dataset", "Give label_column.")
    for split, part in splits.items():
        for column in (image_column, label_column):
            columns.require_column(part.features, column, f"{split}_dataset")
    names, ids = columns.class_ids(splits, label_column, "train_dataset")
    for split, labels in ids.items():
        if (labels < 0).any():
            raise DataError(f"{split}_dataset has {int((labels < 0).sum())} images without a label. Remove them.")
    feature = columns.class_feature(names)
    found = {s: columns.images_beside(part, image_column, {"label": ids[s]}, feature) for s, part in splits.items()}
    return read_alike(found), names


def _tensors(images: LabelledImages, split: str) -> ImageTensors:
    try:
        pixel_values, labels = images.pixel_values, images.labels
    except AttributeError:
        raise DataError(
            f"{split}_dataset is a {type(images).__name__}. Give a datasets.Dataset, an object with the tensors "
            "`pixel_values` and `labels` (as hf_dtl.data.ImageTensors), or the name of a task as train_dataset."
        ) from None
    if pixel_values.ndim != 4 or labels.ndim != 1 or labels.is_floating_point():
        raise DataError(
            f"{split}_dataset has pixel_values of shape {tuple(pixel_values.shape)} and labels of shape "
            f"{tuple(labels.shape)}, {labels.dtype}. Expected are 4 dimensions, and integers in 1."
        )
    if len(labels) == 0 or len(labels) != len(pixel_values):
        raise DataError(f"{split}_dataset has {len(pixel_values)} images and {len(labels)} labels.")
    return ImageTensors(pixel_values, labels, getattr(images, "names", None))


def _by_name(parts: dict[str, ImageTensors]) -> tuple[dict[str, ImageTensors], tuple[str, ...] | None]:
    """Parts whose labels number the same classes, and their names, where `load_images` gave them names."""
    known = parts["train"].names
    for split, part in parts.items():
        if part.names != known and (part.names is None or known is None or set(part.names) != set(known)):
            raise DataError(
                f"{split}_dataset has the classes {listing(part.names or ['without names'], 12)}, train_dataset "
                f"{listing(known or ['without names'], 12)}. Give all of them with the same names, or none."
            )
        if known is not None and part.names is not None and part.names != known:
            rows = torch.tensor([known.index(name) for name in part.names])
            parts = parts | {split: ImageTensors(part.pixel_values, rows[part.labels.cpu()], known)}
    return parts, known


def _names(
    parts: Mapping[str, ImageTensors], labels: Sequence[str] | None, num_classes: int | None
) -> tuple[str, ...]:
    every = torch.cat([part.labels.cpu() for part in parts.values()])
    lowest, highest = int(every.min()), int(every.max())
    names = tuple(labels) if labels is not None else tuple(str(n) for n in range(num_classes or highest + 1))
    if lowest < 0 or highest >= len(names):
        raise DataError(f"The labels are in {lowest}..{highest}; with {len(names)} classes they must be in "
                        f"0..{len(names) - 1}.")  # fmt: skip
    return names


def _labels(part: datasets.Dataset | ImageTensors) -> Tensor:
    if isinstance(part, datasets.Dataset):
        return torch.tensor(columns.labels_of(part))
    return part.labels


def _select(part: datasets.Dataset | ImageTensors, mask: Tensor) -> datasets.Dataset | ImageTensors:
    rows = torch.nonzero(mask).flatten().tolist()
    return part.select(rows) if isinstance(part, datasets.Dataset) else part.subset(rows)
