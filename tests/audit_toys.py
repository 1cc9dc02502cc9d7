"""Models and tasks that an attack learns in a second, and reports with numbers chosen by hand."""

from itertools import product

import torch
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification

from hf_dtl.audit import AttackConfig, AttackedTask, LeakageReport, PiggybackRecord
from hf_dtl.data import ImageTensors

QUICK = AttackConfig(
    budgets=(2, 4), seeds=(0, 1), linear_probe_learning_rates=(1e-2, 1e-1), full_learning_rates=(1e-3, 1e-2),
    linear_probe_steps=20, full_passes=4, full_min_steps=8,
)  # fmt: skip


def vit(num_labels=3, seed=0, dropout=0.0):
    torch.manual_seed(seed)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4,
        num_labels=num_labels, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
    )  # fmt: skip
    return ViTForImageClassification(config)


def resnet(num_labels=3, seed=0):
    torch.manual_seed(seed)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
    config.num_labels = num_labels
    return ResNetForImageClassification(config)


def split(per_class, classes=3, seed=0, noise=1.0):
    """Images around one fixed pattern a class."""
    patterns = torch.randn(classes, 3, 8, 8, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(classes).repeat(per_class)
    generator = torch.Generator().manual_seed(seed)
    return ImageTensors(patterns[labels] + noise * torch.randn(len(labels), 3, 8, 8, generator=generator), labels)


def task(name="toy", axis="source_subset", classes=3, noise=1.0):
    splits = [split(n, classes, seed, noise) for seed, n in enumerate((10, 10, 20))]
    return AttackedTask(name, axis, tuple(f"class {i}" for i in range(classes)), *splits)


def records(values, *, attack="full", axis="source_subset", dataset="mnist[0-5]", validation=None):
    """Records from {(model, budget): test accuracies by seed}."""
    found = []
    for (model, budget), accuracies in values.items():
        for seed, accuracy in enumerate(accuracies):
            checked = validation if validation is not None else accuracy
            found.append(
                PiggybackRecord(model, dataset, axis, attack, budget, seed, 1e-3, accuracy, checked, diverged=False)
            )
    return found


LEVELS = {"undisposed": (0.80, 0.90), "scrubbed": (0.60, 0.75), "scratch": (0.40, 0.50), "retrained": (0.50, 0.65)}


def report(method="gradient_collision", scrubbed=(0.60, 0.75), target=(0.95, 0.94), **changes):
    """A report of two axes and two attacks with three seeds at 5 and 20 images a class."""
    levels = {**LEVELS, "scrubbed": scrubbed}
    found = []
    axes = (("source_subset", "mnist[0-5]"), ("novel_downstream", "fashion_mnist"))
    for (axis, dataset), (attack, loss) in product(axes, (("full", 0.0), ("linear_probe", 0.1))):
        values = {
            (model, budget): [level - loss + d for d in (-0.02, 0.0, 0.02)]
            for model, pair in levels.items()
            for budget, level in zip((5, 20), pair, strict=True)
        }
        found += records(values, attack=attack, axis=axis, dataset=dataset)
    values = {
        "seed": 0,
        "target_accuracy": {"undisposed": target[0], "scrubbed": target[1]},
        "source_accuracy": {"undisposed": 0.96, "scrubbed": 0.16},
        "settings": {"source_dataset": "mnist[0-5]", "target_dataset": "mnist[6-9]", "disposal": {"steps": 100}},
        "machine": {"torch": "2.13.0"},
        "chance": {"mnist[0-5]": 1 / 6, "fashion_mnist": 0.1},
    }
    return LeakageReport(method=method, **{"piggyback": tuple(found), **values, **changes})
