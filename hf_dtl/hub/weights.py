"""Which model a report speaks of: the hash of every file of a published folder that decides its answers."""

import hashlib
from pathlib import Path

from hf_dtl.data.processors import PROCESSOR_FILES as PROCESSORS

ONE = "."
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"
AUDITED = (CONFIG, *PROCESSORS, INDEX, "*.safetensors")
"""What an audit reads of a model; the order of its labels is in its `config.json`."""


def model_folders(folder: str | Path) -> tuple[str, ...]:
    """Where the models of a published folder are: `.`, or for several tasks the names of their folders, sorted."""
    folder = Path(folder)
    if (folder / "config.json").exists():
        return (ONE,)
    return tuple(sorted(path.parent.name for path in folder.glob("*/config.json"))) or (ONE,)


def weights_sha256(folder: str | Path) -> dict[str, str]:
    """Hash all that decides a model's answers: weights, every shard of them, and settings of model and processor.

    Args:
        folder: the model's folder, or one that holds a model for each task in a folder of its own; other folders
            inside it are not looked into.

    Returns:
        SHA-256 (64 hexadecimal digits) by file name (`TASK/model.safetensors` of a task), in the order of the names;
        empty where there are no weights. The Hub shows the same value for a file.
    """
    folder = Path(folder)
    files = [path for one in model_folders(folder) for name in AUDITED for path in (folder / one).glob(name)]
    if not any(path.suffix == ".safetensors" for path in files):
        return {}
    return {name: sha256_of(folder / name) for name in sorted(path.relative_to(folder).as_posix() for path in files)}


def sha256_of(path: Path) -> str:
    """Hash one file: 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
