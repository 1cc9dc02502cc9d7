"""Finished attacks on disk: one JSON line each, so that an interrupted audit continues where it was."""

import itertools
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch
import torch.distributed

from hf_dtl.audit.answer_store import Answers, AnswerStore
from hf_dtl.audit.report_fields import (
    FLAG,
    SHARE,
    TEXT,
    check_fields,
    integer,
    is_number,
    must_be,
    number,
    one_of,
    optional,
)
from hf_dtl.errors import DataError, OutputError
from hf_dtl.processes import portable

ModelName = Literal["undisposed", "scrubbed", "no_model", "scratch", "base", "retrained", "twin"]
Axis = Literal["source_subset", "novel_downstream"]
Found = TypeVar("Found")


_MOST_POINTS = 16


def _is_curve(points: Any) -> bool:
    whole = (
        isinstance(points, tuple)
        and len(points) <= _MOST_POINTS
        and all(isinstance(point, tuple) and len(point) == 3 for point in points)
    )
    if not whole or not all(isinstance(v, int) and is_number(v, 1) for v, *_ in points):
        return False
    rising = all(a < b for (a, *_), (b, *_) in itertools.pairwise(points))
    return rising and all(is_number(share, 0, 1) for _, *shares in points for share in shares)


_CURVE = must_be(
    f"a list of (steps, accuracy, accuracy), at most {_MOST_POINTS}, ascending in steps, accuracies in 0..1", _is_curve
)


@dataclass(frozen=True)
class PiggybackRecord:
    """One finished attack, as it stands in the list `piggyback` of a leakage report.

    Args:
        model: which model was attacked: undisposed, scrubbed, or a floor: no_model, scratch, base, retrained, twin.
        dataset: name of the attacked data set.
        axis: `source_subset` (the task that was to be forgotten) or `novel_downstream` (a task that nobody trained).
        attack: name of the attack.
        budget: training images a class.
        seed: seed of the images drawn and of the new head.
        learning_rate: the attacker's choice, made on the validation split.
        accuracy: PL accuracy on the test split, in 0..1.
        validation_accuracy: accuracy on the validation split, in 0..1.
        diverged: no learning rate gave finite values; the accuracies are those of guessing, 1 / classes, and the
            learning rate is the smallest.
        effort: training steps of the chosen run, without those that prepared its start; None where it is not known.
        curve: of the chosen learning rate (steps, validation accuracy, accuracy) at each checkpoint, the chosen one
            among them, where it may reach less: it does without copies of the images it answers. None of an attack
            without checkpoints.

    Raises:
        DataError: a value has the wrong type or is out of its range.
    """

    model: str
    dataset: str
    axis: str
    attack: str
    budget: int
    seed: int
    learning_rate: float
    accuracy: float
    validation_accuracy: float
    diverged: bool = False
    effort: int | None = None
    curve: tuple[tuple[int, float, float], ...] = ()

    def __post_init__(self) -> None:
        check_fields(
            self, "of a piggyback record", model=one_of(ModelName), axis=one_of(Axis), dataset=TEXT, attack=TEXT,
            budget=integer(1), seed=integer(0), learning_rate=number(0), accuracy=SHARE, validation_accuracy=SHARE,
            effort=optional(integer(0)), diverged=FLAG, curve=_CURVE,
        )  # fmt: skip
        there = {effort: validation for effort, validation, _ in self.curve}
        if self.curve and not (self.effort in there and there[self.effort] <= self.validation_accuracy):
            raise DataError(f"`curve` of a piggyback record lacks the chosen effort {self.effort}: {self.curve}.")

    @classmethod
    def from_dict(cls, entry: object) -> "PiggybackRecord":
        """Read one entry of the list `piggyback`; unknown or missing keys are a DataError."""
        if not isinstance(entry, dict):
            raise DataError(f"A piggyback record must be an object, got {entry!r}.")
        known = {f.name for f in fields(cls)}
        needed = known - {"diverged", "effort", "curve"}
        wrong = sorted(map(str, entry.keys() - known)) + sorted(needed - entry.keys())
        if wrong:
            raise DataError(f"A piggyback record has unknown or missing keys: {', '.join(wrong)}.")
        if isinstance(points := entry.get("curve"), list):
            curve = tuple(tuple(point) if isinstance(point, list) else point for point in points)
            entry = entry | {"curve": curve}
        return cls(**entry)


