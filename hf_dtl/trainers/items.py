"""What trainers are given as data, as items: decoded, labelled with rows of a head, and checked."""

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset

from hf_dtl.data import load_images
from hf_dtl.data.columns import find_image_column, find_label_column
from hf_dtl.data.decoding import WHITE, read_alike, reading, to_channels
from hf_dtl.data.duplicates import pictures
from hf_dtl.data.images import ImageTensors, LazyImages, size_of
from hf_dtl.data.processors import channels_of
from hf_dtl.errors import ConfigError, DataError, listing
from hf_dtl.fingerprint import fingerprint
from hf_dtl.models.heads import MultiHeadClassifier
from hf_dtl.models.labels import counted, rows_by_name, unnamed
from hf_dtl.trainers.head_rows import RENAME, check_rows, rows_by_class, rows_of_the_head, tell_rows

KEEP_ONE = "Leave one: dataset.remove_columns(the others), or dataset.cast_column(its name, datasets.Image())."
AS_NUMBERS = "Images that map() made numbers are given as hf_dtl.data.ImageTensors, or with_transform instead of map."
"""What to do in Python where the columns of classes and images cannot be told."""

MOST_PREPARED = 20.0
"""Above what a processor makes of an image: an image as it is has values up to 255."""

logger = logging.getLogger(__name__)


def items_of(
    dataset: Any,
    model: MultiHeadClassifier,
    processing_class: Any,
    load: Callable[..., Dataset] = load_images,
    desc: str | None = None,
) -> Any:
    """Decode and process a `datasets.Dataset` of images by `load`; leave other data sets as they are.

    Raises:
        ConfigError: there is no image processor for it, or it is streamed.
    """
    if isinstance(dataset, (datasets.IterableDataset, IterableDataset)):
        raise ConfigError(
            "A streamed data set has no length and no rows, which the trainer draws from. Load it without "
            "streaming=True, or `datasets.Dataset.from_list(list(stream), features=stream.features)`."
        )
    if not isinstance(dataset, datasets.Dataset):
        return dataset
    if processing_class is None:
        raise ConfigError(
            "A `datasets.Dataset` of images needs the model's image processor: give processing_class=..., for example "
            "`AutoImageProcessor.from_pretrained(...)`, or data sets of {'pixel_values', 'labels'} items."
        )
    return load(dataset, processing_class, num_channels=channels_of(model.backbone.config), desc=desc)


def labelled_items(
    parts: Mapping[str, tuple[Any, str]], model: MultiHeadClassifier, processing_class: Any, *, trained: bool = True
) -> list[Any]:
    """What a trainer is given, as items {"pixel_values", "labels"} whose labels are rows of a head.

    A `datasets.Dataset` may have any column of images and of classes. Its classes are matched with the head's by
    name; integers are rows of the head, but names where its rows are named by numbers; and where it has no names, the
    classes of a ClassLabel are its rows in their order. Images of `load_images` are matched likewise. What
    `with_transform` makes of it is respected, and the background that `load_task` was given. Pictures that one head is
    to forget and to retain are told. Items of other data sets are checked when they are drawn.

    Args:
        parts: a data set and the task of its head, by what it is for, for messages.
        model: whose heads answer.
        processing_class: image processor.
        trained: whether the retain data are trained on; else they may be the forget data.

    Raises:
        ConfigError: see `items_of`.
        DataError: there is no image, no class or an unknown one.
    """
    parts = {name: (_unwrapped(part, name), task) for name, (part, task) in parts.items()}
    for name, (part, _) in parts.items():
        streamed = isinstance(part, (datasets.IterableDataset, IterableDataset))
        if not streamed and (isinstance(part, dict) or not hasattr(part, "__len__")):
            names = list(part) if isinstance(part, dict) else [s for s in ("train", "test") if hasattr(part, s)]
            splits = f" It has the splits {listing(names)}: give one of them." if names else ""
            raise ConfigError(f"The {name} data set must be a data set, got {type(part).__name__}.{splits}")
    found = []
    tables = {name: part for name, (part, _) in parts.items() if isinstance(part, datasets.Dataset)}
    rows = {
        name: rows_of_the_head(part, model, parts[name][1], f"The {name} data set") for name, part in tables.items()
    }
    plain = {name: _with_image(name, part) for name, part in tables.items() if part.format["type"] != "custom"}
    plain = read_alike(plain)
    for name, (part, _) in parts.items():
        if name in tables and name not in plain:
            found.append(TransformedItems(name, part, rows[name], model, processing_class))
            continue
        items = items_of(plain.get(name, part), model, processing_class, desc=f"The {name} data set")
        if name in plain:
            items.labels = rows[name]
        else:
            task = parts[name][1]
            items = numbered(items, model.labels[task], f"The {name} data set")
            items = _given(items, name, model, task, processing_class)
        found.append(items)
    check_order(parts, model)
    same_head = "retain" in parts and parts["retain"][1] == parts["forget"][1]
    if same_head and (trained or parts["retain"][0] is not parts["forget"][0]):
        _tell_copies(dict(zip(parts, found, strict=True)), tables)
    return found


