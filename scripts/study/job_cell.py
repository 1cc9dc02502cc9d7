"""What cells share that are a piece of an unlearning job."""

import json
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import transformers

from hf_dtl.multitask_job import MultiTaskJob
from hf_dtl.unlearn import UnlearnJob
from hf_dtl.unlearn_options import UnlearnOptions


class JobCell:
    """A cell whose result is a file; a subclass says what it does, and which file."""

    options: UnlearnOptions
    """Of its job."""

    @property
    def path(self) -> Path:
        """The file of the result; the cell is finished when it is there."""
        raise NotImplementedError

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.path.exists()

    def result(self) -> Any:
        """The result of a finished cell."""
        return json.loads(self.path.read_text(encoding="utf-8"))

    def load(self) -> Any:
        """The job of the cell, `MultiTaskJob` of several tasks, else `UnlearnJob`; the last two are kept."""
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        return _load_job(json.dumps(asdict(self.options)))


@lru_cache(maxsize=2)
def _load_job(options: str) -> UnlearnJob | MultiTaskJob:
    found = UnlearnOptions(**json.loads(options))
    return MultiTaskJob(found) if found.multitask else UnlearnJob(found)
