"""Rows of a data set that make its splits: which ones, without duplicates, and drawn class by class."""

import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
from datasets import ReadInstruction

from hf_dtl.data.selection import DatasetSpec
from hf_dtl.errors import DataError

TEST_SPLITS = ("test",)
VALIDATION_SPLITS = ("validation", "valid", "val")
TEST_FRACTION, VALIDATION_FRACTION = 0.2, 0.1


@dataclass(frozen=True)
class Part:
    """Rows of a data set that make a split; `rows` indexes `dataset`, `labels` belongs to `rows`."""

    dataset: datasets.Dataset
    rows: np.ndarray
    labels: np.ndarray

    def keep(self, mask: np.ndarray) -> "Part":
        return Part(self.dataset, self.rows[mask], self.labels[mask])


def training_rows(spec: DatasetSpec, splits: Mapping[str, datasets.Dataset]) -> dict[str, np.ndarray]:
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


def held_out_names(splits: Mapping[str, datasets.Dataset], exclude: set[str]) -> tuple[str | None, str | None]:
    """Name the test and the validation split, None where there is none besides `exclude`."""
    test = next((name for name in TEST_SPLITS if name in splits and name not in exclude), None)
    validation = next((name for name in VALIDATION_SPLITS if name in splits and name not in exclude), None)
    return test, validation


def require_columns(splits: Mapping[str, datasets.Dataset], columns: tuple[str, ...], where: str) -> None:
    """Raise DataError that names a column which a split lacks."""
    for name, split in splits.items():
        for column in columns:
            if column not in split.features:
                raise DataError(
                    f"{where}: the split '{name}' has no column '{column}'. "
                    f"Columns there: {', '.join(split.features)}."
                )


def remove_duplicates(parts: dict[str, Part], where: str) -> int:
    """Keep the first of equal images, looking at held-out splits before the training split; return how many went."""
    seen: set[bytes] = set()
    removed = 0
    for role in ("test", "validation", "train"):
        if role not in parts:
            continue
        mask = np.ones(len(parts[role].rows), dtype=bool)
        for position, digest in enumerate(_digests(parts[role], where)):
            mask[position] = digest not in seen
            seen.add(digest)
        removed += int((~mask).sum())
        parts[role] = parts[role].keep(mask)
    return removed


def _digests(part: Part, where: str) -> list[bytes]:
    """Digest of each image as stored, without decoding it."""
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
                try:
                    data = Path(path.as_py()).read_bytes()
                except OSError as error:
                    raise DataError(f"{where}: the image of row {row} cannot be read: {error}.") from error
            digests.append(hashlib.blake2b(data, digest_size=16).digest())
    return digests


def draw_by_class(
    part: Part, labels: tuple[str, ...], *, seed: int, fraction: float | None = None, count: int | None = None
) -> np.ndarray:
    """Mask of a random `count` or `fraction` of each class; a fraction takes at least one and leaves at least one."""
    mask = np.zeros(len(part.rows), dtype=bool)
    for label, name in enumerate(labels):
        rows = np.flatnonzero(part.labels == label)
        if fraction is not None:
            count = max(min(max(1, round(fraction * len(rows))), len(rows) - 1), 0)
        # Seeded by the name too: the draw of a class does not depend on which others are selected.
        order = np.random.default_rng([seed, zlib.crc32(name.encode())]).permutation(len(rows))
        mask[rows[order[:count]]] = True
    return mask
