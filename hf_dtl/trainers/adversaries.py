"""Adversarial examples of a model around instances: made once over all processes, and kept on disk for later."""

import logging
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from hf_dtl.data import ImageTensors
from hf_dtl.errors import ConfigError, ModelError
from hf_dtl.fingerprint import fingerprint
from hf_dtl.functional import targeted_l2_pgd, wrong_labels
from hf_dtl.models.heads import MultiHeadClassifier
from hf_dtl.trainers.projection import fingerprints
from hf_dtl.trainers.saving import write_whole
from hf_dtl.trainers.shares import ALONE, Share

logger = logging.getLogger(__name__)

_LARGEST = 4 * 2**30
_BATCH = 64  # the same for any number of processes, so that the examples are the same bit for bit


def pixel_scale(processing_class, channels: int) -> tuple[Tensor, Tensor]:
    """Mean and deviation with which an image processor normalises: values = (pixels - mean) / deviation.

    They are measured on a black and a white image: processors have several ways to write them.

    Args:
        processing_class: image processor; None for images that were not normalised.
        channels: 1 or 3, as the model takes.

    Returns:
        Two tensors (channels,), for pixels in 0..1.

    Raises:
        ModelError: the processor fails, or makes the same of black and white.
    """
    if processing_class is None:
        return torch.zeros(channels), torch.ones(channels)
    mode, ends = "L" if channels == 1 else "RGB", []
    try:
        for value, end in ((0, np.min), (255, np.max)):
            picture = Image.new(mode, (64, 64), value if channels == 1 else (value,) * 3)
            ends.append(end(np.asarray(processing_class([picture])["pixel_values"][0]), axis=(1, 2)))
    except Exception as error:  # whatever a processor raises
        raise ModelError(f"{type(processing_class).__name__} cannot process a {mode} image: {error}") from error
    black, white = (torch.as_tensor(end, dtype=torch.float32) for end in ends)
    if not bool((white > black).all()):
        raise ModelError(f"{type(processing_class).__name__} makes no difference between a black and a white image.")
    return -black / (white - black), 1 / (white - black)


def make_adversaries(
    model: MultiHeadClassifier,
    images: ImageTensors,
    task: str,
    *,
    processing_class=None,
    examples: int = 20,
    epsilon: float = 4.0,
    step_size: float = 0.1,
    steps: int = 100,
    seed: int = 0,
    folder: str | Path | None = None,
    share: Share = ALONE,
) -> ImageTensors:
    """Make adversarial examples of each image toward labels drawn among those other than its own.

    Args:
        model: on the device to use; in evaluation mode.
        images: normalised, with their true labels.
        task: whose head is attacked.
        processing_class: image processor that the images went through.
        examples: of each image; every one has its own draw of the label and of where the search starts.
        epsilon, step_size, steps: see `hf_dtl.functional.targeted_l2_pgd`.
        seed: of the draws.
        folder: where the examples are kept, under a name that depends on all of the above; found there, they are
            read.
        share: that this process makes. The first one reads and writes the folder.

    Returns:
        examples x images images, normalised, on the CPU, labelled with what each was moved toward.

    Raises:
        ConfigError: values that no pixel in 0..1 has, more examples than memory should hold, or a head with one class.
    """
    size = examples * images.pixel_values.numel() * 4
    if size > _LARGEST:
        raise ConfigError(
            f"{examples} adversaries of each of {len(images)} images take {size / 2**30:.1f} GiB, more than "
            f"{_LARGEST / 2**30:.0f}. Lower examples, forget fewer images at a time, or set adversarial=False."
        )
    device, channels = next(model.parameters()).device, images.pixel_values.shape[1]
    mean, std = pixel_scale(processing_class, channels)
    _check_range(images.pixel_values, mean, std, processing_class)
    origin = torch.arange(len(images)).repeat_interleave(examples)
    try:
        generator = torch.Generator().manual_seed(seed)
        targets = wrong_labels(images.labels[origin], model.heads[task].out_features, generator)
    except ValueError as error:
        raise ConfigError(f"{error} Use a model with more classes.") from None
    batches = list(torch.arange(len(origin)).split(_BATCH))
    found = path = None
    if folder is not None and share.process == 0:
        options = {"examples": examples, "epsilon": epsilon, "step_size": step_size, "steps": steps, "seed": seed}
        own = fingerprints(model, task, processing_class)
        path = Path(folder) / f"adversaries-{fingerprint([own, options, images.pixel_values, targets])}.safetensors"
        found = _read(path, (len(origin), *images.pixel_values.shape[1:]))
    known = share.summed(torch.tensor([float(found is not None)], device=device))
    made = torch.zeros(len(origin), *images.pixel_values.shape[1:]) if found is None else found
    mine = range(share.process, 0 if known else len(batches), share.processes)
    model.eval()
    for number in tqdm(mine, desc="adversaries", unit="batch", **share.quiet):
        rows = batches[number]
        made[rows] = targeted_l2_pgd(
            lambda x: model(x, task=task), images.pixel_values[origin[rows]].to(device), targets[rows].to(device),
            mean=mean, std=std, epsilon=epsilon, step_size=step_size, steps=steps,
            generator=torch.Generator().manual_seed(seed * 1_000_003 + number),
        ).cpu()  # fmt: skip
    if share.processes > 1:  # all but one process hold zeros
        for rows in batches:
            made[rows] = share.summed(made[rows].to(device)).cpu()
    if path is not None and not known:
        write_whole({"pixel_values": made}, path)
    return ImageTensors(made, targets)


def _check_range(values: Tensor, mean: Tensor, std: Tensor, processing_class) -> None:
    low, high = (end.item() for end in (values * std.view(-1, 1, 1) + mean.view(-1, 1, 1)).aminmax())
    if not -1e-3 <= low <= high <= 1 + 1e-3:
        remedy = "They went through another image processor than the given one; give that."
        if processing_class is None:
            remedy = "Give the image processor that made them: processing_class=..."
        raise ConfigError(
            f"The images' pixels run from {low:.3g} to {high:.3g}; adversaries are made of pixels in 0..1. {remedy}"
        )


def _read(path: Path, shape: tuple[int, ...]) -> Tensor | None:
    """The examples that were kept; None where there are none, or a damaged file, which is made anew."""
    if not path.is_file():
        return None
    try:
        found = load_file(path)["pixel_values"]
        if found.shape == shape and found.dtype == torch.float32 and bool(torch.isfinite(found).all()):
            return found
        reason = f"it holds {found.dtype} {tuple(found.shape)}"
    except Exception as error:
        reason = str(error)
    logger.warning("The adversaries in %s cannot be used (%s); they are made anew.", path, reason)
    return None
