"""Collages of the images of a request: what a model can be held to when it has nothing else to look at."""

import torch
from torch.utils.data import Dataset

from hf_dtl.data import ImageTensors
from hf_dtl.data.images import Item
from hf_dtl.functional import collages


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

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Item:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        first, pixels = index % len(self.images), self.images.pixel_values
        label = self.images.labels[first]
        others = torch.arange(len(pixels)) != first
        alike = others & (self.images.labels == label)
        prefer = bool(torch.rand((), generator=generator) < 0.5) and bool(alike.any())
        pool = (alike if prefer else others).nonzero().flatten()
        second = int(pool[torch.randint(len(pool), (), generator=generator)]) if len(pool) else first
        made = collages(pixels[first][None], pixels[second][None], generator)[0]
        return {"pixel_values": made, "labels": int(label)}
