"""Load data with one label column a task: rendered glyphs, groups of Fashion-MNIST, or a user's own data set."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_dtl.data.columns import Splits, class_ids, find_image_column, find_label_column, images_beside, raw_column
from hf_dtl.data.decoding import WHITE
from hf_dtl.data.duplicates import Copies, Part
from hf_dtl.data.file_names import with_whole_paths
from hf_dtl.data.glyphs import render_glyphs
from hf_dtl.data.selection import GLYPHS, DatasetSpec
from hf_dtl.data.sources import open_splits, places, rendered
from hf_dtl.data.splits import Named, dataset_fields, draw, hold_out, require_columns
from hf_dtl.errors import DataError, listing
from hf_dtl.options import nearest

FASHION_GROUPS = "fashion_groups"
GLYPH_IMAGES = {"train": 5000, "validation": 1000, "test": 2000}
GROUPS = {
    "kind": {
        "garment": ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Shirt"),
        "footwear": ("Sandal", "Sneaker", "Ankle boot"),
        "bag": ("Bag",),
    },
    "worn_on": {
        "upper body": ("T-shirt/top", "Pullover", "Coat", "Shirt"),
        "legs": ("Trouser",),
        "whole body": ("Dress",),
        "feet": ("Sandal", "Sneaker", "Ankle boot"),
        "carried": ("Bag",),
    },
    "sleeves": {
        "long": ("Pullover", "Coat", "Shirt"),
        "short or none": ("T-shirt/top", "Dress"),
        "not a matter of sleeves": ("Trouser", "Sandal", "Sneaker", "Bag", "Ankle boot"),
    },
    "season": {
        "warm": ("T-shirt/top", "Dress", "Sandal"),
        "cold": ("Pullover", "Coat", "Ankle boot"),
        "any": ("Trouser", "Shirt", "Sneaker", "Bag"),
    },
}
"""Tasks of `fashion_groups` besides `item`: what each class of Fashion-MNIST counts as."""

Tasks = dict[str, tuple[str, ...]]

MOST_SPREAD = 10.0
"""Deviation of numbers above which the squared error of a guess is far above any loss of classes."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MultiTaskData:
    """Images with a label for each of several tasks, in three splits that share no image.

    Args:
        name: the data set as a user writes it, a path cut to its last part: safe to publish.
        tasks: task → its class names, by label; empty for a regression task.
        train: data set with exactly the columns `image` (Image, decoded on access) and one a task: a ClassLabel, or a
            float32 for a regression task.
        validation, test: as `train`.
        duplicates_removed, source_key, train_rows, copies: as in `TaskData`.
    """

    name: str
    tasks: Tasks
    train: datasets.Dataset
    validation: datasets.Dataset
    test: datasets.Dataset
    duplicates_removed: int
    source_key: str
    train_rows: np.ndarray
    copies: Copies


