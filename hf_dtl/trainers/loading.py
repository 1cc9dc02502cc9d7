"""What trainers do with what they are given: decode the images, freeze what nothing uses, look without training."""

import copy
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset
from transformers import PreTrainedModel

from hf_dtl.data import load_images
from hf_dtl.data.columns import class_ids, find_image_column, find_label_column, raw_column
from hf_dtl.data.decoding import WHITE, read_alike, reading, to_channels
from hf_dtl.data.duplicates import pictures
from hf_dtl.data.images import ImageTensors, LazyImages, size_of
from hf_dtl.data.names import match_names
from hf_dtl.data.processors import channels_of
from hf_dtl.errors import ConfigError, DataError, listing
from hf_dtl.fingerprint import fingerprint
from hf_dtl.models.heads import MULTI_LABEL, MultiHeadClassifier
from hf_dtl.models.labels import rows_by_name, unnamed
from hf_dtl.trainers.config import UnlearningConfig

RENAME = "Call it 'label': dataset.rename_column(its name, 'label')."
KEEP_ONE = "Leave one: dataset.remove_columns(the others), or dataset.cast_column(its name, datasets.Image())."
AS_NUMBERS = "Images that map() made numbers are given as hf_dtl.data.ImageTensors, or with_transform instead of map."
"""What to do in Python where the columns of classes and images cannot be told."""

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
    parts: Mapping[str, tuple[Any, str]], model: MultiHeadClassifier, processing_class: Any
) -> list[Any]:
    """What a trainer is given, as items {"pixel_values", "labels"} whose labels are rows of a head.

    A `datasets.Dataset` may have any column of images and of classes. Its classes are matched with the head's by
    name; integers are rows of the head, and where that has no names, the classes of a ClassLabel are its rows in their
    order. Images of `load_images` are matched likewise. What `with_transform` makes of it is respected, and the
    background that `load_task` was given. Pictures that one head is to forget and to retain are told.

    Args:
        parts: a data set and the task of its head, by what it is for, for messages.
        model: whose heads answer.
        processing_class: image processor.

    Raises:
        ConfigError: see `items_of`.
        DataError: there is no image, no class or an unknown one.
    """
    for name, (part, _) in parts.items():
        if part is None or isinstance(part, (dict, datasets.DatasetDict, datasets.IterableDatasetDict)):
            splits = f" It has the splits {listing(list(part))}: give one of them." if part else ""
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
            items = numbered(items, model.labels[parts[name][1]], f"The {name} data set")
        if size_of(items) and not hasattr(items, "labels"):
            _check_item(name, items[0])
        found.append(items)
    if "retain" in parts and parts["retain"][1] == parts["forget"][1]:
        _tell_copies(dict(zip(parts, found, strict=True)), tables)
    return found


def _tell_copies(items: Mapping[str, Any], tables: Mapping[str, datasets.Dataset]) -> None:
    """Warn of pictures that one head is to forget and to retain: training on them gives them back."""
    both = ("forget", "retain")
    found: list[list[Any]]

    def one_image(table: datasets.Dataset) -> bool:
        return [type(feature) for feature in table.features.values()].count(datasets.Image) == 1

    if all(isinstance(items[name], ImageTensors) for name in both):
        found = [[fingerprint([image]) for image in items[name].pixel_values] for name in both]
    elif all(name in tables and one_image(tables[name]) for name in both):
        found = [pictures(_with_image(name, tables[name]), f"The {name} data set") for name in both]
    else:
        return
    known = set(found[0])
    if copies := [row for row, picture in enumerate(found[1]) if picture in known]:
        told = "The retain data set: %d of %d images are also to be forgotten, and training gives them back: row %s. "
        logger.warning(told + "Leave them out.", len(copies), len(found[1]), listing(copies, 5))


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
    rows = _rows_by_class(items.names, items.labels.numpy(), True, names, where)
    items = copy.copy(items)
    items.labels, items.names = _checked(rows, len(names), where), None
    return items


