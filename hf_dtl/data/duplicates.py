"""The same picture twice: found by its pixels, under whatever name, person or class it comes again."""

import hashlib
import logging
import os
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from hf_dtl.data.decoding import PROGRESS_FROM, SIGNS, WHITE, bits_of, check_colour, decoded, to_channels, with_alpha
from hf_dtl.errors import DataError, listing

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
ORDER = ("test", "validation", "train")
"""Of equal pictures that say the same, the first in this order stays."""
_DEEP = b"16 bits "
_MOST_KEPT = 100_000
_PIXELS: dict[bytes, tuple[bytes, int, bool]] = {}
"""What was decoded before in this process, by the digest of the encoded image."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """Rows of a data set that make a split; `rows` indexes `dataset`, `labels` belongs to `rows`."""

    dataset: datasets.Dataset
    rows: np.ndarray
    labels: np.ndarray

    def keep(self, mask: np.ndarray) -> "Part":
        return Part(self.dataset, self.rows[mask], self.labels[mask])

    def says(self, position: int, columns: Iterable[str]) -> tuple[object, ...]:
        """The values of a row in those of the columns that there are."""
        there = [name for name in columns if name in self.dataset.features]
        return tuple(self.dataset.select_columns(there)[int(self.rows[position])].values()) if there else ()


@dataclass(frozen=True)
class Copies:
    """Training images that are left out, because the same picture stays.

    Args:
        images: those left out, with the columns that training images have; held-out ones where these say another
            thing than the training image that stays.
        rows: (M,) their rows in the split that was named, -1 of those held out.
        kept: (M,) that of the training image which stays; where it is held out, the row is no training image.
        of_several: rows of training images whose copies say other things than they do, such as another person.
        bits: that 16-bit images of all splits fill, 0 where there are none.
        background: colour under what is transparent.
    """

    images: datasets.Dataset
    rows: np.ndarray
    kept: np.ndarray
    of_several: np.ndarray
    bits: int = 0
    background: str = WHITE


def remove_duplicates(
    parts: dict[str, Part],
    where: str,
    columns: Iterable[str],
    inside: Sequence[Path],
    background: str = WHITE,
    beside: Part | None = None,
) -> tuple[int, Copies]:
    """Keep one of equal pictures, in place by role: a held-out one before a training image, else the first.

    Where copies say different things (another class or person), the training image stays: what is forgotten of one
    of them must be known, and no copy may judge.

    Args:
        parts: by role.
        where: the data set, for messages.
        columns: in which copies may differ so that it matters to what is forgotten.
        inside: folders that images may lie in: a row must not name a file outside its data set.
        background: colour under what is transparent.
        beside: rows that nothing is made of: a picture among them is a copy of the training image that it equals.

    Returns:
        How many went, and those of them that were training images.

    Raises:
        DataError: no colour; a row has no image, or one that lies elsewhere, cannot be read, or is a git-lfs pointer.
    """
    check_colour(background)
    groups = defaultdict[bytes, list[tuple[str, int]]](list)
    bits = blank = 0
    for role in ORDER:
        if role in parts:
            found = digests(parts[role], f"{where}, {role}", inside, background)
            for position, (digest, deep, is_blank) in enumerate(found):
                groups[digest].append((role, position))
                bits, blank = max(bits, deep), blank + is_blank
    if bits:
        _match_depths(parts, groups, (where, inside, background), bits)
    masks = {role: np.ones(len(part.rows), dtype=bool) for role, part in parts.items()}
    removed, differing, pairs, pinned = 0, 0, list[tuple[int, int]](), list[int]()
    judged = {role: list[tuple[int, int]]() for role in ("test", "validation")}
    for members in groups.values():
        if len(members) == 1:
            continue
        several = len({parts[role].says(position, columns) for role, position in members}) > 1
        training = [member for member in members if member[0] == "train"]
        stays = training[0] if several and training else members[0]
        for role, position in members:
            masks[role][position] = (role, position) == stays
        removed, differing = removed + len(members) - 1, differing + several
        rows = [int(parts["train"].rows[position]) for _, position in training]
        kept = int(parts["train"].rows[stays[1]]) if stays[0] == "train" else -1
        pairs += [(row, kept) for row in rows if row != kept]
        pinned += [kept] if several and kept >= 0 else []
        for role, position in members:
            if kept >= 0 and role != "train":
                judged[role].append((int(parts[role].rows[position]), kept))
    strays = _copies_beside(parts, groups, masks, beside, (where, inside, background))
    if removed:
        told = f", {differing} of them under another label or value" if differing else ""
        logger.warning("%s: %d exact duplicates removed before splitting%s.", where, removed, told)
    if blank:
        told = "%s: %d images are transparent, and of one colour once they are put on %s. %s"
        logger.warning(told, where, blank, background, SIGNS)
    train = parts["train"].dataset
    copied, stands_for = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    left = [train.select(copied)]
    for role, others in judged.items():
        if others and parts[role].dataset.features == train.features:
            there, stays_for = np.array(others, dtype=np.int64).T
            left.append(parts[role].dataset.select(there))
            copied = np.append(copied, np.full(len(there), -1))
            stands_for = np.append(stands_for, stays_for)
    if beside is not None and strays:
        there, stays_for = np.array(strays, dtype=np.int64).T
        pinned += stays_for.tolist()
        left.append(beside.dataset.select(there))
        copied, stands_for = np.append(copied, np.full(len(there), -1)), np.append(stands_for, stays_for)
    images = datasets.concatenate_datasets(left) if len(left) > 1 else left[0]
    copies = Copies(images, copied, stands_for, np.array(pinned, dtype=np.int64), bits, background)
    if bits:
        logger.warning("%s: there are 16-bit images; they are read as of %d bits, which hold all values.", where, bits)
    for role, mask in masks.items():
        parts[role] = parts[role].keep(mask)
    return removed, copies


def _copies_beside(
    parts: dict[str, Part],
    groups: Mapping[bytes, Sequence[tuple[str, int]]],
    masks: Mapping[str, np.ndarray],
    beside: Part | None,
    opened: tuple[str, Sequence[Path], str],
) -> list[tuple[int, int]]:
    """Rows of what lies beside, and the training images that stay of the same pictures."""
    if beside is None:
        return []
    stay = {
        digest: int(parts["train"].rows[position])
        for digest, members in groups.items()
        for role, position in members
        if role == "train" and masks[role][position]
    }
    where, inside, background = opened
    found, readable = list[tuple[int, int]](), digests(beside, f"{where}, without a class", inside, background)
    try:
        for position, (digest, *_) in enumerate(readable):
            if digest in stay:
                found.append((int(beside.rows[position]), stay[digest]))
    except DataError as error:
        logger.warning("%s Rows without a class were not all compared with the others.", error)
    return found


def digests(
    part: Part, where: str, inside: Sequence[Path] | None, background: str, bits: int = 0
) -> Iterator[tuple[bytes, int, bool]]:
    """Digest of each picture, bits that its values need if more than 8, else 0, and whether it has lost what it shows.

    That has an image which is transparent, and of one colour on the background.

    Args:
        part: the images.
        where, inside, background: see `remove_duplicates`; None: they were opened before, and may lie anywhere.
        bits: that 16-bit images fill, to compare them as 8-bit ones; 0 compares all of their values.
    """
    encoded = part.dataset.select_columns(["image"]).cast_column("image", datasets.Image(decode=False))
    quiet = {"disable": True} if len(part.rows) <= 10 * PROGRESS_FROM else {}
    pointers, position = list[str](), 0
    batches = encoded.select(part.rows).with_format("arrow").iter(1000)
    with warnings.catch_warnings(), tqdm(total=len(part.rows), desc=f"{where}: copies", unit="image", **quiet) as bar:
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for batch in batches:
            images = batch.column("image").combine_chunks()
            for content, path in zip(images.field("bytes").to_pylist(), images.field("path").to_pylist(), strict=True):
                row = part.rows[position]
                position += 1
                if content is None:
                    if path is None:
                        raise DataError(f"{where}: row {row} has no image. Remove the row.")
                    place = Path(os.path.abspath(path))
                    if inside is not None and not any(place.is_relative_to(folder) for folder in inside):
                        raise DataError(
                            f"{where}: the image of row {row} is a path outside the data set ({path}), which is not "
                            "opened. Put its bytes into the row, or a metadata.parquet (file_name) beside the images."
                        )
                    try:
                        content = Path(path).read_bytes()
                    except OSError as error:
                        raise DataError(
                            f"{where}: the image of row {row} cannot be read: {error}. A name in a table begins in "
                            "the table's own folder."
                        ) from error
                if content.startswith(LFS_POINTER):
                    pointers.append(path or f"row {row}")
                yield _pixels(content, background, bits)
            bar.update(len(images))
    if pointers:
        raise DataError(
            f"{where}: {len(pointers)} of {len(part.rows)} images are pointers of git-lfs, not images "
            f"({listing(pointers, 2)}). Run `git lfs install` and `git lfs pull` in the clone."
        )


def pictures(
    images: datasets.Dataset, where: str, inside: Sequence[Path] | None = None, background: str = WHITE
) -> list[bytes]:
    """Digest of each picture of the column `image`; see `digests`."""
    part = Part(images, np.arange(len(images)), np.zeros(len(images), dtype=np.int64))
    return [digest for digest, *_ in digests(part, where, inside, background)]


def _match_depths(
    parts: dict[str, Part],
    groups: dict[bytes, list[tuple[str, int]]],
    opened: tuple[str, Sequence[Path], str],
    bits: int,
) -> None:
    """Put 16-bit pictures to those of 8 bits that a model sees the same of."""
    where, inside, background = opened
    for digest in [digest for digest in groups if digest.startswith(_DEEP)]:
        role, position = groups[digest][0]
        only = Part(parts[role].dataset, parts[role].rows[[position]], parts[role].labels[[position]])
        ((shown, *_),) = digests(only, where, inside, background, bits)
        if shown in groups:
            members = groups[shown] + groups.pop(digest)
            groups[shown] = sorted(members, key=lambda member: (ORDER.index(member[0]), member[1]))


def _pixels(content: bytes, background: str, bits_shown: int = 0) -> tuple[bytes, int, bool]:
    key = hashlib.blake2b(content, digest_size=16, key=f"{bits_shown} {background}".encode()[:64]).digest()
    if key not in _PIXELS:
        try:
            image = decoded({"bytes": content, "path": None})
            bits = bits_of(image)
            whole = bits > 0 and not bits_shown
            shown = image if whole else to_channels(image, 3, bits_shown or 16, background)
            blank = not bits and with_alpha(image) is not None and shown.getcolors(1) is not None
            values = shown.tobytes()
        except Exception:  # named, with all others that cannot be used, when images are loaded
            return key, 0, False
        digest = _DEEP * whole + hashlib.blake2b(f"{image.size}".encode() + values, digest_size=16).digest()
        if len(_PIXELS) >= _MOST_KEPT:
            return digest, bits, blank
        _PIXELS[key] = digest, bits, blank
    return _PIXELS[key]
