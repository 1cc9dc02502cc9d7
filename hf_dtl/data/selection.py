"""What a user writes to name data: `NAME[@REVISION][:SPLIT][[CLASS,CLASS,...]]`."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hf_dtl.data.names import folded, match_names
from hf_dtl.errors import DataError, listing
from hf_dtl.options import nearest

GRAMMAR = """A data set is written NAME[@REVISION][:SPLIT][[CLASS,CLASS,...]], for example
  mnist[0,1,2]                     three classes of the embedded MNIST
  fashion_mnist[Bag,Ankle boot]    classes by name; 0 or 0-5 means by position
  glyphs[A,B,D]                    three letters of the rendered glyphs
  user/name@main:train[:50%][cat]  revision, half of the train split and one class of a Hub data set
  photos/                          an image folder, all classes; photos.parquet or a saved data set work too"""

GLYPHS = "glyphs"
FAMILIES = ("sans", "mono", "serif", "stix")
STYLES = ("regular", "italic", "bold", "bold_italic")
"""Classes of the columns `family` and `style` of glyphs; a style is weight and slant together."""
SPLITS = {
    "train": ("train", "training", "trainset"),
    "validation": ("validation", "valid", "val", "dev", "valset"),
    "test": ("test", "testing", "eval", "evaluation", "testset"),
}
"""What people call the splits; the best known name first."""

_SLICE = re.compile(r"(-?\d+%?)?:(-?\d+%?)?")
_SPLIT_PART = rf"\w+(\.\w+)*(\[{_SLICE.pattern}\])?"
_SPLIT = re.compile(rf"{_SPLIT_PART}(\+{_SPLIT_PART})*")
_RANGE = re.compile(r"(\d+)\s*-\s*(\d+)")
_SPECIAL = re.compile(r"[:@\[\]]")
_COMMA = re.compile(r"\s*,\s*")


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
        if not self.name or (_SPECIAL.search(self.name.replace("@", "")) and not is_there(self.name)):
            raise _malformed(self, "the name is empty or has a ':', '[' or ']' in it")
        if self.revision is not None and not re.fullmatch(r"[^\s:@\[\]]+", self.revision):
            raise _malformed(self, f"'{self.revision}' is not a revision")
        if self.split is not None and not _SPLIT.fullmatch(self.split):
            raise _malformed(self, f"'{self.split}' is not a split such as 'train', 'train[:10%]' or 'train[5:50]'")
        for entry in self.classes or ("",) * (self.classes is not None):
            if not entry.strip():
                raise _malformed(self, "a class between the brackets is empty")
            if "[" in entry or "]" in entry:
                raise _malformed(self, f"the class name '{entry}' has a bracket: give its position instead")
        if twice := [entry for entry, count in Counter(self.classes or ()).items() if count > 1]:
            raise DataError(f"'{self}': the class '{twice[0]}' is listed twice; list each class once.")

    @classmethod
    def of(cls, given: object) -> "DatasetSpec":
        """A specification as it is, or of text; DataError of anything else."""
        if isinstance(given, str):
            return cls.parse(given)
        if not isinstance(given, cls):
            raise DataError(
                f"A data set is given by its name or folder, as text, got {type(given).__name__}. Save it by "
                "save_to_disk or to_parquet and give that folder, or give it to a trainer as it is."
            )
        return given

    @classmethod
    def parse(cls, text: str) -> "DatasetSpec":
        """Read `NAME[@REVISION][:SPLIT][[CLASS,CLASS,...]]`.

        A last bracket after a split is a slice when it holds `:` or `%`, otherwise it lists classes. A file or folder
        may have brackets, ':' and '@' in its name.

        Raises:
            DataError: the text does not follow the grammar, which the message shows.
        """
        text = text.strip()
        ends = (match.start() for match in re.finditer(r"[:\[]|$", text))
        there = [text[:end] for end in ends if _SPECIAL.search(text[:end]) and is_there(text[:end])]
        if there:
            return replace(cls.parse("_" + text[len(there[-1]) :]), name=there[-1])
        head, classes = text, None
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
        if "@" in name and not looks_like_path(name):
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
        return looks_like_path(self.name)

    def public(self) -> "DatasetSpec":
        """Return the same selection with a path cut to its last part, to be published."""
        if not is_there(self.name) and not self.is_path:
            return self
        path = Path(self.name).expanduser()
        name = path.absolute().resolve().name if path.name in ("", "..") else path.name
        return replace(self, name=_SPECIAL.sub("_", name))


def select_classes(requested: Sequence[str] | None, names: Sequence[str], where: str) -> tuple[int, ...]:
    """Find the classes of a task, each as `positions` does.

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
        chosen = listed_positions(",".join(requested), names, where)
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