def _unwrapped(part: Any, name: str) -> Any:
    """A part of a table as a table, so that its classes are matched by name too."""
    if isinstance(part, Subset) and isinstance(base := _unwrapped(part.dataset, name), datasets.Dataset):
        return base.select(part.indices)
    if isinstance(part, ConcatDataset) and any(isinstance(one, datasets.Dataset) for one in part.datasets):
        raise ConfigError(
            f"The {name} data set joins tables by torch. Join them by datasets.concatenate_datasets, and give that "
            "its transform."
        )
    return part


def _given(items: Any, name: str, model: MultiHeadClassifier, task: str, processing_class: Any) -> Any:
    """Data of the user's own as items that are checked when they are drawn; those of this package at once."""
    classes = model.heads[task].out_features
    if isinstance(items, (ImageTensors, LazyImages)):
        check_rows(items.labels.numpy(), classes, f"The {name} data set")
    elif size_of(items) and not isinstance(getattr(items, "labels", None), (Tensor, Mapping)):
        numbers = _rows_of_classes(items, model.labels[task], f"The {name} data set")
        items = GivenItems(items, f"The {name} data set", classes, channels_of(model.backbone.config), numbers)
        if (names := model.labels[task]) and counted(names) and any(str(row) != n for row, n in enumerate(names)):
            tell_rows(f"The {name} data set", names)
    else:
        return items
    scaled = getattr(processing_class, "do_rescale", True) or getattr(processing_class, "do_normalize", True)
    if scaled and size_of(items) and (most := float(items[0]["pixel_values"].abs().max())) > MOST_PREPARED:
        told = "The %s data set: its pixel_values reach %.0f, as of an image that was not prepared. Use the processor."
        logger.warning(told, name, most)
    return items


def _rows_of_classes(items: Any, names: tuple[str, ...], where: str) -> list[int] | None:
    """Rows of the head by the classes that a data set names as torchvision does (`classes`); None without."""
    while isinstance(items, Subset):
        items = items.dataset
    known = getattr(items, "classes", None)
    if not isinstance(known, (list, tuple)) or not all(isinstance(name, str) for name in known) or unnamed(names):
        return None
    rows = rows_by_class(tuple(known), np.arange(len(known)), True, names, where).tolist()
    if rows != list(range(len(known))):
        told = "%s: its labels number its classes (%s); they are matched with the head's rows by name."
        logger.warning(told, where, listing(known, 5))
    return rows


def check_order(parts: Mapping[str, tuple[Any, str]], model: MultiHeadClassifier) -> None:
    """Refuse data that put a class into two rows of a head without names, whose rows are the order of the classes.

    Args: as of `labelled_items`.

    Raises:
        DataError: naming the class and the two data sets.
    """
    orders = dict[str, tuple[str, dict[str, int]]]()
    for name, (part, task) in parts.items():
        if not unnamed(model.labels[task]):
            continue
        part = _unwrapped(part, name)
        if isinstance(part, datasets.Dataset):
            feature = part.features[find_label_column(part.features, None, f"The {name} data set", RENAME)]
            known = getattr(feature, "names", ())
            rows = rows_by_name(known, model.labels[task], name) or []
        else:
            known = getattr(part, "names", None) or ()
            rows = list(range(len(known)))
        found = dict(zip(known, rows, strict=False))
        other, first = orders.setdefault(task, (name, found))
        if wrong := [label for label in found if first.get(label, found[label]) != found[label]]:
            raise DataError(
                f"The head has no names (LABEL_0, ...), and the class {wrong[0]!r} has the number {first[wrong[0]]} "
                f"in the {other} data set, {found[wrong[0]]} in the {name} data set: which row it is cannot be told. "
                "Set model.config.id2label and label2id."
            )


