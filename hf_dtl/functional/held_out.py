"""What a model would answer if it had never seen an image, without training another one. This project's own.

A network that knows an image by heart answers it right. But its representation of the image, below the last layers,
lies among those of other images, and these say what the answer would be without it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def held_out_answers(
    support: Sequence[Tensor],
    labels: Tensor,
    readings: Sequence[Tensor],
    classes: int,
    *,
    ridge: float = 0.1,
    bandwidth: float = 0.5,
) -> Tensor:
    """Answer images by kernel ridge regression on the representations of other images, averaged over all depths.

    Every dimension of a reading is centred and divided by its deviation over the support. The kernel is
    exp(-d^2 / (bandwidth m)) of the distance d, with m the mean of d^2 within the support.

    Args:
        support: (images, width) for each depth, of the images that are known.
        labels: (images,), their classes, in 0..classes - 1.
        readings: (others, width) for each depth, of the images to answer.
        classes: number of classes.
        ridge: added to the diagonal of the kernel matrix, > 0.
        bandwidth: of the kernel, > 0.

    Returns:
        (others, classes): about 1 for what surely is the class, about 0 for what is not.

    Raises:
        ValueError: no support, or `ridge` or `bandwidth` is not positive.

    Example:
        >>> known, labels = [torch.tensor([[0.0], [0.1], [1.0], [1.1]])], torch.tensor([0, 0, 1, 1])
        >>> held_out_answers(known, labels, [torch.tensor([[0.05], [0.9]])], 2).argmax(-1)
        tensor([0, 1])
    """
    if not len(labels) or not ridge > 0 or not bandwidth > 0:
        raise ValueError(f"Need images and positive ridge and bandwidth, got {len(labels)}, {ridge} and {bandwidth}.")
    told = F.one_hot(labels, classes).to(support[0].dtype) - 1 / classes
    answers = torch.zeros(len(readings[0]), classes, dtype=told.dtype, device=told.device)
    for known, asked in zip(support, readings, strict=True):
        centre, deviation = known.mean(0), known.std(0, correction=0)
        constant = deviation <= 1e-4 * known.square().mean().sqrt()  # but for rounding, which says nothing
        scale = deviation.masked_fill(constant, torch.inf)
        known, asked = (known - centre) / scale, (asked - centre) / scale
        squares = torch.cdist(known, known).square()
        spread = bandwidth * squares.mean().clamp_min(torch.finfo(squares.dtype).tiny)
        gram = (-squares / spread).exp() + ridge * torch.eye(len(known), dtype=told.dtype, device=told.device)
        answers += (-torch.cdist(asked, known).square() / spread).exp() @ torch.linalg.solve(gram, told)
    return answers / len(readings) + 1 / classes


def unseen_labels(answers: Tensor, labels: Tensor, wrong: int) -> tuple[Tensor, Tensor]:
    """The images that would least be answered right, and what they would be answered instead.

    Args:
        answers: (images, classes), as `held_out_answers` gives them.
        labels: (images,), the true classes.
        wrong: how many images to choose, 0..images.

    Returns:
        (wrong,) positions of the images whose true class stands least above, or furthest below, the best other class;
        (wrong,) that other class of each.

    Raises:
        ValueError: `wrong` is out of range, or there is one class only.
    """
    if not 0 <= wrong <= len(labels) or answers.shape[1] < 2:
        raise ValueError(f"Cannot choose {wrong} of {len(labels)} images with {answers.shape[1]} classes.")
    own = answers.gather(1, labels[:, None]).squeeze(1)
    best, other = answers.scatter(1, labels[:, None], -torch.inf).max(1)
    chosen = (own - best).argsort(stable=True)[:wrong]
    return chosen, other[chosen]
