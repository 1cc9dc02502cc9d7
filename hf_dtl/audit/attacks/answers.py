"""Answering with copies: an image is classified together with other forms of itself, where that is better."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_dtl.audit.attacks.choice import share_right
from hf_dtl.audit.classifiers import LabelledImages
from hf_dtl.functional import Augmentation, augment

Answer = Callable[[LabelledImages], Tensor]


@dataclass(frozen=True)
class Copies:
    """A split in other forms; its labels stay."""

    pixel_values: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def copy_of(split: LabelledImages, augmentation: Augmentation, number: int) -> Copies:
    """The split with every image in another form, the same one whatever attack asks."""
    generator = torch.Generator().manual_seed(number)
    return Copies(augment(split.pixel_values, augmentation, generator), split.labels)


def better_answer(
    plain: Answer,
    copy: Callable[[LabelledImages, int], Tensor],
    count: int,
    validation: LabelledImages,
    reached: float,
) -> tuple[Answer, float]:
    """The better of two answers on validation images: by the image alone, or by the sum over it and its copies.

    Args:
        plain: scores (images, classes) of a split; they must compare over images.
        copy: the same of the copies of a split of some number.
        count: copies; 0 for none.
        validation: by which it is chosen.
        reached: accuracy of `plain` on them.

    Returns:
        The answer, and its accuracy on the validation images. At equal accuracy the plain one.

    Source: Krizhevsky, Sutskever, Hinton, NIPS 2012, average the predictions of crops and mirror images.
    """

    def summed(split: LabelledImages) -> Tensor:
        return plain(split) + sum(copy(split, number) for number in range(count))

    if not count:
        return plain, reached
    known = summed(validation)
    value = share_right(known, validation.labels)
    if value <= reached:
        return plain, reached
    return lambda split: known if split is validation else summed(split), value
