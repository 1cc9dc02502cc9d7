"""How well a probe that is fitted in closed form generalises: what an attacker with a new head could read, now.

An adversary that is trained beside the model is always one step behind, and the model learns to beat that adversary.
Kernel ridge regression is the best linear probe at once: it has no state, is never stale, and its error can be
differentiated. This project's own; few-shot learning uses such a solver the other way round (arXiv 1805.08136).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def probe_generalisation(readings: Sequence[Tensor], labels: Tensor, classes: int, *, ridge: float = 0.1) -> Tensor:
    """Fit a linear probe to one half of a batch, in closed form, and measure how well it names the other half.

    Both halves take both roles. Each reading is centred and scaled to unit mean square length, so nothing is gained
    by shrinking it. With K the Gram matrix, Y the one-hot labels less 1/classes, a and b the halves, and
    P = K_ba (K_aa + ridge I)^-1 Y_a, the value is the mean of <P_i, Y_i> over images i of b, divided by the largest
    value that it can take for perfect predictions, 1 - 1/classes.

    Args:
        readings: (batch, width) each, what the probes see; widths may differ.
        labels: (batch,), true classes, in any random order.
        classes: number of classes.
        ridge: regularisation relative to the mean square length of a reading, > 0.

    Returns:
        (readings,), 1 where the probe names the other half without fault, about 0 where it has nothing to go on;
        below 0 it is misled.

    Raises:
        ValueError: fewer than four images, or `ridge` is not positive.

    Example:
        >>> labels = torch.tensor([0, 1]).repeat(8)
        >>> told, silent = torch.eye(2)[labels], torch.ones(16, 2)
        >>> [round(v, 2) for v in probe_generalisation([told, silent], labels, 2, ridge=1e-6).tolist()]
        [1.0, 0.0]
    """
    if len(labels) < 4 or not ridge > 0:
        raise ValueError(f"Need at least four images and ridge > 0, got {len(labels)} images and ridge={ridge}.")
    grams = []
    for reading in readings:
        centred = reading - reading.mean(0)
        gram = centred @ centred.T
        grams.append(gram / gram.diagonal().mean().clamp_min(torch.finfo(gram.dtype).tiny))
    gram = torch.stack(grams)
    told = F.one_hot(labels, classes).to(gram.dtype) - 1 / classes
    half = len(labels) // 2
    first, second = slice(None, half), slice(half, None)
    agreement = []
    for a, b in ((first, second), (second, first)):
        noise = ridge * torch.eye(len(told[a]), dtype=gram.dtype, device=gram.device)
        named = gram[:, b, a] @ torch.linalg.solve(gram[:, a, a] + noise, told[a].expand(len(gram), -1, -1))
        agreement.append((named * told[b]).sum(-1).mean(-1))
    return torch.stack(agreement).mean(0) / (1 - 1 / classes)
