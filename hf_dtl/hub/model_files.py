"""What the files of a published model may hold: the weights and settings of its architecture, and nothing else."""

import inspect
import json
import logging
import struct
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import CONFIG_MAPPING, AutoImageProcessor, BaseImageProcessor, PretrainedConfig, PreTrainedModel

from hf_dtl.audit.report_fields import read_json
from hf_dtl.errors import PublishError, listing
from hf_dtl.hub.weights import CONFIG, INDEX, PROCESSORS
from hf_dtl.models.loading import open_classifier

MOST_VALUES = 256
"""Numbers and texts in the settings of a model, its labels not counted: more could be a head."""
_CODE = ("auto_map", "custom_pipelines")
_LABELS = ("id2label", "label2id")
_OF_ANY = {
    "model_type", "architectures", "dtype", "torch_dtype", "transformers_version", "problem_type", "finetuning_task",
    "num_labels", "out_features", "out_indices", "stage_names", *_LABELS,
}  # fmt: skip
_OF_ANY_PROCESSOR = {"image_processor_type", "feature_extractor_type", "processor_class", "image_processor"}
# Of these, a counter that no training reaches could be a code.
_LARGEST_COUNT = 2**31

logger = logging.getLogger(__name__)


def check_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that asks for no code of its own.

    Raises:
        PublishError: it is no JSON object that all readers understand alike, or has an `auto_map`.
    """
    try:
        content = read_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PublishError(f"{path.name} is not readable as JSON: {error}. Save the model again.") from error
    if not isinstance(content, dict):
        raise PublishError(f"{path.name} must hold a JSON object. Save the model again.")
    if key := next((key for key in _keys(content) if key.lower() in _CODE), None):
        raise PublishError(
            f"{path.name} asks for code of its own ({key}). A published model loads without any: remove {key}, "
            "or use an architecture that transformers has."
        )
    return content


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _keys(item)


# Settings -----------------------------------------------------------------------------------------------------


def check_settings(folder: Path) -> None:
    """Refuse settings of model and processor that their classes do not have, and labels of no row.

    A setting that nothing reads changes no answer, and may say what was forgotten.

    Raises:
        PublishError: naming file and key.
    """
    config = check_json(folder / CONFIG)
    for name, key in _unknown(folder):
        raise PublishError(
            f"{name} has the key {key}, which no such model or processor reads: it may tell what was forgotten. "
            "Remove it (`hf_dtl.hub.drop_unknown_settings(folder)`), and audit the folder."
        )
    _check_labels(config)
    for name in (CONFIG, *PROCESSORS):
        if (folder / name).is_file():
            count = sum(1 for _ in values({k: v for k, v in check_json(folder / name).items() if k not in _LABELS}))
            if count > MOST_VALUES:
                raise PublishError(
                    f"{name} holds {count} values besides its labels, more than {MOST_VALUES}: they could be a head."
                )


def save_plain(model: PreTrainedModel, processor: BaseImageProcessor, folder: str | Path) -> None:
    """Write a model and its processor as they are published, without settings that nothing reads."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    drop_unknown_settings(folder)


