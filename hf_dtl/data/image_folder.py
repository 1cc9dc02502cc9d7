"""A folder of images: each file is used, or told by name and count. `datasets` passes over files in silence.

Classes are the first folders, whatever lies below them. Above them there may be a folder a split, and around all of it
folders that hold one folder and nothing else. Rows of metadata.csv (.jsonl, .parquet) add columns, by `file_name`, and
classes and splits (`label`, `split`) to images that no folder gives one.
"""

import json
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from hf_dtl.data.names import folded, match_names
from hf_dtl.data.selection import split_role
from hf_dtl.data.tables import array_of, check_different, numbers_in, read_csv, read_text
from hf_dtl.errors import DataError, listing

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
PACKED = (".zip", ".7z", ".rar")
TABLES = (".parquet", ".arrow", ".tar")
_SILENT = ("thumbs.db", "desktop.ini", "readme.md", "license", "dataset_infos.json")
_RECOGNISED_ONLY = ("BUFR", "GRIB", "HDF5", "MPEG")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _File:
    """An image: its path below the root, its split, its class, and its row of the metadata."""

    path: PurePosixPath
    split: str = ""
    name: str | None = None
    row: dict[str, Any] = field(default_factory=dict)


def read_image_folder(root: Path) -> dict[str, datasets.Dataset] | None:
    """Open a folder of image files, without decoding one.

    Args:
        root: of class folders, of split folders with these, or of images that metadata name.

    Returns:
        Split name → data set of the columns `image`, those of the metadata, and `label` where there are class folders:
        these count, and where a column `label` says otherwise it is told. Rows are in the order of the metadata, then
        of the paths. None where there are no more images than files such as .parquet, which `datasets` reads.

    Raises:
        DataError: classes and splits cannot be told apart, or metadata and files do not fit.
    """
    images, metadata, others, broken, hidden = walk(root)
    packed = [path.name for path in others if path.suffix.lower() in PACKED]
    if packed and not images:
        raise DataError(f"'{root.name}' holds {listing(packed, 3)} and no image. Unpack it there.")
    if len(images) <= sum(path.suffix.lower() in TABLES for path in others):
        return None
    tell(root, broken, "are links to nothing and are not used")
    tell(root, hidden, "are images that are hidden (a name with a dot in front) and are not used")
    kinds = [f"{count} {kind}" for kind, count in _by_suffix(others)]
    tables = [] if metadata else [path for path in others if path.suffix.lower() in (".csv", ".tsv", ".jsonl")]
    tell(
        root, tables, "would be read as metadata.csv (.jsonl), with a column file_name that names an image in each row"
    )
    tell(root, others, f"are no images that can be read ({listing(kinds, 5)}) and are not used")
    files = _classified(root, images)
    files, columns = _with_metadata(root, files, metadata)
    return _datasets(root, _with_splits(root, files), columns)


def walk(root: Path) -> tuple[list[PurePosixPath], ...]:
    """Images, metadata, other files, links to nothing, and images with a dot in front; also behind links."""
    images, metadata, others, broken, hidden = (list[PurePosixPath]() for _ in range(5))
    seen = set[str]()
    formats = Image.registered_extensions()  # this also registers what can be opened
    suffixes = {s for s, kind in formats.items() if kind in Image.OPEN and kind not in _RECOGNISED_ONLY}

    def failed(error: OSError) -> None:
        raise DataError(f"The folder {error.filename!r} cannot be read: {error.strerror}.") from error

    for folder, below, names in os.walk(root, followlinks=True, onerror=failed):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder above
            below.clear()
            continue
        seen.add(real)
        below[:] = [name for name in below if not name.startswith((".", "__"))]
        for name in names:
            full = Path(folder, name)
            suffix = full.suffix.lower()
            if name.lower() in _SILENT or (name.startswith(".") and not (full.is_file() and _opens(full))):
                continue  # what a Mac writes beside each file opens as no image
            if name.startswith("."):
                kind = hidden
            elif not full.is_file():
                kind = broken
            elif name in METADATA:
                kind = metadata
            else:
                kind = images if suffix in suffixes or (suffix not in TABLES and _opens(full)) else others
            kind.append(PurePosixPath(full.relative_to(root).as_posix()))
    return tuple(sorted(kind, key=str) for kind in (images, metadata, others, broken, hidden))


def _opens(path: Path) -> bool:
    """Whether a file of another suffix, or of none, is an image all the same."""
    try:
        Image.open(path).close()
    except Exception:  # PIL's openers raise many types
        return False
    return True


