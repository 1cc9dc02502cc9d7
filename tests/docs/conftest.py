"""A reader's folder, made small: the models and data that the documents' commands and snippets name."""

import copy

import datasets
import launching
import numpy as np
import pytest
import torch
from architectures import CONFIGS
from PIL import Image
from transformers import AutoModelForImageClassification

from hf_dtl.data import embedded_processor

CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PHOTOS = ("cat", "dog", "car", "ship")


def pictures(classes, per_class, seed):
    """Images (16, 16) with a stripe that tells the class, and their labels."""
    draw, found = np.random.default_rng(seed), []
    for label in range(classes):
        for _ in range(per_class):
            pixels = draw.normal(90, 40, (16, 16, 3))
            place = 3 * label % 14
            pixels[place : place + 3, :, label % 3] += 90
            found.append((Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), label))
    return found


def save_parquet(folder, columns, names, seed):
    """A data set as the Hub has it: a file a split, an image column, and label columns."""
    folder.mkdir(parents=True)
    for split, per_class in (("train", 16), ("test", 6)):
        images, labels = zip(*pictures(len(names), per_class, [seed, per_class]), strict=True)
        content = {columns[0]: list(images)} | {column: list(labels) for column in columns[1:]}
        feature = datasets.ClassLabel(names=list(names))
        features = {columns[0]: datasets.Image()} | {column: feature for column in columns[1:]}
        data = datasets.Dataset.from_dict(content, features=datasets.Features(features))
        data.to_parquet(folder / f"{split}-00000-of-00001.parquet")


def save_model(folder, names, seed=0):
    """A tiny ViT with random weights and names for its classes, with its processor."""
    config = copy.deepcopy(CONFIGS["vit"]())
    config.image_size, config.patch_size, config.num_labels = 14, 7, len(names)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: label for label, name in config.id2label.items()}
    torch.manual_seed(seed)
    AutoModelForImageClassification.from_config(config).save_pretrained(folder)
    embedded_processor(14).save_pretrained(folder)


def save_people(folder, split, images):
    """A parquet file with columns beside the label, of strings."""
    columns = {
        "image": datasets.Image(),
        **dict.fromkeys(("label", "person", "place", "origin"), datasets.Value("string")),
    }
    content = {
        "image": [image for image, _ in images],
        "label": [PHOTOS[label] for _, label in images],
        "person": [("ann", "bob", "eve")[number % 3] for number in range(len(images))],
        "place": [("here", "there")[number % 2] for number in range(len(images))],
        "origin": [("camera", "camera", "poison")[number % 3] for number in range(len(images))],
    }
    folder.mkdir(parents=True, exist_ok=True)
    data = datasets.Dataset.from_dict(content, features=datasets.Features(columns))
    data.to_parquet(folder / f"{split}-00000-of-00001.parquet")


@pytest.fixture(scope="session")
def reader(tmp_path_factory):
    """The folder in which the commands are started; what one command leaves, a later one finds."""
    folder = tmp_path_factory.mktemp("reader")
    save_parquet(folder / "uoft-cs" / "cifar10", ("img", "label"), CIFAR, 1)
    save_parquet(
        folder / "uoft-cs" / "cifar100", ("img", "fine_label", "coarse_label"), [f"c{i}" for i in range(10)], 2
    )
    save_parquet(folder / "animals", ("img", "breed", "species"), [f"c{i}" for i in range(10)], 2)
    save_model(folder / "google" / "vit-base-patch16-224", [f"class {i}" for i in range(20)])
    for number, name in enumerate(("classifier", "user/classifier", "scrubbed", "original", "retrained")):
        save_model(folder / name, PHOTOS, number)
    for split, per_class in (("train", 30), ("validation", 9), ("test", 8)):
        for number, (image, label) in enumerate(pictures(4, per_class, [3, per_class])):
            place = folder / "photos" / split / PHOTOS[label]
            place.mkdir(parents=True, exist_ok=True)
            image.save(place / f"{number:03}.png")
    save_model(folder / "no_cars", [name for name in PHOTOS if name != "car"])
    (folder / "texts").mkdir()
    (folder / "texts" / "one.txt").write_text("no image")
    digits = [str(digit) for digit in range(10)]
    for number, name in enumerate(("user/scrubbed", "user/original", "user/retrained")):
        save_model(folder / name, digits[6:], number)
    save_model(folder / "outputs" / "demo" / "undisposed", digits[6:])
    for name in ("user/photos", "people"):
        for split, per_class in (("train", 30), ("validation", 9), ("test", 8)):
            save_people(folder / name, split, pictures(4, per_class, [4, per_class]))
    (folder / "rows.txt").write_text("".join(f"{row}\n" for row in range(0, 120, 4)))
    (folder / "later.txt").write_text("".join(f"{row}\n" for row in range(2, 120, 4)))
    (folder / "renamed.txt").write_text("0,ship\n1,ship\n")
    return folder


@pytest.fixture
def few_steps(monkeypatch):
    """Attacks of few steps."""
    launching.shorten(monkeypatch.setattr)
