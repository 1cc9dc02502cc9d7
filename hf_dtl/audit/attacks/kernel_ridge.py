"""Kernel ridge regression on what frozen weights give at every depth, in closed form."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Self

import torch
from torch import Tensor

from hf_dtl.audit.attacks.answers import better_answer, copy_of
from hf_dtl.audit.attacks.attack import Attack, TrainedAttack, Unit
from hf_dtl.audit.attacks.choice import Choice, share_right
from hf_dtl.audit.attacks.context import AttackContext
from hf_dtl.audit.attacks.readings import ROOM, copies_of, readings_of, split_readings, training_readings
from hf_dtl.audit.attacks.registry import register_attack
from hf_dtl.audit.classifiers import LabelledImages
from hf_dtl.functional import Augmentation, kernel_ridge, mean_and_scale, rbf, squared_distances, standardised

RIDGES = (1e-3, 1e-2, 1e-1)
WIDTHS = (0.5, 1.0)
"""Of the RBF kernel, in units of the root mean square distance of training images."""
MOST_ROWS = 4096
"""Most copies of images that the chosen regression is fitted to, or one of each image where those are more."""


@dataclass(frozen=True)
class Regression:
    """A regression onto the classes, fitted to some images by one reading of theirs.

    Args:
        width: of the RBF kernel, in units of the root mean square distance; None for the linear kernel.
        ridge: see `hf_dtl.functional.kernel_ridge`.
        mean, scale: (values,), by which readings are standardised: they are of length 1 in the root mean square.
        rows: (images, values), the standardised readings.
        size: root mean square distance of the rows.
        solution: (images, classes).
    """

    width: float | None
    ridge: float
    mean: Tensor
    scale: Tensor
    rows: Tensor
    size: float
    solution: Tensor

    @classmethod
    def fit(
        cls,
        values: Tensor,
        judged: Tensor,
        labels: Tensor,
        classes: int,
        widths: Sequence[float | None],
        ridges: Sequence[float],
    ) -> Iterator[tuple[Self, Tensor]]:
        """Fit to images once for every width and ridge; distances are computed once for all.

        Args:
            values: (images, values), a reading of the images.
            judged: (others, values), that of other images.
            labels: (images,) in 0..classes-1.
            classes, widths, ridges: see above.

        Returns:
            Each regression, and the scores (others, classes) of the other images, see `scores`.
        """
        mean, scale = mean_and_scale(values)
        scale = scale / values.shape[1] ** 0.5
        rows, others = standardised(mean, scale, values, judged)
        size = max((2 * rows.square().sum(1).mean()).sqrt().item(), 1e-6)
        if set(widths) != {None}:
            own, across = squared_distances(rows), squared_distances(others, rows)
        for width in widths:
            if width is None:
                kernel, to_others = rows @ rows.T, others @ rows.T
            else:
                kernel, to_others = rbf(own, width * size), _relative(across, width * size)
            for ridge in ridges:
                solution = kernel_ridge(kernel, labels, classes, ridge)
                yield cls(width, ridge, mean, scale, rows, size, solution), to_others.double() @ solution

    def scores(self, values: Tensor) -> Tensor:
        """Scores (images, classes) of images by the same reading, up to a factor > 0 of each image."""
        (given,) = standardised(self.mean, self.scale, values)
        if self.width is None:
            return (given @ self.rows.T).double() @ self.solution
        return _relative(squared_distances(given, self.rows), self.width * self.size).double() @ self.solution


def _relative(distances: Tensor, width: float) -> Tensor:
    """RBF kernel values (images, rows) relative to the largest of each image.

    An image far from all rows keeps their order, where the plain values are all rounded to zero; and the order of its
    classes is the same.
    """
    return rbf(distances - distances.amin(1, keepdim=True), width)


@register_attack(
    "ridge", "Linear and RBF kernel ridge regression on frozen features of every depth.", widths=(None, *WIDTHS)
)
@register_attack(
    "ridge_affine", "RBF kernel ridge regression on frozen features of every depth, of shifted, turned and stretched "
    "copies too.", copies=32, augmentation="affine", answers=8,
)  # fmt: skip
@register_attack(
    "ridge_crop_flip", "RBF kernel ridge regression on frozen features of every depth, of shifted and mirrored copies "
    "too.", copies=32, augmentation="crop_flip", answers=8,
)  # fmt: skip
@register_attack(
    "ridge_photometric", "As ridge_affine, of copies whose contrast, polarity and noise change.",
    copies=32, augmentation="photometric", answers=8,
)  # fmt: skip
@register_attack(
    "ridge_photometric_8", "As ridge_photometric, with a quarter of the copies.", copies=8, augmentation="photometric"
)
@register_attack("ridge_affine_8", "As ridge_affine, with a quarter of the copies.", copies=8, augmentation="affine")
@register_attack(
    "ridge_crop_flip_8", "As ridge_crop_flip, with a quarter of the copies.", copies=8, augmentation="crop_flip"
)
class KernelRidge(Attack):
    """Kernel ridge regression on frozen features of every depth.

    Read are, of every depth, the tokens or the feature map, averaged to at most 4,096 values; what enters the
    classifier; and the means of all depths together. Reading, kernel width and ridge are chosen on validation images,
    by few copies; the chosen regression is then fitted to all of them.

    Args:
        widths: of the RBF kernel, see `Regression`; None is the linear kernel.
        copies: most of each training image, itself among them.
        augmentation: of the other copies.
        answers: copies of an image to be classified that are looked at beside it, where validation says so.
    """

    widths: tuple[float | None, ...] = WIDTHS
    copies: int = 1
    augmentation: Augmentation = "none"
    answers: int = 0

    source: ClassVar[str] = "Saunders et al., ICML 1998; the readings and the copies are ours"
    version: ClassVar[int] = 4

    def train(self, context: AttackContext, units: Sequence[Unit]) -> Iterator[TrainedAttack]:
        validation, classes = context.task.validation, context.num_classes
        judged = split_readings(context, validation)
        for unit in units:
            readings, labels = training_readings(context, unit, self.augmentation)
            best, where, reached = None, 0, -1.0
            for position, values in enumerate(readings):
                for tried, scores in Regression.fit(
                    values, judged[position], labels, classes, self.widths, RIDGES
                ):  # fmt: skip
                    if (value := share_right(scores, validation.labels)) > reached:
                        best, where, reached = tried, position, value
            assert best is not None
            images, own = context.images(unit)
            copies = max(1, min(self.copies, MOST_ROWS // len(images)))
            if copies * len(images) > len(labels):
                further = copies_of(images, copies, self.augmentation, unit.seed)[len(labels) :]
                values = torch.cat([readings[where], *readings_of(context, further, where)])
                given = (values, judged[where], own.repeat(copies), classes, [best.width], [best.ridge])
                ((best, scores),) = Regression.fit(*given)
                reached = share_right(scores, validation.labels)
            plain, copies_too = partial(_plain, context, where, best), partial(self._copy, context, where, best)
            classify, reached = better_answer(plain, copies_too, self.answers, validation, reached)
            yield unit, Choice(0.0, reached, {"solution": best.solution}), classify

    def _copy(
        self, context: AttackContext, reading: int, regression: Regression, split: LabelledImages, number: int
    ) -> Tensor:
        def make() -> list[Tensor]:
            return readings_of(context, copy_of(split, self.augmentation, number).pixel_values, reading)

        key = ("copies", id(split), self.augmentation, number, reading)
        return regression.scores(context.once(key, make, room=ROOM)[0])


def _plain(context: AttackContext, reading: int, regression: Regression, split: LabelledImages) -> Tensor:
    return regression.scores(split_readings(context, split)[reading])