def drop_unknown_settings(folder: str | Path) -> list[str]:
    """Take out of a saved model's settings what its classes do not read, and where it came from.

    Args:
        folder: of `save_pretrained`, for model and processor.

    Returns:
        What was dropped, `file: key`; it is logged too.
    """
    folder, dropped = Path(folder), []
    for name, key in list(_unknown(folder)):
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        inner, *rest = key.split(".")
        place = content
        for step in rest:
            place, inner = place[inner], step
        del place[inner]
        (folder / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        dropped.append(f"{name}: {key}")
    if dropped:
        logger.warning("Not written, for nothing reads it: %s.", listing(dropped, 10))
    return dropped


def _unknown(folder: Path) -> Iterator[tuple[str, str]]:
    """File and key (`vision_config.note`) of every setting that the classes of model and processor do not have."""
    config = check_json(folder / CONFIG)
    kind = CONFIG_MAPPING[config["model_type"]] if config.get("model_type") in CONFIG_MAPPING else PretrainedConfig
    for key in _unknown_of(config, kind):
        yield CONFIG, key
    for name in PROCESSORS:
        if not (folder / name).is_file():
            continue
        content = check_json(folder / name)
        try:
            own = type(AutoImageProcessor.from_pretrained(folder, trust_remote_code=False))
        except Exception as error:  # whatever a foreign file raises
            raise PublishError(f"The image processor does not load without code of its own: {error}") from error
        options = {key for base in own.valid_kwargs.__mro__ for key in vars(base).get("__annotations__", ())}
        known = (
            _OF_ANY_PROCESSOR | {key for key in dir(own) if not key.startswith("_")} | options | own().to_dict().keys()
        )
        inner = content.get("image_processor")
        for prefix, part in {"": content, "image_processor.": inner if isinstance(inner, dict) else {}}.items():
            for key, value in part.items():
                listed = key == "_valid_processor_keys" and set(value) <= known | {"images"}
                if key not in known and not listed:
                    yield name, prefix + key


def _unknown_of(content: dict[str, Any], kind: type[PretrainedConfig], place: str = "") -> Iterator[str]:
    known = _OF_ANY | set(kind.attribute_map) | set(inspect.signature(kind.__init__).parameters)
    try:
        known |= kind().to_dict().keys() - {"_name_or_path"}
    except Exception:  # a class that cannot be made without its parts
        known |= set(dir(kind))
    parts = kind.sub_configs if isinstance(getattr(kind, "sub_configs", None), dict) else {}
    for key, value in content.items():
        if key not in known or (key == "_name_or_path" and value):
            yield place + key
        elif isinstance(value, dict) and (value.get("model_type") in CONFIG_MAPPING or key in parts):
            inner = CONFIG_MAPPING[value["model_type"]] if value.get("model_type") in CONFIG_MAPPING else parts[key]
            if (
                isinstance(inner, type)
                and issubclass(inner, PretrainedConfig)
                and inner.__init__ is not object.__init__
            ):
                yield from _unknown_of(value, inner, f"{place}{key}.")


def values(value: Any) -> Iterator[Any]:
    """Every single value in a JSON value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from values(item)
    else:
        yield value


def _check_labels(config: dict[str, Any]) -> None:
    """Refuse labels that no row of the head stands for, as the source task's would be.

    (A head that is shorter than `id2label` is found by its shape; see `check_weights`.)
    """
    names, rows = (config.get(name) or {} for name in _LABELS)
    if not isinstance(names, dict) or not isinstance(rows, dict):
        raise PublishError("config.json must hold objects as id2label and label2id. Save the model again.")
    extra = [str(label) for label, row in rows.items() if str(names.get(str(row))) != str(label)]
    if extra:
        raise PublishError(
            f"config.json names labels that the head does not have: {', '.join(extra[:5])} (label2id, not in "
            "id2label). They tell what was forgotten: write label2id anew from id2label."
        )


# Weights ------------------------------------------------------------------------------------------------------


def check_weights(folder: Path) -> None:
    """Refuse weights that are not of the architecture in `config.json`: other heads, teachers, a former backbone.

    The files are loaded as every user loads them, so that the names of older and newer versions of transformers mean
    the same; every stored tensor must then be one of the model's, value by value.

    Args:
        folder: the staged folder.

    Raises:
        PublishError: the model cannot be loaded, or the files hold more, less or something else.
    """
    files = {path.name for path in folder.glob("*.safetensors")}
    named = {"model.safetensors"}
    if (folder / INDEX).exists():
        weight_map = check_json(folder / INDEX).get("weight_map")
        named = set(weight_map.values()) if isinstance(weight_map, dict) else set()
    if files != named:
        extra, missing = sorted(files - named), sorted(named - files)
        found = f"{', '.join(extra)} besides" if extra else f"{', '.join(missing)} missing from"
        raise PublishError(
            f"The weights are not one model's: {found} {', '.join(sorted(named & files)) or 'the folder'}. A further "
            "file may be a source head. Save the model to an empty folder with `save_pretrained`."
        )
    for file in sorted(files):
        _check_header(folder / file)
    try:
        model, loading = open_classifier(folder, dtype="auto", local_files_only=True)
    except Exception as error:  # whatever a foreign configuration or file raises
        raise PublishError(
            f"The model does not load with AutoModelForImageClassification, without code of its own: {error}"
        ) from error
    name = type(model).__name__
    if loading["unexpected_keys"]:
        surplus = listing(sorted(loading["unexpected_keys"]), 3)
        raise PublishError(
            f"The safetensors hold weights that {name} has no place for: {surplus}. They may be a head of the "
            "forgotten task. Export one task (`MultiHeadClassifier.export`, `trainer.save_model`), save and audit it."
        )
    for key, shape, expected in sorted(loading["mismatched_keys"]):
        raise PublishError(
            f"`{key}` has the shape {tuple(shape)}, but config.json, which names {model.config.num_labels} labels, "
            f"asks for {tuple(expected)}. Head and id2label must name the same classes, none of the forgotten task."
        )
    if loading["missing_keys"]:
        lacking = listing(sorted(loading["missing_keys"]), 3)
        raise PublishError(f"The safetensors lack {lacking} of {name}: they would be random. Save the whole model.")
    places = defaultdict[Any, list[torch.Tensor]](list)
    for value in model.state_dict().values():
        places[value.shape].append(value)
    for file in sorted(files):
        with safe_open(folder / file, "pt") as opened:
            for key in opened.keys():
                _take(opened.get_tensor(key), places, key, name)


def _take(stored: torch.Tensor, places: dict[Any, list[torch.Tensor]], key: str, model: str) -> None:
    """Take a stored tensor's place among those of the loaded model."""
    if stored.is_floating_point() and stored.element_size() > 4:
        raise PublishError(
            f"`{key}` holds numbers of 64 bits, of which an audit reads 32: what the others hold was not audited. "
            "Load the model in float32, save it to an empty folder and audit that one."
        )
    if not stored.is_floating_point() and stored.numel() and int(stored.abs().max()) >= _LARGEST_COUNT:
        raise PublishError(f"`{key}` counts to {int(stored.abs().max())}, as no training does. Set it to 0 and audit.")
    own = places[stored.shape]
    for number, value in enumerate(own):
        if value.is_floating_point() == stored.is_floating_point() and torch.equal(stored.to(value.dtype), value):
            del own[number]
            return
    raise PublishError(
        f"`{key}` is none of the tensors of {model}: it stands under one of the names that are skipped when it is "
        "loaded. Load the model, save it to an empty folder and audit that one."
    )


def _check_header(path: Path) -> None:
    """Refuse what the header of a safetensors file may hide: texts, names that stand twice, blanks that are a code."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        text = file.read(size) if size <= path.stat().st_size else b""
    try:
        header = read_json(text.decode("utf-8"))
        metadata = header.pop("__metadata__", None) or {}
        named = {"__metadata__": metadata} if metadata else {}
        plain = json.dumps(named | header, separators=(",", ":"), ensure_ascii=False).encode()
    except (ValueError, AttributeError, struct.error) as error:
        raise PublishError(f"{path.name} cannot be read as safetensors: {error}. Save the model again.") from error
    if metadata not in ({}, {"format": "pt"}):
        told = listing(sorted(set(metadata) - {"format"}) or ["format"], 3)
        raise PublishError(
            f"{path.name} carries texts beside its weights ({told}). Save the model to an empty folder with "
            "`save_pretrained`, which writes none, and audit that one."
        )
    if len(text.rstrip(b" ")) != len(plain) or len(text) - len(plain) > 8:
        raise PublishError(
            f"{path.name} has a header with more than the names and places of its tensors. Save the model to an empty "
            "folder with `save_pretrained`, and audit that one."
        )
