"""What a published folder must not hold: files, local paths, secrets, and weights besides the published model's."""

import json
import math
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from PIL import Image
from safetensors import safe_open

from hf_dtl.errors import PublishError, listing
from hf_dtl.models.loading import open_classifier

INDEX = "model.safetensors.index.json"


class Leak(NamedTuple):
    """Files that give away what was disposed of, or run code."""

    patterns: tuple[str, ...]
    what: str
    remedy: str


LEAKS = (
    Leak(
        ("adapter_config.json", "adapter_model*"),
        "an adapter that was not merged: whoever removes it has the model as it was before the disposal",
        "Merge it (`merge_and_unload`), save the merged model in another folder and audit that one",
    ),
    Leak(
        ("checkpoint-*", "training_args*", "optimizer*", "scheduler*", "trainer_state*", "rng_state*", "scaler*"),
        "a trainer's state: it is a pickle, or remembers gradients and the head of the forgotten task",
        "Publish what `trainer.save_model(folder)` writes to an empty folder",
    ),
    Leak(
        ("tasks.json",),
        "the list of several heads: whoever has the forgotten task's head need not relearn it",
        "Export one task (`MultiHeadClassifier.export`), save and audit it, and publish that folder",
    ),
    Leak(
        ("*.py", "*.pyc", "*.so", "*.ipynb", "*.sh"),
        "code: a published model must load without running any",
        "Delete it, or use an architecture that transformers has",
    ),
    Leak(
        (
            "*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.joblib", "*.npy", "*.npz", "*.h5", "*.msgpack",
            "*.onnx", "*.gguf", "*.tar", "*.zip", "*.gz",
        ),
        "a pickle or an archive: what it holds cannot be checked, and reading it may run code",
        "Delete it; weights are published as safetensors (`save_pretrained`)",
    ),
)  # fmt: skip
SECRETS = {
    "a Hugging Face token": re.compile(r"\b(?:hf|api_org)_(?:oauth_|jwt_)?[A-Za-z0-9]{20,}"),
    "an AWS key": re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    "a GitHub token": re.compile(r"\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{30,}"),
    "an API key": re.compile(r"\bsk-[A-Za-z0-9_-]{20,}"),
    "a bearer token": re.compile(r"\b[Bb]earer\s+[A-Za-z0-9._~+/=-]{16,}"),
    "a password in an address": re.compile(r"://[^\s/:@]+:[^\s/@]+@"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
}
# Absolute paths of two parts or below a usual root, home folders, file:, drives and shares; not /class or https://.
PATHS = re.compile(
    r"""file:/\S+
    |(?<![\w./\\<])(?:
        ~\w*[/\\]\w[^\s"'`)\]]*
        |/(?:home|root|Users|tmp|mnt|var|srv|data|opt|workspace|content|private)\b[^\s"'`)\]]*
        |/[\w.@+~-]+/[^\s"'`)\]]+
        |[A-Za-z]:[/\\]\w[^\s"'`)\]]*
        |\\\\[\w.-]+\\[^\s"'`)\]]+
    )""",
    re.VERBOSE,
)


def leak_of(name: str) -> Leak | None:
    """What a file would leak by its name, which may have folders in it; None for an unsuspicious one."""
    parts = PurePosixPath(name).parts
    return next((leak for leak in LEAKS for p in parts if any(fnmatch(p, pattern) for pattern in leak.patterns)), None)


def check_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that asks for no code of its own.

    Raises:
        PublishError: it is no JSON object, or has an `auto_map`.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PublishError(f"{path.name} is not readable as JSON: {error}. Save the model again.") from error
    if not isinstance(content, dict):
        raise PublishError(f"{path.name} must hold a JSON object. Save the model again.")
    for key in ("auto_map", "custom_pipelines"):
        if key in content:
            raise PublishError(
                f"{path.name} asks for code of its own ({key}). A published model loads without any: remove {key}, "
                "or use an architecture that transformers has."
            )
    return content


def check_labels(config: dict[str, Any]) -> None:
    """Refuse labels in `config.json` that no row of the head stands for, as the source task's would be.

    (A head that is shorter than `id2label` is found by its shape; see `check_weights`.)
    """
    names = config.get("id2label") or {}
    rows = config.get("label2id") or {}
    extra = [str(label) for label, row in rows.items() if str(names.get(str(row))) != str(label)]
    if extra:
        raise PublishError(
            f"config.json names labels that the head does not have: {', '.join(extra[:5])} (label2id, not in "
            "id2label). They tell what was forgotten: write label2id anew from id2label."
        )
    name = str(config.get("_name_or_path") or "")
    if name.count("/") > 1:
        raise PublishError(
            f"`_name_or_path` in config.json is a local folder ({name!r}). Remove it, or write the Hub id there."
        )


def check_text(name: str, texts: Iterator[str]) -> None:
    """Refuse local paths and secrets.

    Args:
        name: of the file, for the message.
        texts: what a reader of the file can see.

    Raises:
        PublishError: one was found. Of a secret, only the beginning is repeated.
    """
    for text in texts:
        for what, pattern in SECRETS.items():
            if secret := pattern.search(text):
                raise PublishError(
                    f"{name} holds {what} ({secret.group()[:6]}...). Remove it, and revoke it: it may have been read."
                )
        if path := PATHS.search(text):
            raise PublishError(
                f"{name} names a local folder: {path.group()}. It tells about your machine: remove it, or write the "
                "file anew from a relative path or Hub id."
            )


def texts_of(path: Path) -> Iterator[str]:
    """Every text that a JSON, Markdown, PNG or safetensors file carries; pixels and weights are none."""
    try:
        if path.suffix == ".json":
            yield from _strings(json.loads(path.read_text(encoding="utf-8")))
        elif path.suffix == ".png":
            with Image.open(path, formats=["PNG"]) as image:
                image.load()
                yield from _strings([image.info, list(image.getexif().values())])
        elif path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                yield from _strings([file.metadata() or {}, list(file.keys())])
        else:
            yield path.read_text(encoding="utf-8")
    except Exception as error:  # whatever a broken file raises
        raise PublishError(f"{path.name} cannot be read: {error}. Write it anew.") from error


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
            yield from _strings(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)


def check_weights(folder: Path) -> None:
    """Refuse weights that are not of the architecture in `config.json`: other heads, teachers, a former backbone.

    The files are loaded as every user loads them, so that the names of older and newer versions of transformers mean
    the same; what the loader would ignore in silence shows in the number of values.

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
    stored = 0
    for file in files:
        with safe_open(folder / file, "pt") as opened:
            stored += sum(math.prod(opened.get_slice(key).get_shape()) for key in opened.keys())
    values = sum(value.numel() for value in model.state_dict().values())
    if stored > values:
        raise PublishError(
            f"The safetensors hold {stored:,} values, {name} only {values:,}: the rest stands under names that are "
            "skipped when it is loaded. Load the model, save it to an empty folder and audit that one."
        )
