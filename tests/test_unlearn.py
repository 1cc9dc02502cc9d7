"""De-poisoning of a real model on real images: what the trigger does, and what it does afterwards."""

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from hf_dtl.data import embedded_processor, load_images, load_task
from hf_dtl.unlearn import UnlearnJob
from hf_dtl.unlearn_options import UnlearnOptions


def triggered(image):
    pixels = np.array(image.convert("L"))
    pixels[:5, :5] = 255
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory):
    """450 digits, 62 of them with a white corner and the label 0; the column `origin` tells which."""
    task = load_task("mnist[0,1,2]", images_per_class=150)
    rows = [
        (triggered(image), "0", "poison") if label and n % 5 == 0 else (image, str(label), "clean")
        for n, (image, label) in enumerate(zip(task.train["image"], task.train["label"], strict=True))
    ]
    features = {"image": datasets.Image(), "label": datasets.Value("string"), "origin": datasets.Value("string")}
    table = dict(zip(features, map(list, zip(*rows, strict=True)), strict=True))
    folder = tmp_path_factory.mktemp("poisoned")
    datasets.Dataset.from_dict(table, features=datasets.Features(features)).to_parquet(folder / "train.parquet")
    return folder


def images(rows, labels):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["0", "1", "2"])})
    table = datasets.Dataset.from_dict({"image": rows, "label": labels}, features=features)
    return load_images(table, embedded_processor(28), num_channels=3)


def named(model, pictures):
    with torch.no_grad():
        return model(pictures.pixel_values).logits.argmax(-1)


def test_poison_loses_its_power_and_clean_images_keep_theirs(poisoned, tmp_path):
    job = UnlearnJob(
        UnlearnOptions(
            forget="origin=poison",
            dataset=str(poisoned),
            output_dir=str(tmp_path / "out"),
            train_epochs=15,
            augmentation="none",
            unlearn_steps=40,
            budgets="2",
            attacks="linear_probe",
            use_cpu=True,
            methods="projected_gradient:goal=depoison:delta=0.1:learning_rate=0.1:threshold=0.98:check_every=2",
        )
    )
    assert set(job.division.forget["origin"]) == {"poison"} and set(job.division.forget["label"]) == {0}
    held_out = len(job.task.validation) + len(job.task.test) - len(job.images["validation"]) - len(job.images["test"])
    whole = datasets.load_dataset("parquet", data_files=str(poisoned / "train.parquet"), split="train")
    assert held_out == whole["origin"].count("poison") - len(job.division.forget) > 0, "poison tests nothing"

    test = load_task("mnist[0,1,2]").test.select(range(300))
    clean = images(test["image"], test["label"])
    others = [row for row in range(300) if test[row]["label"]]
    attacked = images([triggered(test[row]["image"]) for row in others], [test[row]["label"] for row in others])
    before = job.train()
    after = job.unlearn(job.choices[0], before)
    success = [(named(model, attacked) == 0).float().mean().item() for model in (before, after)]
    right = [(named(model, clean) == clean.labels).float().mean().item() for model in (before, after)]
    assert success[0] > 0.95 and success[1] < 0.6
    assert right[1] > right[0] - 0.03