def _by_suffix(paths: Iterable[PurePosixPath]) -> list[tuple[str, int]]:
    suffixes = [path.suffix or "without a suffix" for path in paths]
    return sorted(((suffix, suffixes.count(suffix)) for suffix in set(suffixes)), key=lambda pair: -pair[1])


def tell(root: Path, paths: Sequence[PurePosixPath], what: str) -> None:
    """Warn of files by count and name, where there are any."""
    if paths:
        logger.warning("'%s': %d files %s: %s.", root.name, len(paths), what, listing(paths, 3))


def _inner(base: PurePosixPath, paths: Sequence[PurePosixPath], classes: Iterable[str] = ()) -> PurePosixPath:
    """The folder where images part ways: one that holds a single folder and nothing else says nothing."""
    known = {folded(name) for name in classes}
    while True:
        below = {path.relative_to(base).parts[0] for path in paths}
        if len(below) != 1 or any(path.parent == base for path in paths) or {*map(folded, below)} <= known:
            return base
        base = base / below.pop()


def _classified(root: Path, images: Sequence[PurePosixPath]) -> list[_File]:
    """Splits and classes by the folders."""
    base = _inner(PurePosixPath(), images)
    folders = sorted({path.relative_to(base).parts[0] for path in images if path.parent != base})
    roles = {name: split_role(name) for name in folders}
    one_role = len(set(roles.values())) < min(len(folders), 2)  # the classes "train station" and "toy train"
    if not folders or not all(roles.values()) or one_role:
        _refuse_half_split(root, base, roles, images)
        return _with_classes(root, base, images, "")
    tell(root, [path for path in images if path.parent == base], "lie beside the folders of the splits, not in one")
    files = list[_File]()
    for name in sorted(folders, key=lambda name: roles[name] != "train"):
        own = [path for path in images if path.is_relative_to(base / name)]
        files += _with_classes(root, base / name, own, roles[name] or "", {file.name or "" for file in files})
    return sorted(files, key=lambda file: str(file.path))


def _refuse_half_split(
    root: Path, base: PurePosixPath, roles: dict[str, str | None], images: Sequence[PurePosixPath]
) -> None:
    """Refuse a folder `train` of folders beside others: it is a split or a class, and others would change meaning."""
    for name, role in roles.items():
        own = [path.relative_to(base) for path in images if path.is_relative_to(base / name)]
        if role == "train" and all(len(path.parts) > 2 for path in own):
            others = [other for other, its in roles.items() if its is None]
            raise DataError(
                f"'{root.name}': the folder '{name}' holds folders, as a split does, but '{listing(others, 3)}' "
                f"beside it is no split. Give the split's folder, '{root.name}/{base / name}', or move the others."
            )


def _with_classes(
    root: Path, base: PurePosixPath, images: Sequence[PurePosixPath], split: str, classes: Iterable[str] = ()
) -> list[_File]:
    """The images of a split, each with the first folder below the place where they part ways for a class."""
    base = _inner(base, images, classes)
    parts = [path.relative_to(base).parts for path in images]
    names = sorted({own[0] for own in parts if len(own) > 1})
    as_trained = {}
    if classes:
        known = sorted(classes)
        found = match_names(names, known, f"'{root.name}'")
        as_trained = {name: known[at] for name, at in zip(names, found, strict=True) if at is not None}
    deeper = [path for path, own in zip(images, parts, strict=True) if len(own) > 2]
    tell(root, deeper, f"lie in folders below those of the classes ({listing(names, 12)}) and belong to these")
    loose = [path for path, own in zip(images, parts, strict=True) if len(own) == 1]
    if names:
        tell(root, loose, "lie beside the folders of the classes and have none")
    return [
        _File(path, split, as_trained.get(own[0], own[0]) if len(own) > 1 else None)
        for path, own in zip(images, parts, strict=True)
    ]


def _with_metadata(
    root: Path, files: list[_File], metadata: Sequence[PurePosixPath]
) -> tuple[list[_File], dict[str, list[Any]]]:
    """The files in the order of their metadata, those without behind, and the columns of these."""
    folders = [path.parent for path in metadata]
    if twice := [path.as_posix() for path in metadata if folders.count(path.parent) > 1]:
        raise DataError(f"'{root.name}': {' and '.join(twice)} lie side by side. Leave the one that is meant.")
    found, by_path = list[_File](), {file.path: file for file in files}
    for table in metadata:
        missing = list[str]()
        for row in _rows(root / table):
            written = row.pop("file_name", None)
            if not isinstance(written, str):
                raise DataError(f"'{root.name}': {table} needs a column `file_name` that names an image in each row.")
            path = PurePosixPath(os.path.normpath(table.parent / written.replace("\\", "/")))
            if path in by_path:
                found.append(replace(by_path[path], row=row))
            else:
                missing.append(written)
        if missing:
            raise DataError(
                f"'{root.name}': {table} lists {len(missing)} images that are not there: {listing(missing, 3)}. Put "
                "them there, or take their rows out."
            )
    listed = {file.path for file in found}
    rest = [file for file in files if file.path not in listed]
    if metadata:
        tell(root, [file.path for file in rest], f"are not listed in {listing(metadata, 3)}: its columns are empty")
    found += rest
    names = dict.fromkeys(name for file in found for name in file.row)
    columns: dict[str, list[Any]] = {name: [file.row.get(name) for file in found] for name in names}
    if all(path.suffix == ".csv" for path in metadata):
        columns = {name: list(numbers_in(values, name)) for name, values in columns.items()}
    return found, columns


