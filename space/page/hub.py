"""Files of a Hub repository that a visitor named: sizes are asked first, and each file is checked before use."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.constants import HF_HUB_ETAG_TIMEOUT
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import tqdm
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForImageClassification
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as ARCHITECTURES

from hf_dtl.errors import DataError, DTLError, ModelError
from hf_dtl.hub.staging import REPORT

CONFIG, WEIGHTS, PROCESSOR = "config.json", "model.safetensors", "preprocessor_config.json"
LARGEST = {WEIGHTS: 100_000_000, REPORT: 2_000_000, CONFIG: 200_000, PROCESSOR: 20_000}
"""Bytes of the files that are fetched; no others are."""
MOST_PARAMETERS, MOST_LAYERS, MOST_LABELS, LARGEST_NUMBER = 25_000_000, 64, 1_000, 4_096
LARGEST_SIDE, MOST_FILES, LONGEST_NAME = 512, 500, 300
MOST_MULTIPLY_ADDS, MOST_VALUES = 10_000_000_000, 16_000_000
"""Of one image: multiply-adds, and values of the largest tensor, such as the attention of all tokens to all."""
MOST_IN_REPORT = {"row": 3_000, "seed": 20, "attack": 40, "budget": 20, "dataset": 8}
_COUNTS = ("layer", "depth", "block", "stage", "repeat", "group")


@contextmanager
def fetched(repo: str, *, report: bool) -> Iterator[Path]:
    """Fetch a model's files to a folder that is removed at the end, after checks of size and content.

    Args:
        repo: a Hub id.
        report: the repository must have a leakage report.

    Raises:
        ModelError: there is no such model, it is too large, or it asks for what is refused here.
        DataError: there is no leakage report, or it is too long.
    """
    with TemporaryDirectory(prefix="pair_") as folder:
        _fetch(repo, report, Path(folder))
        _check_content(Path(folder), repo)
        yield Path(folder)


def _fetch(repo: str, report: bool, folder: Path) -> None:
    api = HfApi(token=False)  # what is public, whatever this machine may see
    try:
        commit = api.model_info(repo, expand=["sha"], timeout=HF_HUB_ETAG_TIMEOUT).sha
        listed = islice(api.list_repo_tree(repo, revision=commit), MOST_FILES)
        sizes = {file.path: file.size for file in listed if isinstance(file, RepoFile)}
        for name in _check_files(repo, sizes, report):
            hf_hub_download(
                repo, name, revision=commit, local_dir=folder, etag_timeout=HF_HUB_ETAG_TIMEOUT, token=False,
                tqdm_class=_bounded(f"{name} of {repo}", sizes[name]),
            )  # fmt: skip
    except DTLError:
        raise
    except (RepositoryNotFoundError, GatedRepoError):
        raise ModelError(f"There is no public model {repo} on the Hub. Check the id.") from None
    except (OfflineModeIsEnabled, LocalEntryNotFoundError):
        raise ModelError(f"The Hub cannot be reached to fetch {repo}. Try later, or choose a local pair.") from None
    except Exception as error:  # whatever the network raises
        raise ModelError(f"{repo} could not be fetched from the Hub ({type(error).__name__}). Try later.") from error


def _bounded(what: str, most: int) -> type[tqdm]:
    """A progress bar that breaks off a file which goes on behind the size that the Hub said, before it is written."""

    class Bounded(tqdm):
        come = 0

        def update(self, n: float | None = 1) -> None:
            self.come += n or 0
            if self.come > most:
                raise ModelError(f"{what} is larger than the {most:,} bytes that the Hub said. Choose another model.")

    return Bounded


def _check_files(repo: str, sizes: dict[str, int], report: bool) -> list[str]:
    if report and REPORT not in sizes:
        raise DataError(f"{repo} has no {REPORT}, so there is nothing to compare with. Choose a model that has one.")
    for name in (CONFIG, WEIGHTS):
        if name not in sizes:
            raise ModelError(
                f"{repo} has no {name}. Only image classifiers in one safetensors file are read here; a model of "
                "several tasks, which has a folder for each, is not: verify it with scripts/audit.py."
            )
    wanted = [name for name in LARGEST if name in sizes and (report or name != REPORT)]
    for name in wanted:
        if sizes[name] > LARGEST[name]:
            raise ModelError(
                f"{name} of {repo} has {sizes[name]:,} bytes; this page takes up to {LARGEST[name]:,}. Audit it on a "
                "machine of your own with scripts/audit.py."
            )
    return wanted


def _check_content(folder: Path, repo: str) -> None:
    """Refuse files that would run code, or build something large, before they are given to any library."""
    for path in folder.glob("*.*"):
        if path.name in LARGEST and path.stat().st_size > LARGEST[path.name]:
            raise ModelError(f"{path.name} of {repo} is larger than the Hub said.")
    config = _read(folder / CONFIG, repo)
    if config.get("model_type") not in ARCHITECTURES:
        raise ModelError(
            f"{repo} is a {str(config.get('model_type'))[:40]!r}; only architectures that "
            "AutoModelForImageClassification offers are loaded."
        )
    check_config(config, repo)
    if (folder / PROCESSOR).exists():
        check_processor(_read(folder / PROCESSOR, repo), repo)
    if (folder / REPORT).exists():
        check_report(_read(folder / REPORT, repo), repo)
    try:
        with torch.device("meta"):  # takes no memory
            built = AutoModelForImageClassification.from_config(AutoConfig.from_pretrained(folder))
    except Exception as error:  # whatever a foreign configuration raises
        raise ModelError(f"{CONFIG} of {repo} describes no image classifier ({type(error).__name__}).") from error
    parameters = sum(p.numel() for p in built.parameters())
    if parameters > MOST_PARAMETERS:
        raise ModelError(f"{repo} has {parameters:,} parameters; this page takes up to {MOST_PARAMETERS:,}.")
    check_cost(built, _side(config, folder), repo)


def _side(config: dict[str, Any], folder: Path) -> int:
    """Pixels a side of the images that a model gets, at most; the processor's where it says so."""
    processor = json.loads((folder / PROCESSOR).read_text(encoding="utf-8")) if (folder / PROCESSOR).exists() else {}
    sizes = [value for key, value in _values({k: processor.get(k) for k in ("size", "crop_size")}) if value]
    size = config.get("image_size")
    sizes += [value for _, value in _values(size) if value]
    whole = [int(value) for value in sizes if isinstance(value, (int, float))]
    return max(whole, default=224)


