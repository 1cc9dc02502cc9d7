"""A study with results chosen by hand, and one so small that it trains in seconds."""

import json
from dataclasses import asdict

from hf_dtl.audit import PiggybackRecord
from study.main_job import StudyOptions

OVERRIDE = {
    "forget": "mnist[0,1,2]",
    "novel": "fashion_mnist[0,1]",
    "train_epochs": 2,
    "forget_images_per_class": 64,
    "retain_images_per_class": 8,
    "adapt_epochs": 4,
    "retrain_epochs": 2,
    "steps": 3,
    "forget_batch_size": 8,
    "max_eval_images": 60,
}


def tiny(folder, **options):
    """Options of a study on a few images and steps."""
    chosen = {
        "output_dir": str(folder), "seeds": "0", "methods": "negative_ce", "attacks": "linear_probe",
        "budgets": "1,2", "override": json.dumps(OVERRIDE), "workers": 1, "use_cpu": True,
    }  # fmt: skip
    return StudyOptions(**chosen | options)


def learned(role, values):
    """Attack records of a model: PL accuracy of two attack seeds at two budgets, around `values`."""
    records = [
        PiggybackRecord(role, "mnist", "source_subset", "full", budget, seed, 1e-3, value + noise, value + noise)
        for budget, value in zip((5, 20), values, strict=True)
        for seed, noise in enumerate((-0.01, 0.01))
    ]
    return [asdict(record) for record in records]


def write(trial, result):
    """Write the result of a trial, as if it had been done."""
    trial.path.parent.mkdir(parents=True, exist_ok=True)
    trial.path.write_text(json.dumps(result))


def attacked(attack, accuracy, validation):
    """The record of one attack, in JSON values."""
    return asdict(PiggybackRecord("scrubbed", "mnist", "source_subset", attack, 5, 0, 1e-3, accuracy, validation))
