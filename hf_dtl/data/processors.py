"""Image processors for models that have none, and a check that a processor and a model fit together."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from PIL import Image
from torch.utils.data import Dataset
from transformers import AutoImageProcessor, BaseImageProcessor, PretrainedConfig, PreTrainedModel
from transformers import ViTImageProcessorPil as ViTProcessor
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from hf_dtl.errors import ModelError

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")

LEAST_SHARE = 0.5
"""Of a picture's side, that a processor cuts out."""
CONTRAST = (1e-3, 1e4)
"""Least and largest step from black to white that a processor may make; usual are 1 to 255."""

logger = logging.getLogger(__name__)


def embedded_processor(size: int = 28) -> ViTProcessor:
    """Return the processor of the embedded 28×28 data for a 3-channel model: pixel values in -1..1.

    Args:
        size: height and width to resize to, in pixels.
    """
    return _vit_processor((size, size), [0.5] * 3, [0.5] * 3)


def vision_config(config: PretrainedConfig) -> PretrainedConfig:
    """The part of a configuration that speaks of images: CLIP and SigLIP keep it beside one of texts."""
    return getattr(config, "vision_config", config)


def channels_of(config: PretrainedConfig) -> int:
    """Channels of the images that a model takes."""
    timm = (getattr(config, "pretrained_cfg", None) or {}).get("input_size", (3,))
    return getattr(vision_config(config), "num_channels", None) or timm[0]


def default_processor(config: PretrainedConfig, size: int | tuple[int, int] | None = None) -> ViTProcessor:
    """Return a processor for a model that comes without one: ImageNet's mean and deviation, the model's image size.

    Args:
        config: of the model; `image_size` (default 224) and `num_channels` (default 3) are read.
        size: pixels (one number, or height and width) in place of the model's image size.
    """
    size = size or getattr(vision_config(config), "image_size", None) or 224
    height, width = (size, size) if isinstance(size, int) else size
    if channels_of(config) == 1:
        return _vit_processor((height, width), [0.5], [0.5])
    return _vit_processor((height, width), list(IMAGENET_DEFAULT_MEAN), list(IMAGENET_DEFAULT_STD))


def load_processor(name_or_path: str | Path, config: PretrainedConfig) -> BaseImageProcessor:
    """Load the image processor of a model, or make a default one where the model surely has none.

    Args:
        name_or_path: Hub id or folder of the model.
        config: of the model, for the default.

    Raises:
        ModelError: the model has a processor that cannot be read or used, or the Hub could not be asked whether it has
            one: a wrong guess of mean and deviation would spoil the results unseen.
    """
    try:
        found = AutoImageProcessor.from_pretrained(name_or_path, trust_remote_code=False)
    except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
        if has_processor(str(name_or_path)):
            raise ModelError(f"The image processor of '{name_or_path}' cannot be loaded: {error}") from error
    else:
        check_contrast(found, config, str(name_or_path))
        return found
    processor = default_processor(config)
    height, width = processor.size["height"], processor.size["width"]
    normal = "ImageNet's mean and deviation" if len(processor.image_mean) == 3 else "mean and deviation 0.5"
    told = "'%s' has no image processor file: images are resized to %d×%d and normalised with %s."
    logger.warning(told, name_or_path, height, width, normal)
    return processor


def check_contrast(processor: BaseImageProcessor, config: PretrainedConfig, name: str) -> None:
    """Refuse a processor that makes no picture of a picture, as with a deviation of 0, below 0 or next to nothing.

    Args:
        processor: as it was loaded.
        config: of the model that it is for.
        name: of that model, for the message.

    Raises:
        ModelError: white is nowhere brighter than black, is darker somewhere, or further away than `CONTRAST`; or the
            part that it cuts out is so small that the picture before it fills the memory.
    """
    timm = getattr(config, "pretrained_cfg", None)
    for share in (getattr(processor, "crop_pct", None), timm.get("crop_pct") if isinstance(timm, dict) else None):
        if share is not None and not (isinstance(share, (int, float)) and LEAST_SHARE <= share <= 1):
            raise ModelError(
                f"The image processor of '{name}' enlarges pictures until crop_pct {share!r} of a side is what the "
                f"model sees. Set it to between {LEAST_SHARE} and 1."
            )
    if (channels := channels_of(config)) not in (1, 3):
        return
    images = [Image.new("L" if channels == 1 else "RGB", (56, 56), colour) for colour in ("black", "white")]
    with np.errstate(all="ignore"):
        try:
            black, white = (np.asarray(processor([image])["pixel_values"][0], np.float64) for image in images)
            step = white - black
        except Exception as error:  # whatever a processor raises
            raise ModelError(f"The image processor of '{name}' cannot process an image: {error}") from error
        low, high = CONTRAST
        if np.isfinite(step).all() and step.min() >= 0 and low <= step.max() <= high:
            return
    raise ModelError(
        f"The image processor of '{name}' makes no picture: from black to white its values go up by "
        f"{step.min():.3g} to {step.max():.3g}. Correct its image_mean, image_std and rescale_factor; the last two "
        "must be above 0."
    )


def check_forward(model: PreTrainedModel, images: Dataset) -> None:
    """Run one image through a model, without gradient and in evaluation mode, to find a misfit before any training.

    Args:
        model: takes `pixel_values`; its modes of training are left as they were.
        images: as `load_images` returns them; the first one is used.

    Raises:
        ModelError: the model cannot take an image of that shape, or its output is not finite.
    """
    pixels: torch.Tensor = images[0]["pixel_values"]
    device = next(model.parameters()).device
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            output: Any = model(pixel_values=pixels[None].to(device))
    except Exception as error:  # whatever a model raises for a shape it cannot take
        raise ModelError(f"{_misfit(model, pixels)} It failed with: {type(error).__name__}: {error}") from error
    finally:
        for module, training in modes.items():
            module.training = training
    if not torch.isfinite(output[0]).all():
        raise ModelError(f"{_misfit(model, pixels)} Its output is not finite: the weights or images are broken.")


def _vit_processor(size: tuple[int, int], mean: list[float], deviation: list[float]) -> ViTProcessor:
    # do_convert_rgb is saved with the processor, so that grey images work in anybody's pipeline too.
    options: dict[str, Any] = {"size": {"height": size[0], "width": size[1]}, "do_convert_rgb": len(mean) == 3}
    return ViTProcessor(image_mean=mean, image_std=deviation, **options)


def has_processor(name: str) -> bool:
    """Whether a folder or Hub repository has an image processor.

    Raises:
        ModelError: the Hub cannot be asked.
    """
    if Path(name).is_dir():
        return any((Path(name) / file).exists() for file in PROCESSOR_FILES)
    for file in PROCESSOR_FILES:
        try:
            hf_hub_download(name, file)
        except LocalEntryNotFoundError as error:
            raise ModelError(
                f"The Hub cannot be asked for the image processor of '{name}': {error} "
                "Check the network, or give a folder."
            ) from error
        except EntryNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise ModelError(f"The image processor of '{name}' cannot be found: {error}") from error
        return True
    return False


def _misfit(model: PreTrainedModel, pixels: torch.Tensor) -> str:
    known = {key: getattr(vision_config(model.config), key, None) for key in ("image_size", "num_channels")}
    wants = ", ".join(f"{key} {value}" for key, value in known.items() if value is not None)
    return (
        f"{type(model).__name__} cannot use images of the shape {tuple(pixels.shape)} (channels, height, width) that "
        f"the image processor makes; its configuration wants {wants or 'no stated shape'}. Choose another processor "
        "or image size (on the command line --image_size)."
    )
