"""What frozen weights give at every depth, once for all attacks in closed form."""

import math

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d, adaptive_avg_pool2d

from hf_dtl.audit.attacks.attack import Unit
from hf_dtl.audit.attacks.context import AttackContext, finite
from hf_dtl.audit.classifiers import LabelledImages
from hf_dtl.errors import ModelError
from hf_dtl.functional import Augmentation, augment, centred, gradient_histograms

MOST_VALUES = 4096
"""A reading of several tokens is averaged down to at most this many values."""
COPIES, CHOOSING_ROWS = 4, 2048
"""Copies of each image by which a reading is chosen, and the most rows: or one copy where the images are more."""
GRID = 7
"""Cells of a histogram of gradients along each side, at most."""
ROOM = 2**27
"""Values of training images that are kept for the next attack."""


def readings_of(context: AttackContext, pixel_values: Tensor, only: int | None = None) -> list[Tensor]:
    """Readings (images, values) of many images.

    Every depth, what enters the classifier, and the means of all; what no weights are needed for: histograms of the
    gradients of the image and of its centred form; and these with the means.

    Args:
        context: the attacked model.
        pixel_values: (images, channels, height, width).
        only: position of the one that is wanted; None for all of them.
    """
    parts = []
    for batch in pixel_values.split(context.config.eval_batch_size):
        own = _read(context, batch)
        parts.append(own if only is None else [own[only]])
    return [torch.cat(own) for own in zip(*parts, strict=True)]


def split_readings(context: AttackContext, split: LabelledImages) -> list[Tensor]:
    """Readings of the validation or test split, computed once for all attacks."""
    return context.once(("readings", id(split)), lambda: readings_of(context, split.pixel_values))


def training_readings(context: AttackContext, unit: Unit, augmentation: Augmentation) -> tuple[list[Tensor], Tensor]:
    """Readings of the training images of a run and of some copies of them, and their labels.

    Computed once for all attacks where there is room.

    Args:
        context: the attacked model and task.
        unit: the run.
        augmentation: of the copies; without one there are none.
    """
    images, labels = context.images(unit)
    copies = 1 if augmentation == "none" else max(1, min(COPIES, CHOOSING_ROWS // len(images)))

    def make() -> list[Tensor]:
        return readings_of(context, copies_of(images, copies, augmentation, unit.seed))

    key = ("training readings", unit.budget, unit.seed, augmentation)
    return context.once(key, make, room=ROOM), labels.repeat(copies)


def copies_of(images: Tensor, copies: int, augmentation: Augmentation, seed: int) -> Tensor:
    """The images, and then each of them again in other forms, by seed: (copies * images, ...)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([images, *(augment(images, augmentation, generator) for _ in range(copies - 1))])


@torch.no_grad()
def _read(context: AttackContext, pixel_values: Tensor) -> list[Tensor]:
    batch = pixel_values.to(context.device, context.dtype)
    try:
        states, features = context.heads.hidden_states(batch)
    except ModelError:  # the features are all that it gives
        states, features = [], context.heads.features(batch)
    maps = [state if state.ndim == 4 else state.transpose(1, 2) for state in states]  # (images, values, places)
    means = torch.cat([*(one.flatten(2).mean(2) for one in maps), features], dim=1)
    grid = max(1, min(GRID, batch.shape[2] // 2, batch.shape[3] // 2))
    seen = [gradient_histograms(images, grid) for images in (batch, centred(batch))]
    found = [*(_averaged(one).flatten(1) for one in maps), features, means, *seen, torch.cat([means, *seen], dim=1)]
    return [finite(one) for one in found]


def _averaged(places: Tensor) -> Tensor:
    """A feature map, or tokens in a row, with neighbours averaged where there are too many."""
    if places[0].numel() <= MOST_VALUES:
        return places
    room = max(1, MOST_VALUES // places.shape[1])
    return adaptive_avg_pool2d(places, math.isqrt(room)) if places.ndim == 4 else adaptive_avg_pool1d(places, room)
