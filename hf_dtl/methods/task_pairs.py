"""Which (image, task) pairs are to be forgotten, and which are kept: an image may be both, for different tasks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from torch import Tensor
from torch.utils.data import Dataset

from hf_dtl.data.images import size_of
from hf_dtl.errors import DataError, ModelError
from hf_dtl.models.heads import MultiHeadClassifier


@dataclass(frozen=True)
class TaskRequest:
    """Images to forget, by row, and the tasks to forget them for; None for all tasks."""

    rows: tuple[int, ...]
    tasks: tuple[str, ...] | None


Forget = TaskRequest | Tensor | Mapping[str, Any]
"""A request, a boolean table (images, tasks) with the tasks in the order of the model's heads, or boolean columns
(images,) by task, a task without a column being untouched."""


def full_task(rows: Sequence[int]) -> TaskRequest:
    """Forget images for every task.

    Args:
        rows: of the data set, from 0.

    Example:
        >>> full_task([3, 7])
        TaskRequest(rows=(3, 7), tasks=None)
    """
    return TaskRequest(tuple(int(row) for row in rows), None)


def partial_task(rows: Sequence[int], tasks: Sequence[str]) -> TaskRequest:
    """Forget images for some tasks; for the others they stay among what is retained.

    Args:
        rows: of the data set, from 0.
        tasks: their names.

    Example:
        >>> partial_task([3, 7], ["letter"])
        TaskRequest(rows=(3, 7), tasks=('letter',))
    """
    if isinstance(tasks, str):
        raise DataError(f"tasks={tasks!r} must be a list of names, such as [{tasks!r}].")
    return TaskRequest(tuple(int(row) for row in rows), tuple(tasks))


def forget_table(forget: Forget, images: int, tasks: Sequence[str]) -> Tensor:
    """Bring what is to be forgotten into one form.

    Args:
        forget: see `Forget`.
        images: how many the data set has.
        tasks: of the model, in the order of its heads.

    Returns:
        (images, tasks), boolean.

    Raises:
        DataError: a task that does not exist, a row or shape that does not fit, no pair to forget, or none to keep.
    """
    table = torch.zeros(images, len(tasks), dtype=torch.bool)
    if isinstance(forget, TaskRequest):
        outside = [row for row in forget.rows if not 0 <= row < images]
        if outside:
            raise DataError(f"Rows {outside[:5]} to forget are not among the {images} images (0..{images - 1}).")
        chosen = _columns(tasks if forget.tasks is None else forget.tasks, tasks)
        table[torch.tensor(forget.rows, dtype=torch.long)[:, None], torch.tensor(chosen, dtype=torch.long)] = True
    elif isinstance(forget, Mapping):
        for column, (task, chosen) in zip(_columns(list(forget), tasks), forget.items(), strict=True):
            table[:, column] = _boolean(chosen, (images,), f"The column of task {task!r}")
    else:
        table = _boolean(forget, tuple(table.shape), f"The table (images x tasks {', '.join(tasks)})")
    if not table.any():
        raise DataError("There is no pair of an image and a task to forget; choose at least one.")
    if table.all():
        raise DataError("Every image would be forgotten for every task: nothing is left to retain. Choose fewer.")
    return table


def _columns(names: Sequence[str], tasks: Sequence[str]) -> list[int]:
    unknown = [name for name in names if name not in tasks]
    if unknown:
        raise DataError(
            f"There is no task {', '.join(map(repr, unknown))}; the model's tasks are: {', '.join(tasks)}."
        )
    return [list(tasks).index(name) for name in names]


def _boolean(values: Any, shape: tuple[int, ...], what: str) -> Tensor:
    values = torch.as_tensor(values)
    if values.dtype != torch.bool or values.shape != shape:
        raise DataError(
            f"{what} to forget must be boolean of shape {shape}, got {values.dtype} of shape {tuple(values.shape)}."
        )
    return values.cpu()


class PairSet(Dataset):
    """Images with the labels of some of their tasks.

    Items are {"pixel_values": (C, H, W), "labels": (tasks,) float32}, the labels being NaN for every other task.
    Images without any label are left out.

    Args:
        images: items {"pixel_values"}.
        labels: (images, tasks) float32, NaN where a pair is left out.
    """

    def __init__(self, images: Dataset, labels: Tensor):
        self.images, self.rows = images, (~labels.isnan()).any(1).nonzero().flatten()
        self.labels = labels[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"pixel_values": self.images[int(self.rows[index])]["pixel_values"], "labels": self.labels[index]}


def read_labels(images: Dataset, model: MultiHeadClassifier) -> tuple[Tensor, dict[str, float | None]]:
    """Read the labels of every task of a model into one table.

    Args:
        images: items {"pixel_values", "labels": {task: value}}, with `labels`, whole tensors by task, where it has it.
            Floating-point labels are a regression, others classes. Further tasks are not looked at.
        model: its heads are the tasks.

    Returns:
        (images, tasks) float32, and by task None for classes or, for a regression, the deviation of its labels.

    Raises:
        DataError: no images, a missing label, or one that is not a class of the head or not finite.
        ModelError: a regression with a head of several outputs.
    """
    count = size_of(images)
    if not count:
        raise DataError("The data set is empty; give it at least one image.")
    if isinstance(images, datasets.Dataset):
        raise DataError(
            "Images must be processed already: give what load_multitask_images(...) makes of this data set."
        )
    found = getattr(images, "labels", None)
    if not isinstance(found, Mapping):
        items = [images[i]["labels"] for i in range(count)]
        shared = [task for task in items[0] if all(task in item for item in items)]
        found = {task: torch.stack([torch.as_tensor(item[task]) for item in items]) for task in shared}
    columns, scales = [], dict[str, float | None]()
    for task, head in model.heads.items():
        if task not in found:
            raise DataError(
                f"The images have no label for task {task!r} of the model (labels: {', '.join(found) or 'none'}). Add "
                "it, or remove that head."
            )
        values = torch.as_tensor(found[task])
        if values.shape != (count,):
            raise DataError(
                f"Labels of task {task!r} have shape {tuple(values.shape)}; {count} images need ({count},)."
            )
        if values.is_floating_point():
            if head.out_features != 1:
                raise ModelError(
                    f"Labels of task {task!r} are {values.dtype}, a regression, but its head has {head.out_features} "
                    "outputs; a regression has one. Use integer labels for classes."
                )
            bad = (~values.isfinite()).nonzero().flatten().tolist()
            deviation = values.double().std(correction=0).item()
            scales[task] = deviation if deviation > 0 else 1.0
        else:
            bad = ((values < 0) | (values >= head.out_features)).nonzero().flatten().tolist()
            scales[task] = None
        if bad:
            raise DataError(
                f"Image {bad[0]} has the label {values[bad[0]].item()} for task {task!r}"
                + (f"; its classes are 0..{head.out_features - 1}" if scales[task] is None else "")
                + f" ({len(bad)} such). A label is needed for every image and task; leave the others out."
            )
        columns.append(values.float().cpu())
    return torch.stack(columns, 1), scales