def _check_item(name: str, item: Any) -> None:
    """Refuse items without one row of the head as their label."""
    label = item["labels"] if isinstance(item, Mapping) and "labels" in item else None
    number = None if label is None or isinstance(label, str) else torch.as_tensor(label)
    if number is None or number.numel() != 1 or number.is_floating_point():
        given = f"is {listing(list(item), 5)}" if label is None else f"has the labels {label!r}"
        given = given if number is None else f"has the labels {number.tolist()}"
        raise ConfigError(
            f"The {name} data set: its first item {given}. An item is {{'pixel_values', 'labels'}}, its label one row "
            "of the head, a whole number; images with several labels are not taken, also by a head of sigmoids."
        )


def _with_image(name: str, part: datasets.Dataset) -> datasets.Dataset:
    """The column of images alone, called `image`."""
    remedy = AS_NUMBERS if "pixel_values" in part.features else KEEP_ONE
    column = find_image_column(part.features, None, f"The {name} data set", remedy)
    images = part.with_format(None).select_columns([column])
    images = images if column == "image" else images.rename_column(column, "image")
    return images.cast_column("image", datasets.Image(id=getattr(part.features[column], "id", None)))


def rows_of_the_head(
    part: datasets.Dataset, model: MultiHeadClassifier, task: str, where: str, column: str | None = None
) -> Tensor:
    """Row of a task's head for each image, (N,) int64; see `labelled_items`.

    Args:
        part: with a column of classes.
        model: whose head answers.
        task: of the head.
        where: the data set, for messages.
        column: of the classes; None finds it.
    """
    both = column is None and "label" in part.features and "labels" in part.features
    column = find_label_column(part.features, column, where, RENAME)
    if both and raw_column(part, "label").to_pylist() != raw_column(part, "labels").to_pylist():
        logger.warning("%s has the columns 'label' and 'labels', which differ: '%s' is used.", where, column)
    feature, classes = part.features[column], model.heads[task].out_features
    if isinstance(feature, datasets.Value) and "int" in feature.dtype:
        ids = raw_column(part, column).fill_null(-1).to_numpy().astype(np.int64)
    else:
        known, found = class_ids({"": part}, column, where, quiet=True)  # the head's names tell which is which
        ids = _rows_by_class(known, found[""], isinstance(feature, datasets.ClassLabel), model.labels[task], where)
    return _checked(ids, classes, where)


def _checked(ids: np.ndarray, classes: int, where: str) -> Tensor:
    """Rows of a head, none of which is missing or past its end."""
    for wrong, what in ((ids < 0, "no label (null or -1)"), (ids >= classes, f"a label above {classes - 1}")):
        if wrong.any():
            at = listing(np.flatnonzero(wrong).tolist(), 5)
            raise DataError(
                f"{where}: {wrong.sum()} of {len(ids)} images have {what}, and the head has the rows 0 to "
                f"{classes - 1}: row {at}. Remove or correct them."
            )
    return torch.tensor(ids)


def _rows_by_class(
    known: tuple[str, ...], ids: np.ndarray, ordered: bool, names: tuple[str, ...], where: str
) -> np.ndarray:
    """Row of a head with these names for each image, -1 for none, by those of the classes that `ids` (N,) number."""
    used = np.unique(ids[ids >= 0])
    if unnamed(names):
        return _rows_in_order(known, names, ordered, where)[ids]
    rows = match_names([known[label] for label in used], names, "The model's head")
    if None in rows:
        unknown = [known[label] for label, row in zip(used, rows, strict=True) if row is None]
        raise DataError(
            f"{where} has the classes {listing(unknown, 12)}, which the model's head does not name; it names "
            f"{listing(names, 12)}. Take images of classes that it knows, or correct its id2label."
        )
    number = np.full(len(known) + 1, -1, dtype=np.int64)  # the last is for -1
    number[used] = [row for row in rows if row is not None]
    return number[ids]


