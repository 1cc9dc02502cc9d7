"""Whether what is published is another model of its own run, in the same weights or in others."""

import contextlib
import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from transformers import AutoImageProcessor, PreTrainedModel

from hf_dtl.audit import LeakageReport
from hf_dtl.data.processors import channels_of
from hf_dtl.errors import ModelError, PublishError
from hf_dtl.hub.card_check import REPORT
from hf_dtl.hub.weights import PROCESSORS, model_folders
from hf_dtl.models.classifiers import locate_classifiers
from hf_dtl.models.labels import head_names
from hf_dtl.models.loading import open_classifier

SAME, NEAR, LITTLE = 1e-6, 2.0**-9, 0.5
"""Relative distances of weights: of what 32 bits round, and of what bfloat16 does, which nobody calls a disposal.
Light disposals end as near, so that there a report is refused only if it says that less than half is left.
"""


def check_apart(output: Path, report: LeakageReport) -> None:
    """Refuse as scrubbed what its own run calls undisposed, or retrained where the report tells the two apart.

    Args:
        output: see `stage`.
        report: of what is published. Whoever publishes a retrained model as such has the same attacks on both.

    Raises:
        PublishError: naming both folders.
    """
    model = (output / "scrubbed" if (output / "scrubbed").is_dir() else output).resolve()
    attacks = defaultdict[str, set[Any]](set)
    for r in report.piggyback:
        attacks[r.model].add((r.dataset, r.axis, r.attack, r.budget, r.seed, r.accuracy))
    told_apart = {
        "undisposed": report.headline.mean is not None and report.headline.mean < LITTLE,
        "retrained": attacks["retrained"] not in (set(), attacks["scrubbed"]),
    }
    for role, run in itertools.product(told_apart, list(model.parents)[:3]):
        there = (run / role).exists() or (run / role).is_symlink()
        if not there or (role == "retrained" and run / role == model):
            continue
        pairs = [(model / one, run / role / one) for one in model_folders(model)]
        near = NEAR if told_apart[role] else SAME if role == "undisposed" else -1.0
        what, far = "weights", min(itertools.starmap(distance, pairs))  # of tasks, each must be another
        if told_apart[role] and far > near:
            what, far = min(itertools.starmap(answers_apart, pairs), key=itemgetter(1))
        if far <= near:
            raise PublishError(
                f"The {what} in {model} are those of {run / role} (relative distance {far:.1g}): "
                f"nothing was scrubbed from them, whatever {REPORT} says. Publish the scrubbed model."
                if role == "undisposed"
                else f"The {what} in {model} are those of {run / role} (relative distance {far:.1g}), of which "
                f"{REPORT} has other numbers. Audit the model that you publish."
            )


def distance(one: Path, other: Path) -> float:
    """How far two folders' weights lie apart: the norm of their difference over that of the second, 0 for the same.

    In whatever files they are, at the coarser of their precisions; statistics of batches, which may be as large as
    they like, do not count. Infinite for other tensors.
    """
    try:
        first, second = (
            {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}
            for folder in (one, other)
        )
    except SafetensorError:  # what cannot be read is told where it is loaded
        return math.inf
    return _apart(first, second)


