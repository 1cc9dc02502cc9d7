"""Images on which a teacher speaks to a student, and the file of what he said."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from hf_dtl.data.images import ImageTensors, size_of
from hf_dtl.errors import ConfigError, DataError
from hf_dtl.fingerprint import fingerprint
from hf_dtl.functional.channel import mixed_views, parse_channel

TRANSFER = "transfer_labels.json"
MOST_BYTES = 40_000_000
"""Of one such file: several million labels."""
_VIEWS_GIB = 4.0


class TransferImages(Dataset):
    """Labelled images of the task to keep, then those that the teacher names; the label of an item is its place.

    Args:
        labelled: items {"pixel_values", "labels"}.
        named: items {"pixel_values"}; None for none.
    """

    def __init__(self, labelled: Dataset, named: Dataset | None):
        self.labelled, self.named = labelled, named
        self.labels = torch.arange(size_of(labelled) + (0 if named is None else size_of(named)))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        own = size_of(self.labelled)
        item = self.labelled[index] if index < own else self.named[index - own]  # type: ignore[index]
        return {"pixel_values": item["pixel_values"], "labels": index}


class Unlabelled(Dataset):
    """Images whose labels, if they have any, are not asked for."""

    def __init__(self, images: Dataset):
        self.images = images

    def __len__(self) -> int:
        return size_of(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"pixel_values": torch.as_tensor(self.images[index]["pixel_values"]), "labels": 0}


def views_of(labelled: Dataset, count: int, seed: int) -> ImageTensors:
    """Views of the labelled images, see `mixed_views`, the same for equal seeds.

    Raises:
        ConfigError: they would not fit into memory.
    """
    images = torch.stack([torch.as_tensor(labelled[row]["pixel_values"]) for row in range(size_of(labelled))])
    if count * images[0].numel() * 4 > _VIEWS_GIB * 2**30:
        raise ConfigError(
            f"views={count} images of {tuple(images.shape[1:])} need more than {_VIEWS_GIB:g} GiB: lower it."
        )
    made = mixed_views(images, count, torch.Generator().manual_seed(seed))
    return ImageTensors(made, torch.full((count,), -1))


def pictures(images: Dataset) -> set[bytes]:
    """Digests of images as a model sees them."""
    rows = (torch.as_tensor(images[row]["pixel_values"]) for row in range(size_of(images)))
    return {hashlib.blake2b(pixels.float().numpy().tobytes(), digest_size=16).digest() for pixels in rows}


@dataclass(frozen=True)
class TransferLabels:
    """What a teacher said about transfer images: with what is public, all that the student's weights are made of.

    Args:
        channel: `labels`, or `outputs:q`.
        classes: that there are words for, in the order of the codes.
        rejection: whether there is a word for "not sure", one more than classes.
        images: fingerprint of the images that he named.
        codes: (N,) in 0..classes, or (N, classes) in 0..q-1.
    """

    channel: str
    classes: tuple[str, ...]
    rejection: bool
    images: str
    codes: Tensor

    @property
    def levels(self) -> int | None:
        """Of each probability; None for labels."""
        return levels_of(self.channel)

    def to_json(self) -> str:
        """One line, without a blank that could say more than the codes."""
        content = {"channel": self.channel, "classes": list(self.classes), "rejection": self.rejection,
                   "images": self.images, "codes": self.codes.tolist()}  # fmt: skip
        return json.dumps(content, separators=(",", ":")) + "\n"

    def save(self, path: Path) -> None:
        """Write it in one step."""
        new = path.with_name(f".{path.name}.partial")
        new.write_text(self.to_json(), encoding="utf-8")
        os.replace(new, path)

    @classmethod
    def load(cls, path: Path) -> "TransferLabels":
        """Read what `save` wrote, and nothing else.

        Raises:
            DataError: it holds anything besides codes of its own alphabet, or is written in another way.
        """
        try:
            if path.stat().st_size > MOST_BYTES:
                raise ValueError(f"it is larger than {MOST_BYTES:,} bytes")
            text = path.read_text(encoding="utf-8")
            content = json.loads(text)
            classes, levels = tuple(content["classes"]), levels_of(content["channel"])
            if not all(isinstance(name, str) for name in classes) or len(set(classes)) < max(len(classes), 1):
                raise ValueError("its classes are no different names")
            codes = torch.tensor(content["codes"], dtype=torch.int64)
            most = len(classes) - 1 + bool(content["rejection"]) if levels is None else levels - 1
            shape = (len(codes),) if levels is None else (len(codes), len(classes))
            if codes.shape != shape or (codes.numel() and not 0 <= codes.min() <= codes.max() <= most):
                raise ValueError(f"its codes are not of the shape {shape}, in 0..{most}")
            if levels is not None and bool(((codes.sum(1) - most).abs() > len(classes) / 2).any()):
                raise ValueError("its codes are no rounded probabilities: those of an image come to 1")
            if not isinstance(content["images"], str) or len(content["images"]) != 32:
                raise ValueError("`images` is no fingerprint")
            int(content["images"], 16)
            found = cls(content["channel"], classes, content["rejection"] is True, content["images"], codes)
            if found.to_json() != text:
                raise ValueError("it holds more than the codes, or is written in another way than this library writes")
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, RuntimeError) as error:
            raise DataError(f"{path.name} is no list of a teacher's labels: {error}.") from error
        return found


def levels_of(channel: str) -> int | None:
    """Levels of `outputs:q`; None for `labels`.

    Raises:
        ValueError: its words are no codes.
    """
    kind, number = parse_channel(channel)
    if kind == "labels" or (kind == "outputs" and number is not None):
        return number
    raise ValueError(f"the channel {channel!r} has no codes")


def fingerprint_of(images: Dataset) -> str:
    """Of images as a model sees them, 32 hexadecimal digits."""
    return fingerprint(torch.as_tensor(images[row]["pixel_values"]) for row in range(size_of(images)))
