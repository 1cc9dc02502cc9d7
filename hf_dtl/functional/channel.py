"""What a teacher says of transfer images: as codes, as the targets that a student makes of them, and in bits.

The weights of a student that sees the codes alone are a function of them and of what is public; by the data processing
inequality no more of the teacher is in the weights than in the codes, whatever reads them.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from hf_dtl.functional.augmentation import random_affine


class Bound(NamedTuple):
    """The most of a teacher that can be in a student's weights."""

    bits: float
    bytes: int
    """The same, rounded up."""


def parse_channel(channel: str) -> tuple[str, int | None]:
    """Kind and number of a channel: `labels`, `outputs`, `outputs:q` (q >= 2) or `features:r` (r >= 1).

    Raises:
        ValueError: there is none of that name.

    Example:
        >>> parse_channel("outputs:16")
        ('outputs', 16)
    """
    kind, colon, text = str(channel).partition(":")
    least = {"outputs": 2, "features": 1}.get(kind)
    number = int(text) if text.isdecimal() and len(text) < 6 else None
    if channel in ("labels", "outputs") or (colon and least is not None and number is not None and number >= least):
        return kind, number
    raise ValueError(
        f"channel={channel!r} is unknown; use labels, outputs:q (probabilities rounded to q levels, q >= 2), outputs, "
        "or features:r (r directions, r >= 1)."
    )


def channel_bound(
    channel: str,
    images: int,
    classes: int,
    *,
    rounds: int = 1,
    rejection: bool = False,
    choices: int = 1,
) -> Bound | None:
    """Count the bits that a teacher's words about images can hold.

    `labels`: rounds * images * log2(classes), with rejection log2(classes + 1), for "not sure" is a further word.
    `outputs:q`: rounds * images * classes * log2(q). A choice among settings adds log2(choices).

    Args:
        channel: see `parse_channel`.
        images: that the teacher names, >= 0.
        classes: that he has words for, >= 1.
        rounds: in which the teacher speaks anew, >= 1.
        rejection: whether he may leave out an image.
        choices: settings that were tried, of which the best on validation was kept, >= 1.

    Returns:
        The bound; None for real numbers (`outputs`, `features:r`), which have none.

    Source:
        Cover and Thomas, Elements of Information Theory, 2.8 (data processing) and 2.6.4 (H <= log |X|).

    Example:
        >>> channel_bound("labels", 2000, 4)
        Bound(bits=4000.0, bytes=500)
        >>> channel_bound("outputs", 2000, 4) is None
        True
    """
    kind, levels = parse_channel(channel)
    if kind == "labels":
        word = math.log2(classes + rejection)
    elif kind == "outputs" and levels is not None:
        word = classes * math.log2(levels)
    else:
        return None
    bits = rounds * images * word + math.log2(choices)
    return Bound(bits, math.ceil(bits / 8 - 1e-9))


def hard_labels(logits: Tensor, confidence: float = 0.0) -> Tensor:
    """Name every image by its likeliest class, or not at all.

    Args:
        logits: (images, classes).
        confidence: probability below which an image is left out, in 0..1.

    Returns:
        (images,) int64 in 0..classes; `classes` is an image left out.
    """
    best, codes = logits.float().softmax(-1).max(-1)
    return torch.where(best < confidence, logits.shape[-1], codes)


def rounded_outputs(logits: Tensor, levels: int) -> Tensor:
    """Round every probability to one of `levels` equidistant values in 0..1.

    Args:
        logits: (images, classes).
        levels: q >= 2.

    Returns:
        (images, classes) int64 in 0..q-1.
    """
    return (logits.float().softmax(-1) * (levels - 1)).round().long()


def targets_of(codes: Tensor, classes: int, levels: int | None = None) -> Tensor:
    """Turn what a teacher said into a distribution over classes.

    Args:
        codes: (images,) of `hard_labels`, or (images, classes) of `rounded_outputs`.
        classes: how many.
        levels: of `rounded_outputs`; None for labels.

    Returns:
        (images, classes) float32, rows with the sum 1, or 0 of an image that was left out or has only zeros.
    """
    if levels is None:
        return torch.nn.functional.one_hot(codes, classes + 1)[:, :classes].float()
    shares = codes.float()
    return shares / shares.sum(-1, keepdim=True).clamp_min(1)


def mixed_views(images: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Make views of a few images: each is turned, scaled and shifted, and every other mixed with another one.

    Args:
        images: (images, channels, height, width).
        count: of the views.
        generator: of the draws, on the CPU; None for the global one.

    Returns:
        (count, channels, height, width). Of mixup, x = w x_i + (1 - w) x_j, w ~ U(0, 1).

    Source:
        Zhang, Cisse, Dauphin, Lopez-Paz, mixup, arXiv 1710.09412; as what a teacher names: arXiv 2106.05237.
    """
    views = images.new_empty(count, *images.shape[1:])
    for part in torch.arange(count).split(256):
        first, other = (torch.randint(len(images), (len(part),), generator=generator) for _ in range(2))
        share = torch.rand(len(part), 1, 1, 1, generator=generator)
        share[part % 2 == 0] = 1.0
        one, two = (random_affine(images[rows], generator) for rows in (first, other))
        views[part] = share * one + (1 - share) * two
    return views
