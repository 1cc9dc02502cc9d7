"""Whether what is published is another model of its own run, in the same weights or in others."""

import itertools
import math
from collections import defaultdict
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
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


@torch.no_grad()
def answers_apart(one: Path, other: Path) -> tuple[str, float]:
    """How far what two folders make of the same images lies apart, as `distance` has it of weights.

    A model can be written in other weights: channels in another order, rescaled or empty, classes in another order or
    fewer, logits scaled or shifted, a step of the processor taken into the first layer, another head. So each reads
    the images, which are noise without colours, coarse and fine, with its own processor, and compared are logits of
    classes that both name, features whatever the head, and weights without it.

    Returns:
        What lies nearest, and how far apart it is; infinite where the first does not answer.

    Raises:
        PublishError: the second does not answer, so that nobody can say whether it is the first.
    """
    found: list[tuple[dict[str, Tensor], Tensor | None, dict[str, Tensor]]] = []
    for folder in (one, other):
        try:
            model, _ = open_classifier(folder, local_files_only=True)
            own = folder if any((folder / name).is_file() for name in PROCESSORS) else one
            processor = AutoImageProcessor.from_pretrained(own, trust_remote_code=False)
            found.append(_answered(model.eval().float(), processor))
        except Exception as error:  # whatever a foreign configuration or file raises
            if folder == one:  # told where it is checked
                return "answers", math.inf
            raise PublishError(
                f"{other} does not answer as a model does, so that nobody can tell whether {one} is the same: {error} "
                "Put the model there as the run saved it, or move the folder out of the run."
            ) from error
    (first, shown, weights), (second, other_shown, others) = found
    common = sorted(first.keys() & second.keys())
    apart = {"weights below the head": _apart(weights, others), "answers": math.inf, "features": math.inf}
    if common:
        apart["answers"] = _far(*(_centred(torch.stack([own[n] for n in common], 1)) for own in (first, second)))
    if shown is not None and other_shown is not None:
        apart["features"] = _far(shown, other_shown)
    return min(apart.items(), key=itemgetter(1))


def _answered(model: PreTrainedModel, processor: Any) -> tuple[dict[str, Tensor], Tensor | None, dict[str, Tensor]]:
    """Logits by class, how alike its features find every two images, and its weights below the head."""
    rng, mode = np.random.default_rng(0), "L" if channels_of(model.config) == 1 else "RGB"
    noise = [rng.integers(0, 256, (2**i, 2**i), dtype=np.uint8) for i in (1, 2, 3, 4, 5, 6, 7) for _ in range(4)]
    images = [Image.fromarray(pixels).resize((128, 128)).convert(mode) for pixels in noise]
    read: list[Tensor] = []
    try:
        heads = locate_classifiers(model)
    except ModelError:  # of a kind that has no head to attack
        heads = ()
    for head in heads:
        model.get_submodule(head).register_forward_pre_hook(lambda _, given: read.append(given[0].flatten(1)))
    logits = model(pixel_values=processor(images, return_tensors="pt")["pixel_values"].float()).logits.double()
    weights = {
        n: v for n, v in model.state_dict().items() if heads and not n.startswith(tuple(f"{h}." for h in heads))
    }
    names = dict(zip(head_names(model), logits.T, strict=True))
    if not read:
        return names, None, weights
    features = torch.cat(read, 1).double()
    spread, mean = torch.std_mean(features, 0)
    features = ((features - mean) / spread)[:, spread > 1e-5 * features.abs().amax(0)]
    return names, features @ features.T / max(features.shape[1], 1), weights


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
