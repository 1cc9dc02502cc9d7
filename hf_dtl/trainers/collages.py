"""Collages of the images of a request: what a model can be held to when it has nothing else to look at."""

from collections.abc import Sequence

import torch
from torch.utils.data import Dataset

from hf_dtl.data import ImageTensors
from hf_dtl.data.images import Item
from hf_dtl.functional import collages
from hf_dtl.functional.collage import DRAWS


class Collages(Dataset[Item]):
    """Collages of a few images, each made when it is asked for, and always the same.

    A piece comes from another image, and one with the same label is preferred every other time. The label of a collage
    is that of the image that it begins with, which need not be what it shows: ask a model what it sees in it.

    Args:
        images: at least one.
        per_image: collages that begin with each, >= 1.
        seed: of the draws.
    """

    def __init__(self, images: ImageTensors, per_image: int, seed: int) -> None:
        self.images, self.per_image, self.seed = images, per_image, seed
        self.labels = images.labels.repeat(per_image)
        self._rows = {label: (images.labels == label).nonzero().flatten() for label in images.labels.unique().tolist()}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Item:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """Several at once, as each alone would be."""
        firsts = [index % len(self.images) for index in indices]
        seeds = [self.seed * 1_000_003 + index for index in indices]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        draws = torch.stack([torch.rand(DRAWS + 2, generator=g, dtype=torch.float64) for g in generators])
        seconds = [self._other(i, *two) for i, two in zip(firsts, draws[:, :2].tolist(), strict=True)]
        pixels = self.images.pixel_values
        made = collages(pixels[firsts], pixels[seconds], draws[:, 2:])
        labels = self.images.labels[firsts].tolist()
        return [{"pixel_values": one, "labels": label} for one, label in zip(made, labels, strict=True)]

    def _other(self, first: int, prefer: float, place: float) -> int:
        """Another image than the first, with its label where that is preferred and there is one; or itself, alone."""
        alike = self._rows[int(self.images.labels[first])]
        if prefer < 0.5 and len(alike) > 1:
            own = int(torch.searchsorted(alike, first))
            return int(alike[_without(own, len(alike), place)])
        return _without(first, len(self.images), place) if len(self.images) > 1 else first


def _without(left_out: int, count: int, place: float) -> int:
    """The number among 0..count-1 but one that lies at this share, in [0, 1), of them."""
    number = int(place * (count - 1))
    return number + (number >= left_out)
