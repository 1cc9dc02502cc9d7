"""What the weights of a published model may hold: the tensors of its architecture, and nothing else."""

import itertools
import json
import re
import struct
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from hf_dtl.audit.report_fields import read_json
from hf_dtl.errors import PublishError, listing
from hf_dtl.hub.model_settings import PRECISION, check_json, texts_of, written
from hf_dtl.hub.weights import CONFIG, INDEX
from hf_dtl.models.loading import open_classifier

# Of these, a counter that no training reaches could be a code.
_LARGEST_COUNT = 2**31
_COUNTER, _MOST_COUNTS = "num_batches_tracked", 3
"""Layers count the batches together, but for those that were frozen."""
_TEXT = re.compile(rb"[A-Za-z0-9 .,/_+-]{28,}")
"""The bytes of trained numbers hardly ever come to so many letters in a row: a sign or an exponent ends them."""


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
        index = check_json(folder / INDEX)
        weight_map = index.get("weight_map")
        named = set(weight_map.values()) if isinstance(weight_map, dict) else set()
    if files != named:
        extra, missing = sorted(files - named), sorted(named - files)
        found = f"{', '.join(extra)} besides" if extra else f"{', '.join(missing)} missing from"
        raise PublishError(
            f"The weights are not one model's: {found} {', '.join(sorted(named & files)) or 'the folder'}. A further "
            "file may be a source head. Save the model to an empty folder with `save_pretrained`."
        )
    stored = {key: file for file in sorted(files) for key in _check_header(folder / file)}
    if (folder / INDEX).exists():
        _check_index(folder / INDEX, index, stored)
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
    kinds = {*texts_of(check_json(folder / CONFIG), *PRECISION)}
    kinds |= {str(value.dtype)[6:] for value in model.state_dict().values() if value.is_floating_point()}
    if kinds - {"float32"}:
        raise PublishError(
            f"Whoever loads the model computes in {listing(sorted(kinds - {'float32'}), 3)}, as its weights or the "
            "`dtype` of config.json say, and an audit in float32, where it may be another model. Load it with "
            "`dtype=torch.float32`, save it to an empty folder and audit that one."
        )
    counts = {int(value.max()) for key, value in model.state_dict().items() if key.endswith(_COUNTER)}
    if len(counts) > _MOST_COUNTS:
        raise PublishError(
            f"The counters `{_COUNTER}` hold {len(counts)} different numbers, as no training leaves them: they may be "
            "a text. Set them to 0 and audit."
        )
    places = defaultdict[Any, list[torch.Tensor]](list)
    for value in model.state_dict().values():
        places[value.shape].append(value)
    for file in sorted(files):
        with safe_open(folder / file, "pt") as opened:
            for key in opened.keys():
                _take(opened.get_tensor(key), places, key, name)


def _take(stored: torch.Tensor, places: dict[Any, list[torch.Tensor]], key: str, model: str) -> None:
    """Take a stored tensor's place among those of the loaded model."""
    if stored.is_floating_point() and stored.dtype != torch.float32:
        raise PublishError(
            f"`{key}` holds numbers of the kind {str(stored.dtype)[6:]}, and an audit reads float32, which may be "
            "another model. Load it with `dtype=torch.float32`, save it to an empty folder and audit that one."
        )
    if not stored.is_floating_point() and stored.numel() and int(stored.abs().max()) >= _LARGEST_COUNT:
        raise PublishError(f"`{key}` counts to {int(stored.abs().max())}, as no training does. Set it to 0 and audit.")
    if text := _TEXT.search(stored.contiguous().flatten().view(torch.uint8).numpy().tobytes()):
        raise PublishError(
            f"`{key}` holds a text ({text.group()[:6].decode()}...) in the bytes of its numbers. Train the model "
            "anew, and revoke it if it opens anything."
        )
    own = places[stored.shape]
    for number, value in enumerate(own):
        if value.is_floating_point() == stored.is_floating_point() and torch.equal(stored.to(value.dtype), value):
            del own[number]
            return
    raise PublishError(
        f"`{key}` is none of the tensors of {model}: it stands under one of the names that are skipped when it is "
        "loaded. Load the model, save it to an empty folder and audit that one."
    )


def _check_index(path: Path, index: dict[str, Any], stored: dict[str, str]) -> None:
    """Refuse an index that says more than which tensor is in which file."""
    about = index.get("metadata") or {}
    plain = set(about) <= {"total_size", "total_parameters"} and all(
        isinstance(v, (int, float)) for v in about.values()
    )
    known = index.keys() <= {"metadata", "weight_map"} and index["weight_map"] == stored
    if not (plain and known and path.read_text(encoding="utf-8") == written(index)):
        raise PublishError(
            f"{path.name} holds more, or other things, than which tensor is in which file. Save the model to an empty "
            "folder with `save_pretrained`, and audit that one."
        )


def _check_header(path: Path) -> list[str]:
    """Refuse what the header of a safetensors file may hide: texts, names that stand twice, an order that is a code.

    Returns:
        The names of its tensors.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        text = file.read(size) if size <= path.stat().st_size else b""
    try:
        header = read_json(text.decode("utf-8"))
        metadata = header.pop("__metadata__", None) or {}
        named = {"__metadata__": metadata} if metadata else {}
        plain = json.dumps(named | header, separators=(",", ":"), ensure_ascii=False).encode()
        order = [(of["dtype"], name) for name, of in header.items()]
        places = [of["data_offsets"][0] for of in header.values()]
    except (ValueError, AttributeError, LookupError, TypeError, struct.error) as error:
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
    runs = [kind for kind, _ in itertools.groupby(kind for kind, _ in order)]
    if order != sorted(order, key=lambda one: (runs.index(one[0]), one[1])) or places != sorted(places):
        raise PublishError(
            f"{path.name} has its tensors in an order of its own, which may be a code. Save the model to an empty "
            "folder with `save_pretrained`, and audit that one."
        )
    return list(header)
