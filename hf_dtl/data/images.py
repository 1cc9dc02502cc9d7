"""Encoded images as tensors that a model takes: processed once, or one by one where memory is short."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypedDict

import datasets
import torch
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers import BaseImageProcessor

from hf_dtl.data.columns import kind_of, raw_column
from hf_dtl.data.decoding import PROGRESS_FROM, ImageReader, Variety
from hf_dtl.errors import DataError, listing
from hf_dtl.fingerprint import fingerprint

BATCH = 256


def size_of(images: Dataset) -> int:
    """Length of a data set; `Dataset` itself does not promise one, its map-style subclasses have it."""
    return len(images)  # type: ignore[arg-type]


class Item(TypedDict):
    """What a data set gives for one image."""

    pixel_values: torch.Tensor
    labels: int


class ImageTensors(Dataset[Item]):
    """Processed images in one tensor.

    Args:
        pixel_values: (N, C, H, W) float32.
        labels: (N,) int64.
        names: of the classes that the labels number; None where they are rows of a head, or what nobody named.

    Example:
        >>> images = ImageTensors(torch.zeros(3, 1, 2, 2), torch.tensor([0, 1, 0]))
        >>> images.subset([1])[0]["labels"]
        1
    """

    def __init__(self, pixel_values: torch.Tensor, labels: torch.Tensor, names: tuple[str, ...] | None = None) -> None:
        self.pixel_values = pixel_values
        self.labels = labels
        self.names = names

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Item:
        return {"pixel_values": self.pixel_values[index], "labels": int(self.labels[index])}

    def subset(self, indices: Sequence[int]) -> "ImageTensors":
        """Return the images at `indices`, copied."""
        rows = torch.as_tensor(indices, dtype=torch.long)
        return ImageTensors(self.pixel_values[rows], self.labels[rows], self.names)


class LazyImages(ImageReader, Dataset[Item]):
    """Images decoded and processed each time they are asked for, for data sets larger than memory.

    Args:
        dataset: columns `image` and `label`; only the headers of the images are checked at once.
        processor, num_channels, desc: as in `load_images`.

    Raises:
        DataError: at once for an image with a broken header, else for a broken image when it is asked for.
    """

    def __init__(
        self, dataset: datasets.Dataset, processor: BaseImageProcessor, *, num_channels: int, desc: str | None = None
    ) -> None:
        super().__init__(dataset, processor, num_channels, desc or "images")
        batches = (range(len(dataset))[start : start + BATCH] for start in range(0, len(dataset), BATCH))
        self.refuse([fault for rows in batches for fault in self.check_header(rows)])
        self._shape = self._processed(0).shape
        self.labels, self.names = self.read_labels(), self.class_names

    def _processed(self, row: int, shape: torch.Size | None = None) -> torch.Tensor:
        images, faults = self.decode([row])
        self.refuse(faults)
        return self.process(images, shape)[0]

    @property
    def identity(self) -> str:
        """Fingerprint of the encoded images and of how they are prepared; of files by size and time of change."""
        rows = self.dataset.select_columns(["image"]).cast_column("image", datasets.Image(decode=False))

        def parts() -> Iterator[object]:
            for row in rows:
                image = row["image"]
                if image["bytes"] is not None:
                    yield hashlib.blake2b(image["bytes"]).hexdigest()
                else:
                    found = Path(image["path"]).stat()
                    yield [image["path"], found.st_size, found.st_mtime_ns]

        return fingerprint([self.processor.to_dict(), self._read_as, *parts()])

    def __getitem__(self, index: int) -> Item:
        row = range(len(self))[index]
        return {"pixel_values": self._processed(row, self._shape), "labels": int(self.labels[row])}

    def subset(self, indices: Sequence[int]) -> "LazyImages":
        """Return the images at `indices`, still lazy."""
        chosen = self.dataset.select(indices)
        part = LazyImages(chosen, self.processor, num_channels=self.num_channels, desc=self.where)
        part.labels, part.names = self.labels[torch.as_tensor(indices, dtype=torch.long)], self.names
        return part


def _check_columns(dataset: datasets.Dataset, where: str) -> None:
    if dataset.format["type"] == "custom":
        raise DataError(
            f"{where}: the transform (with_transform) would not be used, as the processor prepares the images. Give "
            "the data set itself to a trainer, which uses it, or take it off: dataset.with_format(None)."
        )
    label = dataset.features.get("label")
    if "image" not in dataset.features or (label is not None and kind_of(label) not in ("ClassLabel", "int")):
        raise DataError(
            f"{where}: the columns must be 'image' and 'label', a ClassLabel or whole numbers; they are "
            f"{listing([f'{name} ({feature})' for name, feature in dataset.features.items()], 5)}. Use "
            "rename_column and class_encode_column."
        )
    if label is not None and (missing := raw_column(dataset, "label").null_count):
        raise DataError(f"{where}: {missing} of {len(dataset)} images have no label. Remove or correct them.")


def load_images(
    dataset: datasets.Dataset,
    processor: BaseImageProcessor,
    *,
    num_channels: int,
    memory_limit_gib: float = 4.0,
    desc: str | None = None,
) -> ImageTensors | LazyImages:
    """Decode and process every image once, into one tensor; above the memory limit, when it is asked for.

    Grey, palette, RGBA, CMYK and 16-bit images become RGB where the model takes 3 channels; what is transparent is
    put on white. Images of one colour, and equal ones, are told by count.

    Args:
        dataset: columns `image` and `label`, as in `TaskData`.
        processor: image processor of the model; all its outputs must have one shape.
        num_channels: 1 or 3, as the model takes (`config.num_channels`).
        memory_limit_gib: largest tensor to keep, in GiB.
        desc: name of the images in the progress bar and in messages, such as `"source train"`.

    Returns:
        A dataset of `{"pixel_values": (C, H, W) float32, "labels": int}`, with `labels` (N,) int64, their `names` and
        `subset`.

    Raises:
        DataError: there is no such column, a label is missing, or a transform (`with_transform`) would not be used;
            images are corrupt, too large, coloured for a 1-channel model, all equal, or come out in several
            shapes. Above the memory limit only the headers are checked here, the rest when an image is asked for.
    """
    where = desc or "images"
    if not len(dataset):
        raise DataError(f"{where}: there is no image.")
    _check_columns(dataset, where)
    reader = ImageReader(dataset, processor, num_channels, where)
    pixel_values = torch.empty(0)
    shape: torch.Size | None = None
    faults, variety = list[str](), Variety(where)
    quiet = {"disable": True} if len(dataset) <= PROGRESS_FROM else {}  # else the environment decides (TQDM_DISABLE)
    with tqdm(total=len(dataset), desc=where, unit="image", **quiet) as progress:
        for start in range(0, len(dataset), BATCH):
            rows = range(len(dataset))[start : start + BATCH]
            images, found = reader.decode(rows)
            faults += found
            variety.add(images)
            if images and shape is None:
                shape = reader.process(images[:1]).shape[1:]
                if len(dataset) * shape.numel() * 4 > memory_limit_gib * 2**30:
                    lazy = LazyImages(dataset, processor, num_channels=num_channels, desc=desc)
                    lazy.tell_pages()
                    return lazy
                pixel_values = torch.empty((len(dataset), *shape))
            if not faults:
                pixel_values[rows.start : rows.stop] = reader.process(images, shape)
            progress.update(len(rows))
    reader.refuse(faults)
    variety.tell()
    reader.tell_pages()
    return ImageTensors(pixel_values, reader.read_labels(), reader.class_names)
