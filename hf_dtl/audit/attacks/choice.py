"""The attacker's choice: of every attack, the learning rate that is best on validation images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from hf_dtl.audit.attacks.attack import Unit
from hf_dtl.audit.attacks.stack import Stack
from hf_dtl.audit.classifiers import LabelledImages

State = dict[str, Tensor]
Classify = Callable[[Unit, State, LabelledImages], Tensor]
"""Logits that an attack with these trained tensors gives to the images of a split."""


@dataclass(frozen=True)
class Checkpoint:
    """An attack after some steps: its accuracy on validation images, its tensors, and how it classifies a split."""

    effort: int
    validation_accuracy: float
    state: State
    classify: Callable[[LabelledImages], Tensor]


@dataclass(frozen=True)
class Choice:
    """The best learning rate of one attack, its validation accuracy, the tensors that it ended with, and its steps.

    The curve holds the checkpoints of this learning rate, the chosen one among them; none without checkpoints.
    """

    learning_rate: float
    validation_accuracy: float
    state: State
    effort: int | None = None
    curve: tuple[Checkpoint, ...] = ()


def share_right(logits: Tensor, labels: Tensor) -> float:
    """Accuracy; an image whose logits are not finite counts as wrong."""
    right = (logits.argmax(-1).cpu() == labels.cpu()) & torch.isfinite(logits).all(-1).cpu()
    return right.double().mean().item()


def choose(
    stack: Stack,
    units: Sequence[Unit],
    classify: Classify,
    validation: LabelledImages,
    *,
    halving: bool,
    checkpoints: Sequence[int] = (),
) -> Iterator[tuple[Unit, Choice | None]]:
    """Train a stack to its end, and keep of every attack the learning rate and effort that are best on validation.

    The smaller one of equals is kept, in effort and then in rate; one that diverges loses.

    Args:
        stack: for every attack as many fine-tunings as it has learning rates, the smallest rate first.
        units: the attacks, in the order of the stack.
        classify: what the fine-tunings are judged by.
        validation: the images they are judged on.
        halving: give up the worse half of every attack's learning rates after a quarter of the steps, and again
            after half of them.
        checkpoints: numbers of steps after which it is also judged, beside the end; also those of the halving count.

    Returns:
        Every attack with its choice, None when every learning rate diverged.
    """
    running = [unit for unit in units for _ in range(len(stack.members) // len(units))]

    def validate(position: int) -> float | None:
        if not stack.finite[position]:
            return None
        logits = classify(running[position], stack.result(position), validation)
        return share_right(logits, validation.labels) if torch.isfinite(logits).all() else None

    def reached(position: int) -> Checkpoint | None:
        value, unit = validate(position), running[position]
        if value is None:
            return None
        state = stack.result(position)
        return Checkpoint(stack.step, value, state, partial(classify, unit, state))

    halvings = {stack.steps // 4, stack.steps // 2} if halving else set()
    curves: list[tuple[Checkpoint, ...]] = [()] * len(running)
    for until in sorted({*halvings, *(c for c in checkpoints if c < stack.steps)} - {0}):
        halved = until in halvings and max(map(running.count, units)) > 1
        if halved or until in checkpoints:
            stack.advance(until)
            found = [reached(position) for position in range(len(running))]
            if until in checkpoints:
                curves = [curve + ((point,) if point else ()) for curve, point in zip(curves, found, strict=True)]
        if halved:
            kept = _better_half(running, [point.validation_accuracy if point else None for point in found])
            stack.keep(kept)
            running, curves = [running[position] for position in kept], [curves[position] for position in kept]
    stack.advance()
    best: dict[Unit, Choice] = {}
    for position, unit in enumerate(running):
        last = reached(position)
        curve, curves[position] = curves[position] + ((last,) if last else ()), ()
        point = max(curve, key=lambda point: point.validation_accuracy, default=None)  # the first of equals
        if point and (unit not in best or _merit(point) > _merit(best[unit])):
            rate = stack.members[position].learning_rate
            best[unit] = Choice(
                rate, point.validation_accuracy, point.state, point.effort, curve if checkpoints else ()
            )
    for unit in units:
        yield unit, best.get(unit)


def _merit(point: Checkpoint | Choice) -> tuple[float, int]:
    """By which two are compared: accuracy on validation, then fewer steps."""
    return point.validation_accuracy, -(point.effort or 0)


def _better_half(running: Sequence[Unit], values: Sequence[float | None]) -> list[int]:
    """Positions of the better half of every attack's learning rates, rounded up; the smaller rate of equals."""
    score = [-1.0 if value is None else value for value in values]
    kept: list[int] = []
    for unit in dict.fromkeys(running):
        own = [position for position, other in enumerate(running) if other == unit]
        best = sorted(own, key=lambda position: score[position], reverse=True)
        kept += sorted(best[: (len(own) + 1) // 2])
    return kept
