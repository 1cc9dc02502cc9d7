"""Image classifiers from the Hub or a folder, and the one processor that prepares images for several of them."""

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    BaseImageProcessor,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import cached_file

from hf_dtl.data import load_processor
from hf_dtl.data.decoding import to_channels
from hf_dtl.data.processors import channels_of, check_contrast, has_processor
from hf_dtl.errors import ModelError, listing
from hf_dtl.models.adapters import base_of, merge_adapters, rows_of_adapter
from hf_dtl.models.classifiers import check_interface, drop_caches, locate_classifiers

MAIN = "main"
ADAPTER = "adapter_model.safetensors"
logger = logging.getLogger(__name__)
# What a saved processor says about itself, not about the images.
_NO_PREPARATION = {"image_processor_type", "feature_extractor_type", "processor_class", "auto_map"}


def open_classifier(name_or_path: str | Path, **options: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Load from safetensors without code of the model, and say which weights did not fit (`output_loading_info`).

    Raises:
        ModelError: its weights would be others than those of its own safetensors files.
    """
    folder = Path(name_or_path)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if outside := sorted(str(name) for name in named if Path(str(name)).name != name):
            raise ModelError(f"The index of its weights names files outside the folder: {', '.join(outside[:3])}.")
    options |= {"use_safetensors": True, "trust_remote_code": False, "ignore_mismatched_sizes": True}
    places = {name: options[name] for name in ("revision", "local_files_only") if name in options}
    config = options.get("config") or AutoConfig.from_pretrained(name_or_path, trust_remote_code=False, **places)
    arguments = getattr(config, "model_args", None) or {}
    if elsewhere := [name for name in arguments if name.startswith(("pretrained", "checkpoint", "cache"))]:
        raise ModelError(f"Its configuration asks timm for weights of another place ({', '.join(elsewhere)}).")
    if re.search(r"[^\w.-]", getattr(config, "architecture", None) or ""):
        raise ModelError(f"Its architecture {config.architecture!r:.60} is none of timm's own.")
    if arguments.pop("num_classes", None) is not None:
        options["config"] = config  # timm 1.0.31 writes it, and transformers gives it too
    return AutoModelForImageClassification.from_pretrained(name_or_path, output_loading_info=True, **options)


def load_classifier(name_or_path: str | Path, revision: str = MAIN, *, new_head: bool = False) -> PreTrainedModel:
    """Load an image classifier in single precision from safetensors; code of the model is never run.

    Its numbers are those that everybody gets who loads it: where its configuration names a half precision, rounded.

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
    base = base_of(name, revision)
    try:
        if base is None:
            model, found = open_classifier(name_or_path, revision=revision, dtype="auto")
        else:
            model, found = _open_adapted(name, base, revision)
    except Exception as error:  # whatever a foreign configuration or file raises
        reason = str(error).strip().partition("\n")[0]
        adapted = f" It is an adapter of {base!r}, which is needed too." if base is not None else ""
        raise ModelError(
            f"The model {name!r} cannot be loaded: {reason}{adapted} Give a folder of an image classifier with "
            "safetensors weights, or a Hub id, which needs a network and HF_HUB_OFFLINE unset."
        ) from error
    wrong = {name for name, *_ in found["mismatched_keys"]} | set(found["missing_keys"])
    if new_head and wrong:
        heads = tuple(f"{path}." for path in locate_classifiers(model))
        wrong = {name for name in wrong if not name.startswith(heads)}
    if wrong:
        raise ModelError(
            f"The weights of {str(name_or_path)!r} lack {listing(sorted(wrong), 3)}, or have another shape than its "
            "configuration says: they would be random. Give a complete image classifier, no backbone without a head."
        )
    model.float()
    check_interface(model)
    drop_caches(model)
    if merge_adapters(model):
        logger.warning("'%s' is an adapter of '%s', and was merged into it.", name, base or "another model")
    return model.eval()


def _open_adapted(name: str, base: str, revision: str) -> tuple[PreTrainedModel, dict[str, Any]]:
    """As `open_classifier`, of an adapter and its base; a head that the adapter brings may be missing in the base."""
    file = cached_file(name, ADAPTER, revision=revision)
    config = AutoConfig.from_pretrained(base, trust_remote_code=False)
    with torch.device("meta"):
        heads = locate_classifiers(AutoModelForImageClassification.from_config(config))
    rows = rows_of_adapter(Path(str(file)), heads)
    own = cached_file(name, "config.json", revision=revision, _raise_exceptions_for_missing_entries=False)
    if own is not None:
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    elif rows is not None and rows != config.num_labels:
        config.num_labels = rows  # without names: the adapter has none
    model, found = open_classifier(base, config=config, dtype="auto")
    brought = tuple(f"{head}." for head in heads) if rows is not None else ()
    missing = {n for n in found["missing_keys"] if not n.startswith(brought or "\0")}
    wrong = {m for m in found["mismatched_keys"] if not m[0].startswith(brought or "\0")}
    added = model.load_adapter(name, adapter_kwargs={"revision": revision})
    return model, {
        "missing_keys": missing | set(added.missing_keys),
        "mismatched_keys": wrong | set(added.mismatched_keys),
    }


def processor_of(
    name_or_path: str | Path, model: PreTrainedModel, revision: str = MAIN, *, size: int | None = None
) -> BaseImageProcessor:
    """Load the processor that comes with a model; see `load_processor` for a model that has none.

    Args:
        name_or_path, revision: of the model.
        model: the model itself.
        size: see `resized`; None leaves the size as it is.

    Raises:
        ModelError: it cannot be loaded, or a revision other than `main` has none.
    """
    base = base_of(name_or_path, revision)
    if base is not None and not has_processor(str(name_or_path)):
        found = load_processor(base, model.config)
    elif revision == MAIN or Path(name_or_path).is_dir():
        found = load_processor(name_or_path, model.config)
    else:
        try:
            found = AutoImageProcessor.from_pretrained(name_or_path, revision=revision, trust_remote_code=False)
        except Exception as error:  # as above
            raise ModelError(
                f"The image processor of {str(name_or_path)!r} at the revision {revision!r} cannot be loaded: {error}"
            ) from error
        check_contrast(found, model.config, str(name_or_path))
    return found if size is None else resized(found, model, size)


def resized(processor: BaseImageProcessor, model: PreTrainedModel, size: int) -> BaseImageProcessor:
    """Return a processor that makes squares of `size` pixels, and prepares them in all else as `processor` does.

    What it enlarges to and what it crops change by one factor, so that it cuts off the same margin. One whose images
    are not all squares crops the middle.

    Raises:
        ModelError: it does not make such images.
    """
    kind, channels, said = type(processor).__name__, channels_of(model.config), processor.to_dict()
    made = image_size_of(processor, model.config)
    if len(set(made)) == 1:
        factor = size / made[0]
        changed: dict[str, Any] = {key: _scaled(said[key], factor) for key in ("size", "crop_size") if said.get(key)}
    else:
        square = {"height": size, "width": size}
        edge = square if "height" in (said.get("size") or {}) else {"shortest_edge": size}
        changed = {"size": edge, "crop_size": square, "do_resize": True, "do_center_crop": True}
    try:
        result = type(processor).from_dict(said | changed)
        made = _prepared("resized", result, channels).shape[1:]
        if made == (size, size):
            return result
        reason = f"it makes images of {made}"
    except (ModelError, TypeError, ValueError) as error:
        reason = str(error)
    raise ModelError(
        f"The image processor {kind} cannot be set to {size} pixels: {reason}. Leave out --image_size, or write the "
        "size into the model's preprocessor_config.json (of timm into pretrained_cfg of its config.json)."
    )


def image_size_of(processor: BaseImageProcessor, config: PretrainedConfig) -> tuple[int, ...]:
    """Height and width of what a processor makes of an image."""
    return tuple(_prepared("given", processor, channels_of(config)).shape[1:])


def _scaled(pixels: Any, factor: float) -> Any:
    """A size as processors state it, by sides or as one number."""
    if isinstance(pixels, Mapping):
        return {side: _scaled(value, factor) for side, value in pixels.items()}
    return round(pixels * factor) if isinstance(pixels, (int, float)) else pixels


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
        made = np.asarray(processor([image])["pixel_values"][0])
        if made.ndim != 3:
            raise ValueError(f"it makes arrays of the shape {made.shape}, no images")
        return made
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
