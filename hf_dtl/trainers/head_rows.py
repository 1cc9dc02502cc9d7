"""Labels of data as rows of a head: matched by name, and none is guessed."""

import logging
from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset

from hf_dtl.data.columns import class_ids, find_label_column, raw_column
from hf_dtl.data.multitask_images import MultiTaskImages
from hf_dtl.data.names import match_names
from hf_dtl.errors import DataError, listing
from hf_dtl.models.heads import MultiHeadClassifier
from hf_dtl.models.labels import counted, rows_by_name, unnamed

RENAME = "Call it 'label': dataset.rename_column(its name, 'label')."

logger = logging.getLogger(__name__)


def rows_of_the_head(part: datasets.Dataset, model: MultiHeadClassifier, task: str, where: str) -> Tensor:
    """Row of a task's head for each image, (N,) int64; see `labelled_items`.

    Args:
        part: with a column of classes.
        model: whose head answers.
        task: of the head.
        where: the data set, for messages.
    """
    both = "label" in part.features and "labels" in part.features
    column = find_label_column(part.features, None, where, RENAME)
    if both and raw_column(part, "label").to_pylist() != raw_column(part, "labels").to_pylist():
        logger.warning("%s has the columns 'label' and 'labels', which differ: '%s' is used.", where, column)
    feature, names = part.features[column], model.labels[task]
    numbers = isinstance(feature, datasets.Value) and "int" in feature.dtype
    if numbers and not counted(names):
        ids = raw_column(part, column).fill_null(-1).to_numpy().astype(np.int64)
        if not unnamed(names):
            tell_rows(where, names)
    else:
        known, found = class_ids({"": part}, column, where, quiet=True)  # the head's names tell which is which
        ids = rows_by_class(known, found[""], isinstance(feature, datasets.ClassLabel), names, where)
        if numbers and any(names[row] != str(row) for row in ids[ids >= 0]):
            logger.warning("%s: its labels are numbers, and so are the names of the head's rows (%s): a label is "
                           "the row of that name.", where, listing(names, 5))  # fmt: skip
    return check_rows(ids, model.heads[task].out_features, where)


def tell_rows(where: str, names: Sequence[str]) -> None:
    """Say that integers are rows of a head, whatever its names are."""
    told = "%s: its labels are rows of the head, which are named %s: 0 is %r, and so on."
    logger.warning(told, where, listing(names, 5), names[0])


def task_rows(images: Any, model: MultiHeadClassifier, where: str) -> Any:
    """`MultiTaskImages` whose classes are numbered as the heads' rows, matched by name; others as they are."""
    if isinstance(images, ConcatDataset):
        return ConcatDataset([task_rows(part, model, where) for part in images.datasets])
    if isinstance(images, Subset) and isinstance(images.dataset, MultiTaskImages):
        images = images.dataset.subset(images.indices)
    if not isinstance(images, MultiTaskImages) or not images.names:
        return images
    labels = dict(images.labels)
    for task, known in images.names.items():
        if task in model.heads and not model.is_regression(task):
            names = model.labels[task]
            rows = rows_by_class(known, labels[task].numpy(), True, names, f"{where}, task {task!r},")
            labels[task] = check_rows(rows, len(names), f"{where}, task {task!r}")
    return MultiTaskImages(images.pixel_values, labels)


def check_rows(ids: np.ndarray, classes: int, where: str, first: int = 0) -> Tensor:
    """Rows of a head, none of which is missing or past its end; `first` is the number of the first, for messages."""
    for wrong, what in ((ids < 0, "no label (null or -1)"), (ids >= classes, f"a label above {classes - 1}")):
        if wrong.any():
            at = listing((first + np.flatnonzero(wrong)).tolist(), 5)
            raise DataError(
                f"{where}: {wrong.sum()} of {len(ids)} images have {what}, and the head has the rows 0 to "
                f"{classes - 1}: row {at}. Remove or correct them."
            )
    return torch.tensor(ids)


def rows_by_class(
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
