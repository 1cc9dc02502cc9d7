"""Accuracy of an image classifier, measured in evaluation mode and leaving the model as it was."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from transformers import PreTrainedModel

from hf_dtl.errors import DataError, ModelError
from hf_dtl.models.heads import MULTI_LABEL


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
    """Compute the share of images that a classifier names right; of a head of sigmoids, the share of labels.

    A head of sigmoids (`multi_label_classification`) says of each label whether it holds: yes above 0.5. It is right
    where that is the image's label, and where it says no to another one, so that saying no to all is right in all
    labels but one.

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
    labels = images.labels.cpu()
    if per_label(model):
        return ((logits.cpu() > 0) == one_hot(labels, logits.shape[-1]).bool()).double().mean().item()
    return (logits.argmax(-1).cpu() == labels).double().mean().item()


def per_label(model: object) -> bool:
    """Whether a model's head says of each label whether it holds, so that its accuracy is one of labels."""
    return isinstance(model, PreTrainedModel) and model.config.problem_type == MULTI_LABEL


def finite(logits: Tensor) -> Tensor:
    """The logits, or a ModelError where some are not finite."""
    broken = int((~torch.isfinite(logits)).sum())
    if broken:
        raise ModelError(
            f"The model returned {broken} logits that are not finite. "
            "Its weights are damaged: repeat its training with a smaller learning rate."
        )
    return logits


def check_finite(model: PreTrainedModel, which: str) -> None:
    """Refuse a model with weights that are not finite; `which` names it.

    Raises:
        ModelError: a weight is not finite.
    """
    for name, value in model.state_dict().items():
        if not torch.isfinite(value).all():
            raise ModelError(
                f"Weight `{name}` of {which} is not finite, so it cannot be attacked. "
                "Repeat the training that made it with a smaller learning rate."
            )


def check_forward(model: PreTrainedModel, pixel_values: Tensor, which: str) -> None:
    """Refuse a model that cannot process the attacked images; `which` names it.

    Raises:
        ModelError: it fails on the first image, or gives logits of a wrong shape or that are not finite.
    """
    shape = tuple(pixel_values.shape[1:])
    remedy = f"Images have the shape {shape}; prepare them with the model's own processor."
    try:
        logits = predict(model, pixel_values[:1])
    except Exception as error:  # whatever a model's own code raises
        raise ModelError(
            f"{which} ({type(model).__name__}) cannot process the attacked images: {error}. {remedy}"
        ) from error
    if logits.dim() != 2 or not torch.isfinite(logits).all():
        raise ModelError(
            f"{which} ({type(model).__name__}) gives logits of shape {tuple(logits.shape)}, or values that are not "
            f"finite; the audit needs finite ones of shape (images, classes). {remedy}"
        )
