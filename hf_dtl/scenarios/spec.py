"""A scenario as a few JSON values, from which it can be built again; nothing here needs torch."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from hf_dtl.data.selection import is_there, looks_like_path
from hf_dtl.errors import ConfigError, DataError
from hf_dtl.trainers.request import ScenarioKind

_NUMBERS = ("seed", "images", "max_eval_images", "pool", "retain_pool", "transfer_images")


def is_request(forget: str) -> bool:
    """Whether a text asks for a part of a data set (`class=3`, `random=10%`, `person=ann`, a file of rows).

    Example:
        >>> is_request("class=cat,dog"), is_request("who (id)?=ann"), is_request("mnist[0-5]")
        (True, True, False)
    """
    if not isinstance(forget, str):
        raise ConfigError(f"forget={forget!r} must be a text such as 'class=cat', not {type(forget).__name__}.")
    if is_there(forget):
        return os.path.isfile(os.path.expanduser(forget)) and not forget.endswith(".parquet")
    column, equals, _ = forget.partition("=")
    return bool(equals and column.strip()) and "[" not in column and not looks_like_path(column.strip())


@dataclass(frozen=True, kw_only=True)
class ScenarioSpec:
    """What decides the images of a scenario.

    Args:
        kind: see `ScenarioKind`.
        forget: for `task` data as `NAME[:SPLIT][CLASS,...]`, else a request as `ForgetRequest.parse` reads it.
        retain: data to keep, written likewise; for `part` and `tasks` the data set that `forget` is a part of.
        novel: data of a task that nobody trained, for a second axis of the audit of a whole task.
        forget_tasks: tasks to forget the images for, separated by commas; None for all.
        task_columns: label columns of several tasks, see `load_multitask`.
        image_column, forget_label_column, retain_label_column, novel_label_column: None finds them.
        forget_images_per_class, retain_images_per_class: draws of training images; None for all.
        forget_all: whether `retain_images_per_class` or `images` spares what `forget` asks for, since a model that was
            trained elsewhere may know all of it; else it draws first, and a model trained here never sees the others.
        images: draw of training images of several tasks; None for all.
        max_eval_images: cap on each validation and test split; None for none.
        pool, retain_pool: training images a class that are decoded, a fixed draw; None for all.
        transfer_dataset: images that a teacher names for a student, see `load_transfer`; None for none.
        transfer_images: draw of these; None for all.
        background: colour under what is transparent in images.
        head_by_position: whether the rows of a head without names (LABEL_0, ...) have the order of the data's classes.
        seed: of these draws.
        test: the split that numbers are reported on. `validation` is for tuning: no test image is then looked at.
    """

    kind: ScenarioKind
    forget: str
    retain: str | None = None
    novel: str | None = None
    forget_tasks: str | None = None
    task_columns: str | None = None
    image_column: str | None = None
    forget_label_column: str | None = None
    retain_label_column: str | None = None
    novel_label_column: str | None = None
    forget_images_per_class: int | None = None
    retain_images_per_class: int | None = None
    forget_all: bool = False
    images: int | None = None
    max_eval_images: int | None = None
    pool: int | None = None
    retain_pool: int | None = None
    transfer_dataset: str | None = None
    transfer_images: int | None = None
    background: str = "white"
    head_by_position: bool = False
    seed: int = 0
    test: Literal["test", "validation"] = "test"

    def __post_init__(self) -> None:
        if self.novel == "none":  # in place of a default
            object.__setattr__(self, "novel", None)
        if self.kind != "task" and self.retain is None:
            raise ConfigError(f"--forget {self.forget} is a part of a data set: name that with --retain.")
        if self.test not in ("test", "validation"):
            raise ConfigError(f"test={self.test!r} is unknown; use one of: test, validation.")

    def with_test(self, split: Literal["test", "validation"]) -> "ScenarioSpec":
        """The same scenario, its numbers taken on another split."""
        return replace(self, test=split)

    def to_dict(self) -> dict[str, Any]:
        """Every value that is set, as JSON; `kind`, `forget`, `retain` and `seed` always."""
        always = ("kind", "forget", "retain", "seed")
        return {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name in always or getattr(self, f.name) != f.default
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], **instead: Any) -> "ScenarioSpec":
        """Read the `spec` of a report, with values given here in place of its own where they are not None.

        Raises:
            DataError: a value is unknown, missing, or of the wrong type.
        """
        types = {f.name: f.type for f in fields(cls)}
        values = {name: content[name] for name in content if name in types}
        values |= {name: value for name, value in instead.items() if value is not None}
        for name, value in values.items():
            number = name in _NUMBERS or name.endswith("per_class")
            fits = isinstance(value, int) and not isinstance(value, bool) and value >= 0 if number else True
            kind = int if number else bool if name in ("forget_all", "head_by_position") else str
            if value is not None and not (fits and isinstance(value, kind)):
                raise DataError(f"`{name}` in the spec of the report cannot be {value!r}.")
        if values.get("kind") not in ("task", "part", "tasks") or "forget" not in values:
            raise DataError("The report has no usable `spec` (kind and forget), so its images cannot be loaded again.")
        return cls(**values)
