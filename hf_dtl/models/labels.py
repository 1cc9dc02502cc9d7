"""Names of classes against the rows of a head."""

from collections.abc import Iterable

from transformers import PreTrainedModel


def published_rows(model: PreTrainedModel, classes: int, labels: Iterable[str]) -> list[int] | None:
    """Rows of the published head that stand for the attacked classes, or None where they do not fit.

    They fit when every attacked class is one of the model's, by name and whatever its case; a head without names of
    its own (LABEL_0, LABEL_1, ...) fits when it has as many classes.
    """
    labels = [str(label).casefold() for label in labels]
    known: dict = model.config.id2label or {}
    names = [str(known.get(i)).casefold() for i in range(classes)]
    if names == [f"label_{i}" for i in range(len(labels))]:
        return list(range(len(labels)))
    return [names.index(label) for label in labels] if set(labels) <= set(names) else None


def named_rows(model: PreTrainedModel, labels: Iterable[str]) -> list[int] | None:
    """Rows of the published head that stand for some classes by name, or None; a head without names has none."""
    names = [str(name).casefold() for name in (model.config.id2label or {}).values()]
    unnamed = names == [f"label_{i}" for i in range(len(names))]
    return None if unnamed else published_rows(model, int(model.config.num_labels or 0), labels)
