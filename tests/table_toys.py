"""Tables of small pictures, each another, for what is loaded."""

import io
from collections import Counter

import datasets
import numpy as np
from PIL import Image


def png(number: int) -> bytes:
    """An image that differs from that of every other number."""
    pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def table(counts: dict, start: int = 0, label_feature=None) -> datasets.Dataset:
    """Distinct images, so many of each class; labels as given, as strings or integers."""
    labels = [label for label, count in counts.items() for _ in range(count)]
    images = [{"bytes": png(start + number), "path": None} for number in range(len(labels))]
    label_feature = label_feature or datasets.Value("string" if isinstance(labels[0], str) else "int64")
    return datasets.Dataset.from_dict(
        {"image": images, "label": labels},
        features=datasets.Features({"image": datasets.Image(), "label": label_feature}),
    )


def per_class(split: datasets.Dataset) -> dict[str, int]:
    names = split.features["label"].names
    return dict(Counter(names[label] for label in split["label"]))
