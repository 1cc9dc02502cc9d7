"""Rows of a data set that make its splits: which ones, without duplicates, and drawn class by class."""

import hashlib
import logging
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets import ReadInstruction

from hf_dtl.data.columns import Splits, require_column
from hf_dtl.data.selection import DatasetSpec
from hf_dtl.data.sources import source_key
from hf_dtl.errors import DataError

HELD_OUT = {"test": ("test",), "validation": ("validation", "valid", "val")}
FRACTIONS = {"test": 0.2, "validation": 0.1}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """Rows of a data set that make a split; `rows` indexes `dataset`, `labels` belongs to `rows`."""

    dataset: datasets.Dataset
    rows: np.ndarray
    labels: np.ndarray

    def keep(self, mask: np.ndarray) -> "Part":
        return Part(self.dataset, self.rows[mask], self.labels[mask])


@dataclass(frozen=True)
class Named:
    """The splits of a data set that are used.

    Args:
        splits: those with training images, and those held out.
        train: rows of each split that are for training.
        held_out: `test` and `validation` → name of that split, where there is one.
    """

    splits: dict[str, datasets.Dataset]
    train: dict[str, np.ndarray]
    held_out: dict[str, str]

    @classmethod
    def of(cls, spec: DatasetSpec, splits: Splits) -> "Named":
        """Take the split that the specification names for training, and others of a usual name for the rest."""
        train, held_out = _training_rows(spec, splits), {}
        for role, names in HELD_OUT.items():
            there = [name for name in names if name in splits and name not in train]
            if there:
                held_out[role] = there[0]
        return cls({name: splits[name] for name in (*train, *held_out.values())}, train, held_out)

    @property
    def features(self) -> datasets.Features:
        return next(iter(self.splits.values())).features

    def parts(self, splits: Splits, labels: Mapping[str, np.ndarray]) -> dict[str, Part]:
        """Rows that have a label, 0 or above, by role; without a test split the validation split is that."""
        parts = {"train": _gather(splits, labels, self.train)}
        for role, name in self.held_out.items():
            parts[role] = _gather(splits, labels, {name: np.arange(len(splits[name]))})
        if "test" not in parts and "validation" in parts:
            parts["test"] = parts.pop("validation")
        return parts


def _gather(splits: Splits, labels: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray]) -> Part:
    pieces = [splits[name] for name in rows]
    offsets = np.cumsum([0, *(len(piece) for piece in pieces[:-1])])
    dataset = pieces[0] if len(pieces) == 1 else datasets.concatenate_datasets(pieces)
    index = np.concatenate([kept + offset for kept, offset in zip(rows.values(), offsets, strict=True)])
    ids = np.concatenate([labels[name] for name in rows])[index]
    return Part(dataset, index, ids).keep(ids >= 0)


def hold_out(parts: dict[str, Part], labels: tuple[str, ...], where: str, inside: Sequence[Path]) -> int:
    """Drop exact duplicates and hold out what is missing, in place by role; return the number of duplicates."""
    removed = _remove_duplicates(parts, where, inside)
    if removed:
        logger.warning("%s: %d exact duplicates removed before splitting.", where, removed)
    for role, fraction in FRACTIONS.items():
        if role not in parts:
            held_out = draw_by_class(parts["train"].labels, labels, fraction=fraction, seed=0)
            parts[role], parts["train"] = parts["train"].keep(held_out), parts["train"].keep(~held_out)
    return removed


def dataset_fields(spec: DatasetSpec, parts: Mapping[str, Part], removed: int) -> dict[str, Any]:
    """What `TaskData` and `MultiTaskData` say of any data set."""
    return {
        "name": str(spec.public()),
        **{role: part.dataset.select(part.rows) for role, part in parts.items()},
        "duplicates_removed": removed,
        "source_key": source_key(spec),
        "train_rows": parts["train"].rows,
    }