def _tell_copies(items: Mapping[str, Any], tables: Mapping[str, datasets.Dataset]) -> None:
    """Warn of pictures that one head is to forget and to retain: training on them gives them back."""
    both = ("forget", "retain")
    found: list[list[Any]]

    def one_image(table: datasets.Dataset) -> bool:
        return [type(feature) for feature in table.features.values()].count(datasets.Image) == 1

    tensors = [list(_pixels(items[name])) for name in both]
    if all(tensors):
        found = [[fingerprint([image]) for image in images] for images in tensors]
    elif all(name in tables and one_image(tables[name]) for name in both):
        found = [pictures(_with_image(name, tables[name]), f"The {name} data set") for name in both]
    else:
        return
    known = set(found[0])
    if copies := [row for row, picture in enumerate(found[1]) if picture in known]:
        told = "The retain data set: %d of %d images are also to be forgotten, and training gives them back: row %s. "
        logger.warning(told + "Leave them out.", len(copies), len(found[1]), listing(copies, 5))


def _pixels(items: Any) -> Sequence[Tensor]:
    """Images that are in memory, also in the wrappers of torch; empty for others."""
    if isinstance(items, ImageTensors):
        return items.pixel_values  # type: ignore[return-value]
    if isinstance(items, GivenItems):
        return _pixels(items.dataset)
    if isinstance(items, Subset):
        base = _pixels(items.dataset)
        return [base[row] for row in items.indices] if len(base) else []
    if isinstance(items, ConcatDataset):
        parts = [_pixels(part) for part in items.datasets]
        return [image for part in parts for image in part] if all(map(len, parts)) else []
    return []


def numbered(items: Any, names: tuple[str, ...], where: str) -> Any:
    """Images of `load_images`, also in a `Subset` or `ConcatDataset`, with rows of the head as their labels.

    Args:
        items: others are returned as they are.
        names: of the head's rows; to a head without names the numbers of the classes are its rows.
        where: the data set, for messages.

    Raises:
        DataError: see `labelled_items`.
    """
    if isinstance(items, Subset):
        return Subset(numbered(items.dataset, names, where), items.indices)
    if isinstance(items, ConcatDataset):
        return ConcatDataset([numbered(part, names, where) for part in items.datasets])
    if not isinstance(items, (ImageTensors, LazyImages)) or items.names is None or unnamed(names):
        return items
    rows = rows_by_class(items.names, items.labels.numpy(), True, names, where)
    items = copy.copy(items)
    items.labels, items.names = check_rows(rows, len(names), where), None
    return items


