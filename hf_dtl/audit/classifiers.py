"""Accuracy of an image classifier, measured in evaluation mode and leaving the model as it was."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_dtl.errors import DataError, ModelError


class LabelledImages(Protocol):
    """What the audit needs of a data set: every image and every label as one tensor."""

    @property
    def pixel_values(self) -> Tensor:
        """(images, channels, height, width), as the model's processor gives them."""

    @property
    def labels(self) -> Tensor:
        """(images,) int64 in 0..classes-1."""

    def __len__(self) -> int: ...


Classifier = PreTrainedModel | Callable[..., Any]


@contextmanager
def evaluating(model: object) -> Iterator[None]:
    """Put every module of `model` in evaluation mode, and each back in its own mode afterwards."""
    modes = {module: module.training for module in model.modules()} if isinstance(model, nn.Module) else {}
    for module in modes:
        module.training = False
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@torch.no_grad()
def predict(model: Classifier, pixel_values: Tensor, batch_size: int = 256) -> Tensor:
    """Compute the logits of many images in batches, without gradients and without dropout.

    Args:
        model: a Hub classifier, or a function from (batch, channels, height, width) to logits (batch, classes).
        pixel_values: (images, channels, height, width), as the model's processor gives them.
        batch_size: images a forward pass.

    Returns:
        (images, classes), on the device of the model.
    """
    first = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    logits = []
    with evaluating(model):
        for batch in pixel_values.split(batch_size):
            batch = batch if first is None else batch.to(first.device, first.dtype)
            logits.append(model(pixel_values=batch).logits if isinstance(model, PreTrainedModel) else model(batch))
    return torch.cat(logits)


def accuracy(model: Classifier, images: LabelledImages, batch_size: int = 256) -> float:
    """Compute the share of images that a classifier names right.

    Args:
        model: a Hub classifier, or a function from (batch, channels, height, width) to logits (batch, classes).
        images: the images and their labels.
        batch_size: images a forward pass.

    Returns:
        Accuracy in 0..1.

    Raises:
        DataError: there is no image.
        ModelError: the model returns values that are not finite.

    Example:
        >>> from types import SimpleNamespace
        >>> images = SimpleNamespace(pixel_values=torch.eye(2)[:, :, None, None], labels=torch.tensor([0, 0]))
        >>> accuracy(lambda pixel_values: pixel_values.flatten(1), images)
        0.5
    """
    if len(images.labels) == 0:
        raise DataError("The accuracy of zero images is not defined. Give a split that holds at least one image.")
    logits = finite(predict(model, images.pixel_values, batch_size))
    return (logits.argmax(-1).cpu() == images.labels.cpu()).double().mean().item()


def finite(logits: Tensor) -> Tensor:
    """The logits, or a ModelError where some are not finite."""
    broken = int((~torch.isfinite(logits)).sum())
    if broken:
        raise ModelError(
            f"The model returned {broken} logits that are not finite. "
            "Its weights are damaged: repeat its training with a smaller learning rate."
        )
    return logits
