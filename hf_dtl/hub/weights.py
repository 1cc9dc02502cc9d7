"""Which weights a report speaks of: the hash of every safetensors file of a published folder."""

import hashlib
from pathlib import Path

ONE = "."


def model_folders(folder: str | Path) -> tuple[str, ...]:
    """Where the models of a published folder are: `.`, or for several tasks the names of their folders, sorted."""
    folder = Path(folder)
    if (folder / "config.json").exists():
        return (ONE,)
    return tuple(sorted(path.parent.name for path in folder.glob("*/config.json"))) or (ONE,)


def weights_sha256(folder: str | Path) -> dict[str, str]:
    """Hash the safetensors files of a model folder, every shard of it; other folders inside it are not looked into.

    Args:
        folder: the model's folder, or one that holds a model for each task in a folder of its own.

    Returns:
        SHA-256 (64 hexadecimal digits) by file name (`TASK/model.safetensors` of a task), in the order of the names;
        empty where there is no such file. The Hub shows the same value for a file.
    """
    folder = Path(folder)
    files = [path for one in model_folders(folder) for path in sorted((folder / one).glob("*.safetensors"))]
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}


def sha256_of(path: Path) -> str:
    """Hash one file: 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
