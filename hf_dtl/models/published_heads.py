"""What the published heads of the audited models can say about the source and the target task."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from hf_dtl.data import ImageTensors
from hf_dtl.errors import DataError, listing
from hf_dtl.models.labels import check_named, head_names, published_rows, unnamed

Rows = list[int]


@dataclass
class PublishedHeads:
    """Rows of each model's published head that stand for the classes of a task, None where it does not know them.

    Args:
        source, target: by role of the model.
        notes: what cannot be measured, and why, as sentences.
    """

    source: dict[str, Rows | None] = field(default_factory=dict)
    target: dict[str, Rows | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def find(
        cls,
        models: Mapping[str, PreTrainedModel],
        labels: Mapping[str, tuple[str, ...]],
        by_position: bool = False,
    ) -> "PublishedHeads":
        """Match the classes of the data with those of each head, by name.

        A head without names of its own (LABEL_0, ...) fits a task of as many classes (see `check_named`). Where it
        would fit both tasks, it is taken for the target's: one row cannot stand for two classes.

        Args:
            models: by role; `scrubbed` among them.
            labels: class names of the tasks `source` and, where there is one, `target`.
            by_position: see `check_named`.

        Raises:
            DataError: the scrubbed model's head does not know the target classes.
            ModelError: which row stands for a class cannot be told.
        """
        heads, target = cls(), labels.get("target")
        for role, model in models.items():
            heads.target[role] = known = None if target is None else _rows(model, target)
            rows = _rows(model, labels["source"])
            check_named(model, labels["source"] if target is None or known is None else target, by_position, role)
            heads.source[role] = None if rows and known and set(rows) & set(known) else rows
        if target is not None and heads.target["scrubbed"] is None:
            raise DataError(
                f"The head of the scrubbed model names {_names(models['scrubbed'])}; not all of the target classes "
                f"{', '.join(target)} are among them. Choose classes that it names, correct id2label in "
                "its config.json, or leave out --retain."
            )
        for role in ("undisposed", "scrubbed"):
            if heads.source[role] is None:
                heads.notes.append(f"Source accuracy of the {role} model: not measured, its head has other classes.")
        if target is None:
            heads.notes.append("Target accuracy: not measured, there is no --retain.")
        elif heads.target["undisposed"] is None:
            heads.notes.append("Target accuracy of the undisposed model: not measured, its head has other classes.")
        for role in ("undisposed", "scrubbed"):
            if unnamed(head_names(models[role])) and (heads.source[role] or heads.target[role]):
                heads.notes.append(f"The head of the {role} model has no names: its classes were taken by position.")
        return heads

    def numbered_alike(self) -> Rows | None:
        """The target rows of all models where they are the same, else None."""
        first, *others = self.target.values()
        return first if all(rows == first for rows in others) else None


def with_head_labels(images: ImageTensors, rows: Rows) -> ImageTensors:
    """The same images, labelled as the published head numbers their classes."""
    return ImageTensors(images.pixel_values, torch.tensor(rows)[images.labels])


def _rows(model: PreTrainedModel, labels: tuple[str, ...]) -> Rows | None:
    return published_rows(model, int(model.config.num_labels or 0), labels)


def _names(model: PreTrainedModel) -> str:
    return listing(list((model.config.id2label or {}).values()), 12)
