"""Small real-image tasks and models, cheap enough for a few training steps in a test."""

import copy
from functools import cache

import torch
from architectures import CONFIGS
from transformers import AutoModelForImageClassification, PreTrainedModel

from hf_dtl.data import ImageTensors, embedded_processor, load_images, load_task
from hf_dtl.models.heads import MultiHeadClassifier


@cache
def images(spec: str, per_class: int = 20, size: int = 16) -> ImageTensors:
    """Training images of an embedded task, resized to `size`."""
    task = load_task(spec, images_per_class=per_class)
    return load_images(task.train, embedded_processor(size=size), num_channels=3)


def source() -> ImageTensors:
    return images("mnist[0,1,2,3,4,5]")


def target() -> ImageTensors:
    return images("mnist[6,7,8,9]", 10)


def two_headed(name: str = "vit") -> MultiHeadClassifier:
    """A random model of an architecture with a source head (6 classes) and a target head (4)."""
    torch.manual_seed(0)
    config = copy.deepcopy(CONFIGS[name]())
    config.num_labels = 6
    model = MultiHeadClassifier(AutoModelForImageClassification.from_config(config), task="source")
    model.add_head("target", ["6", "7", "8", "9"])
    return model


def part(data: ImageTensors, chosen: torch.Tensor) -> ImageTensors:
    """The images that a mask chooses."""
    return data.subset(chosen.nonzero().flatten().tolist())


@cache
def digits() -> tuple[PreTrainedModel, ImageTensors, ImageTensors]:
    """A model of one head that knows three digits, their images, and held-out ones. Not to be changed: copy it."""
    torch.manual_seed(0)
    data = images("mnist[0,1,2]", 80)
    held_out = torch.arange(len(data.labels)) % 2 == 0
    data, held_out = part(data, ~held_out), part(data, held_out)
    config = copy.deepcopy(CONFIGS["vit"]())
    config.num_labels = 3
    model = AutoModelForImageClassification.from_config(config)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(model(data.pixel_values).logits, data.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval(), data, held_out


def right(model: PreTrainedModel, data: ImageTensors) -> float:
    """Accuracy, 0..1."""
    with torch.no_grad():
        return (model.eval()(data.pixel_values).logits.argmax(-1) == data.labels).float().mean().item()


OPTIONS = {
    "use_cpu": True,
    "report_to": "none",
    "disable_tqdm": True,
    "save_strategy": "no",
    "logging_steps": 1,
    "max_steps": 3,
    "per_device_train_batch_size": 16,
    # Adam turns the rounding noise of gradients that are zero in theory into full steps; SGD lets paths be compared.
    "optim": "sgd",
    "learning_rate": 0.5,
    "lr_scheduler_type": "constant",
    "target_ce_weight": 0.0,  # has no part in what a method does, and blurs numbers that are worked out by hand
    "seed": 3,
}
