"""Committees: classifiers that answer together, elected by what they are worth on validation images."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import nll_loss

SHARPNESS = tuple(2.0**power for power in range(-2, 7))
"""Factors that calibration chooses from, on scores of deviation 1."""


def calibration(scores: Tensor, labels: Tensor) -> float:
    """The factor by which scores become logits: of `SHARPNESS`, the one that makes the labels most likely.

    Args:
        scores: (images, classes), of any scale.
        labels: (images,) in 0..classes-1.

    Returns:
        A factor > 0.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017 (temperature scaling), on a grid.
    """
    unit = scores.double()
    deviation = max(unit.std(correction=0).item(), 1e-12)
    loss = [nll_loss((unit * (factor / deviation)).log_softmax(-1), labels).item() for factor in SHARPNESS]
    return SHARPNESS[min(range(len(loss)), key=loss.__getitem__)] / deviation


def elect(
    answers: Mapping[str, Sequence[Tensor]], labels: Tensor, *, rounds: int = 12, most: int | None = None
) -> tuple[str, ...]:
    """A committee whose summed probabilities are right most often, one member after another.

    Every round takes in the member, again or for the first time, with which the committee is best; what stands after
    the best round is kept, the first of equals. Of equal accuracy the higher likelihood counts.

    Args:
        answers: by member its probabilities (images, classes) in each draw; as many draws for every member.
        labels: (images,) in 0..classes-1, the same in every draw.
        rounds: most votes.
        most: most different members; None bounds nothing.

    Returns:
        The members in the order of their election, one as often as it has votes.

    Source: Caruana et al., Ensemble Selection from Libraries of Models, ICML 2004.
    """
    stacked = {name: torch.stack([draw.double() for draw in draws]) for name, draws in answers.items()}
    place = labels.expand(len(next(iter(stacked.values()))), -1).unsqueeze(-1)

    def worth(summed: Tensor) -> tuple[float, float]:
        right = (summed.argmax(-1) == place[..., 0]).double().mean().item()
        share = summed.gather(-1, place)[..., 0] / summed.sum(-1)
        return right, share.clamp_min(1e-12).log().mean().item()

    votes: list[str] = []
    reached: list[float] = []
    summed = torch.zeros(())
    for _ in range(rounds):
        full = most is not None and len(set(votes)) >= most
        candidates = dict.fromkeys(votes) if full else stacked
        best = max(candidates, key=lambda name: worth(summed + stacked[name]))
        summed = summed + stacked[best]
        votes.append(best)
        reached.append(worth(summed)[0])
    return tuple(votes[: reached.index(max(reached)) + 1])
