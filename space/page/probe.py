"""What a model makes of one image: its predictions, and the classes that its features are nearest to."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from hf_dtl.audit.classifiers import predict
from hf_dtl.data.decoding import to_channels
from hf_dtl.errors import DataError
from page.pairs import Pair

TOP = 4
Rows = list[tuple[str, float]]


@dataclass(frozen=True)
class Probed:
    """One model and one image.

    Args:
        predictions: classes of the model's own head by probability, the first few.
        nearest: source and target classes by the cosine of the image's features with the class mean, the first few;
            empty without images of the tasks.
    """

    predictions: Rows
    nearest: Rows


def probe(pair: Pair, which: str, image: Image.Image) -> Probed:
    """Look at an image with one model of a pair.

    Args:
        pair: the pair.
        which: `scrubbed` or `undisposed`; it must be there.
        image: 8-bit RGB.

    Raises:
        DataError: the image cannot be prepared for the model.
    """
    model = pair.models[which]
    try:
        grey = image.convert("L") if pair.channels == 1 else image
        pixels = pair.processor([to_channels(grey, pair.channels)], return_tensors="pt")["pixel_values"]
        probabilities = predict(model, pixels).softmax(-1)[0]
        likeness = pair.means[which].likeness(pixels)[0] if pair.means else None
    except Exception as error:  # whatever a processor or a model raises for an image
        raise DataError(f"The model cannot process this image ({type(error).__name__}). Try another one.") from error
    labels = [str(model.config.id2label.get(i, i)) for i in range(len(probabilities))]
    nearest = [] if likeness is None else _highest(pair.means[which].classes, likeness)
    return Probed(_highest(labels, probabilities), nearest)


def _highest(names: Sequence[str], values: torch.Tensor) -> Rows:
    order = values.argsort(descending=True)[:TOP].tolist()
    return [(names[i], values[i].item()) for i in order]
