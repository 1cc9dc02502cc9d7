"""Where data comes from: the embedded and the rendered sets, local files and folders, or the Hugging Face Hub."""

import glob
import hashlib
import logging
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile

import datasets
import numpy as np
import pyarrow.parquet as pq
from huggingface_hub.constants import HF_HUB_CACHE

from hf_dtl.data.columns import class_ids, kind_of
from hf_dtl.data.glyphs import render_glyphs
from hf_dtl.data.image_folder import read_image_folder, tell, walk
from hf_dtl.data.names import folded
from hf_dtl.data.selection import GLYPHS, SPLITS, STYLES, DatasetSpec, split_role
from hf_dtl.errors import DataError, listing
from hf_dtl.options import nearest

EMBEDDED_FOLDER = Path(__file__).parent / "embedded"
EXAMPLE_FOLDER = EMBEDDED_FOLDER / "example"
"""Small models of one run, laid out as its output folder."""
RENDERED_IMAGES = {"train": 7000, "validation": 1000, "test": 2000}
"""Images of `glyphs` as one task: as many as an embedded set has."""
EMBEDDED_NAMES = ("mnist", "fashion_mnist", GLYPHS)
"""What comes with the library: files, and glyphs, which are rendered."""
EMBEDDED_SPLITS = ("train", "validation", "test")

logger = logging.getLogger(__name__)


def open_splits(spec: DatasetSpec) -> dict[str, datasets.Dataset]:
    """Open every split of the data set that a specification names, without decoding an image.

    An embedded name comes first, then a path that exists, then the Hub. No code from a data set is ever run.

    Args:
        spec: what to open; its split and classes are not applied.

    Returns:
        Split name → data set, with the columns as stored; of `glyphs` those of `render_glyphs`.

    Raises:
        DataError: the data set is unknown, unreachable or broken; the message says what was tried.
    """
    path = Path(spec.name).expanduser()
    embedded = spec.name in EMBEDDED_NAMES
    if spec.revision is not None and (embedded or path.exists()):
        raise DataError(f"'{spec}': a revision is for Hub data sets; leave out '@{spec.revision}'.")
    if spec.name == GLYPHS:
        return {split: _with_style(rendered(split, images)) for split, images in RENDERED_IMAGES.items()}
    if embedded:
        return {split: _open_embedded(EMBEDDED_FOLDER, spec.name, split) for split in EMBEDDED_SPLITS}
    try:
        if path.exists():
            found = _open_path(path)
        elif spec.is_path:
            raise DataError(f"'{spec.name}': there is no such file or folder. Check the path ({path.absolute()}).")
        else:
            found = by_column(datasets.load_dataset(spec.name, revision=spec.revision), spec.name)
    except DataError:
        raise
    except Exception as error:  # every failure of a foreign reader is a fault of the data for the user
        _check_cache()
        raise _unreadable(spec, path, error) from error
    if isinstance(found, datasets.Dataset):
        found = {"train": found}
    return {str(name): split for name, split in found.items()}


def _check_cache() -> None:
    """Blame the cache where it cannot be written, and not the data."""
    cache = Path(datasets.config.HF_DATASETS_CACHE)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=cache):
            pass
    except OSError as error:
        raise DataError(
            f"The cache of data sets, {cache}, cannot be written ({error.strerror}). Set HF_HOME or HF_DATASETS_CACHE "
            "to a folder that can."
        ) from error


def places(spec: DatasetSpec) -> tuple[Path, ...]:
    """Folders that the images of a data set may lie in, where their bytes are not in the rows themselves."""
    path = Path(spec.name).expanduser()
    own = path.parent if path.is_file() else path
    cache = (Path(datasets.config.HF_DATASETS_CACHE), Path(HF_HUB_CACHE))
    return (own.absolute(), own.resolve(), *cache) if path.exists() else cache


def source_key(spec: DatasetSpec) -> str:
    """Return a short digest that tells data sets apart without giving away a path."""
    path = Path(spec.name).expanduser()
    local = spec.name not in EMBEDDED_NAMES and path.exists()
    return hashlib.sha256((str(path.resolve()) if local else spec.name).encode()).hexdigest()[:16]


@cache
def _open_embedded(folder: Path, name: str, split: str) -> datasets.Dataset:
    path, listing = folder / name / f"{split}.parquet", folder / "SHA256SUMS"
    try:
        expected = {file: digest for digest, file in (line.split() for line in listing.read_text().splitlines())}
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise DataError(f"The embedded data is incomplete ({error}). Install hf_dtl again.") from error
    if hashlib.sha256(content).hexdigest() != expected.get(f"{name}/{split}.parquet"):
        raise DataError(
            f"The embedded file {name}/{split}.parquet is corrupt: its checksum differs. Install hf_dtl again."
        )
    # Read in memory: 3 MB at most, and nothing is written to the user's cache.
    return datasets.Dataset(pq.read_table(path))


