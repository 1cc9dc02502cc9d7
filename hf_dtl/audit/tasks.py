"""What became of each task of a model of several tasks, of which some were forgotten."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal, get_args

from hf_dtl.audit.report_fields import FLAG, OBJECT, REPORT, SHARE, TEXT, check_fields, each, must_be, number, optional
from hf_dtl.audit.unlearning import GAP_SPLITS as SPLITS
from hf_dtl.audit.unlearning import ROLES
from hf_dtl.errors import DataError

TaskKind = Literal["classes", "regression"]


@dataclass(frozen=True)
class TaskScores:
    """What the models answer in one task.

    Args:
        kind: `classes`, or `regression` for a number.
        forgotten: images were to be forgotten for this task; for the others they were to stay as they are.
        scores: by split (`forget`: the images to forget, `retain`: other training images, `test`: images never seen),
            then by model (`undisposed`, `scrubbed`, and `retrained` where there is one): accuracy in 0..1, or for a
            regression 1 − (mean squared error) / (variance of the training labels), at most 1.
        uis: Unlearning Impact Score by model, at least 0; a model for which it is not defined is left out.
        membership_auc: by model, how well forgotten images are told from unseen ones by their loss; 0.5 is chance.
        dataset: name under which `piggyback` attacks this task; None: the task's own.

    Raises:
        DataError: a value is missing, unknown or out of its range.
    """

    kind: TaskKind
    forgotten: bool
    scores: dict[str, dict[str, float]]
    uis: dict[str, float] = field(default_factory=dict)
    membership_auc: dict[str, float] = field(default_factory=dict)
    dataset: str | None = None

    def __post_init__(self) -> None:
        of = "of a task"
        check_fields(
            self, of, kind=must_be("classes or regression", get_args(TaskKind).__contains__), forgotten=FLAG,
            scores=OBJECT, uis=each(number(0)), membership_auc=each(SHARE), dataset=optional(TEXT),
        )  # fmt: skip
        if set(self.scores) != set(SPLITS):
            raise DataError(f"`scores` of a task needs {', '.join(SPLITS)}, got {', '.join(self.scores)}.")
        for split, values in self.scores.items():
            OBJECT(values, f"scores.{split}", of)
            models = set(values)
            if not {"undisposed", "scrubbed"} <= models <= set(ROLES) or models != set(self.scores["forget"]):
                raise DataError(
                    f"`scores.{split}` of a task needs undisposed, scrubbed and perhaps retrained, got {values!r}."
                )
            each(number(0 if self.kind == "classes" else -math.inf, 1))(values, f"scores.{split}", of)
        for name in ("uis", "membership_auc"):
            unknown = sorted(set(getattr(self, name)) - set(self.scores["forget"]))
            if unknown:
                raise DataError(f"`{name}` of a task names {unknown[0]!r}, of which there are no scores.")

    @classmethod
    def from_dict(cls, content: object) -> "TaskScores":
        """Read what `asdict` gives; unknown or missing keys are a DataError."""
        known = set(cls.__dataclass_fields__)
        if not isinstance(content, Mapping) or not {"kind", "forgotten", "scores"} <= set(content) <= known:
            found = ", ".join(map(str, content)) if isinstance(content, Mapping) else repr(content)
            raise DataError(f"A task needs kind, forgotten and scores, of {', '.join(sorted(known))}; got {found}.")
        return cls(**content)


def check_tasks(tasks: dict[str, TaskScores]) -> None:
    """Refuse tasks of which none is forgotten, or that have scores of different models."""
    OBJECT(tasks, "tasks", REPORT)
    for name, task in tasks.items():
        TEXT(name, "a name in `tasks`", REPORT)
        if not isinstance(task, TaskScores):
            raise DataError(f"`tasks.{name}` of a leakage report must be TaskScores, got {task!r}.")
    if not any(task.forgotten for task in tasks.values()) or len({roles(task) for task in tasks.values()}) > 1:
        raise DataError("`tasks` of a leakage report needs a forgotten task, and scores of the same models in each.")


def roles(task: TaskScores) -> tuple[str, ...]:
    """The models that a task has scores of."""
    return tuple(role for role in ROLES if role in task.scores["forget"])


def mean_uis(tasks: Mapping[str, TaskScores], role: str) -> float | None:
    """Mean Unlearning Impact Score of a model over the tasks that have one; None for no task."""
    own = [task.uis[role] for task in tasks.values() if role in task.uis]
    return fmean(own) if own else None
