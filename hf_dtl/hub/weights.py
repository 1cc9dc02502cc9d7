"""Which weights a report speaks of: the hash of every safetensors file of a folder."""

import hashlib
from pathlib import Path


def weights_sha256(folder: str | Path) -> dict[str, str]:
    """Hash the safetensors files of a model folder, every shard of it; folders inside it are not looked into.

    Args:
        folder: the model's folder.

    Returns:
        SHA-256 (64 hexadecimal digits) by file name, in the order of the names; empty where there is no such file.
        The Hub shows the same value for a file.
    """
    return {path.name: sha256_of(path) for path in sorted(Path(folder).glob("*.safetensors"))}


def sha256_of(path: Path) -> str:
    """Hash one file: 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
