"""Decode images of any kind to the channels that a model takes, and name every one that cannot be used."""

import hashlib
import io
import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError
from transformers import BaseImageProcessor

from hf_dtl.data.columns import labels_of
from hf_dtl.errors import DataError

NAMED_AT_MOST = 5
PROGRESS_FROM = 2000
PAGED = "hf_dtl_paged"
"""Entry of `Image.info`: whether there are further pages or frames."""
_READ_AS = re.compile(r"(\d+) bits on (.+)")
WHITE = "white"
SIGNS = "White signs on nothing need a background, as in --background black or load_task(..., background='black')."

logger = logging.getLogger(__name__)
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
        self._read_as = str(getattr(dataset.features["image"], "id", None))  # see `read_as`
        self._bits, self._background = reading(dataset.features["image"]) or (16, WHITE)
        self._paged = 0
        self._encoded = dataset.with_format(None).cast_column("image", datasets.Image(decode=False))

    def __len__(self) -> int:
        return len(self.dataset)

    def read_labels(self) -> torch.Tensor:
        """Return the labels, (N,) int64, without decoding an image; -1 where there is no column of them."""
        if "label" not in self.dataset.features:
            return torch.full((len(self),), -1)
        return torch.as_tensor(np.array(labels_of(self.dataset)), dtype=torch.int64)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes that the labels number, None where there are none."""
        feature = self.dataset.features.get("label")
        return tuple(feature.names) if isinstance(feature, datasets.ClassLabel) else None

    def decode(self, rows: Sequence[int]) -> tuple[list[Image.Image], list[str]]:
        """Decode images to 8-bit grey or RGB.

        Returns:
            The images, and a line on each that cannot be used and is left out.
        """
        return self._each(rows, whole=True)

    def check_header(self, rows: Sequence[int]) -> list[str]:
        """Read only what comes before the pixels; return a line on each image that cannot be used."""
        return self._each(rows, whole=False)[1]

    def tell_pages(self) -> None:
        """Warn of what was read of files with several pages or frames, such as TIFF and GIF."""
        if self._paged:
            told = "%s: %d of %d images have several pages or frames; the first of each alone is used."
            logger.warning(told, self.where, self._paged, len(self))

    def _each(self, rows: Sequence[int], *, whole: bool) -> tuple[list[Image.Image], list[str]]:
        read_well, faults = [], []
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            for row, value in zip(rows, self._encoded[list(rows)]["image"], strict=True):
                try:
                    image = decoded(value, whole=whole)
                    self._paged += image.info[PAGED]
                    if whole:
                        image = to_channels(image, self.num_channels, self._bits, self._background)
                    read_well.append(image)
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
            made = self.processor(images)["pixel_values"]
            outputs = [torch.as_tensor(np.ascontiguousarray(output)) for output in made]  # some are views turned round
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
                "(on the command line --image_size)."
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
        file = f", {value['path']}" if value and value["path"] else ""
        if isinstance(feature := self.dataset.features.get("label"), datasets.ClassLabel):
            place += f", class '{feature.int2str(self.dataset.select_columns(['label'])[row]['label'])}'"
        if value is None:
            return f"{place}: it has no image"
        reason = re.sub(r"\s*<[^>]*>", "", str(error)) or type(error).__name__
        return f"{place}{file}: {reason}"


class Variety:
    """What images look like once they are decoded: a wrong depth or background makes many of them one.

    Args:
        where: name of the images, for messages.
    """

    def __init__(self, where: str) -> None:
        self.where, self.constant, self.count, self.brightest = where, 0, 0, 0
        self.different: set[bytes] = set()

    def add(self, images: Sequence[Image.Image]) -> None:
        """Look at decoded images, grey or RGB."""
        for image in images:
            ranges = np.reshape(image.getextrema(), (-1, 2))
            self.constant += bool((ranges[:, 0] == ranges[:, 1]).all())
            self.brightest = max(self.brightest, int(ranges.max()))
            self.different.add(hashlib.blake2b(image.tobytes(), digest_size=16).digest())
        self.count += len(images)

    def tell(self) -> None:
        """Warn of images of one colour, of equal ones, and of darkness.

        Raises:
            DataError: all of several images are equal.
        """
        if self.count > 1 and len(self.different) == 1:
            raise DataError(
                f"{self.where}: all {self.count} images are the same once they are decoded (brightest value "
                f"{self.brightest} of 255). Save them with 8 bits. {SIGNS}"
            )
        copies = self.count - len(self.different)
        constant = ("are of one colour throughout", self.constant, f" {SIGNS}")
        for problem, count, remedy in (constant, ("are equal to another one", copies, "")):
            if count:
                told = "%s: %d of %d images %s once decoded.%s"
                logger.warning(told, self.where, count, self.count, problem, remedy)
        if self.brightest < 16:
            told = "%s: the brightest value of all %d images is %d of 255. Save them with 8 bits."
            logger.warning(told, self.where, self.count, self.brightest)


def decoded(value: dict[str, Any] | None, *, whole: bool = True) -> Image.Image:
    """An encoded image, turned as its EXIF says; only of formats that start no program, as EPS does.

    Args:
        value: `bytes`, or the `path` of a file.
        whole: decode it; else only what comes before the pixels is read.

    Raises:
        ValueError: there is none, or it is of another format.
    """
    if value is None:
        raise ValueError
    content = value["bytes"] if value["bytes"] is not None else Path(value["path"]).read_bytes()
    try:
        image = Image.open(io.BytesIO(content), formats=READ)
    except UnidentifiedImageError:
        raise ValueError(f"cannot identify it as an image of a format that is read: {', '.join(READ)}") from None
    # a telephone's MPO has a second view or a map of brightness behind the picture
    image.info[PAGED] = image.format != "MPO" and getattr(image, "is_animated", False)
    if not whole:
        return image
    image.load()
    return ImageOps.exif_transpose(image)


def bits_of(image: Image.Image) -> int:
    """How many bits its values need where it may have more than 8 (8, 10, 12, 14 or 16), else 0."""
    if not _is_deep(image):
        return 0
    largest = int(np.asarray(image).max())
    return next((bits for bits in (8, 10, 12, 14) if largest < 2**bits), 16)


def deepest_bits(dataset: datasets.Dataset) -> int:
    """The bits that 16-bit images of the column `image` fill, 0 where the first image has 8."""
    encoded = dataset.cast_column("image", datasets.Image(decode=False))
    found = 0
    for value in encoded.select_columns(["image"]):
        try:
            found = max(found, bits_of(decoded(value["image"])))
        except Exception:  # named, with all others that cannot be used, when images are loaded
            continue
        if not found:
            break
    return found


def read_as(dataset: datasets.Dataset, bits: int, background: str = WHITE) -> datasets.Dataset:
    """The same images, marked for `ImageReader`: how they are read.

    Args:
        dataset: column `image`.
        bits: that their 16-bit values fill, 0 where there are none.
        background: colour under what is transparent.
    """
    if not bits and background == WHITE:
        return dataset
    return dataset.cast_column("image", datasets.Image(id=f"{bits} bits on {background}"))


def reading(feature: object) -> tuple[int, str] | None:
    """Bits and background by which `read_as` says that a column is read, None where it says nothing."""
    named = _READ_AS.fullmatch(str(getattr(feature, "id", None)))
    return (int(named[1]) or 16, named[2]) if named else None


def read_alike(parts: Mapping[str, datasets.Dataset]) -> dict[str, datasets.Dataset]:
    """Data sets whose 16-bit images keep their brightness to each other: a dark part does not become a bright one.

    Args:
        parts: column `image`; those that `read_as` marked, as `load_task` does, stay as they are.
    """
    plain = {name: part for name, part in parts.items() if reading(part.features["image"]) is None}
    bits = max(map(deepest_bits, plain.values()), default=0)
    return {name: read_as(part, bits) if name in plain else part for name, part in parts.items()}


def check_colour(name: str) -> None:
    """Refuse a background that is no colour.

    Raises:
        DataError: PIL does not know it.
    """
    try:
        ImageColor.getrgb(name)
    except ValueError:
        raise DataError(f"background={name!r} is no colour: give one such as white, black or #808080.") from None


def _is_deep(image: Image.Image) -> bool:
    return image.mode == "F" or image.mode.startswith("I")


def with_alpha(image: Image.Image) -> Image.Image | None:
    """An image that may be transparent, as RGBA; None of any other."""
    if "transparency" not in image.info and image.mode[-1] not in "Aa":
        return None
    return image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)).convert("RGBA")


def to_channels(image: Image.Image, num_channels: int, bits: int = 16, background: str = WHITE) -> Image.Image:
    """Return an 8-bit image with 1 or 3 channels; what is transparent is put on a background.

    Args:
        image: of any mode that PIL reads.
        num_channels: 1 for grey, 3 for RGB.
        bits: that the values of a 16-bit image fill, 8 to 16: those of a microscope often fill 12.
        background: a colour as PIL names it.

    Raises:
        ValueError: a coloured image for 1 channel, or 32-bit values outside 0..65535.

    Example:
        >>> to_channels(Image.new("LA", (2, 2)), 3).getpixel((0, 0))
        (255, 255, 255)
    """
    if _is_deep(image):
        # PIL's own conversion clips at 255, which turns a 16-bit image white.
        values = np.asarray(image)
        if image.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise ValueError(f"it has 32-bit values (mode {image.mode}); save it with 8 or 16 bits")
        image = Image.fromarray((values.astype(np.uint16) >> (bits - 8)).clip(max=255).astype(np.uint8))
    if (clear := with_alpha(image)) is not None:
        # Without its transparency, a black sign on nothing is a black picture.
        image = Image.alpha_composite(Image.new("RGBA", image.size, background), clear)
    if image.mode in ("1", "L"):
        return image.convert("L" if num_channels == 1 else "RGB")
    image = image.convert("RGB")
    if num_channels == 3:
        return image
    values = np.asarray(image)
    if (values != values[..., :1]).any():
        raise ValueError("it is in colour, but the model takes 1 channel; convert it to grey or choose another model")
    return image.getchannel(0)
