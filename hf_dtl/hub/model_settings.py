"""What the settings of a published model and its processor may say: what their classes read, and nothing else."""

import inspect
import json
import logging
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import transformers
from transformers import CONFIG_MAPPING, AutoImageProcessor, BaseImageProcessor, PretrainedConfig, PreTrainedModel

from hf_dtl.audit.report_fields import read_json
from hf_dtl.data import load_processor
from hf_dtl.errors import ModelError, PublishError, listing
from hf_dtl.hub.claims import VERSION
from hf_dtl.hub.weights import CONFIG, PROCESSORS

MOST_VALUES = 256
"""Numbers and texts in the settings of a model, its labels not counted: more could be a head."""
_CODE = ("auto_map", "custom_pipelines")
_LABELS = ("id2label", "label2id")
PRECISION = ("dtype", "torch_dtype")
MOST_LABELS, LONGEST_LABEL = 25_000, 500
"""Of one head, of which ImageNet-21k has the most, and characters of one."""
_OF_ANY = {
    "model_type", "architectures", *PRECISION, "transformers_version", "problem_type", "num_labels",
    "out_features", "out_indices", "stage_names", *_LABELS,
}  # fmt: skip
_OF_ANY_PROCESSOR = {"image_processor_type", "feature_extractor_type", "processor_class", "image_processor"}
_NEVER_READ = {"_name_or_path", "finetuning_task"}
_READ_IF = {
    "crop_size": "do_center_crop", "image_mean": "do_normalize", "image_std": "do_normalize", "pad_size": "do_pad",
    "rescale_factor": "do_rescale", "resample": "do_resize",
}  # fmt: skip
_OF_TIMM = {
    "architecture", "crop_mode", "crop_pct", "custom_load", "fixed_input_size", "input_size", "interpolation",
    "label_descriptions", "label_names", "label_offset", "mean", "min_input_size", "num_classes", "pool_size", "std",
    "tag", "test_crop_pct", "test_input_size", "test_pool_size",
}  # fmt: skip
_LARGEST = 2**31
LARGEST_IMAGE = 1024
"""Pixels along a side."""
_SIZES = ("size", "crop_size", "pad_size")
_TEXTS = {
    "transformers_version": re.compile(VERSION),
    "stage_names": re.compile(r"stem|stage_?\d+"),
    "out_features": re.compile(r"stem|stage_?\d+"),
    **dict.fromkeys(PRECISION, re.compile("float32")),
    "problem_type": re.compile("regression|single_label_classification|multi_label_classification"),
    # timm has no classes of its own for them, and a thousand names
    "architecture": re.compile(r"[a-z0-9_.]{1,60}"),
    "tag": re.compile(r"[a-z0-9_]{1,60}"),
    "interpolation": re.compile("bicubic|bilinear|nearest|lanczos|box|hamming|random"),
    "crop_mode": re.compile("center|squash|border"),
}
_AS_SAVED = (
    "Write it anew (`hf_dtl.hub.drop_unknown_settings(folder)`), and audit the folder: what was audited has a hash."
)

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


def written(content: dict[str, Any]) -> str:
    """JSON as `save_pretrained` writes it: blanks, order and long numbers can carry nothing."""
    return json.dumps(_numbered(content), indent=2, sort_keys=True) + "\n"


def _numbered(value: Any, name: str = "") -> Any:
    """The same value, its labels under numbers, by which transformers sorts them."""
    if isinstance(value, list):
        return [_numbered(item) for item in value]
    if not isinstance(value, dict):
        return value
    numbers = name == "id2label" and all(str(key).isdecimal() for key in value)
    return {int(key) if numbers else key: _numbered(item, key) for key, item in value.items()}


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _keys(item)


