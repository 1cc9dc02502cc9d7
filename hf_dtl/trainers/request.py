"""What a method is told of a forget request when it chooses the options that the user left open."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ScenarioKind = Literal["task", "part", "tasks"]
"""task: a whole task is forgotten and another one kept. part: classes, rows, a column's value or a random share of one
data set. tasks: images of a model of several tasks, for all of them or some."""


@dataclass(frozen=True)
class Request:
    """What is to be forgotten, of what model, and on how many processes."""

    kind: ScenarioKind
    processes: int
    """That share the work, >= 1."""
    batch_size: int
    """Forget images an optimizer step, over all processes; a multiple of their number."""
    forget_classes: int = 1
    """Different labels of the images to forget."""
    whole_classes: bool = False
    """Whether these are forgotten as a whole, so that no image of them is retained."""
    rows: tuple[int, ...] | None = None
    """The user's row numbers of the images to forget, in their order; for messages."""
    new_labels: tuple[int, ...] | None = None
    """Rows of the head that the images are to be named by instead, in their order."""
    layer_inputs: Path | None = None
    """File of the moments of layer inputs on all training data, for a method that wants them."""
    small: bool = True
    """Whether the model is the built-in small one."""
    parameters: int | None = None
    """Of the model, for the learning rate; None: as many as the built-in model, or where it is not that, a ViT-B."""
