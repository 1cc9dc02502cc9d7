"""What trainers do with what they are given: decode the images, freeze what nothing uses, look without training."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import datasets
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel

from hf_dtl.data import load_images
from hf_dtl.data.processors import channels_of
from hf_dtl.errors import ConfigError
from hf_dtl.models.heads import MULTI_LABEL, MultiHeadClassifier
from hf_dtl.trainers.config import UnlearningConfig

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
    return load(dataset, processing_class, num_channels=channels_of(model.backbone.config))


def check_fits(model: PreTrainedModel, args: UnlearningConfig, *, one_head: bool = False) -> None:
    """Refuse options that a model has nothing for.

    Args:
        model: the Hub model, or the backbone.
        args: the method's options.
        one_head: whether what is forgotten and what is retained share the head.

    Raises:
        ConfigError: it cannot checkpoint its activations, the method's losses are not those of its head, or what is
            retained would be what is forgotten.
    """
    if one_head and args.retain_inputs != "target":
        raise ConfigError(
            f"retain_inputs={args.retain_inputs!r} would distil the forgotten images into the only head. "
            "Use retain_inputs='target' for a model with one head."
        )
    name = type(model).__name__
    if args.activation_checkpointing and not model.supports_gradient_checkpointing:
        raise ConfigError(
            f"activation_checkpointing: {name} has none. Leave it off, and lower the batch size instead."
        )
    if model.config.problem_type == MULTI_LABEL and not args.multi_label:
        raise ConfigError(
            f"{type(args).__name__}: the method compares classes by softmax, and the head of {name} has a sigmoid a "
            "label (multi_label_classification). Use random_label, salun, neg_grad_plus, scrub, bad_teaching or "
            "fine_tune."
        )


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
