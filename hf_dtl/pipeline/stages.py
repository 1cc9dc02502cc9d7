"""A run is a folder of stages: each is done once, as a whole, and a finished one is never touched again."""

import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelerate import PartialState
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Dataset

from hf_dtl.errors import OutputError
from hf_dtl.fingerprint import fingerprint

SETTINGS, MADE_FROM = "run.json", "made_from.txt"

logger = logging.getLogger(__name__)


def write_atomically(path: Path, text: str) -> None:
    """Replace a text file as a whole: after an interruption it is the old one or the new one."""
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def fresh_folder(folder: Path) -> Path:
    """Make an empty folder beside `folder`, to be filled and then put in its place by `replace_folder`."""
    new = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    return new


def replace_folder(new: Path, path: Path) -> None:
    """Put the finished folder `new` in the place of `path`."""
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    new.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def changed_settings(record: Path, settings: Mapping[str, Any]) -> list[str]:
    """What differs between the settings that a folder records and those of now (JSON values), in words."""
    earlier = json.loads(record.read_text(encoding="utf-8"))
    now = json.loads(json.dumps(settings))
    return [
        f"{key}: {earlier.get(key)!r} there, {now.get(key)!r} now"
        for key in sorted(earlier.keys() | now.keys())
        if earlier.get(key) != now.get(key)
    ]


class Run:
    """The output folder of one run, shared by all its processes.

    Args:
        folder: the output folder; it is created, and must be empty or hold an earlier part of the same run.
        settings: what decides the results (JSON values). A folder of a run with other settings is refused.
        state: the processes of this run.

    Raises:
        OutputError: the folder holds another run, or files that are not a run's.
    """

    def __init__(self, folder: str | Path, settings: Mapping[str, Any], state: PartialState):
        self.folder, self.state = Path(folder), state
        self._check(settings)
        state.wait_for_everyone()
        if state.is_main_process:
            (self.folder / "stages").mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / SETTINGS, json.dumps(settings, indent=2) + "\n")
        state.wait_for_everyone()

    def _check(self, settings: Mapping[str, Any]) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise OutputError(f"The output folder {self.folder} is a file. Choose another --output_dir.")
        record = self.folder / SETTINGS
        if not record.exists():
            # a first start that was cut off leaves no more than this
            found = [p.name for p in self.folder.glob("*") if p.name not in (f".{SETTINGS}.partial", "stages")]
            if found:
                raise OutputError(
                    f"The output folder {self.folder} holds files that are not a run's "
                    f"({', '.join(sorted(found)[:3])}). Choose another --output_dir or empty it."
                )
            return
        changed = changed_settings(record, settings)
        if changed:
            raise OutputError(
                f"The output folder {self.folder} holds another run ({'; '.join(changed)}). Choose another "
                "--output_dir, repeat that run's options to continue it, or delete the folder."
            )

    def stage(self, name: str, work: Callable[[Path], None], made_from: str = "") -> Path:
        """Do a stage unless it is finished, and return its folder.

        Args:
            name: of the stage, a relative path.
            work: called by every process with a folder to write to. After an interruption the folder still holds what
                was there (a trainer's checkpoints, say). A sub-folder `checkpoints` is dropped at the end.
            made_from: fingerprint of the images, weights and options that the stage is made from. A stage that was
                made from others, whatever their names, is done anew; the old one stays until the new one is there.
        """
        done = self.folder / "stages" / name
        finished = done.is_dir() and _made_from(done) == made_from
        self.state.wait_for_everyone()
        if not finished:
            partial = done.with_name(f"{done.name}.partial")
            if self.state.is_main_process:
                if done.is_dir():
                    logger.warning("%s is done anew: its images, model or options have changed since.", name)
                if partial.is_dir() and _made_from(partial) != made_from:
                    shutil.rmtree(partial)
                partial.mkdir(parents=True, exist_ok=True)
                if made_from:
                    (partial / MADE_FROM).write_text(made_from)
                _drop_broken_checkpoints(partial / "checkpoints")
            self.state.wait_for_everyone()
            work(partial)
            self.state.wait_for_everyone()
            if self.state.is_main_process:
                shutil.rmtree(partial / "checkpoints", ignore_errors=True)
                replace_folder(partial, done)
        self.state.wait_for_everyone()
        return done


def made_from(*parts: Any) -> str:
    """Fingerprint of what a stage is made from: models, images, and JSON values.

    Options are not among them: those of the run stand in its record, those of a method in the stage's name.
    """
    return fingerprint(content for part in parts for content in _contents(part))


def _contents(part: Any) -> list[Any]:
    """What makes a model, a data set of images, or a JSON value what it is."""
    if isinstance(part, nn.Module):
        return [value for item in part.state_dict().items() for value in item]
    if isinstance(part, ConcatDataset):
        return [content for own in part.datasets for content in _contents(own)]
    if isinstance(part, Dataset):
        pixels, labels = getattr(part, "pixel_values", None), part.labels  # type: ignore[attr-defined]
        own = [labels] if isinstance(labels, Tensor) else [value for item in labels.items() for value in item]
        return [*own, pixels if isinstance(pixels, Tensor) else part.identity]  # type: ignore[attr-defined]
    return [part]


def _made_from(folder: Path) -> str:
    record = folder / MADE_FROM
    return record.read_text() if record.exists() else ""


def _drop_broken_checkpoints(folder: Path) -> None:
    """Remove checkpoints that were cut off while they were written; the trainer's state is what it writes last."""
    for checkpoint in folder.glob("checkpoint-*"):
        try:
            json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            shutil.rmtree(checkpoint)
