"""Image classifiers from the Hub or a folder, and the one processor that prepares images for several of them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, BaseImageProcessor, PreTrainedModel

from hf_dtl.data import default_processor, load_processor
from hf_dtl.data.decoding import to_channels
from hf_dtl.errors import ModelError, listing
from hf_dtl.models.heads import locate_classifier

MAIN = "main"
_ADAPTER = (
    "{} has an adapter that was not merged (adapter_config.json): its weights are not those of its safetensors. "
    "Merge it (`merge_and_unload`), and save the merged model in another folder."
)
# What a saved processor says about itself, not about the images.
_NO_PREPARATION = {"image_processor_type", "feature_extractor_type", "processor_class", "auto_map"}


def open_classifier(name_or_path: str | Path, **options: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Load from safetensors without code of the model, and say which weights did not fit (`output_loading_info`).

    Raises:
        ModelError: its weights would be others than those of its own safetensors files.
    """
    folder = Path(name_or_path)
    if (folder / "adapter_config.json").exists():
        raise ModelError(_ADAPTER.format(str(name_or_path)))
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if outside := sorted(str(name) for name in named if Path(str(name)).name != name):
            raise ModelError(f"The index of its weights names files outside the folder: {', '.join(outside[:3])}.")
    options |= {"use_safetensors": True, "trust_remote_code": False, "ignore_mismatched_sizes": True}
    model, found = AutoModelForImageClassification.from_pretrained(name_or_path, output_loading_info=True, **options)
    if getattr(model, "_hf_peft_config_loaded", False):  # of the Hub, which is asked for one too
        raise ModelError(_ADAPTER.format(str(name_or_path)))
    return model, found


def load_classifier(name_or_path: str | Path, revision: str = MAIN, *, new_head: bool = False) -> PreTrainedModel:
    """Load an image classifier in single precision from safetensors; code of the model is never run.

    Args:
        name_or_path: Hub id or folder.
        revision: branch, tag or commit of a Hub model.
        new_head: the head will be replaced, so it may be missing; then it is random.

    Returns:
        The model in evaluation mode on the CPU.

    Raises:
        ModelError: it cannot be loaded, or its file lacks weights, which would silently be random.
    """
    name = str(name_or_path)
    if (name.startswith(("/", ".", "~")) or name.count("/") > 1) and not Path(name).is_dir():
        raise ModelError(f"There is no folder {name!r}. Give one with an image classifier, or a Hub id, user/model.")
    try:
        model, found = open_classifier(name_or_path, revision=revision, dtype=torch.float32)
    except Exception as error:  # whatever a foreign configuration or file raises
        reason = str(error).partition("\n")[0]
        raise ModelError(
            f"The model {name!r} cannot be loaded: {reason} Give a folder of an image classifier with safetensors "
            "weights, or a Hub id, which needs a network and HF_HUB_OFFLINE unset."
        ) from error
    wrong = {name for name, *_ in found["mismatched_keys"]} | set(found["missing_keys"])
    if new_head and wrong:
        head = locate_classifier(model)
        wrong = {name for name in wrong if not name.startswith(f"{head}.")}
    if wrong:
        raise ModelError(
            f"The weights of {str(name_or_path)!r} lack {listing(sorted(wrong), 3)}, or have another shape than its "
            "configuration says: they would be random. Give a complete image classifier, no backbone without a head."
        )
    return model.eval()


def processor_of(name_or_path: str | Path, model: PreTrainedModel, revision: str = MAIN) -> BaseImageProcessor:
    """Load the processor that comes with a model; see `load_processor` for a model that has none.

    Raises:
        ModelError: it cannot be loaded, or a revision other than `main` has none.
    """
    if revision == MAIN or Path(name_or_path).is_dir():
        return load_processor(name_or_path, model.config)
    try:
        return AutoImageProcessor.from_pretrained(name_or_path, revision=revision, trust_remote_code=False)
    except Exception as error:  # as above
        raise ModelError(
            f"The image processor of {str(name_or_path)!r} at the revision {revision!r} cannot be loaded: {error}"
        ) from error


def resized(processor: BaseImageProcessor, model: PreTrainedModel, size: int) -> BaseImageProcessor:
    """Return a processor that resizes to a square of `size` pixels and normalises as `processor` does."""
    result = default_processor(model.config, size)
    for name in ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std", "resample"):
        value = getattr(processor, name, None)
        if value is not None:
            setattr(result, name, value)
    return result


def check_same_processors(processors: Mapping[str, BaseImageProcessor], num_channels: int, remedy: str) -> None:
    """Refuse models whose processors make different tensors of one image: the same pixels must mean the same.

    Args:
        processors: by the name of the model, for the message.
        num_channels: 1 or 3, as the models take.
        remedy: what the user can do, as a sentence.

    Raises:
        ModelError: two processors differ; the message names the values. Or one fails.
    """
    (first, reference), *others = processors.items()
    expected = _prepared(first, reference, num_channels)
    for name, processor in others:
        tensor = _prepared(name, processor, num_channels)
        if tensor.shape != expected.shape or not np.allclose(tensor, expected, atol=1e-3):
            raise ModelError(
                f"The image processors of the {first} and the {name} model differ: "
                f"{_differences(first, reference, name, processor)}. With other pixels the comparison is not fair. "
                f"{remedy}"
            )


def _prepared(name: str, processor: BaseImageProcessor, num_channels: int) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    if num_channels == 1:
        image = to_channels(image.convert("L"), 1)
    try:
        return np.asarray(processor([image])["pixel_values"][0])
    except Exception as error:  # as above
        raise ModelError(
            f"The image processor of the {name} model ({type(processor).__name__}) cannot process an image with "
            f"{num_channels} channels: {error}. Choose another one with --processor."
        ) from error


def _differences(first: str, reference: BaseImageProcessor, name: str, processor: BaseImageProcessor) -> str:
    one, other = map(_preparation, (reference, processor))
    keys = [key for key in sorted(one.keys() | other.keys()) if one.get(key) != other.get(key)]
    named = [f"{key} {one.get(key)} ({first}), {other.get(key)} ({name})" for key in keys]
    return "; ".join(named) or f"{type(reference).__name__} ({first}), {type(processor).__name__} ({name})"


def _preparation(processor: BaseImageProcessor) -> dict[str, Any]:
    values = {key: value for key, value in processor.to_dict().items() if key not in _NO_PREPARATION}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def quiet() -> None:
    """Silence what transformers prints while it reads and writes weights; a run has bars of its own."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
