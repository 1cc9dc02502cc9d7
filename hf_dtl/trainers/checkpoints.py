"""Folders that count as whole: a record of their files, written last, says which there are and what is in them."""

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path

from accelerate import PartialState
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

RECORD = "files.json"
"""Name and digest of every file in a folder; it is written when all of them are there."""

logger = logging.getLogger(__name__)


def record_files(folder: Path) -> None:
    """Record what a folder holds now: it is whole."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != RECORD]
    text = json.dumps({path.relative_to(folder).as_posix(): _digest(path) for path in paths})
    new = folder / f".{RECORD}.partial"
    new.write_text(text, encoding="utf-8")
    os.replace(new, folder / RECORD)


def damage(folder: Path) -> str:
    """The first file of a folder that is missing or not as it was recorded; empty where the folder is whole."""
    try:
        recorded = dict(json.loads((folder / RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return RECORD
    for name, digest in recorded.items():
        path = folder / name
        if not path.is_file() or _digest(path) != digest:
            return name
    return ""


def drop_damaged(folder: Path) -> None:
    """Remove checkpoints that are not whole, so that an earlier one is taken, or none; each is told."""
    bad = {path: found for path in folder.glob("checkpoint-*") if (found := damage(path))}
    for path, file in bad.items():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        logger.warning("%s is not whole (%s) and was removed.", path, file)
    if bad:
        left = get_last_checkpoint(str(folder))
        logger.warning("%s goes on from %s.", folder.parent.stem, Path(left).name if left else "the start")


class Recorded(TrainerCallback):
    """Records every checkpoint when all processes have written their files of it."""

    def on_save(self, args, state, control, **kwargs):
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            record_files(Path(args.output_dir) / f"checkpoint-{state.global_step}")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]
