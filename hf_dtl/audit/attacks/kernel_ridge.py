"""Kernel ridge regression on what frozen weights give at every depth, in closed form."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d, adaptive_avg_pool2d

from hf_dtl.audit.attacks.attack import Attack, TrainedAttack, Unit
from hf_dtl.audit.attacks.choice import Choice, share_right
from hf_dtl.audit.attacks.context import AttackContext
from hf_dtl.audit.attacks.registry import register_attack
from hf_dtl.audit.classifiers import LabelledImages
from hf_dtl.errors import ModelError
from hf_dtl.functional import Augmentation, augment, gram, kernel_ridge

RIDGES = (1e-3, 1e-2, 1e-1)
WIDTHS = (0.5, 1.0)
"""Of the RBF kernel, in units of the root mean square distance of training images."""
CHOOSING_COPIES = 4
"""Copies of each image by which reading, width and ridge are chosen; the chosen ones are then fitted to all copies."""
CHOOSING_ROWS, MOST_ROWS = 2048, 4096
"""Most copies of images in either step, or one of each image where those are more."""
MOST_VALUES = 4096
"""A reading of several tokens is averaged down to at most this many values."""


@dataclass(frozen=True)
class Regression:
    """A regression onto the classes, fitted to some images.

    Args:
        reading: which of the readings of an image it takes.
        width: of the RBF kernel, in units of the root mean square distance; None for the linear kernel.
        ridge: see `hf_dtl.functional.kernel_ridge`.
        mean, deviation: (values,), by which readings are standardised.
        rows: (images, values), the standardised readings.
        distance: root mean square distance of the rows.
        solution: (images, classes).
    """

    reading: int
    width: float | None
    ridge: float
    mean: Tensor
    deviation: Tensor
    rows: Tensor
    distance: float
    solution: Tensor

    @classmethod
    def fit(
        cls,
        readings: Sequence[Tensor],
        labels: Tensor,
        classes: int,
        reading: int,
        width: float | None,
        ridges: Sequence[float],
    ) -> "Iterator[Regression]":
        """Fit to images by their readings (images, values) and labels, once for every ridge; they share the kernel."""
        values = readings[reading].double()
        mean, deviation = values.mean(0), values.std(0, correction=0)
        deviation = deviation + 1e-2 * deviation.mean() + 1e-6  # a value that is nearly constant stays small
        rows = (values - mean) / deviation / values.shape[1] ** 0.5
        distance = max((2 * rows.square().sum(1).mean()).sqrt().item(), 1e-6)
        kernel = gram(rows, rows, None if width is None else width * distance)
        for ridge in ridges:
            solution = kernel_ridge(kernel, labels, classes, ridge)
            yield cls(reading, width, ridge, mean, deviation, rows, distance, solution)

    def scores(self, readings: Sequence[Tensor]) -> Tensor:
        """Scores (images, classes) of images by their readings."""
        values = readings[self.reading].double()
        queries = (values - self.mean) / self.deviation / values.shape[1] ** 0.5
        return gram(queries, self.rows, None if self.width is None else self.width * self.distance) @ self.solution


@register_attack(
    "ridge", "Linear and RBF kernel ridge regression on frozen features of every depth.", widths=(None, *WIDTHS)
)
@register_attack(
    "ridge_affine", "RBF kernel ridge regression on frozen features of every depth, of shifted, turned and stretched "
    "copies too.", copies=32, augmentation="affine",
)  # fmt: skip
@register_attack(
    "ridge_crop_flip", "RBF kernel ridge regression on frozen features of every depth, of shifted and mirrored copies "
    "too.", copies=32, augmentation="crop_flip",
)  # fmt: skip
class KernelRidge(Attack):
    """Kernel ridge regression on frozen features of every depth.

    Read are, of every depth, the tokens or the feature map, averaged to at most 4,096 values; what enters the
    classifier; and the means of all depths together. Reading, kernel width and ridge are chosen on validation images.

    Args:
        widths: of the RBF kernel, see `Regression`; None is the linear kernel.
        copies: most of each training image, itself among them.
        augmentation: of the other copies.
    """

    widths: tuple[float | None, ...] = WIDTHS
    copies: int = 1
    augmentation: Augmentation = "none"

    source: ClassVar[str] = "Saunders et al., ICML 1998; the readings and the copies are ours"

    def train(self, context: AttackContext, units: Sequence[Unit]) -> Iterator[TrainedAttack]:
        validation, classes = context.task.validation, context.num_classes
        judged = split_readings(context, validation)
        for unit in units:
            images, labels = context.images(unit)
            copies = max(1, min(self.copies, MOST_ROWS // len(images)))
            choosing = max(1, min(copies, CHOOSING_COPIES, CHOOSING_ROWS // len(images)))
            readings = readings_of(context, self._copies(images, copies, unit.seed))
            labels, few = labels.repeat(copies), slice(0, choosing * len(images))
            best, reached = None, -1.0
            for choice in itertools.product(range(len(readings)), self.widths):
                for tried in Regression.fit([r[few] for r in readings], labels[few], classes, *choice, RIDGES):
                    value = share_right(tried.scores(judged), validation.labels)
                    if value > reached:
                        best, reached = tried, value
            assert best is not None
            if copies > choosing:
                (best,) = Regression.fit(readings, labels, classes, best.reading, best.width, [best.ridge])
                reached = share_right(best.scores(judged), validation.labels)
            yield unit, Choice(0.0, reached, {"solution": best.solution}), partial(_classify, context, best)

    def _copies(self, images: Tensor, copies: int, seed: int) -> Tensor:
        """The images, and then each of them again in other forms: (copies * images, ...)."""
        generator = torch.Generator().manual_seed(seed)
        return torch.cat([images, *(augment(images, self.augmentation, generator) for _ in range(copies - 1))])


def readings_of(context: AttackContext, pixel_values: Tensor) -> list[Tensor]:
    """Readings (images, values) of many images: every depth, what enters the classifier, and the means of all."""
    parts = [_read(context, batch) for batch in pixel_values.split(context.config.eval_batch_size)]
    return [torch.cat(own) for own in zip(*parts, strict=True)]


def split_readings(context: AttackContext, split: LabelledImages) -> list[Tensor]:
    """Readings of the validation or test split, computed once for all regressions."""
    return context.once(("readings", id(split)), lambda: readings_of(context, split.pixel_values))


@torch.no_grad()
def _read(context: AttackContext, pixel_values: Tensor) -> list[Tensor]:
    batch = pixel_values.to(context.device, context.dtype)
    try:
        states, features = context.heads.hidden_states(batch)
    except ModelError:  # the features are all that it gives
        states, features = [], context.heads.features(batch)
    maps = [state if state.ndim == 4 else state.transpose(1, 2) for state in states]  # (images, values, places)
    means = torch.cat([*(one.flatten(2).mean(2) for one in maps), features], dim=1)
    return [*(_averaged(one).flatten(1) for one in maps), features, means]


def _averaged(places: Tensor) -> Tensor:
    """A feature map, or tokens in a row, with neighbours averaged where there are too many."""
    if places[0].numel() <= MOST_VALUES:
        return places
    room = max(1, MOST_VALUES // places.shape[1])
    return adaptive_avg_pool2d(places, math.isqrt(room)) if places.ndim == 4 else adaptive_avg_pool1d(places, room)


def _classify(context: AttackContext, regression: Regression, split: LabelledImages) -> Tensor:
    return regression.scores(split_readings(context, split))
