"""Rows of a data set that make its splits: which ones, without duplicates, and drawn class by class."""

import logging
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets import ReadInstruction

from hf_dtl.data.columns import Splits, require_column
from hf_dtl.data.decoding import WHITE, read_as
from hf_dtl.data.duplicates import Copies, Part, remove_duplicates
from hf_dtl.data.selection import SPLITS, DatasetSpec
from hf_dtl.data.sources import source_key
from hf_dtl.errors import DataError

FRACTIONS = {"test": 0.2, "validation": 0.1}

logger = logging.getLogger(__name__)


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
        for role in ("test", "validation"):
            there = [name for name in _called(role, splits) if name not in train]
            if there:
                held_out[role] = there[0]
        unused = [
            f"{name} ({len(split)})" for name, split in splits.items() if name not in (*train, *held_out.values())
        ]
        if unused:
            logger.warning("'%s': these splits are not used: %s.", spec.name, ", ".join(unused))
        return cls({name: splits[name] for name in (*train, *held_out.values())}, train, held_out)

    @property
    def features(self) -> datasets.Features:
        return next(iter(self.splits.values())).features

    def parts(self, splits: Splits, labels: Mapping[str, np.ndarray]) -> dict[str, Part]:
        """Rows that have a label, 0 or above, by role; without a test split the validation split is that."""
        parts = {"train": _with_label(_gather(splits, labels, self.train))}
        for role, name in self.held_out.items():
            parts[role] = _with_label(_gather(splits, labels, {name: np.arange(len(splits[name]))}))
        if "test" not in parts and "validation" in parts:
            parts["test"] = parts.pop("validation")
        return parts

    def without_label(self, splits: Splits, labels: Mapping[str, np.ndarray]) -> Part:
        """The other rows that were named: pictures of no class, or of one that was not asked for."""
        found = _gather(splits, labels, self.train)
        return found.keep(found.labels < 0)


def _with_label(part: Part) -> Part:
    return part.keep(part.labels >= 0)


def _gather(splits: Splits, labels: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray]) -> Part:
    pieces = [splits[name] for name in rows]
    offsets = np.cumsum([0, *(len(piece) for piece in pieces[:-1])])
    dataset = pieces[0] if len(pieces) == 1 else datasets.concatenate_datasets(pieces)
    index = np.concatenate([kept + offset for kept, offset in zip(rows.values(), offsets, strict=True)])
    ids = np.concatenate([labels[name] for name in rows])[index]
    return Part(dataset, index, ids)


def _called(role: str, splits: Iterable[str]) -> list[str]:
    """The splits of a data set that are called as a role usually is, the best known name first."""
    by_name = {name.casefold(): name for name in splits}
    return [by_name[name] for name in SPLITS[role] if name in by_name]


def hold_out(
    parts: dict[str, Part],
    labels: tuple[str, ...],
    where: str,
    columns: Iterable[str],
    inside: Sequence[Path],
    background: str = WHITE,
    beside: Part | None = None,
) -> tuple[int, Copies]:
    """Drop equal pictures and hold out what is missing, in place by role; take and return as `remove_duplicates`."""
    removed, copies = remove_duplicates(parts, where, columns, inside, background, beside)
    for role, fraction in FRACTIONS.items():
        if role not in parts:
            # a picture of two persons is to be forgotten if one of them is, so it must not judge what is retained
            may_judge = np.where(np.isin(parts["train"].rows, copies.of_several), -1, parts["train"].labels)
            held_out = draw_by_class(may_judge, labels, fraction=fraction, seed=0)
            parts[role], parts["train"] = parts["train"].keep(held_out), parts["train"].keep(~held_out)
    return removed, copies


def dataset_fields(spec: DatasetSpec, parts: Mapping[str, Part], removed: int, copies: Copies) -> dict[str, Any]:
    """What `TaskData` and `MultiTaskData` say of any data set."""
    return {
        "name": str(spec.public()),
        **{
            role: read_as(part.dataset.select(part.rows), copies.bits, copies.background)
            for role, part in parts.items()
        },
        "duplicates_removed": removed,
        "source_key": source_key(spec),
        "train_rows": parts["train"].rows,
        "copies": copies,
    }


def _training_rows(spec: DatasetSpec, splits: Splits) -> dict[str, np.ndarray]:
    """Rows of each split that the split expression names, in the order of the data set."""
    usual = [*_called("train", splits), *(splits if len(splits) == 1 else ()), "train"]
    expression = spec.split or usual[0]
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


def check_enough(counts: Iterable[tuple[str, int]], needed: int, where: str) -> None:
    """Raise DataError that names a class with fewer training images than are needed."""
    for label, count in counts:
        if count < needed:
            remedy = f"images_per_class at most {count}, " if count else ""
            raise DataError(
                f"{where}: the class '{label}' has {count} training images, {needed} are needed. "
                f"Use {remedy}a larger split, or other classes."
            )


def draw(total: int, count: int, seed: int, what: str) -> np.ndarray:
    """Mask of a random `count` of so many rows; `what` keeps the draws of one seed apart."""
    return draw_by_class(np.zeros(total, dtype=np.int64), (what,), seed=seed, count=count)