def listed_positions(text: str, names: Sequence[str], where: str) -> list[int]:
    """Find the positions that a list with commas stands for; a name may have commas itself.

    Raises:
        DataError: see `positions`, or the list can be read as classes in several ways.

    Example:
        >>> listed_positions("crane, bird,dog", ("dog", "crane, bird"), "pets")
        [1, 0]
    """
    entries, plain = [entry.strip() for entry in text.split(",")], [_COMMA.sub(",", name) for name in names]
    known = {folded(name) for name in (*names, *plain)}
    longest = max(name.count(",") for name in ("", *plain)) + 1

    def found(listed: Sequence[str]) -> list[int]:
        return [at for entry in listed for at in positions(entry, plain if "," in entry else names, where)]

    # of what follows each entry the two readings with the fewest entries that are no class
    read: list[list[tuple[int, tuple[str, ...]]]] = [[] for _ in entries] + [[(0, ())]]
    for at in reversed(range(len(entries))):
        for size in range(min(longest, len(entries) - at), 0, -1):
            entry = ",".join(entries[at : at + size])
            unknown = folded(entry) not in known and (size > 1 or _numbered(entry, names, where) is None)
            if size == 1 or not unknown:
                read[at] += [(unknown + more, (entry, *rest)) for more, rest in read[at + size]]
        read[at] = sorted(read[at], key=lambda reading: reading[0])[:2]
    (missed, chosen), *other = read[0]
    if other and other[0][0] == missed == 0:
        unlike = [
            [entry for entry in one if entry not in two] for one, two in ((chosen, other[0][1]), (other[0][1], chosen))
        ]
        words, numbers = (
            " or ".join(word.join(name(at) for at in found(own)) for own in unlike)
            for word, name in ((" and ", lambda at: repr(names[at])), (",", str))
        )
        remedy = f"Give positions: {numbers}." if _by_position(names) else "Rename them."
        raise DataError(f"{where}: '{','.join(unlike[0])}' could be {words}. {remedy}")
    return found(chosen)


def positions(entry: str, names: Sequence[str], where: str) -> list[int]:
    """Find the positions that one entry stands for: a name first, else a position, or a range `first-last` of them.

    A number that is a name never means a position, and where names that are numbers stand at other positions, no
    number does: `[0-2]` of the classes unknown, 0, 1, 2 are the last three.

    Args:
        entry: as the user wrote it.
        names: class names of the data set, by position.
        where: the data set, for messages.

    Raises:
        DataError: there is no such class, or there are several.
    """
    (found,) = match_names([entry], names, where)
    if found is not None:
        return [found]
    numbered = _numbered(entry, names, where)
    if numbered is not None:
        return numbered
    told = nearest(entry, names, quoted=True)
    if _RANGE.fullmatch(entry) or entry.isdecimal():
        told = " A number is a name there, not a position."
        told = f" The positions are 0 to {len(names) - 1}." if _by_position(names) else told
    raise DataError(f"{where} has no class '{entry}'.{told} Classes there: {_class_listing(names)}.")


def _numbered(entry: str, names: Sequence[str], where: str) -> list[int] | None:
    """What a number or a range of numbers stands for, names before positions; None where it is none, or nothing."""
    span = _RANGE.fullmatch(entry)
    if not span and not entry.isdecimal():
        return None
    first, last = (int(span[1]), int(span[2])) if span else (int(entry), int(entry))
    numbers: dict[int, list[int]] = {}
    for position, name in enumerate(names):
        if name.isdecimal():
            numbers.setdefault(int(name), []).append(position)
    if not (first in numbers and last in numbers) and _by_position(names):
        numbers = {position: [position] for position in range(len(names))}
    if first not in numbers or last not in numbers or first > last:
        return None
    found = [numbers[number] for number in sorted(numbers) if first <= number <= last]
    for several in found:
        if len(several) > 1:
            alike = " or ".join(repr(names[position]) for position in several)
            raise DataError(f"{where}: the class '{entry}' could be {alike}. Write it as it is there.")
    return [position for (position,) in found]


def _by_position(names: Sequence[str]) -> bool:
    """Whether a number may mean a position: not all names are numbers, and those that are stand where they say."""
    numbers = [(int(name), position) for position, name in enumerate(names) if name.isdecimal()]
    return len(numbers) < len(names) and all(number == position for number, position in numbers)


def _class_listing(names: Sequence[str]) -> str:
    counted = _by_position(names)
    return listing([f"{position}: {name}" if counted else name for position, name in enumerate(names)])


def split_role(name: str) -> str | None:
    """The split that a folder's name speaks of, such as `test_images`.

    Example:
        >>> split_role("seg_train"), split_role("petsTest"), split_role("trainer")
        ('train', 'test', None)
    """
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)  # photosTrain
    words = set(re.split(r"[-._ \d]+", apart.casefold()))
    roles = [role for role, known in SPLITS.items() if words & set(known)]
    return roles[0] if len(roles) == 1 else None


def is_there(name: str) -> bool:
    """Whether there is a file or folder of that name; a text that cannot be one, such as a long list, is none."""
    return os.path.exists(os.path.expanduser(name))


def looks_like_path(name: str) -> bool:
    """Whether a name can be no Hub id and no column."""
    return name.startswith(("/", "./", "../", "~")) or name.endswith(("/", ".parquet"))


def _malformed(text: object, problem: str) -> DataError:
    return DataError(f"'{text}': {problem}.\n{GRAMMAR}")
