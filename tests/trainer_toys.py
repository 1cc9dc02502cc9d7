"""Tables of small pictures and heads with names, for what trainers are given as data."""

import datasets
import numpy as np
from architectures import CONFIGS
from PIL import Image
from transformers import AutoModelForImageClassification

from hf_dtl.data import embedded_processor
from hf_dtl.models.heads import MultiHeadClassifier
from hf_dtl.trainers.items import labelled_items

NAMES = ("cat", "dog", "fox")
UNNAMED = ("LABEL_0", "LABEL_1", "LABEL_2")
PROCESSOR = embedded_processor(16)


def model(names=NAMES) -> MultiHeadClassifier:
    config = CONFIGS["vit"]()
    config.id2label = dict(enumerate(names))
    return MultiHeadClassifier(AutoModelForImageClassification.from_config(config), task="own")


def table(labels: list, feature=None, image: str = "image", label: str = "label") -> datasets.Dataset:
    pictures = [np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8) for i in range(len(labels))]
    feature = feature or datasets.ClassLabel(names=list(NAMES))
    features = datasets.Features({image: datasets.Image(), label: feature})
    images = [Image.fromarray(picture) for picture in pictures]
    return datasets.Dataset.from_dict({image: images, label: labels}, features=features)


def items(dataset, head=NAMES, processor=PROCESSOR):
    (found,) = labelled_items({"forget": (dataset, "own")}, model(head), processor)
    return found
