"""Continual requests: one after another, on the model that the one before left or on the first, all together."""

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import datasets
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset
from transformers import PreTrainedModel

from hf_dtl.data.images import size_of
from hf_dtl.errors import ConfigError
from hf_dtl.methods.instancewise import AlreadyForgottenError
from hf_dtl.models.labels import head_names
from hf_dtl.trainers import UnlearningTrainer
from hf_dtl.trainers.items import numbered

logger = logging.getLogger(__name__)


class Served(NamedTuple):
    """What a request left."""

    model: PreTrainedModel
    """After this request, on the CPU, in evaluation mode."""
    accuracy: list[float]
    """On the images of this request and of every earlier one, in their order, with their true labels; 0 is wanted."""
    steps: int
    """Optimizer steps that it took; 0 where its images were already forgotten."""


def unlearn_in_sequence(
    model: PreTrainedModel,
    requests: Sequence[Dataset],
    trainer: Callable[[PreTrainedModel, Dataset, int], UnlearningTrainer],
    *,
    cumulative: bool = False,
) -> Iterator[Served]:
    """Serve requests to forget one after another, and see whether the earlier ones stay forgotten.

    Whatever a method derives from the model it is given (original weights, importance, adversaries, a teacher) is
    derived anew from what it is given, because every request has a trainer of its own. A request whose images are all
    forgotten already is passed over with a warning. A warning also tells when a request brought earlier images back.

    Args:
        model: the first one; it is copied.
        requests: images to forget, items {"pixel_values", "labels"}, such as `load_images` makes.
        trainer: makes the trainer of a request from a copy of the present model, its images and its position. Any
            `UnlearningTrainer` will do; each needs an output folder of its own if it keeps checkpoints.
        cumulative: give the trainer the first model, and the images of all earlier requests before its own. Little
            comes back and damage does not add up, but whoever serves requests must keep the first model and all
            images, and every request takes longer. False: the model that the request before left, and its own images.

    Yields:
        A `Served` after each request, so that more can be measured on its model in between.

    Example:
        for done in unlearn_in_sequence(model, parts, lambda m, x, i: InstanceUnlearningTrainer(m, config(i), x)):
            print(done.accuracy)
    """
    present, device = copy.deepcopy(model).eval(), next(model.parameters()).device
    before: list[float] = []
    if tables := [i for i, images in enumerate(requests, 1) if isinstance(images, datasets.Dataset)]:
        raise ConfigError(
            f"Request {tables[0]} is a datasets.Dataset. Its images are measured too, so give what "
            "hf_dtl.data.load_images(dataset, processor, num_channels=3) makes of it."
        )
    requests = [numbered(images, head_names(model), f"Request {i}") for i, images in enumerate(requests, 1)]
    for number, images in enumerate(requests):
        given, steps = present, 0
        if cumulative:
            given, images = model, ConcatDataset(requests[: number + 1])
        try:
            serving = trainer(copy.deepcopy(given), images, number)
        except AlreadyForgottenError as error:
            logger.warning("Request %d is passed over. %s", number + 1, error)
        else:
            serving.train()
            present, device, steps = serving.export(), serving.args.device, serving.state.global_step
        accuracy = [_accuracy(present.to(device), earlier) for earlier in requests[: number + 1]]
        present = present.cpu()
        risen = [max(0.0, now - then) for now, then in zip(accuracy, before, strict=False)]
        back = sum(round(share * size_of(earlier)) for share, earlier in zip(risen, requests, strict=False))
        if back:
            kept = "" if cumulative else " With cumulative=True they stay in each request."
            logger.warning("Request %d brought back %d image(s) of earlier ones.%s", number + 1, back, kept)
        before = accuracy
        yield Served(present, accuracy, steps)


@torch.no_grad()
def _accuracy(model: PreTrainedModel, images: Dataset) -> float:
    device, batches = next(model.parameters()).device, DataLoader(images, batch_size=128)
    named = [model(pixel_values=b["pixel_values"].to(device)).logits.argmax(-1).cpu() == b["labels"] for b in batches]
    return int(torch.cat(named).sum()) / size_of(images)
