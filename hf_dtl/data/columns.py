"""Find the image and the label column of a data set, and bring both into one form."""

from collections.abc import Iterable, Mapping
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_dtl.data.names import tell_spellings
from hf_dtl.errors import DataError, listing

Splits = Mapping[str, datasets.Dataset]


def find_image_column(
    features: datasets.Features, requested: str | None, where: str, remedy: str = "Say which with --image_column."
) -> str:
    """Return the column that holds the images: the one requested, or the only Image, or the only column of bytes.

    Args:
        features: of the data set.
        requested: its name; None finds it.
        where: the data set, for messages.
        remedy: what to do where it cannot be told, in the words of who asks.

    Raises:
        DataError: the column does not exist or holds no images, or there is none or more than one to choose from.
    """
    if requested is not None:
        require_column(features, requested, where, "image column")
        if kind_of(features[requested]) not in ("Image", "binary", "string"):
            raise DataError(f"{where}: the column '{requested}' holds no images but {features[requested]}.")
        return requested
    images = [name for name, feature in features.items() if kind_of(feature) == "Image"]
    candidates = images or [name for name, feature in features.items() if kind_of(feature) == "binary"]
    if len(candidates) != 1:
        found = f"several columns of images: {', '.join(candidates)}" if candidates else "no column of images"
        read = "; its files were read as text. A folder of images has a folder for each class"
        read *= list(features) == ["text"]
        raise DataError(f"{where} has {found}{read}. {remedy} Columns there: {', '.join(features)}.")
    return candidates[0]


def find_label_column(
    features: datasets.Features,
    requested: str | None,
    where: str,
    remedy: str = "Say which with --retain_label_column, or --forget_label_column of a whole task. In an image "
    "folder, each class needs a subfolder, or a metadata.csv the columns file_name and label.",
) -> str:
    """Return the column of classes: the one requested, else `label`, `labels`, `fine_label`, or the only ClassLabel.

    Args: as of `find_image_column`.

    Raises:
        DataError: the column does not exist or holds no classes, or none can be told.
    """
    if requested is not None:
        require_column(features, requested, where, "label column")
        column = requested
    else:
        class_labels = [name for name, feature in features.items() if kind_of(feature) == "ClassLabel"]
        column = next((name for name in ("label", "labels", "fine_label") if name in features), None) or (
            class_labels[0] if len(class_labels) == 1 else ""
        )
        if not column:
            found = f"several: {', '.join(class_labels)}" if class_labels else "none"
            raise DataError(
                f"{where}: the label column cannot be told ({found}). {remedy} Columns there: {', '.join(features)}."
            )
    feature = features[column]
    if (kind := kind_of(feature)) not in ("ClassLabel", "string", "int"):
        hint = ""
        if isinstance(feature, (list, datasets.List, datasets.LargeList)):
            hint = " Images with several labels are not taken, also by a head of sigmoids: make a column of one label."
        elif kind.startswith("float") or kind == "bool":
            hint = (
                " Write classes as whole numbers, 1 and not 1.0, an unknown one as an empty field (pandas: "
                "astype('Int64')), or as texts (beside images in metadata.jsonl, in quotes); true and false as 0 and "
                "1, or as texts."
            )
        raise DataError(
            f"{where}: the column '{column}' holds {feature}; a label is one ClassLabel, string or integer an image."
            f"{hint}"
        )
    return column


