"""Names of classes as different hands write them: the same one is found, and none is taken for another."""

import logging
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence

from hf_dtl.errors import DataError

logger = logging.getLogger(__name__)


def folded(name: str) -> str:
    """A name without regard to case, blanks, invisible signs, and the way its letters are encoded.

    A Mac decomposes accents; a table from elsewhere has blanks that do not break, or letters of full width.

    Example:
        >>> folded("Ann\u00a0 Lee\u200b") == folded("ann lee")
        True
    """
    plain = "".join(sign for sign in unicodedata.normalize("NFKC", name) if unicodedata.category(sign) != "Cf")
    return " ".join(unicodedata.normalize("NFKC", plain.casefold()).split())


def tell_spellings(names: Iterable[str], where: str) -> None:
    """Warn of names that differ in case, blanks or encoding alone: they count as several."""
    alike = defaultdict[str, list[str]](list)
    for name in names:
        alike[folded(name)].append(name)
    if several := [own for own in alike.values() if len(own) > 1]:
        told = "; ".join(" and ".join(map(repr, own)) for own in several[:5])
        logger.warning("%s has names that are written nearly alike and count as different: %s.", where, told)


def match_names(wanted: Iterable[str], names: Sequence[str], where: str) -> list[int | None]:
    """Find each name as it is written, else as the only one that differs in case or encoding alone.

    Args:
        wanted: names to find.
        names: those that there are.
        where: of `names`, for messages.

    Returns:
        The position in `names` of each, None where there is no such name.

    Raises:
        DataError: a name could be several, or several could be one.

    Example:
        >>> match_names(["a", "Dog", "fox"], ["A", "a", "dog"], "pets")
        [1, 2, None]
    """
    exact, alike = defaultdict[str, list[int]](list), defaultdict[str, list[int]](list)
    for position, name in enumerate(names):
        exact[name].append(position)
        alike[folded(name)].append(position)
    found, taken = list[int | None](), dict[int, str]()
    for name in wanted:
        fitting = exact.get(name) or alike.get(folded(name), [])
        if len(fitting) > 1:
            several = " or ".join(f"{names[position]!r} ({position})" for position in fitting)
            raise DataError(
                f"{where}: the class {name!r} could be {several}. Rename them so that each has its own name."
            )
        if fitting and taken.setdefault(fitting[0], name) != name:
            raise DataError(
                f"{where}: the classes {taken[fitting[0]]!r} and {name!r} could both be {names[fitting[0]]!r}. "
                "Write the names alike."
            )
        found.append(fitting[0] if fitting else None)
    return found
