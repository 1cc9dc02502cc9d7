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
        everyone = torch.arange(len(images))
        # Where an image has no other, or none with its label, it is its own, or any is.
        self._others = [everyone[everyone != i] if len(images) > 1 else everyone for i in range(len(images))]
        alike = [own[images.labels[own] == images.labels[i]] for i, own in enumerate(self._others)]
        self._alike = [some if len(some) else own for some, own in zip(alike, self._others, strict=True)]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Item:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """Several at once, as each alone would be."""
        firsts = [index % len(self.images) for index in indices]
        draws = torch.stack([self._draws(index) for index in indices])
        pools = [
            (self._alike if prefer < 0.5 else self._others)[first]
            for first, prefer in zip(firsts, draws[:, 0].tolist(), strict=True)
        ]
        seconds = [int(pool[int(u * len(pool))]) for pool, u in zip(pools, draws[:, 1].tolist(), strict=True)]
        pixels = self.images.pixel_values
        made = collages(pixels[firsts], pixels[seconds], draws[:, 2:])
        labels = self.images.labels[firsts].tolist()
        return [{"pixel_values": one, "labels": label} for one, label in zip(made, labels, strict=True)]

    def _draws(self, index: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        return torch.rand(DRAWS + 2, generator=generator, dtype=torch.float64)
