"""Label spreading over the images that are classified, in closed form."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from hf_dtl.audit.attacks.attack import Attack, TrainedAttack, Unit
from hf_dtl.audit.attacks.choice import Choice, share_right
from hf_dtl.audit.attacks.context import AttackContext
from hf_dtl.audit.attacks.readings import split_readings, training_readings
from hf_dtl.audit.attacks.registry import register_attack
from hf_dtl.audit.classifiers import LabelledImages
from hf_dtl.functional import mean_and_scale, neighbour_graph, rbf, spread_labels, squared_distances, standardised

NEIGHBOURS = (5, 10, 20, None)
"""Nearest images that one is joined with; None: all, by an RBF kernel of 0.15 root mean square distances."""
WIDTH = 0.15
SHARES = (0.5, 0.9)
MOST_TOGETHER = 2048
"""Images that are classified at once; more are classified in portions."""


@register_attack("label_spreading", "Labels spread over the images that are classified, by features of every depth.")
class LabelSpreading(Attack):
    """Label spreading: the images that an attacker wants to classify are themselves a part of what he learns from.

    On the frozen features of every depth; depth, graph and share are chosen on validation images, among which labels
    spread as they will among test images. The labels of either are not used.
    """

    version: ClassVar[int] = 3
    source: ClassVar[str] = "Zhou et al., Learning with Local and Global Consistency, NeurIPS 2003"

    def train(self, context: AttackContext, units: Sequence[Unit]) -> Iterator[TrainedAttack]:
        validation, classes = context.task.validation, context.num_classes
        judged = split_readings(context, validation)
        for unit in units:
            readings, labels = training_readings(context, unit, "none")
            best: tuple[int, int | None, float] = (0, NEIGHBOURS[0], SHARES[0])
            reached = -1.0
            for reading, values in enumerate(readings):
                found = spread(values, labels, judged[reading], classes, NEIGHBOURS, SHARES)
                for (neighbours, share), scores in found.items():
                    if (value := share_right(scores, validation.labels)) > reached:
                        best, reached = (reading, neighbours, share), value
            classify = partial(_classify, context, readings[best[0]], labels, *best)
            yield unit, Choice(0.0, reached, {}), classify


def spread(
    values: Tensor,
    labels: Tensor,
    others: Tensor,
    classes: int,
    graphs: Sequence[int | None],
    shares: Sequence[float],
) -> dict[tuple[int | None, float], Tensor]:
    """Scores (others, classes) of images, by graph and share.

    Args:
        values: (images, values), a reading of the training images.
        labels: (images,) in 0..classes-1.
        others: (others, values), that of the images to classify.
        classes: number of classes.
        graphs, shares: see `NEIGHBOURS`, and `hf_dtl.functional.spread_labels`.
    """
    mean, scale = mean_and_scale(values)
    scale = scale / values.shape[1] ** 0.5
    parts: dict[tuple[int | None, float], list[Tensor]] = {}
    for portion in others.split(MOST_TOGETHER):
        distances = squared_distances(torch.cat(standardised(mean, scale, values, portion)))
        size = distances[: len(labels), : len(labels)].mean().sqrt().clamp(min=1e-6).item()
        for neighbours in graphs:
            if neighbours is None:
                graph = rbf(distances, WIDTH * size).fill_diagonal_(0)
            else:
                graph = neighbour_graph(distances, neighbours)
            for share in shares:
                scores = spread_labels(graph, labels, classes, share)[len(labels) :]
                parts.setdefault((neighbours, share), []).append(scores)
    return {key: torch.cat(own) for key, own in parts.items()}


def _classify(
    context: AttackContext,
    values: Tensor,
    labels: Tensor,
    reading: int,
    neighbours: int | None,
    share: float,
    split: LabelledImages,
) -> Tensor:
    others = split_readings(context, split)[reading]
    (scores,) = spread(values, labels, others, context.num_classes, [neighbours], [share]).values()
    return scores