class AttackStore:
    """A file of finished attacks, keyed by the fingerprint of everything that decides their result.

    With several processes the first one reads the file and tells the others; while they work, each of them writes a
    file of its own beside it (`NAME.process1`, ...), and at the end the first one takes them in. Files that an
    interrupted run left are taken in at the next start.

    What attacks answer, where a committee asks for it, lies in a folder beside it, see `AnswerStore`.

    Args:
        path: the JSON-lines file; made when the first attack is stored. None keeps the attacks in memory only.

    Raises:
        OutputError: the file holds something else than finished attacks. A last line that was cut off by an
            interruption is no error: it is dropped, and that attack is run again.
    """

    def __init__(self, path: str | Path | None = None):
        group = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.process = torch.distributed.get_rank() if group else 0
        self.processes = torch.distributed.get_world_size() if group else 1
        self.path = Path(path) if path is not None else None
        self._records: dict[str, PiggybackRecord] = {}
        self._new: dict[str, PiggybackRecord] = {}
        folder = None if self.path is None else self.path.with_suffix(".answers")
        self.answers = AnswerStore(folder, remember=self.processes > 1)
        error: OutputError | None = None
        if self.process == 0 and self.path is not None:
            try:
                self._open(self.path)
            except OutputError as caught:
                error = caught
        if self.processes > 1:
            told: list[Any] = [(self._records, error)]
            torch.distributed.broadcast_object_list(told, src=0)
            self._records, error = told[0]
            if self.process > 0 and self.path is not None:
                self.path = self.path.with_name(f"{self.path.name}.process{self.process}")
        if error is not None:
            raise error

    def _open(self, path: Path) -> None:
        if path.exists():
            self._read(path)
        for part in sorted(path.parent.glob(f"{path.name}.process*")) if path.parent.is_dir() else ():
            known = set(self._records)
            self._read(part)
            for key in [key for key in self._records if key not in known]:
                self._write(key, self._records[key])
            part.unlink()

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Work of all processes: at its end every process has what every other one added.

        Raises:
            Exception: of another process, as its own error on this one; what was finished is kept.
        """
        error: Exception | None = None
        try:
            yield
        except Exception as caught:
            if self.processes == 1:
                raise
            error = caught
        if self.processes == 1:
            return
        parts: list[Any] = [None] * self.processes
        torch.distributed.all_gather_object(parts, (self._new, self.answers.new, portable(error)))
        for process, (records, answers, _) in enumerate(parts):
            for key, given in answers.items():
                self.answers.keep(key, given, write=self.process == 0 != process)
            for key, record in records.items():
                if key not in self._records:
                    self._records[key] = record
                    if self.process == 0 and process > 0 and self.path is not None:
                        self._write(key, record)
        torch.distributed.barrier()  # the first process has written everything before the others' files go
        if self.process > 0 and self.path is not None:
            self.path.unlink(missing_ok=True)
        failed = error or next((caught for *_, caught in parts if caught is not None), None)
        if failed is not None:
            raise failed

    def _read(self, path: Path) -> None:
        content = path.read_bytes()
        complete = content[: content.rfind(b"\n") + 1]
        for place, line in enumerate(complete.splitlines(), start=1):
            try:
                entry = json.loads(line)
                key = str(entry.pop("fingerprint"))
                self._records[key] = PiggybackRecord.from_dict(entry)
            except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
                raise OutputError(
                    f"Line {place} of {path} is not a finished attack ({error}). "
                    "Give another file, or delete this one to run every attack again."
                ) from error
        if len(complete) < len(content):
            with path.open("r+b") as file:
                file.truncate(len(complete))

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, key: str) -> bool:
        return key in self._records

    def has(self, key: str, *, answers: bool) -> bool:
        """Whether an attack is finished, and if `answers` what it answers is known (one that diverged has none)."""
        return key in self and (not answers or self._records[key].diverged or key in self.answers)

    def __getitem__(self, key: str) -> PiggybackRecord:
        return self._records[key]

    def add(self, key: str, record: PiggybackRecord, answers: Answers | None = None) -> None:
        """Keep a finished attack, with its answers if a committee asks for them; all is on the disk when this returns.

        One that is known already stays as it is.
        """
        if answers is not None and key not in self.answers:
            self.answers.keep(key, answers)
        if key not in self._records:
            self._records[key] = self._new[key] = record
            if self.path is not None:
                self._write(key, record)

    def agreed(self, find: Callable[[], Found]) -> Found:
        """What the first process finds in its files, told to all."""
        found = [find() if self.process == 0 else None]
        if self.processes > 1:
            torch.distributed.broadcast_object_list(found, src=0)
        return cast(Found, found[0])

    def _write(self, key: str, record: PiggybackRecord) -> None:
        assert self.path is not None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"fingerprint": key, **asdict(record)}) + "\n")
            file.flush()
            os.fsync(file.fileno())
