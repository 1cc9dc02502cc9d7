"""What is to be forgotten of one data set, as a user writes it, and the two parts that it divides the images into."""

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import datasets
import numpy as np

from hf_dtl.data.columns import kind_of, labels_of, numbered, raw_column
from hf_dtl.data.loading import TaskData
from hf_dtl.data.multitask import MultiTaskData
from hf_dtl.data.names import folded, match_names
from hf_dtl.data.selection import listed_positions, positions
from hf_dtl.data.splits import check_enough, draw, draw_by_class
from hf_dtl.data.tables import read_text
from hf_dtl.errors import DataError, listing
from hf_dtl.options import nearest

REQUEST_GRAMMAR = """What to forget is written as one of
  class=3            a class by position or name, also several: class=cat,dog or class=0-2
  indices.txt        a file with one row number of the training split a line, from 0 on; with row,class on every
                     line also what to name each image instead: instancewise:goal=relabel
  column=value       all training images whose column has that value, such as person=ann
  random=10%         that share of the training images, or so many: random=500, drawn with the seed"""

RequestKind = Literal["class", "indices", "column", "random"]
_SHOWN = 20
_LISTED = re.compile(r"(\d+)\s*(?:,(.*)|#.*)?")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ForgetRequest:
    """What to forget.

    Args:
        kind: a whole class, listed rows, a value of a column, or a random draw.
        name: the column, or the path of the file of rows; else empty.
        value: the classes, the column's value, or the size of the draw; else empty.

    Example:
        >>> ForgetRequest.parse("class=cat,dog")
        ForgetRequest(kind='class', name='', value='cat,dog')
    """

    kind: RequestKind
    name: str
    value: str

    @classmethod
    def parse(cls, text: str) -> "ForgetRequest":
        """Read what a user writes.

        Raises:
            DataError: the text is none of these; the message shows them.
        """
        text = text.strip()
        name, equals, value = (part.strip() for part in text.partition("="))
        if os.path.isfile(text):  # also of a list of classes that is too long for a file name
            return cls("indices", text, "")
        if not equals:
            raise DataError(f"--forget {text!r}: there is no such file.\n{REQUEST_GRAMMAR}")
        if not name or not value:
            raise DataError(f"--forget {text!r} lacks {'a value' if name else 'a name'}.\n{REQUEST_GRAMMAR}")
        nameless: dict[str, RequestKind] = {"class": "class", "random": "random"}
        return cls(nameless[name], "", value) if name in nameless else cls("column", name, value)

    def __str__(self) -> str:
        """The request without the folders above a file."""
        return Path(self.name).name if self.kind == "indices" else f"{self.name or self.kind}={self.value}"

    @property
    def column(self) -> str | None:
        """The column that must be loaded beside images and labels."""
        return self.name if self.kind == "column" else None

    def divide(self, task: TaskData, seed: int = 0, retain_images_per_class: int | None = None) -> "Division":
        """Divide the training images into those to forget and those to retain.

        Args:
            task: loaded with `keep_column=request.column`.
            seed: of random draws.
            retain_images_per_class: draw so many images of each class among those to retain; None means all.

        Raises:
            DataError: nothing or everything would be forgotten, or rows, classes, values or images are not there.
        """
        labels = labels_of(task.train)
        classes, new = tuple[int, ...](), dict[int, int]()
        left_out = np.zeros(len(labels), dtype=bool)
        if self.kind == "class":
            classes = tuple(dict.fromkeys(listed_positions(self.value, task.labels, f"'{task.name}'")))
            mask, named = np.isin(labels, classes), [task.labels[at] for at in classes]
            if any(folded(name) not in folded(self.value) for name in named if not name.isdecimal()):
                logger.warning("--forget %s: by the order of the data's classes that is %s.", self, listing(named))
            left_out = self._copies(task, np.isin(labels_of(task.copies.images), classes)) & ~mask
            if left_out.any():
                told = "--forget %s: %d images of other classes are copies of these; they are left out of both."
                logger.warning(told, self, left_out.sum())
        elif self.kind == "indices":
            mask, new = self._listed_rows(task)
        elif self.kind == "column":
            mask = self._rows_with_value(task)
        else:
            mask = self._random_rows(len(labels), seed)
        if not mask.any():
            raise DataError(f"--forget {self}: no training image of '{task.name}' belongs to it. Nothing to forget.")
        if mask.all() or len(task.labels) - len(classes) < 2:
            what = "every class but one" if not mask.all() else "all training images"
            raise DataError(
                f"--forget {self} covers {what} of '{task.name}'; nothing that could be retained is left. "
                "Forget less, or name a larger data set."
            )
        kept = ~mask & ~left_out
        if retain_images_per_class is not None:
            rest = np.where(kept, labels, -1)
            there = {task.labels[at]: int((rest == at).sum()) for at in np.unique(rest[kept])}
            check_enough(there.items(), retain_images_per_class, f"'{task.name}', to retain")
            kept = draw_by_class(rest, task.labels, count=retain_images_per_class, seed=seed)
        forget, retain = (task.train.select(np.flatnonzero(part)) for part in (mask, kept))
        rows = task.train_rows[mask].tolist()
        without = int((self._texts(retain) == "").sum()) if self.column is not None else 0
        return Division(forget, retain, classes, rows, [new[row] for row in rows] if new else None, without)

    def _listed_rows(self, task: TaskData) -> tuple[np.ndarray, dict[int, int]]:
        """Which training images are listed, and the new label by row where there are new labels."""
        there, labels = set(task.train_rows.tolist()), self.listed_rows()
        kept = dict(zip(task.copies.rows.tolist(), task.copies.kept.tolist(), strict=True))
        copied = [row for row in labels if row not in there and kept.get(row) in there]
        if copied:
            told = "--forget %s: %d of its rows are copies of other images, which are forgotten instead: row %s."
            logger.warning(told, self, len(copied), listing(copied, _SHOWN))
        for row in copied:
            label = labels.pop(row)
            if labels.setdefault(kept[row], label) != label:
                raise DataError(
                    f"--forget {self}: rows {row} and {kept[row]} are the same picture, listed as {label!r} and "
                    f"{labels[kept[row]]!r}. Give both one label."
                )
        missing = sorted(labels.keys() - there)
        if missing:
            raise DataError(
                f"--forget {self}: {len(missing)} of its {len(labels)} rows are not training images of '{task.name}' "
                f"({listing(missing, _SHOWN)}). They are past the end, of a class or split that was not named, exact "
                "duplicates of a held-out image, or held out for validation or test. Take them off the list."
            )
        return np.isin(task.train_rows, list(labels)), self._new_labels(labels, task)

    def listed_rows(self) -> dict[int, str]:
        """The rows of a list, each with its new label, empty where it has none.

        Raises:
            DataError: a line is no row number, or a row has two labels.
        """
        labels: dict[int, str] = {}
        for number, line in enumerate(read_text(Path(self.name)).splitlines(), 1):
            if not (entry := line.strip()) or entry.startswith("#"):
                continue
            match = _LISTED.fullmatch(entry)
            if match is None:
                raise DataError(
                    f"--forget {self}, line {number}: {entry[:40]!r} is not a row number from 0 on, of images in the "
                    "order of their paths. Images that you know by name: give a column to a metadata.csv beside them "
                    "(file_name,pick), write yes there, and give --forget pick=yes."
                )
            row, label = int(match[1]), (match[2] or "").strip().strip('"')
            if labels.setdefault(row, label) != label:
                raise DataError(
                    f"--forget {self}, line {number}: row {row} is listed before as {labels[row]!r}, and here as "
                    f"{label!r}. List it once."
                )
        return labels

    def _copies(self, task: TaskData, chosen: np.ndarray) -> np.ndarray:
        """Which training images stand for some of the copies that are left out."""
        return np.isin(task.train_rows, task.copies.kept[chosen])

    def _new_labels(self, labels: dict[int, str], task: TaskData) -> dict[int, int]:
        without = [row for row, label in labels.items() if not label]
        if len(without) == len(labels):
            return {}
        if without:
            raise DataError(f"--forget {self}: row {without[0]} has no new label, others have. Give all one, or none.")
        own = dict(zip(task.train_rows.tolist(), labels_of(task.train).tolist(), strict=True))
        new = {}
        for row, label in labels.items():
            whole = match_names([label], task.labels, f"'{task.name}'") != [None]
            if not whole and re.fullmatch(r"\d+(\s*,\s*\d+)+", label):
                raise DataError(
                    f"--forget {self}: '{row},{label[:40]}' looks like row numbers: write one a line, or a row and "
                    "its new label."
                )
            # "C#" is a class, what follows a blank and "#" else a comment
            name = label if whole else re.split(r"\s#", label)[0].strip()
            found = positions(name, task.labels, f"'{task.name}'")
            if len(found) != 1 or found[0] == own[row]:
                problem = "the label that it has" if len(found) == 1 else "several classes"
                raise DataError(f"--forget {self}: the new label {label!r} of row {row} is {problem}. Give another.")
            new[row] = found[0]
        return new

    def has_value(self, images: datasets.Dataset, task: TaskData | MultiTaskData) -> np.ndarray:
        """Tell which held-out images have the column's value: they belong to what is forgotten, and test nothing else.

        Args:
            images: a split of the task; without that column nothing is known, so none has.
            task: whose splits all spell the value alike.

        Returns:
            (N,) bool; no image for other kinds of requests.
        """
        if self.column is None or self.column not in images.features:
            return np.zeros(len(images), dtype=bool)
        value, _ = self._spelt(task)
        return self._texts(images) == value

    def says_nothing(self, images: datasets.Dataset) -> bool:
        """Whether the column is not there, or empty, so that it cannot be told what belongs to what is forgotten."""
        if self.column is None or not len(images):
            return False
        return self.column not in images.features or not (self._texts(images) != "").any()

    def _spelt(self, task: TaskData | MultiTaskData) -> tuple[str | None, list[str]]:
        """The value as the data have it, None where they do not; and others that are written nearly alike."""
        splits = (task.train, task.copies.images, task.validation, task.test)
        texts = [self._texts(images) for images in splits if self.name in images.features]
        there = sorted(set(np.concatenate(texts).tolist()) - {""})
        (found,) = match_names([self.value], there, f"the column '{self.name}'")
        if found is None:
            return None, []
        return there[found], [name for name in there if name != there[found] and _may_be(name, self.value)]

    def _texts(self, images: datasets.Dataset) -> np.ndarray:
        """The column as text, empty where there is no value."""
        feature = images.features[self.name]
        if isinstance(feature, datasets.ClassLabel):
            ids = numbered(raw_column(images, self.name), feature, self.name, f"--forget {self}")
            return np.array([*feature.names, ""])[ids]
        if not isinstance(feature, datasets.Value):
            raise DataError(
                f"--forget {self}: the column '{self.name}' holds no single values ({kind_of(feature)}). Write a "
                "column that says yes or no for what you mean, and forget that."
            )
        column = images.select_columns([self.name]).with_format(None)[:][self.name]
        # nothing is also not a number, as pandas writes it, and blanks alone
        return np.array(["" if v is None or v != v or not str(v).strip() else str(v) for v in column])

    def _rows_with_value(self, task: TaskData) -> np.ndarray:
        size = len(task.train)
        texts = np.concatenate([self._texts(task.train), self._texts(task.copies.images)])
        value, others = self._spelt(task)
        found = texts == value
        if others:
            told = "--forget %s: images of %s are not forgotten. List rows, or write them alike, if they belong to it."
            logger.warning(told, self, " and ".join(map(repr, others)))
        mask = found[:size] | (copies := self._copies(task, found[size:]))
        if more := int((copies & ~found[:size]).sum()):
            told = "--forget %s: %d images that stand under another value are copies of such; they are forgotten too."
            logger.warning(told, self, more)
        if not mask.any():
            there = sorted(set(texts.tolist()) - {""})
            if value is not None:
                raise DataError(
                    f"--forget {self}: every image of '{task.name}' with that value judges: it is a validation or "
                    "test image, or a copy of one. Take it out of those splits."
                )
            several = " It names one value; of several list the rows in a file." if "," in self.value else ""
            raise DataError(
                f"--forget {self}: no training image of '{task.name}' has that value."
                f"{several or nearest(self.value, there, quoted=True)} Values there: {listing(there, _SHOWN)}."
            )
        return mask

    def _random_rows(self, images: int, seed: int) -> np.ndarray:
        try:
            share = self.value.endswith("%")
            count = round(images * float(self.value[:-1]) / 100) if share else int(self.value)
        except (ValueError, OverflowError):
            count = -1
        if not 0 <= count <= images:
            raise DataError(
                f"--forget {self}: {self.value!r} must be a share such as 10%, or a number up to the {images} images."
            )
        return draw(images, count, seed, "forget")


def _may_be(name: str, value: str) -> bool:
    """Whether another value of a column may mean this one: alike, one of several in a cell, the same number."""

    def number(text: str) -> float | None:
        try:
            return float(text)
        except ValueError:
            return None

    parts = [folded(part) for part in re.split(r"[;,|/&+]|\band\b", name)]
    return folded(value) in (folded(name), *parts) or (number(value) is not None and number(name) == number(value))


@dataclass(frozen=True)
class Division:
    """The training images of one data set in two parts.

    Args:
        forget, retain: columns as the training images have them.
        classes: labels of the classes that are forgotten as a whole; empty for single images.
        rows: of each image to forget, in the split that was named.
        new_labels: what each of them is to be named instead of its label, where the request says so.
        without_value: images that are retained because the column says nothing of them.
    """

    forget: datasets.Dataset
    retain: datasets.Dataset
    classes: tuple[int, ...]
    rows: Sequence[int]
    new_labels: Sequence[int] | None
    without_value: int = 0
