"""Models and tasks that an attack learns in a second, and reports with numbers chosen by hand."""

import random
from dataclasses import replace
from itertools import product

import torch
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification

from hf_dtl.audit import AttackConfig, AttackedTask, LeakageReport, PiggybackRecord, TaskScores
from hf_dtl.data import ImageTensors

QUICK = AttackConfig(
    budgets=(2, 4), seeds=(0, 1), linear_probe_learning_rates=(1e-2, 1e-1), full_learning_rates=(1e-3, 1e-2),
    linear_probe_steps=20, full_passes=4, full_min_steps=8,
)  # fmt: skip
FINALISTS = replace(QUICK, attacks=("linear_probe", "full", "ridge"), budgets=(2,), seeds=(3, 0, 1, 4), finalists=1)
"""Every attack with the seeds 3 and 0, and the best of them with 1 and 4."""


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


HAND = {
    ("undisposed", 5): [0.8, 0.8, 0.8],
    ("undisposed", 20): [0.9, 0.9, 0.9],
    ("scratch", 5): [0.3, 0.4, 0.5],
    ("scratch", 20): [0.5, 0.5, 0.5],
    ("scrubbed", 5): [0.5, 0.6, 0.4],
    ("scrubbed", 20): [0.7, 0.8, 0.9],
    ("retrained", 5): [0.5, 0.5, 0.5],
    ("retrained", 20): [0.7, 0.7, 0.7],
}
LEVELS = {"undisposed": (0.80, 0.90), "scrubbed": (0.60, 0.75), "scratch": (0.40, 0.50), "retrained": (0.50, 0.65)}


ATTACKS = ("linear_probe", "full", "head_then_full", "lora")
ATTACKS += tuple(f"{name}_published" for name in ATTACKS)
ATTACKS += ("full_rescaled", "full_longer", "full_large_lr", "retain_then_full", "retain_only")
LONG_NAMES = {
    "source_subset": "cifar10:train[:50%][airplane,automobile,bird,cat,deer,dog]",
    "novel_downstream": "fashion_mnist[T-shirt/top,Trouser,Pullover,Dress,Coat]",
}


def large_report(method="gradient_collision:chunking=class", leakage=0.9, *, seeds=3, noise=0.02, gap=0.3, **changes):
    """A report as large as they come: every attack, four budgets, long names, and noise that seeds share in part.

    The published head fits the source task only, and one attack diverged.
    """
    draw, found = random.Random(method), []
    for (axis, dataset), (i, attack) in product(LONG_NAMES.items(), enumerate(ATTACKS)):
        if axis == "novel_downstream" and attack.endswith("_published"):
            continue
        for place, budget in enumerate((1, 5, 20, 100)):
            floor, common = 0.3 + 0.12 * place, [draw.gauss(0, noise) for _ in range(seeds)]
            heights = {"undisposed": gap, "scrubbed": gap * leakage, "scratch": 0.0, "retrained": 0.2 * gap}
            values = {
                (model, budget): [min(1, max(0, floor + h - 0.01 * i + c + draw.gauss(0, noise / 3))) for c in common]
                for model, h in heights.items()
            }
            found += records(values, attack=attack, axis=axis, dataset=dataset)
    bad = next(r for r in found if (r.model, r.attack, r.budget) == ("scrubbed", "full_large_lr", 1))
    found[found.index(bad)] = replace(bad, accuracy=1 / 6, validation_accuracy=1 / 6, diverged=True)
    return report(
        method, piggyback=tuple(found), chance=dict(zip(LONG_NAMES.values(), (1 / 6, 0.2), strict=True)), **changes
    )


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
        "settings": {"source_dataset": "mnist[0-5]", "target_dataset": "mnist[6-9]", "disposal": {"max_steps": 100}},
        "machine": {"torch": "2.13.0"},
        "chance": {"mnist[0-5]": 1 / 6, "fashion_mnist": 0.1},
    }
    return LeakageReport(method=method, **{"piggyback": tuple(found), **values, **changes})


def tasks_report(method="multitask", **changes):
    """A report on a model of three tasks, of which one was forgotten."""
    scores = {
        "forget": {"undisposed": 0.95, "scrubbed": 0.80, "retrained": 0.82},
        "retain": {"undisposed": 0.96, "scrubbed": 0.94, "retrained": 0.95},
        "test": {"undisposed": 0.90, "scrubbed": 0.88, "retrained": 0.91},
    }
    number = {split: dict.fromkeys(scores["test"], -0.2) for split in scores}
    uis, auc = {"undisposed": 0.1, "scrubbed": 0.05}, {"undisposed": 0.7, "scrubbed": 0.55}
    tasks = {
        "case": TaskScores("classes", True, scores, uis, auc, "glyphs, case"),
        "weight": TaskScores("classes", False, scores, {"undisposed": 0.0, "scrubbed": 0.01}),
        "rotation": TaskScores("regression", False, number),
    }
    values = {
        "piggyback": tuple(records(HAND, dataset="glyphs, case")),
        "spec": {"kind": "tasks", "forget": "random=15%", "retain": None, "seed": 0, "task_columns": "case,weight"},
        "weights": {"case/model.safetensors": "0a" * 32},
        "chance": {},
    }
    return report(method, **{"tasks": tasks, **values, **changes})
