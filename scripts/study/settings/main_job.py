"""Settings of the main job's study: tasks, models, methods with their strengths, and the options they share."""

from typing import Any

from study.settings import Knob, Setting

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

_EVERYWHERE: dict[str, Any] = {
    "attacks": "linear_probe,full,head_then_full",
    "budgets": "5,20",
    "seeds": "0,1",
    "steps": 300,
    "forget_batch_size": 64,
    "learning_rate": 2e-3,
}
_VIT = {"architecture": "vit"}
# The novel task is loaded but not attacked, so two classes do.
_DIGITS = _EVERYWHERE | {
    "forget": "mnist[0-5]",
    "retain": "mnist[6-9]",
    "novel": "fashion_mnist[0,1]",
    "retain_images_per_class": 10,
    "train_epochs": 30.0,
    "adapt_epochs": 300.0,
    "retrain_epochs": 750.0,
    "augmentation": "affine",
}
# Clothes, then shoes and bags: with classes 0-5 and 6-9 a model that never saw the source task learns it as well.
_FASHION = _DIGITS | {
    "forget": "fashion_mnist[0,1,2,3,4,6]",
    "retain": "fashion_mnist[5,7,8,9]",
    "novel": "mnist[0,1]",
}
_CIFAR = _EVERYWHERE | {
    "forget": "{data_dir}[0-5]",
    "retain": "{data_dir}[6-9]",
    "novel": "fashion_mnist[0,1]",
    "retain_images_per_class": 100,
    "augmentation": "affine_flip",
    "max_eval_images": 2000,
}

SETTINGS: dict[str, Setting] = {
    "mnist_vit": Setting("MNIST 0–5 → 6–9, a ViT of 0.3 M parameters", _DIGITS | _VIT, METHODS),
    "mnist_resnet": Setting(
        "MNIST 0–5 → 6–9, a ResNet of 0.1 M parameters",
        _DIGITS | {"full_learning_rates": "2e-3,6e-3"},
        FEWER_METHODS,
        tiny_resnet=True,
    ),
    "fashion_vit": Setting(
        "Fashion-MNIST clothes → shoes and bags, a ViT of 0.3 M parameters", _FASHION | _VIT, FEWER_METHODS
    ),
    "cifar_vit": Setting(
        "CIFAR-10 classes 0–5 → 6–9, a ViT of 0.3 M parameters",
        _CIFAR
        | _VIT
        | {
            "image_size": 35,
            "forget_images_per_class": 1000,
            "train_epochs": 30.0,
            "adapt_epochs": 60.0,
            "retrain_epochs": 150.0,
        },
        CIFAR_METHODS,
    ),
    "cifar_dinov2": Setting(
        "CIFAR-10 classes 0–5 → 6–9, a pre-trained DINOv2",
        _CIFAR
        | {
            "model": "{model}",
            "image_size": 56,
            "forget_images_per_class": 500,
            # larger steps, or fewer images, leave the public backbone worse than it was, and nothing to dispose of
            "train_epochs": 3.0,
            "train_learning_rate": 3e-5,
            "adapt_epochs": 8.0,
            "adapt_learning_rate": 3e-5,
            "retrain_epochs": 24.0,
            "learning_rate": 1e-4,
            "attacks": "linear_probe,full",
            "full_learning_rates": "3e-5",
            "budgets": "10",
            "max_eval_images": 600,
        },
        DINO_METHODS,
    ),
}
