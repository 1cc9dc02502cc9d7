"""Names of classes against the rows of a head."""

from collections.abc import Iterable, Sequence

import numpy as np
from transformers import PreTrainedModel

from hf_dtl.data.names import match_names
from hf_dtl.errors import DataError, ModelError, listing


def head_names(model: PreTrainedModel) -> tuple[str, ...]:
    """The names of the rows of a head, in order.

    Raises:
        ModelError: `id2label` does not count its rows from 0 on.
    """
    names = {int(row): str(name) for row, name in (model.config.id2label or {}).items()}
    if names.keys() != set(range(len(names))):
        raise ModelError(
            f"id2label in the model's config.json names the rows {listing(sorted(names), 12)}; a head of {len(names)} "
            f"classes has the rows 0 to {len(names) - 1}. Correct its keys: which name is which row cannot be guessed."
        )
    return tuple(names[row] for row in range(len(names)))


def counted(names: Sequence[str]) -> bool:
    """Whether the names of a head's rows are whole numbers: an integer is then a name, and no row."""
    return bool(names) and all(name.lstrip("-").isdecimal() for name in names)


def unnamed(names: Iterable[str]) -> bool:
    """Whether a head has no names of its own (LABEL_0, LABEL_1, ...)."""
    return all(name.casefold() == f"label_{row}" for row, name in enumerate(names))


def check_named(model: PreTrainedModel, labels: Iterable[str], by_position: bool, role: str = "") -> None:
    """Refuse to guess which row of a head without names stands for a class; numbers that count from 0 are rows.

    Args:
        model: whose head answers.
        labels: names of the classes.
        by_position: the user says that the rows have the order of `labels`.
        role: of the model, for the message.

    Raises:
        ModelError: the head has as many rows as there are classes, and neither has the names of the other; or
            `by_position` is to bring numbers and names together.
    """
    labels, names = [str(label) for label in labels], head_names(model)
    if model.config.num_labels != len(labels):
        return
    if by_position and not unnamed(names) and counted(names) != counted(labels):
        raise ModelError(
            f"--head_by_position is for a head without names (LABEL_0, ...), and that of the {role and f'{role} '}"
            f"model names {listing(names, 12)}, while the classes of the data are {listing(labels, 12)}. Write the "
            "same names in both: into the label column, or into id2label of the model's config.json."
        )
    if by_position or not unnamed(names):
        return
    numbers = [label.casefold().removeprefix("label_") for label in labels]
    if not all(n.isdecimal() for n in numbers) or {int(n) for n in numbers} != set(range(len(numbers))):
        raise ModelError(
            f"The head of the {role and f'{role} '}model has no names (LABEL_0, ...), and the classes of the data are "
            f"{listing(labels, 12)}: which row is which cannot be told. Write the names into id2label of its "
            "config.json, or give --head_by_position True if its rows have this order (numbers: by their size)."
        )


def rows_by_name(labels: Iterable[str], names: tuple[str, ...], where: str) -> list[int] | None:
    """Rows of a head that stand for classes, or None where it does not know them all; see `published_rows`.

    Raises:
        ModelError: it cannot be told which row stands for a class.
    """
    labels = [str(label) for label in labels]
    if unnamed(names):
        if len(labels) != len(names):
            return None
        # a folder's names sort as 0, 1, 10, 2: what a number counts is the number
        numbers = [int(label) for label in labels] if all(label.isdecimal() for label in labels) else []
        counts = len(set(numbers)) == len(labels)
        return np.argsort(np.argsort(numbers)).tolist() if counts else list(range(len(labels)))
    try:
        rows = match_names(labels, names, where)
    except DataError as error:
        raise ModelError(f"{error} The model's names are id2label in its config.json.") from error
    found = [row for row in rows if row is not None]
    return found if len(found) == len(rows) else None


def published_rows(model: PreTrainedModel, classes: int, labels: Iterable[str]) -> list[int] | None:
    """Rows of the published head that stand for the attacked classes, or None where they do not fit.

    They fit when every attacked class is one of the model's, by name: as it is written, else as the only one that
    differs in case or encoding alone. A head without names of its own (LABEL_0, LABEL_1, ...) fits when it has as many
    classes: in their order, or by their size where all of them are numbers.

    Raises:
        ModelError: it cannot be told which row stands for a class.
    """
    return rows_by_name(labels, head_names(model)[:classes], "The model's head")


def named_rows(model: PreTrainedModel, labels: Iterable[str]) -> list[int] | None:
    """Rows of the published head that stand for some classes by name, or None; a head without names has none."""
    names = head_names(model)
    return None if unnamed(names) else rows_by_name(labels, names, "The model's head")
