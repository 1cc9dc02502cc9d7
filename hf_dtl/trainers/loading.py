"""What trainers do with what they are given: decode the images, freeze what nothing uses, look without training."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import datasets
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from hf_dtl.data import load_images
from hf_dtl.errors import ConfigError
from hf_dtl.models.heads import MultiHeadClassifier

logger = logging.getLogger(__name__)


def items_of(
    dataset: Any, model: MultiHeadClassifier, processing_class: Any, load: Callable[..., Dataset] = load_images
) -> Any:
    """Decode and process a `datasets.Dataset` of images by `load`; leave other data sets as they are.

    Raises:
        ConfigError: there is no image processor for it.
    """
    if not isinstance(dataset, datasets.Dataset):
        return dataset
    if processing_class is None:
        raise ConfigError(
            "A `datasets.Dataset` of images needs the model's image processor: give processing_class=..., for example "
            "`AutoImageProcessor.from_pretrained(...)`, or data sets of {'pixel_values', 'labels'} items."
        )
    return load(dataset, processing_class, num_channels=getattr(model.backbone.config, "num_channels", 3))


def freeze_unused(model: MultiHeadClassifier, images: Dataset, outputs: Callable[[Tensor], Tensor]) -> None:
    """Freeze and name the backbone's parameters without a gradient (mask tokens): DDP would wait for them.

    Args:
        model: on the device to use; left in evaluation mode.
        images: items {"pixel_values"}; the first is looked at.
        outputs: of a batch of one image, those that training uses.
    """
    image = images[0]["pixel_values"].unsqueeze(0).to(next(model.parameters()).device)
    free = {n: p for n, p in model.named_parameters() if p.requires_grad and not n.startswith("heads.")}
    if not free:
        return
    model.eval()
    gradients = torch.autograd.grad(outputs(image).float().sum(), list(free.values()), allow_unused=True)
    unused = [name for name, gradient in zip(free, gradients, strict=True) if gradient is None]
    for name in unused:
        free[name].requires_grad_(False)
    if unused:
        logger.info("Frozen, because no trained task uses them: %s", ", ".join(unused))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; the mode is as it was afterwards."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