def _training_rows(spec: DatasetSpec, splits: Splits) -> dict[str, np.ndarray]:
    """Rows of each split that the split expression names, in the order of the data set."""
    expression = spec.split or ("train" if "train" in splits or len(splits) != 1 else next(iter(splits)))
    wanted = [part.partition("[")[0] for part in expression.split("+")]
    for name in wanted:
        if name not in splits:
            raise DataError(f"'{spec.name}' has no split '{name}'. Splits there: {', '.join(splits)}.")
    try:
        ranges = ReadInstruction.from_spec(expression).to_absolute({name: len(splits[name]) for name in wanted})
    except (ValueError, AssertionError) as error:
        raise DataError(f"'{spec}': the split '{expression}' cannot be taken: {error}.") from error
    rows: dict[str, np.ndarray] = {name: np.arange(0) for name in wanted}
    for piece in ranges:
        rows[piece.splitname] = np.union1d(rows[piece.splitname], np.arange(piece.from_, piece.to))
    return rows


def require_columns(splits: Splits, columns: tuple[str, ...], where: str) -> None:
    """Raise DataError that names a column which a split lacks."""
    for name, split in splits.items():
        for column in columns:
            require_column(split.features, column, f"{where}: the split '{name}'")


def _remove_duplicates(parts: dict[str, Part], where: str, inside: Sequence[Path]) -> int:
    """Keep the first of equal images, looking at held-out splits before the training split; return how many went."""
    seen: set[bytes] = set()
    removed = 0
    for role in ("test", "validation", "train"):
        if role not in parts:
            continue
        mask = np.ones(len(parts[role].rows), dtype=bool)
        for position, digest in enumerate(_digests(parts[role], where, inside)):
            mask[position] = digest not in seen
            seen.add(digest)
        removed += int((~mask).sum())
        parts[role] = parts[role].keep(mask)
    return removed


def _digests(part: Part, where: str, inside: Sequence[Path]) -> list[bytes]:
    """Digests of the encoded images, the first that opens them: a row must not name a file outside its data set."""
    encoded = part.dataset.select_columns(["image"]).cast_column("image", datasets.Image(decode=False))
    digests: list[bytes] = []
    for batch in encoded.select(part.rows).with_format("arrow").iter(1000):
        images = batch.column("image").combine_chunks()
        for content, path in zip(images.field("bytes"), images.field("path"), strict=True):
            if content.is_valid:
                data = content.as_buffer()
            else:
                row = part.rows[len(digests)]
                if not path.is_valid:
                    raise DataError(f"{where}: row {row} has no image. Remove the row.")
                lies = Path(os.path.abspath(path.as_py()))
                if not any(lies.is_relative_to(folder) for folder in inside):
                    raise DataError(
                        f"{where}: the image of row {row} is a path outside the data set ({path.as_py()}), which is "
                        "not opened. Put the image into its folder, or its bytes into the row."
                    )
                try:
                    data = Path(path.as_py()).read_bytes()
                except OSError as error:
                    raise DataError(f"{where}: the image of row {row} cannot be read: {error}.") from error
            digests.append(hashlib.blake2b(data, digest_size=16).digest())
    return digests


def draw_by_class(
    labels: np.ndarray, names: tuple[str, ...], *, seed: int, fraction: float | None = None, count: int | None = None
) -> np.ndarray:
    """Mask of a random `count` or `fraction` of each class; a fraction takes at least one and leaves at least one."""
    mask = np.zeros(len(labels), dtype=bool)
    for label, name in enumerate(names):
        rows = np.flatnonzero(labels == label)
        if fraction is not None:
            count = max(min(max(1, round(fraction * len(rows))), len(rows) - 1), 0)
        # Seeded by the name too: the draw of a class does not depend on which others are selected.
        order = np.random.default_rng([seed, zlib.crc32(name.encode())]).permutation(len(rows))
        mask[rows[order[:count]]] = True
    return mask


def draw(total: int, count: int, seed: int, what: str) -> np.ndarray:
    """Mask of a random `count` of so many rows; `what` keeps the draws of one seed apart."""
    return draw_by_class(np.zeros(total, dtype=np.int64), (what,), seed=seed, count=count)
