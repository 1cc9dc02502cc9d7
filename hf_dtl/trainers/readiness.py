"""What trainers do with a model: see that the options fit it, freeze what nothing uses, look without training."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel

from hf_dtl.data.images import size_of
from hf_dtl.errors import ConfigError, listing
from hf_dtl.models.adapters import adapted
from hf_dtl.models.classifiers import locate_classifiers
from hf_dtl.models.heads import MULTI_LABEL, MultiHeadClassifier
from hf_dtl.trainers.config import UnlearningConfig

logger = logging.getLogger(__name__)


def check_fits(
    model: PreTrainedModel, args: UnlearningConfig, own: type = UnlearningConfig, *, one_head: bool = False
) -> None:
    """Refuse options that a model has nothing for.

    Args:
        model: the Hub model, or the backbone.
        args: the method's options.
        own: the class that they must be of: with another method's it would train by that one's, or not at all.
        one_head: whether what is forgotten and what is retained share the head.

    Raises:
        ConfigError: it is frozen, it cannot checkpoint its activations, its head has other losses, or what is
            retained would be what is forgotten.
    """
    if not isinstance(args, own):
        raise ConfigError(f"This method takes its options as {own.__name__}, not as {type(args).__name__}.")
    if one_head and args.retain_inputs != "target":
        raise ConfigError(
            f"retain_inputs={args.retain_inputs!r} would distil the forgotten images into the only head. "
            "Use retain_inputs='target' for a model with one head."
        )
    check_trainable(model)
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


def with_one_head(model: PreTrainedModel, args: UnlearningConfig) -> MultiHeadClassifier:
    """A plain Hub classifier, whose one head serves what is forgotten and what is retained.

    Raises:
        ConfigError: the options name another head to forget by.
    """
    if args.forget_task not in (type(args).forget_task, args.retain_task):
        raise ConfigError(
            f"forget_task={args.forget_task!r}: {type(model).__name__} has one head, which serves what is forgotten "
            "and what is retained. Leave forget_task out, or give a MultiHeadClassifier with a head of that name."
        )
    if isinstance(model, PreTrainedModel) and not adapted(model):
        check_trainable(model, besides=locate_classifiers(model), tells=False)  # before the head is taken off
    logger.warning("The model given becomes the trainer's, without its head: what was trained is trainer.export().")
    return MultiHeadClassifier(model, task=args.retain_task)


def check_trainable(
    backbone: nn.Module, *, besides: tuple[str, ...] = (), heads_alone: bool = False, tells: bool = True
) -> None:
    """Refuse a backbone that is frozen, and tell of parts that are.

    Args:
        backbone: as it was given.
        besides: modules that are not the backbone's.
        heads_alone: training them alone is of use, so that it is told and not refused.
        tells: warn of parts that are frozen.

    Raises:
        ConfigError: no parameter of the backbone requires a gradient.
    """
    sizes = {name: (p.numel(), p.requires_grad) for name, p in backbone.named_parameters()
             if not name.startswith(besides)}  # fmt: skip
    total, frozen = sum(size for size, _ in sizes.values()), [n for n, (_, free) in sizes.items() if not free]
    if sizes and len(frozen) == len(sizes) and not heads_alone:
        raise ConfigError(
            f"All {total:,} weights of the backbone are frozen (requires_grad=False, as after merge_and_unload() of "
            "PEFT), so only the head would be trained. Free them: model.requires_grad_(True)."
        )
    if tells and (still := sum(sizes[name][0] for name in frozen)) > total / 100:
        told = "%s of %s weights of the backbone were given frozen, and stay as they are: %s. To train them: "
        logger.warning(told + "model.requires_grad_(True).", f"{still:,}", f"{total:,}", listing(frozen, 3))


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
    try:
        found = outputs(image)
    except ValueError as error:  # what models say of a size that they do not take
        shape = "x".join(map(str, image.shape[1:]))
        raise ConfigError(f"{type(model.backbone).__name__} does not take the images, {shape}: {error}") from error
    gradients = torch.autograd.grad(found.float().sum(), list(free.values()), allow_unused=True)
    unused = [name for name, gradient in zip(free, gradients, strict=True) if gradient is None]
    for name in unused:
        free[name].requires_grad_(False)
    if unused:
        logger.info("Frozen, because no trained task uses them: %s", ", ".join(unused))


def leaves_one(model: nn.Module, images: Dataset, batch_size: int) -> bool:
    """Whether the last batch of an epoch has one image only, of which batch normalisation knows no deviation."""
    normalises = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    return normalises and batch_size > 1 and size_of(images) > batch_size and size_of(images) % batch_size == 1


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; the mode is as it was afterwards."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