def _rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".csv":
        return list(read_csv(path))
    try:
        if path.suffix == ".jsonl":
            return [
                json.loads(line, object_pairs_hook=lambda pairs: _different(pairs, path))
                for line in read_text(path).splitlines()
                if line.strip()
            ]
        check_different(pq.read_schema(path).names, path.name)
        return pq.read_table(path).to_pylist()
    except (OSError, json.JSONDecodeError, pa.ArrowException) as error:
        raise DataError(f"{path.name} cannot be read: {error}.") from error


def _different(pairs: list[tuple[str, Any]], path: Path) -> dict[str, Any]:
    check_different([name for name, _ in pairs], path.name)
    return dict(pairs)


def _with_labels(root: Path, files: Sequence[_File]) -> list[_File]:
    """Files keep the class of their folder; those beside the class folders have the `label` of their metadata."""
    folders = {folded(file.name): file.name for file in files if file.name is not None}
    found = [file.row.get("label", file.row.get("labels")) for file in files]
    said = [None if label is None else str(label) for label in found]
    pairs = list(zip(files, said, strict=True))
    other = [file.path for file, label in pairs if file.name and label and folded(label) != folded(file.name)]
    told = (
        "have another class in the column `label` of the metadata than by their folder, which counts (if the column is"
    )
    tell(root, other, f"{told} right, rename it, and name it as the label column)")
    return [
        file if file.name is not None or label is None else replace(file, name=folders.get(folded(label), label))
        for file, label in pairs
    ]


def _with_splits(root: Path, files: Sequence[_File]) -> list[_File]:
    """Files keep the split of their folder; where no folder gives one, that of their metadata, else `train`."""
    said = [str({folded(name): value for name, value in file.row.items()}.get("split") or "") for file in files]
    roles = {split: split_role(split) for split in said if split}
    wrong = [split for split, role in roles.items() if role is None]
    pairs, column = list(zip(files, said, strict=True)), "in the column `split` of the metadata"
    if wrong:
        unknown = [file.path for file, split in pairs if split in wrong]
        tell(root, unknown, f"have no split's name {column} ({listing(wrong, 5)}); so it is used for no image")
    elif any(file.split for file in files):
        other = [file.path for file, split in pairs if split and roles[split] != file.split]
        tell(root, other, f"have another split {column} than by their folder, which counts")
    elif roles:
        tell(root, [file.path for file, split in pairs if not split], f"have nothing {column} and are for training")
        told = "'%s': the splits are those %s; rows are numbered within each."
        logger.warning(told, root.name, column)
    return [replace(f, split=f.split or (None if wrong else roles.get(split)) or "train") for f, split in pairs]


def _datasets(root: Path, files: list[_File], columns: dict[str, list[Any]]) -> dict[str, datasets.Dataset]:
    features = datasets.Features({"image": datasets.Image()})
    table: dict[str, list[Any]] = {"image": [str((root / file.path).absolute()) for file in files]}
    for name, values in columns.items():
        if name != "image":
            table[name] = values
            schema = pa.schema({name: array_of(name, values, f"'{root.name}'").type})
            features |= datasets.Features.from_arrow_schema(schema)
    if len({file.name for file in files} - {None}) > 1:
        files = _with_labels(root, files)
        classes = {file.name for file in files if file.name is not None}
        by_size = all(name.isdecimal() for name in classes)
        order = sorted(classes, key=lambda name: (int(name) if by_size else 0, name))
        number = {name: position for position, name in enumerate(order)}
        table["label"] = [None if file.name is None else number[file.name] for file in files]
        features["label"] = datasets.ClassLabel(names=order)
    whole = datasets.Dataset.from_dict(table, features=datasets.Features(features))
    splits = dict.fromkeys(file.split for file in files)
    return {split: whole.select([i for i, file in enumerate(files) if file.split == split]) for split in splits}
