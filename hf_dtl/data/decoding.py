"""Decode images of any kind to the channels that a model takes, and name every one that cannot be used."""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from transformers import BaseImageProcessor

from hf_dtl.data.columns import labels_of
from hf_dtl.errors import DataError

NAMED_AT_MOST = 5
Image.init()
READ = tuple(
    name
    for name in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "MPO", "PPM", "TGA", "ICO", "PCX")
    if name in Image.OPEN
)
"""Formats that are read: those that PIL decodes itself."""


class ImageReader:
    """Rows of a data set as processed tensors.

    Args:
        dataset: columns `image` and `label`.
        processor: image processor of a model.
        num_channels: 1 or 3, as the model takes.
        where: name of the images, for messages.
    """

    def __init__(
        self, dataset: datasets.Dataset, processor: BaseImageProcessor, num_channels: int, where: str
    ) -> None:
        if num_channels not in (1, 3):
            raise DataError(f"{where}: the model takes {num_channels} channels; images can be given with 1 or 3.")
        self.dataset = dataset
        self.processor = processor
        self.num_channels = num_channels
        self.where = where
        self._encoded = dataset.with_format(None).cast_column("image", datasets.Image(decode=False))

    def __len__(self) -> int:
        return len(self.dataset)

    def read_labels(self) -> torch.Tensor:
        """Return the labels, (N,) int64, without decoding an image."""
        return torch.as_tensor(np.array(labels_of(self.dataset)), dtype=torch.int64)

    def decode(self, rows: Sequence[int]) -> tuple[list[Image.Image], list[str]]:
        """Decode images to 8-bit grey or RGB.

        Returns:
            The images, and a line on each that cannot be used and is left out.
        """
        return self._each(rows, lambda v: to_channels(_open(v), self.num_channels))

    def check_header(self, rows: Sequence[int]) -> list[str]:
        """Read only what comes before the pixels; return a line on each image that cannot be used."""
        return self._each(rows, lambda v: _open(v, whole=False))[1]

    def _each(self, rows: Sequence[int], read: Callable[[dict[str, Any]], Any]) -> tuple[list[Any], list[str]]:
        read_well, faults = [], []
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            for row, value in zip(rows, self._encoded[list(rows)]["image"], strict=True):
                try:
                    read_well.append(read(value))
                except Exception as error:  # PIL's decoders raise many types for a broken file
                    faults.append(self._fault(row, value, error))
        return read_well, faults

    def process(self, images: list[Image.Image], shape: torch.Size | None = None) -> torch.Tensor:
        """Run decoded images through the processor.

        Args:
            images: at least one.
            shape: (C, H, W) that each must come out in; None means that of the first.

        Returns:
            (N, C, H, W) float32.

        Raises:
            DataError: the processor fails on them, or they come out in another shape or number of channels.
        """
        kind = type(self.processor).__name__
        try:
            outputs = [torch.as_tensor(np.asarray(output)) for output in self.processor(images)["pixel_values"]]
        except Exception as error:  # whatever a processor raises for images that it cannot take
            raise DataError(
                f"{self.where}: {kind} cannot process {images[0].mode} images of {images[0].size} pixels: {error}. "
                "Choose another image processor."
            ) from error
        shapes = sorted({tuple(output.shape) for output in outputs} | ({tuple(shape)} if shape else set()))
        if len(shapes) > 1:
            raise DataError(
                f"{self.where}: images leave {kind} in several shapes (channels, height, width): "
                f"{', '.join(map(str, shapes[:NAMED_AT_MOST]))}. Choose a processor that resizes all to one size "
                "(--image_size)."
            )
        if shapes[0][0] != self.num_channels:
            raise DataError(
                f"{self.where}: images leave {kind} in the shape {shapes[0]} (channels, height, width), but the model "
                f"takes {self.num_channels} channels. Choose a processor made for the model."
            )
        return torch.stack(outputs).float()

    def refuse(self, faults: Sequence[str]) -> None:
        """Raise a DataError that names the first few of the images that cannot be used, if there are any."""
        if not faults:
            return
        rest = f"\n  and {len(faults) - NAMED_AT_MOST} more" if len(faults) > NAMED_AT_MOST else ""
        named = "".join(f"\n  {fault}" for fault in faults[:NAMED_AT_MOST])
        raise DataError(
            f"{self.where}: {len(faults)} of {len(self)} images cannot be used:{named}{rest}\n"
            "Repair these images or remove them from the data set."
        )

    def _fault(self, row: int, value: dict[str, Any], error: Exception) -> str:
        # A selection hides which row of the file is meant; datasets has no public way to ask for it.
        indices = self.dataset._indices
        place = f"row {row}" if indices is None else f"row {row} (row {indices.column(0)[row].as_py()} of the file)"
        file = f", {value['path']}" if value["path"] else ""
        label = self.dataset.features["label"].int2str(self.dataset.select_columns(["label"])[row]["label"])
        reason = re.sub(r"\s*<[^>]*>", "", str(error)) or type(error).__name__
        return f"{place}, class '{label}'{file}: {reason}"


def _open(value: dict[str, Any], *, whole: bool = True) -> Image.Image:
    """An image upright, as `datasets.Image` decodes it, but only of formats that start no program, as EPS does."""
    content = value["bytes"] if value["bytes"] is not None else Path(value["path"]).read_bytes()
    try:
        image = Image.open(io.BytesIO(content), formats=READ)
    except UnidentifiedImageError:
        raise ValueError(f"cannot identify it as an image of a format that is read: {', '.join(READ)}") from None
    if not whole:
        return image
    image.load()
    return ImageOps.exif_transpose(image)


def to_channels(image: Image.Image, num_channels: int) -> Image.Image:
    """Return an 8-bit image with 1 or 3 channels.

    Args:
        image: of any mode that PIL reads.
        num_channels: 1 for grey, 3 for RGB.

    Raises:
        ValueError: a coloured image for 1 channel, or 32-bit values outside 0..65535.

    Example:
        >>> to_channels(Image.new("LA", (2, 2)), 3).mode
        'RGB'
    """
    if image.mode == "F" or image.mode.startswith("I"):
        # PIL's own conversion clips at 255, which turns a 16-bit image white.
        values = np.asarray(image)
        if image.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise ValueError(f"it has 32-bit values (mode {image.mode}); save it with 8 or 16 bits")
        image = Image.fromarray((values.astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode in ("1", "L", "LA", "La"):
        return image.convert("L" if num_channels == 1 else "RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    image = image.convert("RGB")
    if num_channels == 3:
        return image
    values = np.asarray(image)
    if (values != values[..., :1]).any():
        raise ValueError("it is in colour, but the model takes 1 channel; convert it to grey or choose another model")
    return image.getchannel(0)
