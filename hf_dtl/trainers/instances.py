"""The instances of a forget request: their labels checked, each image once, and what a model names them."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from hf_dtl.data import ImageTensors
from hf_dtl.data.images import size_of
from hf_dtl.data.names import match_names
from hf_dtl.errors import DataError, listing
from hf_dtl.fingerprint import fingerprint
from hf_dtl.models.heads import MultiHeadClassifier
from hf_dtl.trainers.readiness import evaluating
from hf_dtl.trainers.shares import ALONE, Share

logger = logging.getLogger(__name__)

_SHOWN = 20


class Instances(NamedTuple):
    """Images to forget, in memory, no image twice."""

    images: ImageTensors
    """With their true labels."""
    new_labels: Tensor | None
    """(images,), what each is to be named instead, where that was given."""
    rows: list[int]
    """The row number that the user knows each by."""

    def part(self, mask: Tensor) -> "Instances":
        """Those that a mask (images,) selects."""
        positions = mask.nonzero().flatten().tolist()
        new = None if self.new_labels is None else self.new_labels[positions]
        return Instances(self.images.subset(positions), new, [self.rows[p] for p in positions])


def new_rows(new_labels: Sequence[int | str], names: Sequence[str]) -> list[int]:
    """Rows of a head for what images are to be named: integers are rows, texts are names of its classes.

    Raises:
        DataError: the head does not name a text, or something is neither.
    """
    given = [label.item() if isinstance(label, (Tensor, np.generic)) else label for label in new_labels]
    texts = list(dict.fromkeys(label for label in given if isinstance(label, str)))
    rows = dict(zip(texts, match_names(texts, names, "The model's head"), strict=True))
    found = {text: row for text, row in rows.items() if row is not None}
    if unknown := [text for text in texts if text not in found]:
        raise DataError(
            f"new_labels has {listing(unknown, 12)}, which the model's head does not name; it names "
            f"{listing(names, 12)}. Give names or rows of the head."
        )
    if wrong := [label for label in given if isinstance(label, bool) or not isinstance(label, (int, str))]:
        raise DataError(f"new_labels has {wrong[0]!r}: each is a row of the head, a whole number, or a class's name.")
    return [found[label] if isinstance(label, str) else label for label in given]


def read_instances(
    images: Dataset, classes: int, *, new_labels: Sequence[int] | None = None, rows: Sequence[int] | None = None
) -> Instances:
    """Load the images of a request, once each; duplicates are named in a warning.

    Args:
        images: items {"pixel_values", "labels"}.
        classes: rows of the model's head.
        new_labels: what each image is to be named instead of its label.
        rows: numbers to name the images by in messages; default: their positions.

    Raises:
        DataError: no image, a label that the head does not have, a new label that is the old one, or two new labels
            for one image.
    """
    count = size_of(images)
    if not count:
        raise DataError("There is no image to forget; give at least one.")
    items = [images[i] for i in range(count)]
    pixels = torch.stack([item["pixel_values"] for item in items]).cpu()
    labels = torch.tensor([int(item["labels"]) for item in items])
    names = list(range(count)) if rows is None else [int(row) for row in rows]
    new = None if new_labels is None else torch.as_tensor(new_labels).cpu().long()
    for what, found in (("new_labels", new), ("rows", names)):
        if found is not None and len(found) != count:
            raise DataError(f"{what} has {len(found)} entries for {count} images; give one for each.")
    for what, found in (("label", labels), ("new label", new)):
        wrong = [] if found is None else [i for i, y in enumerate(found.tolist()) if not 0 <= y < classes]
        if found is not None and wrong:
            raise DataError(
                f"The {what} {found[wrong[0]]} of {row_list(names[i] for i in wrong)} is not one of the head's "
                f"{classes} classes, 0..{classes - 1}. Number labels as the model's id2label does."
            )
    if new is not None and bool((new == labels).any()):
        same = [names[i] for i in (new == labels).nonzero().flatten()]
        raise DataError(f"The new label of {row_list(same)} is the old one. Give another, or leave the image out.")
    return _without_duplicates(Instances(ImageTensors(pixels, labels), new, names))


def _without_duplicates(instances: Instances) -> Instances:
    keys = [fingerprint([image]) for image in instances.images.pixel_values]
    if instances.new_labels is not None:
        renamed: dict[str, int] = {}
        for key, row, aim in zip(keys, instances.rows, instances.new_labels.tolist(), strict=True):
            if renamed.setdefault(key, aim) != aim:
                raise DataError(
                    f"Row {row} is the same image as another one, with another new label ({aim} and {renamed[key]}). "
                    "Give it one."
                )
    first: dict[tuple[str, int], int] = {}
    pairs = enumerate(zip(keys, instances.images.labels.tolist(), strict=True))
    again = torch.tensor([first.setdefault(pair, position) != position for position, pair in pairs])
    if again.any():
        logger.warning("Counted once, because the same image comes before: %s.", row_list(instances.part(again).rows))
    return instances.part(~again)


def row_list(rows) -> str:
    """Row numbers for a message, the first of many."""
    rows = list(rows)
    more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    return f"row{'s' if len(rows) > 1 else ''} {', '.join(map(str, rows[:_SHOWN]))}{more}"


@torch.no_grad()
def predict(
    model: MultiHeadClassifier, pixel_values: Tensor, task: str, *, share: Share = ALONE, batch_size: int = 128
) -> Tensor:
    """What a model names images, in evaluation mode; each process looks at a share, and all get the same answer.

    Args:
        model: on the device to use; its mode is left as it was.
        pixel_values: (N, channels, height, width), on any device.
        task: whose head names them.
        share: of this process.
        batch_size: at once.

    Returns:
        (N,) int64 on the CPU.
    """
    device = next(model.parameters()).device
    named = torch.zeros(len(pixel_values), dtype=torch.int64, device=device)
    with evaluating(model):
        for start in range(share.process * batch_size, len(named), share.processes * batch_size):
            batch = slice(start, start + batch_size)
            named[batch] = model(pixel_values[batch].to(device), task=task).argmax(-1)
    return share.summed(named).cpu()