def _rows_in_order(known: tuple[str, ...], names: tuple[str, ...], ordered: bool, where: str) -> np.ndarray:
    """Row of a head without names for each class, and -1 for none: as the command line's `head_by_position` does."""
    rows = rows_by_name(known, names, where) if ordered else None
    if rows is None:
        raise DataError(
            f"{where} names its classes ({listing(known, 5)}), but the head has no names (LABEL_0, ...) for its "
            f"{len(names)} rows: which row is which cannot be told. Set model.config.id2label and label2id."
        )
    if [str(row) for row in rows] != list(known):
        told = (
            "%s: the head has no names (LABEL_0, ...): its rows are taken in the order of the classes (%s). If it has "
        )
        told += "another, set model.config.id2label."
        logger.warning(told, where, listing([name for _, name in sorted(zip(rows, known, strict=True))], 12))
    return np.array([*rows, -1])


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
            _check_item(self.name, {"labels": label})

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


def check_fits(
    model: PreTrainedModel, args: UnlearningConfig, own: type = UnlearningConfig, *, one_head: bool = False
) -> None:
    """Refuse options that a model has nothing for.

    Args:
        model: the Hub model, or the backbone.
        args: the method's options.
        own: the class that they must be of: with another method's it would train by that one's, or not at all.
        one_head: whether what is forgotten and what is retained share the head.

    Raises:
        ConfigError: it cannot checkpoint its activations, the method's losses are not those of its head, or what is
            retained would be what is forgotten.
    """
    if not isinstance(args, own):
        raise ConfigError(f"This method takes its options as {own.__name__}, not as {type(args).__name__}.")
    if one_head and args.retain_inputs != "target":
        raise ConfigError(
            f"retain_inputs={args.retain_inputs!r} would distil the forgotten images into the only head. "
            "Use retain_inputs='target' for a model with one head."
        )
    name = type(model).__name__
    if args.activation_checkpointing and not model.supports_gradient_checkpointing:
        raise ConfigError(
            f"activation_checkpointing: {name} has none. Leave it off, and lower the batch size instead."
        )
    if model.config.problem_type == MULTI_LABEL and not args.multi_label:
        raise ConfigError(
            f"{type(args).__name__}: the method compares classes by softmax, and the head of {name} has a sigmoid a "
            "label (multi_label_classification). Use random_label, salun, neg_grad_plus, scrub, bad_teaching or "
            "fine_tune."
        )


def with_one_head(model: PreTrainedModel, args: UnlearningConfig) -> MultiHeadClassifier:
    """A plain Hub classifier, whose one head serves what is forgotten and what is retained.

    Raises:
        ConfigError: the options name another head to forget by.
    """
    if args.forget_task not in (type(args).forget_task, args.retain_task):
        raise ConfigError(
            f"forget_task={args.forget_task!r}: {type(model).__name__} has one head, which serves what is forgotten "
            "and what is retained. Leave forget_task out, or give a MultiHeadClassifier with a head of that name."
        )
    return MultiHeadClassifier(model, task=args.retain_task)


def freeze_unused(model: MultiHeadClassifier, images: Dataset, outputs: Callable[[Tensor], Tensor]) -> None:
    """Freeze and name the backbone's parameters without a gradient (mask tokens): DDP would wait for them.

    Args:
        model: on the device to use; left in evaluation mode.
        images: items {"pixel_values"}; the first is looked at.
        outputs: of a batch of one image, those that training uses.
    """
    image = images[0]["pixel_values"].unsqueeze(0).to(next(model.parameters()).device)
    free = {n: p for n, p in model.named_parameters() if p.requires_grad and not n.startswith("heads.")}
    if not free:
        return
    model.eval()
    gradients = torch.autograd.grad(outputs(image).float().sum(), list(free.values()), allow_unused=True)
    unused = [name for name, gradient in zip(free, gradients, strict=True) if gradient is None]
    for name in unused:
        free[name].requires_grad_(False)
    if unused:
        logger.info("Frozen, because no trained task uses them: %s", ", ".join(unused))


def leaves_one(model: nn.Module, images: Dataset, batch_size: int) -> bool:
    """Whether the last batch of an epoch has one image only, of which batch normalisation knows no deviation."""
    normalises = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    return normalises and batch_size > 1 and size_of(images) > batch_size and size_of(images) % batch_size == 1


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; the mode is as it was afterwards."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