def class_ids(
    splits: Splits, column: str, where: str, *, quiet: bool = False
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Return the class names of all splits and the position of each row's class in them, -1 where it has none.

    A ClassLabel keeps its names, in the order of the first split; strings are sorted, integers put in numeric order. A
    null is no class, and so are the integer -1 and a text of blanks.

    Args:
        splits: split name → data set with `column`.
        column: a ClassLabel, string or integer column.
        where: the data set, for messages.
        quiet: do not tell of names that are written nearly alike.

    Returns:
        Names, and split name → (N,) int64 in -1..len(names)-1.
    """
    found = {name: raw_column(split, column) for name, split in splits.items()}
    first, *others = splits
    feature = splits[first].features[column]
    for other in others:
        _check_alike((first, feature), (other, splits[other].features[column]), column, where)
    if isinstance(feature, datasets.ClassLabel):
        row = {name: number for number, name in enumerate(feature.names)}
        ids = dict[str, np.ndarray]()
        for name, array in found.items():
            own = splits[name].features[column]
            rows = np.array([*(row[label] for label in own.names), -1])  # the last is for -1
            ids[name] = rows[numbered(array, own, column, where)]
        return tuple(feature.names), ids
    if len({array.type for array in found.values()}) > 1:
        kind = pa.int64() if "int" in feature.dtype else pa.large_string()
        found = {name: array.cast(kind) for name, array in found.items()}
    if pa.types.is_signed_integer(next(iter(found.values())).type):
        nothing = {name: pa.scalar(None, array.type) for name, array in found.items()}
        found = {name: pc.if_else(pc.equal(array, -1), nothing[name], array) for name, array in found.items()}
    if pa.types.is_string(kind := next(iter(found.values())).type) or pa.types.is_large_string(kind):
        blank = {name: pc.equal(pc.utf8_trim_whitespace(array), "") for name, array in found.items()}
        found = {name: pc.if_else(blank[name], pa.scalar(None, kind), array) for name, array in found.items()}
    values = sorted({value for array in found.values() for value in pc.unique(array).to_pylist() if value is not None})
    if not quiet:
        tell_spellings(map(str, values), f"{where}: the column '{column}'")
    table = pa.array(values, type=next(iter(found.values())).type)
    ids = {
        name: pc.index_in(array, value_set=table, skip_nulls=True).fill_null(-1).to_numpy().astype(np.int64)
        for name, array in found.items()
    }
    return tuple(str(value) for value in values), ids


def _check_alike(one: tuple[str, Any], other: tuple[str, Any], column: str, where: str) -> None:
    """Refuse splits whose classes cannot be compared: of another kind, or ClassLabels of other names."""
    kinds, told = {kind_of(feature) for _, feature in (one, other)}, list[str]()
    if kinds == {"ClassLabel"}:
        (first, known), (second, names) = ((split, set(feature.names)) for split, feature in (one, other))
        pairs = ((first, known - names), (second, names - known))
        told = [f"only {split} has {listing(sorted(own), 5)}" for split, own in pairs if own]
    elif len(kinds) > 1:
        told = [f"{split} has a column of {kind_of(feature)}" for split, feature in (one, other)]
    if told:
        raise DataError(
            f"{where}: the classes in the column '{column}' are others in one split than in another: "
            f"{', '.join(told)}. Give all splits the same names, as ClassLabels or as texts."
        )


def numbered(column: pa.ChunkedArray, feature: datasets.ClassLabel, name: str, where: str) -> np.ndarray:
    """The positions that a ClassLabel column holds, (N,) int64, -1 where there is none.

    Raises:
        DataError: some are no position of a class.
    """
    ids = column.fill_null(-1).to_numpy().astype(np.int64)
    wrong = ids[(ids < -1) | (ids >= len(feature.names))]
    if len(wrong):
        raise DataError(
            f"{where}: {len(wrong)} of {len(ids)} rows of the column '{name}' hold "
            f"{listing(sorted(set(wrong.tolist())), 5)}, but its {len(feature.names)} names are numbered from 0; "
            "nothing is null or -1. Correct the column."
        )
    return ids


def images_beside(
    split: datasets.Dataset,
    image_column: str,
    columns: Mapping[str, np.ndarray],
    features: Mapping[str, object],
    keep: str | None = None,
) -> datasets.Dataset:
    """Return the images of a split, decoded on access, beside new columns; neither images nor files are copied.

    Args:
        split: data set with `image_column`.
        image_column: an Image column, or one of encoded bytes or file names.
        columns: (N,) values of each new column.
        features: what they are.
        keep: another column that stays as it is.
    """
    images = split.select_columns([image_column, *([keep] if keep else [])]).with_format(None)
    if image_column != "image":
        images = images.rename_column(image_column, "image")
    try:
        # the id says how the images are read, see `read_as`
        images = images.cast_column("image", datasets.Image(id=getattr(images.features["image"], "id", None)))
    except (TypeError, ValueError, pa.ArrowException) as error:
        raise DataError(f"The column '{image_column}' cannot be read as images: {error}.") from error
    table = pa.table(dict(columns), schema=datasets.Features(features).arrow_schema)
    return datasets.concatenate_datasets([images, datasets.Dataset(table)], axis=1)


def class_feature(names: Iterable[str]) -> dict[str, datasets.ClassLabel]:
    """The column `label` of these classes."""
    return {"label": datasets.ClassLabel(names=list(names))}


def raw_column(split: datasets.Dataset, column: str) -> pa.ChunkedArray:
    """One column as it is stored, without decoding an image."""
    return split.select_columns([column]).with_format("arrow")[:][column]


def labels_of(split: datasets.Dataset) -> np.ndarray:
    """The column `label`, (N,) int64."""
    return raw_column(split, "label").to_numpy()


def require_column(features: datasets.Features, column: str, where: str, kind: str = "column") -> None:
    """Raise DataError where there is no such column."""
    if column not in features:
        own = "" if {*features} - {"image", "label"} else " A folder takes others from a metadata.csv (file_name,...)."
        raise DataError(f"{where} has no {kind} '{column}'. Columns there: {', '.join(features)}.{own}")


def kind_of(feature: object) -> str:
    """What a column holds: Image, ClassLabel, binary (also in a dictionary), string, int, or something else."""
    if isinstance(feature, dict):
        return "binary" if "bytes" in feature else "dict"
    if isinstance(feature, datasets.Value):
        name = feature.dtype.removeprefix("large_")
        return "int" if name.lstrip("u").startswith("int") else name
    return type(feature).__name__