@cache
def rendered(split: str, images: int) -> datasets.Dataset:
    """The first glyphs of a split, see `render_glyphs`; rendered once a process."""
    return render_glyphs(split, images)


def _with_style(glyphs: datasets.Dataset) -> datasets.Dataset:
    """With a column of weight and slant together, see `STYLES`."""
    styles = [2 * weight + slant for weight, slant in zip(glyphs["weight"], glyphs["slant"], strict=True)]
    return glyphs.add_column("style", styles, feature=datasets.ClassLabel(names=list(STYLES)))


def column_of(spec: DatasetSpec, features: datasets.Features) -> str | None:
    """Label column of data that have several, where none is asked for: of `glyphs` that with most of these classes."""
    if spec.name != GLYPHS:
        return None
    named = {name: feature.names for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)}
    asked = spec.classes or ()
    known = {
        name: (len({*asked} & {*own}), sum(bool(nearest(word, own)) for word in asked)) for name, own in named.items()
    }
    return max(known, key=lambda name: known[name])


def _open_path(path: Path) -> datasets.Dataset | datasets.DatasetDict:
    is_saved = (path / "dataset_dict.json").exists() or (path / "state.json").exists()
    images = None if path.is_file() or is_saved else read_image_folder(path)
    return by_column(_open_tables(path), path.name) if images is None else datasets.DatasetDict(images)


def by_column(found: datasets.Dataset | datasets.DatasetDict, where: str) -> datasets.Dataset | datasets.DatasetDict:
    """Splits as the column `split` of data in one piece says; rows without a word are for training."""
    if isinstance(found, datasets.DatasetDict) and len(found) > 1:
        for name, split in found.items():
            for column in (column for column in split.features if folded(column) == "split"):
                words = {str(value) for value in split.with_format(None).select_columns([column])[:][column]}
                if other := sorted(word for word in words if split_role(word) != split_role(name)):
                    told = "'%s': the split '%s' has %s in its column '%s', which is not used: files make the splits."
                    logger.warning(told, where, name, listing(other, 5), column)
        return found
    whole = next(iter(found.values())) if isinstance(found, datasets.DatasetDict) else found
    column = next((name for name in whole.features if folded(name) == "split"), None)
    feature = None if column is None else whole.features[column]
    if column is None:
        return found
    if kind_of(feature) not in ("ClassLabel", "string"):
        told = "'%s': the column '%s' holds %s, no words such as train and test; so it is used for no row."
        logger.warning(told, where, column, feature)
        return found
    names, ids = class_ids({"": whole}, column, f"'{where}'", quiet=True)
    said = {name: split_role(name) for name in (names[i] for i in np.unique(ids[""]) if i >= 0)}
    if unknown := [name for name, role in said.items() if role is None]:
        told = "'%s': the column '%s' says %s, which is no split; so it is used for no row."
        logger.warning(told, where, column, listing(unknown, 5))
        return found
    if empty := int((ids[""] < 0).sum()):
        logger.warning("'%s': %d rows have nothing in the column '%s' and are for training.", where, empty, column)
    roles = np.array([*(said.get(name) or "" for name in names), "train"])[ids[""]]
    found = datasets.DatasetDict(
        {role: whole.select(np.flatnonzero(roles == role)) for role in SPLITS if role in roles}
    )
    counts = listing([f"{len(split)} {role}" for role, split in found.items()])
    logger.warning(
        "'%s': the splits are those of the column '%s': %s; rows are numbered within each.", where, column, counts
    )
    return found


def _open_tables(path: Path) -> datasets.Dataset | datasets.DatasetDict:
    if path.is_file():
        if path.suffix != ".parquet":
            raise DataError(f"'{path}' is a file but not a .parquet file; give a parquet file or a folder.")
        # datasets reads a name as a pattern
        return datasets.load_dataset("parquet", data_files={"train": glob.escape(str(path))})
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        return datasets.load_from_disk(str(path))
    if glob.has_magic(str(path.absolute())):
        raise DataError(f"'{path}': `datasets` cannot look into a folder with [, ?, or * in its path. Rename it.")
    builder = datasets.load_dataset_builder(str(path.absolute()))
    tables = [Path(file) for files in (builder.config.data_files or {}).values() for file in files]
    if len(builder.config.data_files or ()) == 1 and (own := _by_name(tables)):
        builder = datasets.load_dataset_builder("parquet", data_files=own)
    if twice := sorted({file.name for file in tables if tables.count(file) > 1}):
        raise DataError(
            f"'{path}': the name of {listing(twice, 3)} has words of several splits. Name it after one, such as train."
        )
    _refuse_unlike(path, [file for file in tables if file.suffix == ".parquet"])
    taken = {os.path.realpath(file) for file in tables}
    left = [file for kind in reversed(walk(path)[:4]) for file in kind if os.path.realpath(path / file) not in taken]
    splits = ", ".join(map(str, builder.config.data_files or ()))
    tell(
        path, left, f"are in none of the splits found ({splits}) and are not used; name them as the others of a split"
    )
    builder.download_and_prepare()
    return builder.as_dataset()