def check_settings(folder: Path) -> None:
    """Refuse settings of model and processor that their classes do not have, and labels of no row.

    A setting that nothing reads changes no answer, and may say what was forgotten.

    Raises:
        PublishError: naming file and key.
    """
    for name, key in _unknown(folder):
        raise PublishError(
            f"{name} has the key {key}, which no such model or processor reads: it may tell what was forgotten. "
            "Remove it (`hf_dtl.hub.drop_unknown_settings(folder)`), and audit the folder."
        )
    for name in (CONFIG, *PROCESSORS):
        if (folder / name).is_file():
            content = check_json(folder / name)
            if (folder / name).read_text(encoding="utf-8") != written(content):
                raise PublishError(
                    f"{name} is not written as `save_pretrained` writes it, and may carry a text in its blanks, its "
                    f"order or its numbers. {_AS_SAVED}"
                )
            for key, text in _unknown_texts(folder, name, content):
                raise PublishError(
                    f"{name} says {key}: {text[:60]!r}, which is no word of that architecture: it may tell what was "
                    f"forgotten, or where. Correct or remove it. {_AS_SAVED}"
                )
            own = list(values({k: v for k, v in content.items() if k not in _LABELS}))
            if large := [value for value in own if isinstance(value, int) and abs(value) > _LARGEST]:
                raise PublishError(f"{name} holds the number {str(large[0])[:40]}, which no model reads. {_AS_SAVED}")
            sides = list(values({k: content.get(k) for k in _SIZES})) if name != CONFIG else []
            if wide := [side for side in sides if isinstance(side, int) and side > LARGEST_IMAGE]:
                raise PublishError(
                    f"{name} makes images {wide[0]} pixels wide; one may fill a memory. Up to {LARGEST_IMAGE} "
                    "are published and attacked."
                )
            count = len(own)
            if count > MOST_VALUES:
                raise PublishError(
                    f"{name} holds {count} values besides its labels, more than {MOST_VALUES}: they could be a head."
                )
    try:
        load_processor(folder, transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False))
    except ModelError as error:
        raise PublishError(str(error).replace(f"'{folder}'", "the model")) from error


def save_plain(model: PreTrainedModel, processor: BaseImageProcessor, folder: str | Path) -> None:
    """Write a model and its processor as they are published, without settings that nothing reads."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    drop_unknown_settings(folder)


def drop_unknown_settings(folder: str | Path) -> list[str]:
    """Take out of a saved model's settings what its classes do not read, and write them as `save_pretrained` does.

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
        (folder / name).write_text(written(content), encoding="utf-8")
        dropped.append(f"{name}: {key}")
    for name in (CONFIG, *PROCESSORS):
        if (folder / name).is_file():
            (folder / name).write_text(written(check_json(folder / name)), encoding="utf-8")
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
        plain = json.loads(own().to_json_string())
        fields = {key for key in dir(own) if not key.startswith("_") and not callable(getattr(own, key))}
        known = _OF_ANY_PROCESSOR | fields | options | plain.keys()
        inner = content.get("image_processor")
        for prefix, part in {"": content, "image_processor.": inner if isinstance(inner, dict) else {}}.items():
            for key, value in part.items():
                listed = key == "_valid_processor_keys" and set(value) <= known | {"images"}
                flag = _READ_IF.get(key)
                read = flag is None or part.get(flag, plain.get(flag)) or value in (None, plain.get(key))
                if (key not in known and not listed) or not read:
                    yield name, prefix + key


