"""A run is a folder of stages: each is done once, as a whole, and a finished one is never touched again."""

import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from accelerate import PartialState
from filelock import FileLock, Timeout
from safetensors import safe_open
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Dataset
from transformers import AutoModelForImageClassification, PreTrainedModel

from hf_dtl.errors import DivergedError, OutputError, listing
from hf_dtl.fingerprint import fingerprint
from hf_dtl.processes import together
from hf_dtl.trainers.checkpoints import damage, drop_damaged, record_files

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
    try:
        earlier = dict(json.loads(record.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError):
        raise OutputError(
            f"{record} is damaged: it does not say which run the folder holds. Choose another --output_dir, or delete "
            "the folder; what is in it was not touched."
        ) from None
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
        OutputError: the folder holds another run, or files that are not a run's, or another process works on it.
    """

    patience: ClassVar[float] = 0
    """Seconds to wait for another process to leave the folder."""

    def __init__(self, folder: str | Path, settings: Mapping[str, Any], state: PartialState):
        self.folder, self.state = Path(folder), state
        together(lambda: self._begin(settings) if state.is_main_process else None)

    def _begin(self, settings: Mapping[str, Any]) -> None:
        """Take the folder for this process."""
        self._check(settings)
        stages = self.folder / "stages"
        stages.mkdir(parents=True, exist_ok=True)
        # Of the process, not of the thread; the system lets it go however the process ends.
        self._lock = FileLock(stages / ".lock", timeout=self.patience, thread_local=False, is_singleton=True)
        holder = stages / ".holder"
        try:
            self._lock.acquire()
        except Timeout:
            who = holder.read_text(encoding="utf-8") if holder.exists() else "another process"
            raise OutputError(
                f"The output folder {self.folder} belongs to {who}, which is still running. Wait for it, end it, or "
                "choose another --output_dir."
            ) from None
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        holder.write_text(f"process {os.getpid()} on {socket.gethostname()}, since {since}", encoding="utf-8")
        write_atomically(self.folder / SETTINGS, json.dumps(settings, indent=2) + "\n")

    def share(self) -> None:
        """Leave the folder to other processes too; the caller sees to it that none does the same stage."""
        if self.state.is_main_process:
            self._lock.release()

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
                made from others, whatever their names, or that is damaged, is done anew; the old one stays until the
                new one is there.

        Raises:
            DivergedError: the work left weights that are not finite; nothing of them is kept.
        """
        done = self.folder / "stages" / name
        changed = not done.is_dir() or _made_from(done) != made_from
        bad = "" if changed else damage(done)
        finished = not changed and not bad
        self.state.wait_for_everyone()
        if not finished:
            partial = done.with_name(f"{done.name}.partial")
            if self.state.is_main_process:
                if done.is_dir():
                    why = f"{bad} is damaged" if bad else "its images, model or options have changed since"
                    logger.warning("%s is done anew: %s.", name, why)
                if partial.is_dir() and _made_from(partial) != made_from:
                    shutil.rmtree(partial)
                partial.mkdir(parents=True, exist_ok=True)
                if made_from:
                    (partial / MADE_FROM).write_text(made_from)
                drop_damaged(partial / "checkpoints")
            self.state.wait_for_everyone()
            work(partial)
            together(lambda: _finish(name, partial, done) if self.state.is_main_process else None)
        self.state.wait_for_everyone()
        return done


def _finish(name: str, partial: Path, done: Path) -> None:
    """Put a stage in its place, unless its weights are not finite."""
    shutil.rmtree(partial / "checkpoints", ignore_errors=True)
    for path in sorted(partial.rglob("*.safetensors")):
        with safe_open(path, "pt") as file:
            bad = [key for key in file.keys() if not file.get_tensor(key).isfinite().all()]  # noqa: SIM118
        if bad:
            shutil.rmtree(partial)
            raise DivergedError(
                f"Training diverged in the stage {name}: {listing(bad, 3)} in {path.name} are not finite, and nothing "
                "of it was kept. Choose a smaller learning rate, and another --output_dir."
            )
    record_files(partial)
    replace_folder(partial, done)


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


def load_stage(folder: Path) -> PreTrainedModel:
    """The model of a finished stage, in evaluation mode on the CPU."""
    return AutoModelForImageClassification.from_pretrained(
        folder, use_safetensors=True, trust_remote_code=False
    ).eval()