class _Largest(TorchDispatchMode):
    """Notes the values of the largest tensor that is made."""

    values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(made) if isinstance(leaf, torch.Tensor)]
        self.values = max([self.values, *(tensor.numel() for tensor in tensors)])
        return made


@torch.no_grad()
def check_cost(built: nn.Module, side: int, repo: str) -> None:
    """Refuse a model that would take long for one image, or much memory.

    Args:
        built: on the device `meta`: it is walked through without computing anything.
        side: pixels of an image.
        repo: its Hub id.

    Raises:
        ModelError: the message names what it would take.
    """
    image = torch.empty(1, getattr(built.config, "num_channels", 3), side, side, device="meta")  # type: ignore[arg-type]
    try:
        with FlopCounterMode(display=False) as counter, _Largest() as largest:
            built.eval()(pixel_values=image)
    except Exception as error:  # whatever a foreign configuration raises
        raise ModelError(f"{repo} cannot be walked through for one image ({type(error).__name__}).") from error
    for found, most, what in (
        (counter.get_total_flops() // 2, MOST_MULTIPLY_ADDS, "multiply-adds"),
        (largest.values, MOST_VALUES, "values in one tensor"),
    ):
        if found > most:
            raise ModelError(
                f"{repo} takes {found:,} {what} for an image of {side}×{side} pixels; this page takes up to {most:,}. "
                "Audit it on a machine of your own with scripts/audit.py."
            )


def _read(path: Path, repo: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise DataError(f"{path.name} of {repo} is no JSON object.")
    return content


def check_config(config: dict[str, Any], repo: str) -> None:
    """Refuse a configuration that asks for code of its own, or for more than a small model has.

    Raises:
        ModelError: the message names the value.
    """
    for key, value in _values(config):
        name = key.lower()
        if name.startswith("auto_map") or "custom" in name:
            raise ModelError(f"{repo} asks for code of its own ({key}), which is never run here.")
        if "backbone" in name and isinstance(value, str):
            raise ModelError(f"{repo} asks for another model ({key}), which is not fetched here.")
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            most = MOST_LAYERS if any(word in name for word in _COUNTS) else LARGEST_NUMBER
            most = LARGEST_SIDE if name.endswith("image_size") else most
            if not -LARGEST_NUMBER <= value <= most and not name.startswith(("label2id", "id2label")):
                raise ModelError(f"{key} of {repo} is {value}; this page takes up to {most}.")
    for key in ("id2label", "label2id", "num_labels"):
        found = config.get(key, 0)
        if (len(found) if isinstance(found, (dict, list, str)) else found or 0) > MOST_LABELS:
            raise ModelError(f"{repo} has more than {MOST_LABELS} labels; this page takes no more.")


def check_processor(content: dict[str, Any], repo: str) -> None:
    """Refuse an image processor that asks for code of its own or makes large images.

    Raises:
        ModelError: the message names the value.
    """
    for key, value in _values(content):
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) > LARGEST_SIDE:
            raise ModelError(
                f"{key} of the image processor of {repo} is {value}; this page takes up to {LARGEST_SIDE}."
            )
    check_config(content, repo)


def check_report(content: dict[str, Any], repo: str) -> None:
    """Refuse a report whose tables, plots and intervals would take long.

    Raises:
        DataError: it holds too many attacks, seeds, budgets or data sets, or a name that is too long.
    """
    attacks = content.get("piggyback")
    rows = [row for row in attacks if isinstance(row, dict)] if isinstance(attacks, list) else []
    for key, most in MOST_IN_REPORT.items():
        found = len(rows) if key == "row" else len({str(row.get(key)) for row in rows})
        if found > most:
            raise DataError(f"The report of {repo} has {found} {key}s of attacks; this page takes up to {most}.")
    for text in (content.get("method"), *(row.get(key) for row in rows for key in ("attack", "dataset"))):
        if isinstance(text, str) and len(text) > LONGEST_NAME:
            raise DataError(f"The report of {repo} has a name of {len(text)} characters; {LONGEST_NAME} are taken.")


def _values(content: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is no container, by its dotted key; a list longer than any layout of layers is refused."""
    if isinstance(content, dict):
        for name, value in content.items():
            yield from _values(value, f"{key}.{name}" if key else str(name))
    elif isinstance(content, list):
        if len(content) > MOST_LAYERS and not key.startswith("id2label"):
            raise ModelError(f"{key} has {len(content)} entries; this page takes up to {MOST_LAYERS}.")
        for value in content:
            yield from _values(value, key)
    else:
        yield key, content
