"""The study's settings as data: tasks, models, methods with their strengths, and the options they share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageClassification, ResNetConfig

from hf_dtl.data import embedded_processor
from hf_dtl.pipeline.stages import fresh_folder, replace_folder


@dataclass(frozen=True)
class Knob:
    """The one option of a method that says how hard it disposes, and the values that are tried, ascending.

    One value is no choice: the method is not tuned.
    """

    option: str
    values: tuple[float, ...]


def without_option(text: str, option: str) -> str:
    """A method as a command line names it, without one of its options.

    Example:
        >>> without_option("salun:learning_rate=0.001:saliency=0.3", "learning_rate")
        'salun:saliency=0.3'
    """
    return ":".join(part for part in text.split(":") if not part.startswith(f"{option}="))


FORGET_WEIGHT = Knob("forget_weight", (1.0, 3.0, 10.0))
"""For every method that is not in `KNOBS`."""

KNOBS: dict[str, Knob] = {
    "representation_erasure": Knob("forget_weight", (1.0, 2.0, 4.0)),
    "noise_then_distil": Knob("alpha", (0.5, 0.7, 0.9)),
    "fresh_distillation": Knob("alpha", (1.0,)),
    "weight_distortion": Knob("sigma", (0.5, 1.0, 2.0)),
}

ERASURE = "representation_erasure:max_steps=300"

METHODS = (
    ERASURE,
    "representation_erasure:max_steps=900",
    "gradient_collision:max_steps=150",
    "gradient_collision:head=probes:max_steps=100",
    "negative_ce:max_steps=300",
    "noise_then_distil:max_steps=600",
    "fresh_distillation:max_steps=1000",
    "feature_eraser:max_steps=200",
    "non_fine_tunable:max_steps=150",
    "weight_distortion:max_steps=600",
    "weight_distance:max_steps=300",
)
"""What is compared in full. The steps give all methods but the long one about the same computing time."""

FEWER_METHODS = tuple(
    m for m in METHODS if not m.startswith(("gradient_collision:head", "non_fine", "weight")) and "=900" not in m
)
# Larger chunks: the classes of photographs are harder to read, and a probe of 32 images misses them.
CIFAR_METHODS = (
    f"{ERASURE}:per_device_train_batch_size=128:per_device_retain_batch_size=64",
    *(m for m in FEWER_METHODS if m.startswith(("gradient_collision", "noise", "feature"))),
)
# A pre-trained backbone of 22 M parameters on a CPU: few and small steps, and no noise, which so few would not repair.
# At 1e-4 every method lost 4 points or more on the tuning seed at any strength: this is the rate of the adaptation.
_SMALL = "per_device_train_batch_size=32:per_device_retain_batch_size=32:learning_rate=3e-5"
DINO_METHODS = (
    f"representation_erasure:max_steps=60:alpha=0:{_SMALL}",
    f"gradient_collision:max_steps=30:{_SMALL}",
    f"noise_then_distil:max_steps=100:{_SMALL}",
    f"feature_eraser:max_steps=40:{_SMALL}",
)


@dataclass(frozen=True)
class Setting:
    """Two tasks, a model, and the options that all methods share.

    Args:
        title: what is compared on what, for the head of the table.
        options: of `DTLOptions`; `{data}` and `{model}` stand for --data_dir and --model.
        methods: compared unless --methods says otherwise: names with options of their own, as on a command line.
        tiny_resnet: write a small ResNet with random weights, another one for each seed, and start from it.
    """

    title: str
    options: dict[str, Any]
    methods: tuple[str, ...] = METHODS
    tiny_resnet: bool = False

    @property
    def needs(self) -> tuple[str, ...]:
        """Which of --data_dir and --model the options ask for."""
        text = "".join(str(value) for value in self.options.values())
        return tuple(name for name, sign in (("data_dir", "{data}"), ("model", "{model}")) if sign in text)


_EVERYWHERE: dict[str, Any] = {
    "attacks": "linear_probe,full,head_then_full",
    "budgets": "5,20",
    "audit_seeds": "0,1",
    "dispose_batch_size": 64,
    "dispose_learning_rate": 2e-3,
}
# The novel task is loaded but not attacked, so two classes do.
_DIGITS = _EVERYWHERE | {
    "source_dataset": "mnist[0-5]",
    "target_dataset": "mnist[6-9]",
    "novel_dataset": "fashion_mnist[0,1]",
    "target_images_per_class": 10,
    "pretrain_epochs": 30.0,
    "adapt_epochs": 300.0,
    "retrain_epochs": 750.0,
    "augmentation": "affine",
}
# Clothes, then shoes and bags: with classes 0-5 and 6-9 a model that never saw the source task learns it as well.
_FASHION = _DIGITS | {
    "source_dataset": "fashion_mnist[0,1,2,3,4,6]",
    "target_dataset": "fashion_mnist[5,7,8,9]",
    "novel_dataset": "mnist[0,1]",
}
_CIFAR = _EVERYWHERE | {
    "source_dataset": "{data}[0-5]",
    "target_dataset": "{data}[6-9]",
    "novel_dataset": "fashion_mnist[0,1]",
    "target_images_per_class": 100,
    "augmentation": "affine_flip",
    "max_eval_images": 2000,
}

SETTINGS: dict[str, Setting] = {
    "mnist_vit": Setting("MNIST 0–5 → 6–9, a ViT of 0.3 M parameters", _DIGITS),
    "mnist_resnet": Setting(
        "MNIST 0–5 → 6–9, a ResNet of 0.1 M parameters",
        _DIGITS | {"model_name_or_path": "{model}", "attack_learning_rates": "2e-3,6e-3"},
        FEWER_METHODS,
        tiny_resnet=True,
    ),
    "fashion_vit": Setting(
        "Fashion-MNIST clothes → shoes and bags, a ViT of 0.3 M parameters", _FASHION, FEWER_METHODS
    ),
    "cifar_vit": Setting(
        "CIFAR-10 classes 0–5 → 6–9, a ViT of 0.3 M parameters",
        _CIFAR
        | {
            "image_size": 35,
            "source_images_per_class": 1000,
            "pretrain_epochs": 30.0,
            "adapt_epochs": 60.0,
            "retrain_epochs": 150.0,
        },
        CIFAR_METHODS,
    ),
    "cifar_dinov2": Setting(
        "CIFAR-10 classes 0–5 → 6–9, a pre-trained DINOv2",
        _CIFAR
        | {
            "model_name_or_path": "{model}",
            "image_size": 56,
            "source_images_per_class": 500,
            # larger steps, or fewer images, leave the public backbone worse than it was, and nothing to dispose of
            "pretrain_epochs": 3.0,
            "pretrain_learning_rate": 3e-5,
            "adapt_epochs": 8.0,
            "adapt_learning_rate": 3e-5,
            "retrain_epochs": 24.0,
            "dispose_learning_rate": 1e-4,
            "attacks": "linear_probe,full",
            "attack_learning_rates": "3e-5",
            "budgets": "10",
            "max_eval_images": 600,
        },
        DINO_METHODS,
    ),
}


def write_tiny_resnet(folder: Path, seed: int, num_labels: int = 2) -> Path:
    """Write a small ResNet with BatchNorm and random weights, with its processor; an existing folder is kept.

    Args:
        folder: of the model.
        seed: of the weights.
        num_labels: classes of its head.
    """
    if not folder.exists():
        config = ResNetConfig(
            embedding_size=16, hidden_sizes=[16, 32, 64], depths=[1, 1, 1], layer_type="basic", num_labels=num_labels
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = AutoModelForImageClassification.from_config(config)
        new = fresh_folder(folder)
        model.save_pretrained(new)
        embedded_processor(28).save_pretrained(new)
        replace_folder(new, folder)
    return folder
