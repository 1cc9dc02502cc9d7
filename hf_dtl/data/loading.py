"""Load one classification task: chosen classes of a data set as disjoint train, validation and test splits."""

import logging
from dataclasses import dataclass

import datasets
import numpy as np

from hf_dtl.data.columns import class_feature, class_ids, find_image_column, find_label_column, images_beside
from hf_dtl.data.decoding import WHITE
from hf_dtl.data.duplicates import Copies, Part
from hf_dtl.data.file_names import with_whole_paths
from hf_dtl.data.selection import DatasetSpec, select_classes
from hf_dtl.data.sources import column_of, open_splits, places
from hf_dtl.data.splits import Named, check_enough, dataset_fields, draw_by_class, hold_out, require_columns
from hf_dtl.errors import DataError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskData:
    """One task: images of chosen classes in three splits that share no image.

    Args:
        name: the data set and selection as a user writes them, a path cut to its last part: safe to publish.
        labels: class names; position = value of the column `label`.
        train: data set with exactly the columns `image` (Image, decoded on access) and `label` (ClassLabel).
        validation: as `train`, to choose learning rates and when to stop.
        test: as `train`, for reported numbers only.
        duplicates_removed: copies of a picture, equal in all pixels, that were dropped.
        source_key: digest that is equal for two tasks of the same data set.
        train_rows: (N,) row of each training image in the split (or splits, one after another) that was named.
        copies: training images that are left out, because the same picture stays.
        drawn: splits that were held out of the one that was named, for want of their own.
    """

    name: str
    labels: tuple[str, ...]
    train: datasets.Dataset
    validation: datasets.Dataset
    test: datasets.Dataset
    duplicates_removed: int
    source_key: str
    train_rows: np.ndarray
    copies: Copies
    drawn: tuple[str, ...] = ()


def load_task(
    spec: str | DatasetSpec,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    images_per_class: int | None = None,
    seed: int = 0,
    keep_column: str | None = None,
    background: str = WHITE,
) -> TaskData:
    """Load chosen classes of a data set as three splits that share no image.

    The split of the specification (default `train`) gives the training images. The test split is the data set's
    `test`, else its `validation`, else 20 % of each class is held out; the validation split is the data set's own
    where it is not the test split, else 10 % of each class. What is held out never depends on `seed`. Exact duplicates
    (equal pixels) are dropped first: a held-out split keeps its copy, the training split loses it, but for copies that
    differ in their label or in `keep_column`: of these a training image stays, and judges nothing.

    Args:
        spec: the data, such as `"mnist[0,1,2]"`; see `DatasetSpec`.
        image_column: column of images; None means the only one.
        label_column: column of classes; None means `label`, `labels` or the only ClassLabel; of `glyphs` the one that
            has the classes asked for, else `letter`.
        images_per_class: draw so many training images of each class; None means all. A larger draw with the same
            seed contains a smaller one.
        seed: of that draw alone.
        keep_column: a further column that the training images keep, and held-out images where they have it.
        background: colour under what is transparent, such as `"black"` or `"#808080"`.

    Returns:
        The task, its labels numbered in the order of the specification.

    Raises:
        DataError: the data, a column, class or split cannot be used; nothing was decoded or trained yet.

    Example:
        >>> task = load_task("mnist[6,7,8,9]", images_per_class=50)
        >>> task.labels, len(task.train), task.train.column_names
        (('6', '7', '8', '9'), 200, ['image', 'label'])
    """
    spec = DatasetSpec.of(spec)
    if images_per_class is not None and images_per_class < 1:
        raise DataError(f"images_per_class is {images_per_class}; it must be at least 1, or None for all images.")
    where = f"'{spec.name}'"
    named = Named.of(spec, open_splits(spec))
    image_column = find_image_column(named.features, image_column, where)
    label_column = find_label_column(named.features, label_column or column_of(spec, named.features), where)
    require_columns(named.splits, (image_column, label_column), where)
    if keep_column is not None:
        require_columns({name: named.splits[name] for name in named.train}, (keep_column,), where)
        if keep_column in (image_column, label_column, "image", "label"):
            raise DataError(
                f"{where}: '{keep_column}' is what the column of images or of labels is called here. A class is asked "
                "for by class=NAME; rename the column if it is another."
            )

    names, ids = class_ids(named.splits, label_column, where)
    chosen = select_classes(spec.classes, names, where)
    labels = tuple(names[position] for position in chosen)
    # One extra entry at the end, so that the id -1 (no label) is mapped to -1 (not selected) too.
    renumber = np.full(len(names) + 1, -1, dtype=np.int64)
    renumber[list(chosen)] = np.arange(len(chosen))
    new = {name: renumber[found] for name, found in ids.items()}
    for role, name in tuple(named.held_out.items()):
        if not (ids[name] >= 0).any():
            logger.warning(
                "%s: the %d images of the split '%s' have no label; it is not used.", where, len(ids[name]), name
            )
            del named.held_out[role]
    rows = named.train | {name: np.arange(len(ids[name])) for name in named.held_out.values()}
    for name, own in rows.items():
        if missing := int((ids[name][own] < 0).sum()):
            told = "%s: %d of %d images of the split '%s' have no label (empty or -1) and are left out."
            logger.warning(told, where, missing, len(own), name)
    whole = {}
    for name, split in with_whole_paths(named.splits, image_column, spec).items():
        kept = keep_column if keep_column in split.features else None
        whole[name] = images_beside(split, image_column, {"label": new[name]}, class_feature(labels), kept)
    parts = named.parts(whole, new)
    there = set(parts)
    beside = None if keep_column is None else named.without_label(whole, new)
    removed = hold_out(parts, labels, where, ("label", keep_column or "label"), places(spec), background, beside)
    _check_counts(parts, labels, images_per_class, where)
    if images_per_class is not None:
        drawn = draw_by_class(parts["train"].labels, labels, count=images_per_class, seed=seed)
        parts["train"] = parts["train"].keep(drawn)
    held_out = tuple(role for role in parts if role not in there)
    return TaskData(labels=labels, drawn=held_out, **dataset_fields(spec, parts, *removed))


def check_disjoint(source: TaskData, target: TaskData) -> None:
    """Refuse a source and a target task that share classes.

    In one data set a class is shared when its name is. Between data sets, names are compared without regard to case,
    and pure numbers are not compared: class "3" of two data sets says nothing.

    Raises:
        DataError: naming the classes shared.
    """
    if source.source_key == target.source_key:
        shared = [label for label in source.labels if label in target.labels]
    else:
        known = {label.casefold() for label in target.labels}
        shared = [label for label in source.labels if label.casefold() in known and not label.isdecimal()]
    if shared:
        raise DataError(
            f"The source task '{source.name}' and the target task '{target.name}' share the classes "
            f"{', '.join(shared)}. What is forgotten cannot also be retained: leave them out of one of the two."
        )


def _check_counts(parts: dict[str, Part], labels: tuple[str, ...], images_per_class: int | None, where: str) -> None:
    counts = {role: np.bincount(part.labels, minlength=len(labels)) for role, part in parts.items()}
    for role in ("train", "test", "validation"):
        if not counts[role].any():
            raise DataError(f"{where}: the {role} split is empty after selection. Use more images or other classes.")
    check_enough(zip(labels, counts["train"], strict=True), images_per_class or 1, where)
    for role in ("test", "validation"):
        missing = [label for label, count in zip(labels, counts[role], strict=True) if not count]
        if missing:
            logger.warning("%s: the %s split has no image of: %s.", where, role, ", ".join(missing))
