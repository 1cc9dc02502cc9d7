"""Settings of the comparison of unlearning methods: models, requests, methods and their strengths."""

from typing import Any

from study.settings import Knob, Setting

RATES = Knob("learning_rate", (3e-4, 1e-3, 3e-3))
"""For every method that is not in `KNOBS`."""

KNOBS: dict[str, Knob] = {
    "projected_gradient": Knob("learning_rate", (0.03, 0.1, 0.3)),
    "unseen_label": Knob("learning_rate", (0.5, 1.0, 2.0)),
    "ssd": Knob("alpha", (1.5, 3.0, 6.0)),  # where a tenth of the images is forgotten, above 10 nothing happens
}

METHODS = (
    "projected_gradient",
    # smaller and fewer steps than the others take, because it needs a pass over images before them
    "unseen_label:max_steps=16:per_device_train_batch_size=32:per_device_retain_batch_size=64",
    "fine_tune",
    "neg_grad_plus",
    "random_label",
    "salun",
    "bad_teaching",
    "scrub",
    "ssd",
)


_EVERYWHERE: dict[str, Any] = {
    "reference": "retrain",
    "steps": 20,
    "budgets": "10",
    "seeds": "0,1",
    "retain_images_per_class": 300,
    "max_eval_images": 1500,
    "train_epochs": 30.0,
    "augmentation": "none",  # the models then know their training images by heart, which is what must be undone
}
_FASHION = _EVERYWHERE | {"retain": "fashion_mnist"}
_CIFAR = _EVERYWHERE | {
    "retain": "{data_dir}",
    "image_size": 35,
}
_RESNET = {"full_learning_rates": "2e-3,6e-3", "train_learning_rate": 3e-3}

SETTINGS: dict[str, Setting] = {
    "fashion_vit": Setting("Fashion-MNIST, 300 images a class, a ViT of 0.3 M parameters", _FASHION),
    "fashion_resnet": Setting(
        "Fashion-MNIST, 300 images a class, a ResNet of 0.1 M parameters",
        _FASHION | _RESNET,
        tiny_resnet=True,
        classes=10,
    ),
    "cifar_vit": Setting("CIFAR-10, 300 images a class, a ViT of 0.3 M parameters", _CIFAR),
    "cifar_resnet": Setting(
        "CIFAR-10, 300 images a class, a ResNet of 0.1 M parameters",
        _CIFAR | _RESNET | {"image_size": None},
        tiny_resnet=True,
        classes=10,
    ),
}

REQUESTS = ("class=0", "random=10%")