class GivenItems(Dataset):
    """A data set of the user's own, each item checked when it is drawn, and its label made a whole number.

    Args:
        dataset: gives {"pixel_values": (C, H, W) float, "labels": row of the head}.
        where: the data set, for messages.
        classes: rows of the head.
        channels: that the model takes.
        rows: of the head, by the number that an item has as its label; None where these are rows already.
    """

    def __init__(
        self, dataset: Dataset, where: str, classes: int, channels: int, rows: Sequence[int] | None = None
    ) -> None:
        self.dataset, self.where, self.classes, self.channels, self.rows = dataset, where, classes, channels, rows
        self[0]

    def __len__(self) -> int:
        return size_of(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.dataset[index]
        label = _row_of(item, f"{self.where}: its item {index}")
        if self.rows is not None and 0 <= label < len(self.rows):
            label = self.rows[label]
        check_rows(np.array([label]), self.classes, self.where, index)
        pixels: Any = item.get("pixel_values")
        values = isinstance(pixels, Tensor) and pixels.is_floating_point()
        if not values or pixels.ndim != 3 or len(pixels) != self.channels or not pixels.isfinite().all():
            kind = f"{pixels.dtype}, {tuple(pixels.shape)}" if isinstance(pixels, Tensor) else type(pixels).__name__
            raise DataError(
                f"{self.where}: the pixel_values of item {index} are {kind}; they must be a float tensor of "
                f"{self.channels} channels, height and width, of finite values. The model's processor makes them."
            )
        return {"pixel_values": pixels, "labels": label}


def _row_of(item: Any, where: str) -> int:
    """The label of an item; refuse what is not one whole number."""
    label = item["labels"] if isinstance(item, Mapping) and "labels" in item else None
    number = None if label is None or isinstance(label, str) else torch.as_tensor(label)
    if number is None or number.numel() != 1 or number.is_floating_point() or number.dtype == torch.bool:
        parts = list(item) if isinstance(item, Mapping) else [type(part).__name__ for part in item]
        given = f"is {listing(parts, 5)}" if label is None else f"has the labels {label!r}"
        given = given if number is None else f"has the labels {number.tolist()}"
        raise ConfigError(
            f"{where} {given}. An item is {{'pixel_values', 'labels'}}, its label one row of the head, a whole "
            "number; images with several labels are not taken, also by a head of sigmoids."
        )
    return int(number)


def _with_image(name: str, part: datasets.Dataset) -> datasets.Dataset:
    """The column of images alone, called `image`."""
    remedy = AS_NUMBERS if "pixel_values" in part.features else KEEP_ONE
    column = find_image_column(part.features, None, f"The {name} data set", remedy)
    images = part.with_format(None).select_columns([column])
    images = images if column == "image" else images.rename_column(column, "image")
    return images.cast_column("image", datasets.Image(id=getattr(part.features[column], "id", None)))


class TransformedItems(Dataset):
    """Images of a data set as its transform gives them, with labels that are rows of a head.

    Args:
        name: what it is for, for messages.
        dataset: its transform makes `pixel_values`, or images that the processor prepares.
        labels: (N,) int64.
        model: whose channels count.
        processing_class: image processor; not used for `pixel_values`.
    """

    def __init__(
        self, name: str, dataset: datasets.Dataset, labels: Tensor, model: MultiHeadClassifier, processing_class: Any
    ) -> None:
        self.name, self.dataset, self.labels, self.processor = name, dataset, labels, processing_class
        self.channels = channels_of(model.backbone.config)
        first = dataset[0]
        self.image = (
            None if "pixel_values" in first else find_image_column(dataset.features, None, "The data set", KEEP_ONE)
        )
        self.reading = reading(dataset.features.get(self.image)) or (16, WHITE)
        if self.image is not None and processing_class is None:
            items_of(dataset, model, None)
        if self.image is not None and self.image not in first:
            raise ConfigError(
                f"The transform gives neither 'pixel_values' nor '{self.image}', but {listing(list(first))}."
            )
        new = [name for name in ("labels", "label") if name in first and name not in dataset.features]
        self.given = new[0] if new else None
        column = find_label_column(dataset.features, None, "The data set", RENAME)
        if (self.given or column) in first:
            self._judge_labels(column, self.given or column)

    def _judge_labels(self, column: str, given: str) -> None:
        """Take labels of the transform that are the data's own by name; an image of each class tells."""
        values = self.dataset.with_format(None).select_columns([column])[column]
        rows = {value: row for row, value in enumerate(values) if value is not None}
        made = {row: self.dataset[row][given] for row in rows.values()}
        if all(np.array_equal(made[row], value) for value, row in rows.items()):
            if self.given and any(made[row] != self.labels[row] for row in made):
                told = (
                    "The %s data set: its transform gives the numbers of the data's classes as %r; they are matched "
                )
                logger.warning(told + "with the head's rows by name.", self.name, given)
            self.given = None
        elif self.given is None:
            raise ConfigError(
                f"The transform changes the labels of the column {column!r}, so it cannot be told whether they are "
                "classes of the data or rows of the head. Give the rows in a new column 'labels'."
            )
        for label in made.values() if self.given else ():
            _row_of({"labels": label}, f"The {self.name} data set: an item of its transform")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.dataset[int(index)]
        if self.image is None:
            pixels = item["pixel_values"]
        else:
            image = to_channels(item[self.image], self.channels, *self.reading)
            pixels = self.processor([image])["pixel_values"][0]
        label = self.labels[int(index)] if self.given is None else item[self.given]
        return {"pixel_values": torch.as_tensor(np.asarray(pixels)).float(), "labels": int(label)}
