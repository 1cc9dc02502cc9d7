"""What the tests of the attacks share: toy images for every architecture, and models that learned them."""

import copy
from dataclasses import replace

import torch
from architectures import CONFIGS
from audit_toys import QUICK, split, task
from torch.nn.functional import cross_entropy, interpolate
from transformers import AutoModelForImageClassification, PreTrainedModel

from hf_dtl.data import ImageTensors

ALL = replace(QUICK, lora_learning_rates=(1e-3, 1e-2))


def larger(images):
    """The toy images at the size that the tiny architectures take."""
    return ImageTensors(interpolate(images.pixel_values, scale_factor=2.0), images.labels)


def larger_task(**changes):
    toy = task(**changes)
    splits = {name: larger(getattr(toy, name)) for name in ("train", "validation", "test")}
    return replace(toy, **splits, retain=larger(split(4)))


def named(model: PreTrainedModel, labels) -> PreTrainedModel:
    """The model with names for its classes."""
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: i for i, label in enumerate(labels)}
    return model


def build(architecture: str, seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    return AutoModelForImageClassification.from_config(CONFIGS[architecture]()).eval()


def trained(model: PreTrainedModel, images, steps: int = 60, learning_rate: float = 3e-3) -> PreTrainedModel:
    """A copy that learned the images."""
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(model(images.pixel_values).logits, images.labels).backward()
        optimizer.step()
    return model.eval()
