"""Images with labels for several tasks as tensors that a model takes."""

from collections.abc import Mapping, Sequence

import datasets
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import BaseImageProcessor

from hf_dtl.data.columns import kind_of, raw_column
from hf_dtl.data.images import ImageTensors, LazyImages, load_images
from hf_dtl.errors import DataError


class MultiTaskImages(Dataset[dict[str, Tensor | dict[str, Tensor]]]):
    """Processed images with one label a task.

    Args:
        pixel_values: (N, C, H, W) float32, or images that are decoded when they are asked for.
        labels: task → (N,) integers for classes, floats for a regression task.
        names: task → names of the classes that its labels number; of other tasks they are rows of a head.

    Raises:
        DataError: there is no task, or not one label an image.

    Example:
        >>> images = MultiTaskImages(torch.zeros(3, 1, 2, 2), {"case": torch.tensor([0, 1, 0])})
        >>> images.subset([1])[0]["labels"]
        {'case': tensor(1)}
    """

    def __init__(
        self,
        pixel_values: Tensor | LazyImages,
        labels: Mapping[str, Tensor],
        names: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        if not labels:
            raise DataError("These images have no label for any task; give at least one task.")
        for task, values in labels.items():
            if values.shape != (len(pixel_values),):
                raise DataError(
                    f"The task '{task}' has labels of the shape {tuple(values.shape)} for {len(pixel_values)} images; "
                    "one number an image is needed."
                )
        self.pixel_values, self.names = pixel_values, dict(names or {})
        self.labels = {task: v.float() if v.is_floating_point() else v.long() for task, v in labels.items()}
        """task → (N,) int64 for classes, float32 for a regression task."""

    def __len__(self) -> int:
        return len(self.pixel_values)

    def __getitem__(self, index: int) -> dict[str, Tensor | dict[str, Tensor]]:
        found = self.pixel_values[index]
        pixels = found if isinstance(found, Tensor) else found["pixel_values"]
        return {"pixel_values": pixels, "labels": {task: values[index] for task, values in self.labels.items()}}

    @property
    def identity(self) -> str:
        """Fingerprint of images that are not in memory."""
        assert isinstance(self.pixel_values, LazyImages)
        return self.pixel_values.identity

    def subset(self, rows: Sequence[int] | Tensor) -> "MultiTaskImages":
        """Return the images at `rows`, copied, or still lazy."""
        rows = torch.as_tensor(rows, dtype=torch.long)
        images = self.pixel_values
        part = images[rows] if isinstance(images, Tensor) else images.subset(rows.tolist())
        return MultiTaskImages(part, {task: values[rows] for task, values in self.labels.items()}, self.names)


def load_multitask_images(
    split: datasets.Dataset,
    processor: BaseImageProcessor,
    *,
    num_channels: int,
    memory_limit_gib: float = 4.0,
    desc: str | None = None,
) -> MultiTaskImages:
    """Decode and process every image once, as `load_images` does, and read the labels of every task.

    Args:
        split: columns `image` and one a task, as in `MultiTaskData`.
        processor, num_channels, memory_limit_gib, desc: as there.

    Raises:
        DataError: see `load_images`.
    """
    tasks = {name: feature for name, feature in split.features.items() if name != "image"}
    for task, feature in tasks.items():
        if not kind_of(feature).startswith(("ClassLabel", "int", "float")):
            raise DataError(
                f"{desc or 'images'}: the column {task!r} holds {feature}, and every column beside 'image' is a task, "
                f"classes or numbers. Use class_encode_column({task!r}), or remove_columns({task!r})."
            )
    labels = {task: torch.from_numpy(np.array(raw_column(split, task).to_numpy())) for task in tasks}
    images = load_images(
        _one_label(split), processor, num_channels=num_channels, memory_limit_gib=memory_limit_gib, desc=desc
    )
    names = {task: tuple(f.names) for task, f in tasks.items() if isinstance(f, datasets.ClassLabel)}
    return MultiTaskImages(images.pixel_values if isinstance(images, ImageTensors) else images, labels, names)


def _one_label(split: datasets.Dataset) -> datasets.Dataset:
    """The images with a `label`, by which messages tell them apart: the first task that has classes."""
    classes = [name for name, feature in split.features.items() if isinstance(feature, datasets.ClassLabel)]
    if classes:
        named = split.select_columns(["image", classes[0]])
        return named if classes[0] == "label" else named.rename_column(classes[0], "label")
    labels = np.zeros(len(split), dtype=np.int64)
    return split.select_columns(["image"]).add_column("label", labels, feature=datasets.ClassLabel(names=["image"]))