def _unknown_of(content: dict[str, Any], kind: type[PretrainedConfig], place: str = "") -> Iterator[str]:
    known = _OF_ANY | set(kind.attribute_map) | set(inspect.signature(kind.__init__).parameters)
    try:
        known |= kind().to_dict().keys() - _NEVER_READ
    except Exception:  # a class that cannot be made without its parts
        known |= set(dir(kind))
    if kind.model_type == "timm_wrapper":
        known.add("pretrained_cfg")  # no field of the class, and all that the processor is made from
    parts = kind.sub_configs if isinstance(getattr(kind, "sub_configs", None), dict) else {}
    for key, value in content.items():
        if key not in known or (key in _NEVER_READ and value):
            yield place + key
        elif key == "pretrained_cfg" and isinstance(value, dict):
            yield from (f"{place}{key}.{inner}" for inner in value.keys() - _OF_TIMM)
        elif isinstance(value, dict) and (value.get("model_type") in CONFIG_MAPPING or key in parts):
            inner = CONFIG_MAPPING[value["model_type"]] if value.get("model_type") in CONFIG_MAPPING else parts[key]
            if (
                isinstance(inner, type)
                and issubclass(inner, PretrainedConfig)
                and inner.__init__ is not object.__init__
            ):
                yield from _unknown_of(value, inner, f"{place}{key}.")


def _unknown_texts(folder: Path, name: str, content: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Key and value of every text that is none of the words in the source of the classes that read it."""
    config = check_json(folder / CONFIG)
    kinds = [CONFIG_MAPPING[kind] for kind in set(texts_of(config, "model_type")) if kind in CONFIG_MAPPING]
    if name != CONFIG:
        kinds.append(type(AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)))
    known = {"", *transformers.activations.ACT2FN}.union(*(_literals(kind) for kind in (*kinds, BaseImageProcessor)))
    for key, text in _texts(content):
        form = _TEXTS.get(key)
        if key in ("architectures", "image_processor_type", "feature_extractor_type", "processor_class"):
            right = text.isidentifier() and isinstance(getattr(transformers, text, None), type)
        elif key == "model_type":
            right = text in CONFIG_MAPPING or text in known
        else:
            right = bool(form.fullmatch(text)) if form else text in known
        if not right:
            yield key, text
    if len(_listed := config.get("architectures") or []) > 1:
        yield "architectures", str(_listed[1])


def texts_of(value: Any, *keys: str) -> Iterator[str]:
    """The texts that stand under these keys in a JSON value, at any depth."""
    return (text for name, text in _texts(value) if name in keys)


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a JSON value with the key that it stands under, without labels."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, key)
    elif isinstance(value, dict):
        for name, item in value.items():
            if name not in (*_LABELS, "label_names", "label_descriptions", "_valid_processor_keys"):
                yield from _texts(item, name)


@cache
def _literals(kind: type) -> set[str]:
    """Words in quotes in the files beside a class: every name of a layer, a pooling and so on that it can read."""
    file = Path(inspect.getfile(kind))
    files = (
        file.parent.glob("*.py") if file.parent.parent.name == "models" else [file, file.with_name("image_utils.py")]
    )
    return {word for path in files for word in re.findall(r"""["']([\w.-]{1,40})["']""", path.read_text("utf-8"))}


def values(value: Any) -> Iterator[Any]:
    """Every single value in a JSON value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from values(item)
    else:
        yield value


def check_labels(config: dict[str, Any]) -> None:
    """Refuse labels that no row of the head stands for, as the source task's would be, and more than a head has.

    (A head that is shorter than `id2label` is found by its shape; see `check_weights`.)
    """
    names, rows = (config.get(name) or {} for name in _LABELS)
    if not isinstance(names, dict) or not isinstance(rows, dict):
        raise PublishError("config.json must hold objects as id2label and label2id. Save the model again.")
    longest = max((len(str(name)) for name in (*names.values(), *(config.get("label_names") or ()))), default=0)
    if len(names) > MOST_LABELS or longest > LONGEST_LABEL:
        raise PublishError(
            f"config.json names {len(names):,} labels, the longest of {longest:,} characters: up to {MOST_LABELS:,} "
            f"of {LONGEST_LABEL} are published. Give the classes shorter names, audit, and publish that."
        )
    extra = [str(label) for label, row in rows.items() if str(names.get(str(row))) != str(label)]
    if extra:
        raise PublishError(
            f"config.json names labels that the head does not have: {', '.join(extra[:5])} (label2id, not in "
            "id2label). They tell what was forgotten: write label2id anew from id2label."
        )
