"""What a user writes to name data: `NAME[@REVISION][:SPLIT][[CLASS,CLASS,...]]`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hf_dtl.errors import DataError, listing
from hf_dtl.options import nearest

GRAMMAR = """A data set is written NAME[@REVISION][:SPLIT][[CLASS,CLASS,...]], for example
  mnist[0,1,2]                     three classes of the embedded MNIST
  fashion_mnist[Bag,Ankle boot]    classes by name; 0 or 0-5 means by position
  glyphs[A,B,D]                    three letters of the rendered glyphs
  user/name@main:train[:50%][cat]  revision, half of the train split and one class of a Hub data set
  photos/                          an image folder, all classes; photos.parquet or a saved data set work too"""

GLYPHS = "glyphs"

_SLICE = re.compile(r"(-?\d+%?)?:(-?\d+%?)?")
_SPLIT_PART = rf"\w+(\.\w+)*(\[{_SLICE.pattern}\])?"
_SPLIT = re.compile(rf"{_SPLIT_PART}(\+{_SPLIT_PART})*")
_RANGE = re.compile(r"(\d+)\s*-\s*(\d+)")


@dataclass(frozen=True)
class DatasetSpec:
    """A data set with the split and the classes requested from it.

    Args:
        name: a name that comes with the library (`mnist`, `fashion_mnist`, `glyphs`), a Hub id, or the path of a
            parquet file, of a folder of parquet files or images, or of a folder written by `save_to_disk`.
        split: a `datasets` split expression such as `"train"` or `"train[:10%]"`; None means the train split.
        revision: branch, tag or commit of a Hub data set.
        classes: requested classes by name, position (`"3"`) or range of positions (`"0-5"`, both ends included), in
            the order that their new labels take; None means all.

    Example:
        >>> spec = DatasetSpec.parse("cifar10:train[:50%][cat,dog]")
        >>> spec.name, spec.split, spec.classes
        ('cifar10', 'train[:50%]', ('cat', 'dog'))
        >>> str(spec)
        'cifar10:train[:50%][cat,dog]'
    """

    name: str
    split: str | None = None
    revision: str | None = None
    classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not self.name or any(character in self.name for character in ":[]"):
            raise _malformed(self, "the name is empty or has a ':', '[' or ']' in it")
        if self.revision is not None and not re.fullmatch(r"[^\s:@\[\]]+", self.revision):
            raise _malformed(self, f"'{self.revision}' is not a revision")
        if self.split is not None and not _SPLIT.fullmatch(self.split):
            raise _malformed(self, f"'{self.split}' is not a split such as 'train', 'train[:10%]' or 'train[5:50]'")
        for entry in self.classes or ("",) * (self.classes is not None):
            if not entry.strip():
                raise _malformed(self, "a class between the brackets is empty")
            if any(character in entry for character in ",[]"):
                raise _malformed(self, f"the class name '{entry}' has a ',' or bracket: give its position instead")
            if self.classes and self.classes.count(entry) > 1:
                raise DataError(f"'{self}': the class '{entry}' is listed twice; list each class once.")

    @classmethod
    def parse(cls, text: str) -> "DatasetSpec":
        """Read `NAME[@REVISION][:SPLIT][[CLASS,CLASS,...]]`.

        A last bracket after a split is a slice when it holds `:` or `%`, otherwise it lists classes.

        Raises:
            DataError: the text does not follow the grammar, which the message shows.
        """
        head, classes = text.strip(), None
        if head.endswith("]"):
            before, opening, content = head[:-1].rpartition("[")
            if not opening or "]" in content:
                raise _malformed(text, "the brackets do not match; a class whose name has one is given by position")
            has_split = ":" in before
            if not has_split and _SLICE.fullmatch(content):
                raise _malformed(text, f"a slice needs a split before it: '{before}:train[{content}]'")
            if not has_split or not (":" in content or "%" in content):
                head, classes = before, tuple(entry.strip() for entry in content.split(","))
        name, colon, split = (part.strip() for part in head.partition(":"))
        if colon and not split:
            raise _malformed(text, "there is no split after ':'")
        revision = None
        if "@" in name and not _looks_like_path(name):
            name, _, revision = name.partition("@")
        return cls(name, split or None, revision, classes)

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision is not None else ""
        split = f":{self.split}" if self.split is not None else ""
        classes = f"[{','.join(self.classes)}]" if self.classes is not None else ""
        return f"{self.name}{revision}{split}{classes}"

    @property
    def is_path(self) -> bool:
        """Whether the name is written as a path, and so is never looked up on the Hub."""
        return _looks_like_path(self.name)

    def public(self) -> "DatasetSpec":
        """Return the same selection with a path cut to its last part, to be published."""
        path = Path(self.name).expanduser()
        if not path.exists() and not self.is_path:
            return self
        return replace(self, name=path.absolute().resolve().name if path.name in ("", "..") else path.name)


def select_classes(requested: Sequence[str] | None, names: Sequence[str], where: str) -> tuple[int, ...]:
    """Find classes by exact name first, else by position, else by a range of positions `first-last`.

    Where all class names are numbers, a number means the name.

    Args:
        requested: entries as the user wrote them; None means all classes.
        names: class names of the data set, by position.
        where: the data set, for messages.

    Returns:
        Positions in `names`, in the order requested.

    Raises:
        DataError: a class is unknown or listed twice, or fewer than two are selected.

    Example:
        >>> select_classes(("dog", "0-1"), ("bird", "cat", "dog"), "pets")
        (2, 0, 1)
    """
    if requested is None:
        chosen = list(range(len(names)))
    else:
        chosen = [position for entry in requested for position in positions(entry, names, where)]
    for position in chosen:
        if chosen.count(position) > 1:
            raise DataError(f"{where}: the class '{names[position]}' is listed twice; list each class once.")
    if len(chosen) < 2:
        raise DataError(
            f"{where}: a task needs at least two classes, but this one has {len(chosen)}"
            f"{''.join(f' ({names[position]})' for position in chosen)}. Classes there: {_class_listing(names)}. To "
            "forget a class of a data set, name the data with --retain and write --forget class=NAME."
        )
    return tuple(chosen)


def positions(entry: str, names: Sequence[str], where: str) -> list[int]:
    """Find the positions that one entry stands for: a name, a position, or a range of positions.

    Args:
        entry: as the user wrote it.
        names: class names of the data set, by position.
        where: the data set, for messages.

    Raises:
        DataError: there is no such class.
    """
    if entry in names:
        return [list(names).index(entry)]
    numeric = all(name.isdecimal() for name in names)
    span = _RANGE.fullmatch(entry)
    if span:
        first, last = int(span[1]), int(span[2])
        # Where the names are numbers ("1", "2", "5") a range runs over the names, or 1-2 would mean "2" and "5".
        present = {int(name): position for position, name in enumerate(names)} if numeric else range(len(names))
        if first in present and last in present and first <= last:
            return [present[number] for number in range(first, last + 1) if number in present]
    elif entry.isdecimal() and not numeric and int(entry) < len(names):
        return [int(entry)]
    raise DataError(
        f"{where} has no class '{entry}'.{nearest(entry, names, quoted=True)} Classes there: {_class_listing(names)}."
    )


def _class_listing(names: Sequence[str]) -> str:
    numeric = all(name.isdecimal() for name in names)
    return listing([name if numeric else f"{position}: {name}" for position, name in enumerate(names)])


def _looks_like_path(name: str) -> bool:
    return name.startswith(("/", "./", "../", "~")) or name.endswith(("/", ".parquet"))


def _malformed(text: object, problem: str) -> DataError:
    return DataError(f"'{text}': {problem}.\n{GRAMMAR}")
