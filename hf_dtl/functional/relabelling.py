"""Wrong labels: what a model that never saw an image might call it, drawn once."""

import torch
from torch import Tensor


def wrong_labels(labels: Tensor, classes: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw one wrong label for every image, uniformly among the classes other than its own.

    Args:
        labels: (images,), the true classes, in 0..classes - 1.
        classes: number of classes, at least 2.
        generator: of the draws, on the CPU; None for the global one.

    Returns:
        (images,) on the CPU, in 0..classes - 1, nowhere equal to `labels`.

    Raises:
        ValueError: fewer than two classes, so that there is no wrong one.

    Source:
        Amnesiac unlearning, arXiv 2010.10981; the random labelling that SalUn, arXiv 2310.12508, starts from.

    Example:
        >>> wrong_labels(torch.tensor([0, 1, 1]), classes=2)
        tensor([1, 0, 0])
    """
    if classes < 2:
        raise ValueError(f"A wrong label needs at least two classes, got {classes}.")
    labels = labels.cpu()
    return (labels + torch.randint(1, classes, labels.shape, generator=generator)) % classes