def _by_name(files: Sequence[Path]) -> dict[str, list[str]]:
    """Parquet files by the split that each is called after, in whatever case; none where some have no such name."""
    roles = {file: split_role(file.stem) or split_role(file.parent.name.removeprefix("split=")) for file in files}
    if None in roles.values() or len({*roles.values()}) < 2 or any(file.suffix != ".parquet" for file in files):
        return {}
    own = {role: [glob.escape(str(file)) for file in files if roles[file] == role] for role in SPLITS}
    return {role: some for role, some in own.items() if some}


def _refuse_unlike(root: Path, files: Sequence[Path]) -> None:
    """Refuse parquet files that differ where it counts: `datasets` takes columns and names of the first for all."""
    first: dict[str, tuple[Path, object]] = {}
    for file in files:
        here, columns = os.path.relpath(file, root), datasets.Features.from_arrow_schema(pq.read_schema(file))
        if first and (more := [column for column in columns if column not in first]):
            there = os.path.relpath(files[0], root)
            raise DataError(
                f"'{root}': '{here}' has the columns {listing(more, 5)}, which '{there}' lacks. Give all files the "
                "same columns: add them there, empty where nothing is known, or leave them out here."
            )
        for column, feature in columns.items():
            other, known = first.setdefault(column, (file, feature))
            pair = (getattr(known, "names", None), getattr(feature, "names", None))  # of a ClassLabel alone
            kinds = [_family(one) for one in (known, feature)]
            if None not in kinds and kinds[0] != kinds[1]:
                raise DataError(
                    f"'{root}': the column '{column}' holds {known} in '{os.path.relpath(other, root)}', and "
                    f"{feature} in '{here}', so 7 and 007, or 1 and true, would be one. Write it alike in all."
                )
            if kind_of(known) == "int" and kind_of(feature).startswith("float"):
                values = pq.read_table(file, columns=[column])[column].to_pylist()
                if broken := [value for value in values if value is not None and value % 1]:  # also for nan
                    raise DataError(
                        f"'{root}': the column '{column}' holds whole numbers in '{os.path.relpath(other, root)}', "
                        f"and {broken[0]} in '{here}'. Write it alike in all, what is missing as an empty field."
                    )
            if pair[0] == pair[1]:
                continue
            one, two = (dict(enumerate(names or ())) for names in pair)
            at = next(number for number in sorted({*one, *two}) if one.get(number) != two.get(number))
            says = [repr(names[at]) if at in names else "no named class" for names in (one, two)]
            raise DataError(
                f"'{root}': the files do not number the classes of the column '{column}' alike: {at} is {says[0]} in "
                f"'{os.path.relpath(other, root)}', but {says[1]} in '{here}'. "
                "Write them with the same class names in the same order (`align_labels_with_mapping` of `datasets`)."
            )


def _family(feature: object) -> str | None:
    """Whether a column holds text, numbers, or true and false; None for anything else."""
    kind = kind_of(feature)
    families = {"string": "text", "bool": "bool"}
    return families.get(kind) or ("numbers" if kind.startswith(("int", "float")) else None)


def _unreadable(spec: DatasetSpec, path: Path, error: Exception) -> DataError:
    cause: BaseException = error
    while path.exists() and cause.__cause__ is not None:  # `datasets` says what was wrong in the first alone
        cause = cause.__cause__
    reason = " ".join(str(cause).split())[:400] or type(cause).__name__
    if path.exists():
        return DataError(
            f"'{spec.name}' cannot be read as a data set: {reason}. It must be a parquet file, a folder of parquet "
            "files or of images in one subfolder a class, or a folder written by save_to_disk; files that make one "
            "split have the same columns, of the same types."
        )
    if path.suffix in (".txt", ".csv"):
        return DataError(f"There is no file {spec.name!r} of row numbers here ({path.absolute().parent}).")
    hint = nearest(spec.name, EMBEDDED_NAMES, quoted=True, cutoff=0.5)
    offline = " HF_HUB_OFFLINE is set: unset it to use the Hub." if datasets.config.HF_HUB_OFFLINE else ""
    return DataError(
        f"'{spec.name}' was not found.{hint} It is not embedded ({', '.join(EMBEDDED_NAMES)}), no file or folder has "
        f"that name, and the Hub gave no such data set: {reason}.{offline} Check the spelling and the network; a "
        "gated or private data set needs `hf auth login`; one with several configurations must be saved with "
        "save_to_disk first."
    )
