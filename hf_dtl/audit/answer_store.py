"""What finished attacks answer on validation and test images, kept for a committee of them."""

import os
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hf_dtl.functional import calibration


class Answers(NamedTuple):
    """What one attack answers: probabilities (images, classes) on the validation and on the test images."""

    validation: Tensor
    test: Tensor

    @classmethod
    def of(cls, validation: Tensor, test: Tensor, labels: Tensor) -> "Answers":
        """From scores, calibrated on validation images; an image whose scores are not finite has no opinion.

        They are rounded as they are stored, so that a committee does not depend on interruptions.
        """
        known = [torch.where(torch.isfinite(s).all(-1, keepdim=True), s, 0.0).cpu() for s in (validation, test)]
        factor = calibration(known[0], labels.cpu())
        return cls(*((scores.double() * factor).softmax(-1).half() for scores in known))


class AnswerStore:
    """One file for each finished attack; a lost or damaged one only means that this attack is run again.

    Args:
        folder: made when the first answers are kept. None keeps them in memory only.
        remember: keep those of this run in memory too, for other processes.
    """

    def __init__(self, folder: Path | None, *, remember: bool = False):
        self.folder, self.remember = folder, remember
        self.new: dict[str, Answers] = {}
        """Those of this run that are in memory."""

    def __contains__(self, key: str) -> bool:
        return self.get(key) is not None

    def get(self, key: str) -> Answers | None:
        """The answers under a key, if they are there."""
        if key in self.new or self.folder is None:
            return self.new.get(key)
        try:
            return Answers(**load_file(self._path(key)))
        except (OSError, SafetensorError, TypeError):
            return None

    def keep(self, key: str, answers: Answers, *, write: bool = True) -> None:
        """Keep answers; they are on the disk when this returns."""
        if self.remember or self.folder is None:
            self.new[key] = answers
        if write and self.folder is not None:
            path, part = self._path(key), self._path(f"{key}.{os.getpid()}")
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file({name: tensor.contiguous() for name, tensor in answers._asdict().items()}, part)
            os.replace(part, path)

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{key}.safetensors"
