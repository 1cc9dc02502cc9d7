"""The forget and retain streams: what every optimizer step sees, whatever the number of processes.

A *chunk* is a part of a step's forget images with its share of retain images. Step s consists of the chunks
s*num_chunks .. (s+1)*num_chunks - 1; a process receives a consecutive part of them. Every chunk is a function of the
seed and its own number alone, so one process with four chunks and two processes with two chunks see the same step,
and a resumed run sees the steps that it would have seen.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler, default_collate

from hf_dtl.data.images import size_of
from hf_dtl.errors import ConfigError

Images = TypeVar("Images", bound=Dataset, covariant=True)
Chunking = Literal["class", "random"]
_FORGET, _RETAIN, _CLASSES = range(3)


@lru_cache(maxsize=4)
def _permutation(size: int, *key: int) -> np.ndarray:
    return np.random.default_rng(key).permutation(size)


def labels_of(dataset: Dataset) -> np.ndarray:
    """Labels of a data set of {"pixel_values", "labels"} items, without decoding images where it offers `labels`."""
    labels = getattr(dataset, "labels", None)
    if labels is None:
        labels = [int(dataset[i]["labels"]) for i in range(size_of(dataset))]
    return np.asarray(labels)


class PairedStreams(Dataset, Generic[Images]):
    """Map-style data set of chunks over a forget and a retain data set of unequal length.

    The forget data define the epoch; the shorter stream starts over, reshuffled.

    Args:
        forget: data set of {"pixel_values": (C, H, W), "labels": int} items.
        retain: the same, of the knowledge to keep.
        num_chunks: chunks an optimizer step, over all processes, >= 1.
        chunk_size: forget images a chunk, >= 1.
        retain_chunk_size: retain images a chunk, >= 1.
        chunking: "random": every chunk is drawn from all forget data. "class": every chunk holds classes of its own,
            dealt anew each step; images are drawn at random within them.
        seed: of every draw.

    Raises:
        ConfigError: a data set is empty, or there are fewer classes than chunks for "class".
    """

    def __init__(
        self,
        forget: Images,
        retain: Images,
        *,
        num_chunks: int,
        chunk_size: int,
        retain_chunk_size: int,
        chunking: Chunking,
        seed: int,
    ):
        for name, dataset in (("forget", forget), ("retain", retain)):
            if size_of(dataset) == 0:
                raise ConfigError(f"The {name} data set is empty; give it at least one image.")
        self.forget, self.retain = forget, retain
        self.num_chunks, self.chunk_size, self.retain_chunk_size = num_chunks, chunk_size, retain_chunk_size
        self.seed = seed
        self.members: list[np.ndarray] | None = None
        if chunking == "class":
            labels = labels_of(forget)
            self.members = [np.flatnonzero(labels == c) for c in np.unique(labels)]
            if len(self.members) < num_chunks:
                raise ConfigError(
                    f"chunking='class' needs at least as many classes as chunks; the forget data have "
                    f"{len(self.members)} classes for num_chunks={num_chunks}. Lower num_chunks or use "
                    "chunking='random'."
                )
        self.steps_per_epoch = -(-size_of(forget) // (num_chunks * chunk_size))

    def __len__(self) -> int:
        return self.steps_per_epoch * self.num_chunks

    def forget_indices(self, step: int) -> np.ndarray:
        """Forget images of a step, (num_chunks, chunk_size)."""
        if self.members is None:
            return self._rows(self.forget, step, self.chunk_size, _FORGET)
        random = np.random.default_rng((self.seed, _CLASSES, step))
        chunks = []
        for classes in np.array_split(random.permutation(len(self.members)), self.num_chunks):
            pool = np.concatenate([self.members[c] for c in classes])
            chunks.append(random.choice(pool, self.chunk_size, replace=len(pool) < self.chunk_size))
        return np.stack(chunks)

    def retain_indices(self, step: int) -> np.ndarray:
        """Retain images of a step, (num_chunks, retain_chunk_size)."""
        return self._rows(self.retain, step, self.retain_chunk_size, _RETAIN)

    def _rows(self, images: Dataset, step: int, size: int, stream: int) -> np.ndarray:
        """A step's part of an endless stream that passes over all images, reshuffled on every pass."""
        count, total = self.num_chunks * size, size_of(images)
        passes, places = np.divmod(np.arange(step * count, (step + 1) * count), total)
        numbers = np.unique(passes).tolist()
        rows = [_permutation(total, self.seed, stream, number)[places[passes == number]] for number in numbers]
        return np.concatenate(rows).reshape(self.num_chunks, size)

    def __getitem__(self, chunk: int) -> dict[str, Any]:
        step, place = divmod(chunk, self.num_chunks)
        return {
            "chunk": chunk,
            "forget": _batch(self.forget, rows := self.forget_indices(step)[place]) | {"rows": torch.as_tensor(rows)},
            "retain": _batch(self.retain, self.retain_indices(step)[place]),
        }


def _batch(dataset: Dataset, indices: np.ndarray) -> dict[str, torch.Tensor]:
    several = getattr(dataset, "__getitems__", None)
    items = [dataset[int(i)] for i in indices] if several is None else several(indices.tolist())
    return default_collate([{"pixel_values": item["pixel_values"], "labels": item["labels"]} for item in items])


class ChunkSampler(Sampler[int]):
    """Chunks of one epoch in order; `epoch` is asked at the start of every pass, so a resumed run goes on."""

    def __init__(self, streams: PairedStreams, epoch: Callable[[], int]):
        self.streams, self.epoch = streams, epoch

    def __len__(self) -> int:
        return len(self.streams)

    def __iter__(self) -> Iterator[int]:
        start = self.epoch() * len(self.streams)
        return iter(range(start, start + len(self.streams)))
