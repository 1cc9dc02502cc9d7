"""Short names for tensors and settings: equal content, equal name."""

import hashlib
import json
from collections.abc import Iterable

import torch
from torch import Tensor


def fingerprint(parts: Iterable[object]) -> str:
    """Hash tensors and JSON values to 32 hexadecimal digits; equal content gives equal text on every machine."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, Tensor):
            digest.update(f"{part.dtype}{tuple(part.shape)}".encode())
            digest.update(part.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        else:
            digest.update(json.dumps(part, sort_keys=True, default=str).encode())
        digest.update(b"\0")
    return digest.hexdigest()
