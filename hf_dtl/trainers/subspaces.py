"""Gradient subspaces of a model on a data set: collected over all processes, and kept beside the model for later."""

from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from hf_dtl.errors import ConfigError
from hf_dtl.fingerprint import fingerprint
from hf_dtl.functional import GradientSubspace
from hf_dtl.models.heads import MultiHeadClassifier
from hf_dtl.trainers.shares import ALONE, Share

LAYER_INPUTS = "layer_inputs.safetensors"
"""File name of moments beside a model."""


def collect_subspace(
    model: MultiHeadClassifier,
    images: Dataset,
    task: str,
    *,
    batch_size: int = 64,
    share: Share = ALONE,
) -> GradientSubspace:
    """Stream a data set once through a model, each process a share of it, and keep the moments of its layers' inputs.

    Args:
        model: on the device to use.
        images: items {"pixel_values"}, transformed as they will be for a later forget request.
        task: whose head takes part.
        batch_size: images at once.
        share: of this process.
    """
    device = next(model.parameters()).device
    mine = range(share.index, len(images), share.processes)  # type: ignore[arg-type]

    def forward(start: int) -> Tensor:
        batch = torch.stack([images[i]["pixel_values"] for i in mine[start : start + batch_size]])
        return model(batch.to(device), task=task)

    starts = tqdm(range(0, len(mine), batch_size), desc="layer inputs", unit="batch", **share.quiet)
    return GradientSubspace.collect(model, starts, forward=forward, reduce=share.reduce)


def fingerprints(model: MultiHeadClassifier, task: str, processing_class) -> dict[str, str]:
    """What moments belong to: the weights that the task uses, and how images are processed."""
    used = ("backbone.", f"heads.{task}.")
    weights = [part for item in sorted(model.state_dict().items()) if item[0].startswith(used) for part in item]
    processing = {} if processing_class is None else processing_class.to_dict()
    processing = {k: v for k, v in processing.items() if not k.startswith("_")}
    return {"weights": fingerprint(weights), "processing": fingerprint([processing])}


def load_subspace(path: str | Path, wanted: dict[str, str], device: torch.device) -> GradientSubspace:
    """Read moments that belong to a model.

    Args:
        path: what `GradientSubspace.save` wrote.
        wanted: `fingerprints` of the model.
        device: where to.

    Raises:
        ConfigError: no such file, not moments, or those of other weights or other image processing.
    """
    if not Path(path).is_file():
        raise ConfigError(f"subspace_file={str(path)!r} does not exist. Make it with `trainer.save_subspace(path)`.")
    try:
        subspace, found = GradientSubspace.load(path, device)
    except ValueError as error:
        raise ConfigError(f"subspace_file cannot be used: {error}") from None
    for part, remedy in (
        ("weights", "it belongs to another model; collect it anew from the data that this model retains"),
        ("processing", "its images were processed otherwise; use the image processor that it was made with"),
    ):
        if found.get(part) != wanted[part]:
            raise ConfigError(f"subspace_file={str(path)!r} does not fit ({part} differ): {remedy}.")
    return subspace
