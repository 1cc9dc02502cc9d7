"""What a method gets to see of forget images, and what it gives back."""

from typing import NamedTuple

from torch import Tensor


class Chunk(NamedTuple):
    """Forget images that a method looks at together; what it makes of them depends on them, and the seed, alone."""

    pixel_values: Tensor
    """(images, channels, height, width)."""
    labels: Tensor
    """(images,) int64; of several tasks (images, tasks) float, NaN where an image is not forgotten for a task."""
    rows: Tensor
    """(images,) int64, positions among the forget images."""
    seed: int
    """Of every random draw; the global generators are seeded by it while the chunk is looked at."""


class Disposal(NamedTuple):
    """What a method's disposal step gives."""

    value: Tensor
    gradients: list[Tensor]
    """Of the trained parameters, over the chunks of all processes."""
    metrics: dict[str, Tensor]
    """Scalars to log."""
