"""Settings of the study of removal where weights matter: tasks, models, and what is compared."""

from study.settings import Setting

GATE_GAP, GATE_TRANSFER = 0.20, 0.08
"""A setting counts where the undisposed model is relearned so much better than the best floor, and is so much better
at the target than the retrained one; on the tuning seed's validation images."""
GOAL_KEPT, GOAL_BYTES = 0.90, 1000
"""The goal: at least so much of transfer's benefit kept, by a method with at most so many bytes to its bound."""

COLLISION = "gradient_collision:max_steps=100"
"""In every table, whether it is among the finalists or not."""
CHANNELS = ("labels", "labels@100", "labels@300", "outputs:4@300", "outputs", "outputs@300")
METHODS = (
    "representation_erasure", "noise_then_distil:max_steps=600", "weight_distortion:max_steps=600", COLLISION,
)  # fmt: skip
CONTENDERS = ("labels@all", *CHANNELS, "outputs@all", *METHODS)
"""CHANNEL[@N] is anchored distillation through a channel with N unlabelled images of the target a class (none: views
of the labelled ones); others are methods as a command line names them."""

SETTINGS: dict[str, Setting] = {
    # adapted four times as long as by default: on validation images that is better, and leaves as much of the source
    "families": Setting(
        "Families of fonts → four letters with 10 labelled images a class, a ResNet of 0.2 M parameters",
        {
            "novel": "none", "forget": "glyphs[sans,mono,serif,stix]", "retain": "glyphs[N,Q,R,T]",
            "retain_images_per_class": 10, "adapt_epochs": 800.0,
        },
        CONTENDERS,
        classes=4,
    ),
    "cifar": Setting(
        "CIFAR-10 classes 0–5 → 6–9 with 50 labelled images a class, a ResNet of 0.7 M parameters at 64 pixels",
        {
            "novel": "none", "forget": "{data_dir}[0-5]", "retain": "{data_dir}[6-9]", "retain_images_per_class": 50,
            "augmentation": "affine_flip", "train_epochs": 12.0,
        },
        ("labels@1000", *CHANNELS, "outputs@1000", *METHODS),
        tiny_resnet=True,
        classes=4,
        widths=(16, 32, 64, 128),
        depth=2,
        image_size=64,
    ),
}  # fmt: skip