def _apart(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    if not first or {n: v.shape for n, v in first.items()} != {n: v.shape for n, v in second.items()}:
        return math.inf
    apart = whole = 0.0
    for name in (n for n, v in first.items() if v.is_floating_point() and "running_" not in n):
        pair = first[name], second[name]
        coarser = min(pair, key=torch.Tensor.element_size).dtype
        a, b = (value.to(coarser).double() for value in pair)
        apart, whole = apart + float((a - b).square().sum()), whole + float(b.square().sum())
    return math.sqrt(apart / whole) if whole else math.inf


def answers_apart(one: Path, other: Path) -> tuple[str, float]:
    """How far what two folders make of the same images lies apart, as `distance` has it of weights.

    A model can be written in other weights: channels in another order, rescaled, empty or among others, classes in
    another order or fewer, logits scaled or shifted, a step of the processor taken into the first layer, another head;
    and it can read images turned, mirrored or inverted, or of another processor. So each reads the images, which are
    noise without colours, coarse and fine, and compared are logits of classes that both name, features whatever the
    head, and weights without it; the first also reads them in all those ways.

    Returns:
        What lies nearest, and how far apart it is; infinite where the first does not answer.

    Raises:
        PublishError: the second does not answer, so that nobody can say whether it is the first.
    """
    read: list[tuple[_Reader, _Made | None]] = []
    for folder in (one, other):
        try:
            model, _ = open_classifier(folder, local_files_only=True)
            own = folder if any((folder / name).is_file() for name in PROCESSORS) else one
            processor = AutoImageProcessor.from_pretrained(own, trust_remote_code=False)
            reader, made = _Reader(model, processor), None
            try:
                made = reader.read(_noise())
            except Exception:
                if folder != one:  # which may take no images of this size with its own processor
                    raise
            read.append((reader, made))
        except Exception as error:  # whatever a foreign configuration or file raises
            if folder == one:  # told where it is checked
                return "answers", math.inf
            raise PublishError(
                f"{other} does not answer as a model does, so that nobody can tell whether {one} is the same: {error} "
                "Put the model there as the run saved it, or move the folder out of the run."
            ) from error
    (first, made), (second, expected) = read
    apart = {"weights below the head": _apart(first.weights, second.weights)}
    if made is not None and expected is not None:
        apart |= _compared(made, expected)
    turned = "answers to images turned, inverted or otherwise prepared"
    few, processors = _noise()[1::4], [first.processor, second.processor]
    if processors[0].to_dict() == processors[1].to_dict():
        del processors[1]
    for odd, processor in itertools.product((False, True), processors):
        with contextlib.suppress(Exception):  # of a size that the model does not take
            expected = second.read(few, odd=odd)
            for turn, images in itertools.product(range(8), (few, [*map(ImageOps.invert, few)])):
                if min(apart.values()) <= NEAR:
                    break
                found = _compared(first.read(images, processor, odd=odd, turn=turn), expected)
                apart[turned] = min(apart.get(turned, math.inf), *found.values())
    return min(apart.items(), key=itemgetter(1))


class _Made(NamedTuple):
    """What a model makes of images: logits by class, and features below the head where it has one, in rows."""

    logits: dict[str, Tensor]
    features: Tensor | None


class _Reader:
    """A model with its processor, whose features are noted; `weights` are those below the head."""

    def __init__(self, model: PreTrainedModel, processor: Any) -> None:
        self.model, self.processor, self._noted = model.eval().float(), processor, list[Tensor]()
        try:
            heads = locate_classifiers(model)
        except ModelError:  # of a kind that has no head to attack
            heads = ()
        for head in heads:
            model.get_submodule(head).register_forward_pre_hook(lambda _, a: self._noted.append(a[0].flatten(1)))
        own = tuple(f"{head}." for head in heads)
        self.weights = {n: v for n, v in model.state_dict().items() if own and not n.startswith(own)}

    @torch.no_grad()
    def read(self, images: Sequence[Image.Image], processor: Any = None, *, odd: bool = False, turn: int = 0) -> _Made:
        """`odd` makes a side of 32·n + 1 pixels, whose middle no stride moves; `turn` is one of eight."""
        mode = "L" if channels_of(self.model.config) == 1 else "RGB"
        given = (processor or self.processor)([image.convert(mode) for image in images], return_tensors="pt")
        pixels = given["pixel_values"].float()
        if odd:
            sides = [32 * math.ceil(side / 32) + 1 for side in pixels.shape[2:]]
            pixels = functional.interpolate(pixels, size=sides, mode="bilinear")
        pixels = torch.rot90(pixels.flip(3) if turn > 3 else pixels, turn, (2, 3))
        self._noted.clear()
        logits = self.model(pixel_values=pixels).logits.double()
        features = torch.cat(self._noted, 1).double() if self._noted else None
        return _Made(dict(zip(head_names(self.model), logits.T, strict=True)), features)


def _noise() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (2**i, 2**i), dtype=np.uint8) for i in (1, 2, 3, 4, 5, 6, 7) for _ in range(4)]
    return [Image.fromarray(pixels).resize((128, 128)) for pixels in noise]


def _compared(one: _Made, other: _Made) -> dict[str, float]:
    apart, common = {"answers": math.inf, "features": math.inf}, sorted(one.logits.keys() & other.logits.keys())
    if common:
        apart["answers"] = _far(*(_centred(torch.stack([m.logits[n] for n in common], 1)) for m in (one, other)))
    if one.features is not None and other.features is not None:
        columns = [*map(_standardised, (one.features, other.features))]
        alike = [own @ own.T / max(own.shape[1], 1) for own in columns]
        apart["features"] = min(_far(*alike), _channels_apart(*columns))
    return apart


def _standardised(features: Tensor) -> Tensor:
    spread, mean = torch.std_mean(features, 0)
    return ((features - mean) / spread)[:, spread > 1e-5 * features.abs().amax(0)]


def _channels_apart(one: Tensor, other: Tensor) -> float:
    """How far nine in ten channels of the second lie at most from their nearest of the first, whatever their scale."""
    if not one.numel() or not other.numel():
        return math.inf
    alike = (other.T @ one / (len(one) - 1)).abs().amax(1)
    return float((1 - alike.square()).clamp(min=0).sqrt().quantile(0.9).nan_to_num(math.inf))


def _centred(logits: Tensor) -> Tensor:
    """Without what decides no answer: a constant on all classes, or on all images, and the scale."""
    if logits.shape[1] > 1:
        logits = logits - logits.mean(1, keepdim=True)
    logits = logits - logits.mean(0)
    return logits / logits.norm()


def _far(one: Tensor, other: Tensor) -> float:
    """Relative distance; infinite where there is nothing to compare."""
    found = float((one - other).norm() / other.norm())
    return found if math.isfinite(found) else math.inf