def load_multitask(
    spec: str | DatasetSpec,
    *,
    task_columns: Sequence[str] | Mapping[str, str] | None = None,
    image_column: str | None = None,
    images: int | None = None,
    seed: int = 0,
    background: str = WHITE,
) -> MultiTaskData:
    """Load data for several tasks as three splits that share no image.

    `glyphs` is rendered (see `hf_dtl.data.glyphs`): the tasks letter, case, family, weight, slant, and the regression
    task rotation. `fashion_groups` is the embedded Fashion-MNIST with tasks that follow from its class: item (the ten
    classes), kind (garment, footwear, bag), worn_on (part of the body), sleeves and season, as `GROUPS` says. They
    speak of the class as such: a dress with long sleeves counts as dresses do. Any other name is a data set as in
    `load_task`, whose splits and duplicates are treated as there, except that held-out images are drawn from all
    alike: they depend neither on `seed` nor on the tasks chosen.

    Args:
        spec: `"glyphs"`, `"fashion_groups"`, a Hub id, or a path; a split may follow, but no classes.
        task_columns: label columns, each of which is a task of that name; or task → column. A column of floats is a
            regression task, whose values are taken as they are; ClassLabel, string, integer and boolean columns are
            classes. None means all tasks of `glyphs` or `fashion_groups`.
        image_column: column of images; None means the only one.
        images: draw so many training images (glyphs: render so many, else 5,000); None means all. A larger draw with
            the same seed contains a smaller one.
        seed: of that draw, and of the training glyphs, alone.
        background: see `load_task`.

    Returns:
        The data. Classes keep a ClassLabel's order; others are sorted.

    Raises:
        DataError: the data, a column or a split cannot be used, a column is named twice, an image has no label for a
            task (none, -1 or NaN), or a task has one class only; no image was decoded yet.

    Example:
        >>> data = load_multitask("fashion_groups", task_columns=["kind", "season"], images=50)
        >>> data.tasks["kind"], data.train.column_names, len(data.train)
        (('garment', 'footwear', 'bag'), ['image', 'kind', 'season'], 50)
    """
    spec = DatasetSpec.of(spec)
    where = f"'{spec.name}'"
    if spec.classes is not None:
        raise DataError(f"'{spec}': classes cannot be selected from data with several tasks; leave the brackets out.")
    if images is not None and images < 1:
        raise DataError(f"images is {images}; it must be at least 1, or None for all images.")
    named = Named.of(spec, _open(spec, images, seed))
    image_column = find_image_column(named.features, image_column, where)
    columns = _columns(spec, task_columns, named.features, image_column)
    require_columns(named.splits, (image_column, *columns.values()), where)

    tasks, labels = _labels(named, columns, where)
    features = {t: datasets.ClassLabel(names=list(n)) if n else datasets.Value("float32") for t, n in tasks.items()}
    found = with_whole_paths(named.splits, image_column, spec)
    whole = {s: images_beside(split, image_column, labels[s], features) for s, split in found.items()}
    # nothing is drawn by class here: all images are of one
    parts = named.parts(whole, {name: np.zeros(len(split), dtype=np.int64) for name, split in whole.items()})
    for role, part in parts.items():
        _refuse_missing(part, tasks, columns, f"{where}, {role} split")
    removed = hold_out(parts, ("",), where, [task for task, names in tasks.items() if names], places(spec), background)
    if images is not None:
        there = len(parts["train"].rows)
        if images > there:
            raise DataError(f"{where}: images is {images}, but there are {there} training images. Ask for no more.")
        parts["train"] = parts["train"].keep(draw(there, images, seed, "train"))
    for role, part in parts.items():
        if not len(part.rows):
            raise DataError(f"{where}: the {role} split is empty. Use more images.")
    _tell_unlearned(parts, tasks, where)
    data = MultiTaskData(tasks=tasks, **dataset_fields(spec, parts, *removed))
    _refuse_single_values(data.train, tasks, columns, where)
    return data


def _open(spec: DatasetSpec, images: int | None, seed: int) -> Splits:
    """Every split with the columns as stored, or as made here."""
    if spec.name not in (GLYPHS, FASHION_GROUPS):
        return open_splits(spec)
    if spec.revision is not None:
        raise DataError(f"'{spec}': a revision is for Hub data sets; leave out '@{spec.revision}'.")
    if spec.name == FASHION_GROUPS:
        return {name: _with_groups(split) for name, split in open_splits(DatasetSpec("fashion_mnist")).items()}
    # what is held out is the same whatever the seed
    held_out = {split: rendered(split, GLYPH_IMAGES[split]) for split in ("validation", "test")}
    return {"train": render_glyphs("train", images or GLYPH_IMAGES["train"], seed), **held_out}


def _with_groups(fashion: datasets.Dataset) -> datasets.Dataset:
    """Fashion-MNIST with `item` in place of `label`, and a column for each of `GROUPS`."""
    items = fashion.features["label"].names
    fashion = fashion.rename_column("label", "item")
    label = np.asarray(fashion.with_format("numpy")["item"][:])
    for task, groups in GROUPS.items():
        number = {item: position for position, members in enumerate(groups.values()) for item in members}
        column = np.array([number[item] for item in items])[label]
        fashion = fashion.add_column(task, column, feature=datasets.ClassLabel(names=list(groups)))
    return fashion


def _columns(
    spec: DatasetSpec, chosen: Sequence[str] | Mapping[str, str] | None, features: datasets.Features, image_column: str
) -> dict[str, str]:
    where = f"'{spec.name}'"
    rest = [name for name in features if name != image_column]
    if isinstance(chosen, str):
        raise DataError(f"task_columns is the text {chosen!r}; give a list of columns, such as [{chosen!r}].")
    if chosen is None:
        if spec.name not in (GLYPHS, FASHION_GROUPS):
            raise DataError(f"{where}: say which columns are tasks with task_columns. Columns there: {listing(rest)}.")
        chosen = rest
    pairs = list(chosen.items()) if isinstance(chosen, Mapping) else [(column, column) for column in chosen]
    if not pairs:
        raise DataError(f"{where}: task_columns names no task. Columns there: {listing(rest)}.")
    columns = [column for _, column in pairs]
    for task, column in pairs:
        if column not in rest:
            raise DataError(
                f"{where} has no label column '{column}'.{nearest(column, rest, quoted=True)} "
                f"Label columns: {listing(rest)}."
            )
        if columns.count(column) > 1:
            raise DataError(f"{where}: the column '{column}' is named twice; each column is one task.")
        if task == "image" or not re.fullmatch(r"[A-Za-z_]\w*", task):
            raise DataError(
                f"{where}: '{task}' cannot be the name of a task: it must be letters, digits and _, and not 'image'. "
                f"Give it another name with task_columns={{'name': {column!r}}}."
            )
    return dict(pairs)


def _labels(named: Named, columns: Mapping[str, str], where: str) -> tuple[Tasks, dict[str, dict[str, np.ndarray]]]:
    """Tasks, and split → task → (N,) labels: int64 with -1 for none, or float32 with NaN for none."""
    tasks: Tasks = {}
    labels: dict[str, dict[str, np.ndarray]] = {name: {} for name in named.splits}
    for task, column in columns.items():
        feature = named.features[column]
        dtype = feature.dtype if isinstance(feature, datasets.Value) else ""
        if dtype.startswith("float"):
            tasks[task] = ()
            for name, split in named.splits.items():
                if split.features[column] != feature:
                    raise DataError(f"{where}: the column '{column}' has another type in the split '{name}'.")
                values = pc.cast(raw_column(split, column), pa.float32()).fill_null(float("nan"))
                labels[name][task] = values.to_numpy()
            if (spread := max(np.nanstd(own[task]) for own in labels.values())) > MOST_SPREAD and len(columns) > 1:
                told = (
                    "%s: the numbers in '%s' have a deviation of %.3g, so that their loss drowns the other tasks' in "
                )
                logger.warning(
                    told + "training. Scale them to one of about 1 if that is not meant.", where, column, spread
                )
            continue
        if dtype != "bool":
            find_label_column(named.features, column, where)
        names, ids = class_ids(named.splits, column, where)
        tasks[task] = names
        for name, values in ids.items():
            labels[name][task] = values
    return tasks, labels


def _refuse_missing(part: Part, tasks: Tasks, columns: Mapping[str, str], where: str) -> None:
    for task, names in tasks.items():
        values = raw_column(part.dataset, task).to_numpy()[part.rows]
        missing = part.rows[values < 0 if names else ~np.isfinite(values)]
        if len(missing):
            raise DataError(
                f"{where}: {len(missing)} of {len(values)} images have no label for the task '{task}' (column "
                f"'{columns[task]}'): row {listing(missing, 5)}. Every image needs one for every task, and in a "
                "column that --forget names: give them one, such as `nobody`, leave out these rows, or the task."
            )


def _tell_unlearned(parts: Mapping[str, Part], tasks: Tasks, where: str) -> None:
    """Warn of held-out images of classes that no training image has."""
    for task, names in tasks.items():
        found = {role: raw_column(part.dataset, task).to_numpy()[part.rows] for role, part in parts.items()}
        for role in ("validation", "test"):
            if names and (count := int((strange := ~np.isin(found[role], found["train"])).sum())):
                classes = listing([names[label] for label in np.unique(found[role][strange])], 5)
                told = "%s: %d of %d %s images are of classes of the task '%s' that no training image has: %s."
                logger.warning(told, where, count, len(strange), role, task, classes)


def _refuse_single_values(train: datasets.Dataset, tasks: Tasks, columns: Mapping[str, str], where: str) -> None:
    for task, names in tasks.items():
        values = np.unique(raw_column(train, task).to_numpy())
        if len(values) < 2:
            only = f"class only, '{names[values[0]]}'" if names else f"value only, {values[0]:g}"
            raise DataError(
                f"{where}: the training images have one {only}, for the task '{task}' (column '{columns[task]}'). "
                "There is nothing to tell apart: leave the task out, or use more images."
            )
