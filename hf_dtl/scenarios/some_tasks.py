"""Images of a model of several tasks are forgotten, for all of its tasks or for some."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from statistics import fmean
from typing import Any, ClassVar

import datasets
import numpy as np
import torch
from transformers import BaseImageProcessor

from hf_dtl.audit import AttackedTask, membership_inference
from hf_dtl.audit.task import draw_up_to
from hf_dtl.audit.tasks import TaskScores
from hf_dtl.data import (
    ForgetRequest,
    ImageTensors,
    MultiTaskData,
    MultiTaskImages,
    TaskData,
    load_multitask,
    load_multitask_images,
)
from hf_dtl.data.multitask import Tasks
from hf_dtl.data.processors import channels_of
from hf_dtl.data.splits import draw
from hf_dtl.errors import ConfigError, DataError
from hf_dtl.functional.metrics import TaskImpact, task_impact
from hf_dtl.models.heads import MultiHeadClassifier
from hf_dtl.scenarios.scenario import POOL, Measurements, Scenario, check_budget, model_pair
from hf_dtl.scenarios.spec import ScenarioKind
from hf_dtl.trainers.multitask_training import predict_tasks

SPLITS = ("forget", "retain", "test")
Scores = dict[str, dict[str, float]]


class SomeTasks(Scenario):
    """Images with a label for each of several tasks; some of them are forgotten, for `forgotten` of the tasks.

    Attributes:
        tasks: task → its class names, none for a regression.
        forgotten: tasks that images are forgotten for.
        rows: positions of these images among the training images.
        images: `train`, `validation` and `test`.
    """

    kind: ClassVar[ScenarioKind] = "tasks"

    def _open(self) -> None:
        self.request = ForgetRequest.parse(self.spec.forget)
        if self.request.kind == "class":
            raise ConfigError(
                f"--forget {self.request} is for one task; of several, say which images: random=5%, a file of row "
                "numbers, or column=value with a column that is no task."
            )
        self.data = self._load_data()
        self.tasks: Tasks = {t: names for t, names in self.data.tasks.items() if t != self.request.column}
        named = split_names(self.spec.forget_tasks)
        unknown = [task for task in named or () if task not in self.tasks]
        if unknown:
            raise DataError(f"There is no task {unknown[0]!r}; the model's tasks are: {', '.join(self.tasks)}.")
        self.forgotten = tuple(dict.fromkeys(self.tasks if named is None else named))
        self.rows = self._rows()
        if self.spec.forget_all:
            self._limit()

    def _load_data(self) -> MultiTaskData:
        """The data; the column that a request names is loaded beside the tasks, as if it were one."""
        s, column = self.spec, self.request.column
        wanted = task_columns(s.task_columns)
        if column is not None and wanted is not None and column not in wanted:
            wanted = {**wanted, column: column} if isinstance(wanted, dict) else [*wanted, column]
        elif column is not None:
            raise ConfigError(
                f"--forget {self.request}: {column!r} must be a column that is no task, since forgetting a class of a "
                "task is not what this does. Name the tasks with --task_columns, without it."
            )
        assert s.retain is not None
        options: dict[str, Any] = {
            "image_column": s.image_column,
            "images": None if s.forget_all else s.images,
            "seed": s.seed,
            "background": s.background,
        }
        data = load_multitask(s.retain, task_columns=wanted, **options)
        self._whole = data
        if column is None:
            return data
        if not data.tasks[column]:
            raise DataError(f"--forget {self.request}: the column {column!r} holds floats; it must hold names.")
        held_out = {
            split: whole.select(np.flatnonzero(~self.request.has_value(whole, data)))
            for split, whole in (("validation", data.validation), ("test", data.test))
        }
        for split, rest in held_out.items():
            if not len(rest):
                raise DataError(f"'{data.name}': the {split} split has no image of what is retained.")
        return dataclasses.replace(data, **held_out)

    def _rows(self) -> list[int]:
        """Positions of the images to forget among the training images."""
        data, train = self.data, self._as_one_task(self.data.train)
        copies = dataclasses.replace(data.copies, images=self._as_one_task(data.copies.images))
        validation, test = (self._as_one_task(split) for split in (self._whole.validation, self._whole.test))
        stand_in = TaskData(data.name, ("", ""), train, validation, test, 0, data.source_key, data.train_rows, copies)
        if self.request.kind == "indices":
            if any(self.request.listed_rows().values()):
                raise DataError(f"--forget {self.request} names new labels, which multitask does not give: list rows.")
        division = self.request.divide(stand_in, self.spec.seed)
        return np.flatnonzero(np.isin(data.train_rows, division.rows)).tolist()

    def _limit(self) -> None:
        """Leave so many images beside those to forget."""
        data, images = self.data, self.spec.images or 0
        rest = np.setdiff1d(np.arange(len(data.train)), self.rows)
        if images > len(rest):
            raise DataError(f"'{data.name}': images is {images}, but {len(rest)} are to be kept. Ask for no more.")
        kept = np.union1d(self.rows, rest[draw(len(rest), images, self.spec.seed, "train")])
        self.data = dataclasses.replace(data, train=data.train.select(kept), train_rows=data.train_rows[kept])
        self.rows = np.flatnonzero(np.isin(kept, self.rows)).tolist()

    def _as_one_task(self, images: datasets.Dataset) -> datasets.Dataset:
        """The request's column beside labels, which a request reads for whole classes alone: there are none here."""
        nothing, column = np.zeros(len(images), dtype=np.int64), self.request.column
        if column is None:
            return datasets.Dataset.from_dict({"label": nothing})
        features = datasets.Features({"label": datasets.Value("int64"), column: images.features[column]})
        return datasets.Dataset.from_dict({"label": nothing, column: images[column][:]}, features=features)

    @property
    def names(self) -> dict[str, str]:
        name = self.data.name
        return {"source": f"{name}, {self.request}, for {', '.join(self.forgotten)}", "target": f"the rest of {name}"}

    @property
    def labels(self) -> tuple[str, ...]:
        return ("0", "1")  # of a head that the tasks' own take the place of

    def public_spec(self) -> dict[str, Any]:
        return self.spec.to_dict() | {"forget": str(self.request), "retain": self.data.name}

    def counts(self) -> dict[str, Any]:
        kept = len(self.data.train) - len(self.rows)
        held_out = {split: len(self.images[split]) for split in ("validation", "test")}
        return {"forget": len(self.rows), "retain": kept, **held_out}

    def load(self, processor: BaseImageProcessor, model: MultiHeadClassifier) -> None:
        self.processor = processor
        published: Any = getattr(model, "backbone", model)  # of what verifying loads there is one model a task
        channels = channels_of(published.config)
        self.images = {split: self._images(split, channels) for split in ("train", "validation", "test")}
        _ = self.attacked

    def _images(self, split: str, channels: int) -> MultiTaskImages:
        """Images of a split; a held-out one is cut to max_eval_images and kept in memory."""
        dataset = getattr(self.data, split).select_columns(["image", *self.tasks])
        cap, own = self.spec.max_eval_images, {}
        if split != "train":
            own = {"memory_limit_gib": float("inf")}
            if cap is not None and cap < len(dataset):
                dataset = dataset.shuffle(seed=0).select(range(cap))
        return load_multitask_images(
            dataset, self.processor, num_channels=channels, desc=f"{self.data.name} {split}", **own
        )

    # What is attacked and measured ----------------------------------------------------------------------------

    def variance(self, task: str) -> float:
        """Variance of a regression's training labels, 1 where they are all the same."""
        return self.images["train"].labels[task].double().var(correction=0).item() or 1.0

    def split(self, name: str) -> MultiTaskImages:
        """The images `forget`, `retain` (no task forgets them) or `test`; the former two cut to max_eval_images."""
        if name == "test":
            return self.images[self.spec.test]
        train = self.images["train"]
        rows = self.rows if name == "forget" else np.setdiff1d(np.arange(len(train)), self.rows)
        return train.subset(rows[: self.spec.max_eval_images])

    def one_task(self, images: MultiTaskImages, task: str, per_class: int | None = None) -> ImageTensors:
        """Images in memory with the labels of one task, or a fixed draw of so many a class of them."""
        if per_class is not None:
            images = images.subset(draw_up_to(images.labels[task], per_class, seed=0))
        pixels = images.pixel_values
        if not isinstance(pixels, torch.Tensor):
            pixels = torch.stack([pixels[i]["pixel_values"] for i in range(len(pixels))])
        return ImageTensors(pixels, images.labels[task])

    @cached_property
    def attacked(self) -> dict[str, AttackedTask]:
        """What the attacker relearns, by task: its classes from retained images, judged by the forgotten ones."""
        train, pool = self.images["train"], max(POOL, 4 * self.most_budget)
        retain = train.subset(np.setdiff1d(np.arange(len(train)), self.rows))
        forget, found = train.subset(self.rows), {}
        for task in (task for task in self.forgotten if self.tasks[task]):
            images = self.one_task(retain, task, pool)
            counts = np.bincount(images.labels, minlength=len(self.tasks[task])).tolist()
            check_budget(counts, self.tasks[task], self.most_budget, f"{self.data.name}, {task}")
            found[task] = AttackedTask(
                f"{self.data.name}, {task}, {self.request}", "source_subset", self.tasks[task], images,
                self.one_task(self.images["validation"], task), self.one_task(forget, task), retain=images,
            )  # fmt: skip
        return found

    def measure(
        self, models: Mapping[str, MultiHeadClassifier], device: torch.device, *, membership: bool = True
    ) -> Measurements:
        """Score every task of models by role: accuracy, or for a regression 1 - (mean squared error) / variance.

        A regression has no membership inference; that is by the loss of the forgotten tasks.
        """
        measurements = Measurements()
        images = {split: self.split(split) for split in SPLITS}
        for role, model in models.items():
            outputs = {split: self._scores(model.to(device), images[split]) for split in SPLITS}
            for task in self.tasks:
                own = measurements.accuracy.setdefault(task, {})
                for split in SPLITS:
                    own.setdefault(split, {})[role] = outputs[split][task]
            if membership:
                measurements.membership += self._membership(model, role, images, measurements.notes)
        return measurements

    def _scores(self, model: MultiHeadClassifier, images: MultiTaskImages) -> dict[str, float]:
        outputs, scores = predict_tasks(model, images), dict[str, float]()
        for task, names in self.tasks.items():
            labels, answers = images.labels[task], outputs[task].double()
            if names:
                scores[task] = (answers.argmax(-1) == labels).double().mean().item()
            else:
                scores[task] = 1 - (answers[:, 0] - labels).square().mean().item() / self.variance(task)
        return scores

    def _membership(
        self, model: MultiHeadClassifier, role: str, images: Mapping[str, MultiTaskImages], notes: list[str]
    ) -> list[dict[str, Any]]:
        found = []
        for task in self.attacked:
            groups = [self.one_task(images[split], task) for split in ("forget", "test")]
            try:
                (result,) = membership_inference(model.export(task), *groups, attacks=("loss",), name=role)
            except DataError as error:
                notes.append(f"Membership inference for the task {task}: left out. {error}")
            else:
                found.append(dataclasses.asdict(result) | {"task": task})
        return found

    def findings(self, measurements: Measurements, cost: Mapping[str, Any] | None = None) -> dict[str, Any]:
        scores = measurements.accuracy
        aucs = {(row["task"], row["model"]): row["auc"] for row in measurements.membership}
        roles = list(scores[self.forgotten[0]]["test"])
        impacts = {role: self.impact(scores, role, measurements.notes) for role in roles}
        tasks = {
            task: TaskScores(
                kind="classes" if names else "regression",
                forgotten=task in self.forgotten,
                scores=scores[task],
                uis={role: i.by_task[task] for role, i in impacts.items() if i is not None and task in i.by_task},
                membership_auc={role: aucs[task, role] for role in roles if (task, role) in aucs},
                dataset=self.attacked[task].name if task in self.attacked else None,
            )
            for task, names in self.tasks.items()
        }
        classes = [task for task, names in self.tasks.items() if names]
        forgotten = [task for task in classes if task in self.forgotten]

        def mean(tasks: list[str], split: str) -> dict[str, float | None]:
            means = {role: fmean(scores[task][split][role] for task in tasks) if tasks else None for role in roles}
            return model_pair(means)

        return {
            "target_accuracy": mean(classes, "test"),
            "source_accuracy": mean(forgotten, "forget"),
            "membership": measurements.membership,
            "chance": {task.name: 1 / len(task.labels) for task in self.attacked.values()},
            "tasks": tasks,
        }

    def impact(self, scores: Mapping[str, Scores], role: str, notes: list[str]) -> TaskImpact | None:
        """Unlearning Impact Scores of one model; a regression's score below 0 counts as 0.

        Args:
            scores: of all models as `measure` gives them: by task, split and role.
            role: of the model.
            notes: gets a sentence for every task that it is not defined for.
        """
        before, after = (
            {task: (max(own["test"][one], 0.0), max(own["forget"][one], 0.0)) for task, own in scores.items()}
            for one in ("undisposed", role)
        )
        for task, shares in list(before.items()):
            divisors = shares[:1] if task in self.forgotten else shares
            if min(divisors) == 0:
                notes.append(f"UIS of the task {task}: left out, the original model scores 0 on it.")
                del before[task], after[task]
        return task_impact(before, after, [task for task in self.forgotten if task in before]) if before else None


def split_names(text: str | None) -> list[str] | None:
    """Read names separated by commas, None for none given.

    Example:
        >>> split_names("letter, case")
        ['letter', 'case']
    """
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def task_columns(text: str | None) -> Sequence[str] | dict[str, str] | None:
    """Read `COLUMN,...` or `TASK=COLUMN,...`, as `load_multitask` takes it.

    Raises:
        ConfigError: a task is named twice.

    Example:
        >>> task_columns("letter,case"), task_columns("face=label,age")
        (['letter', 'case'], {'face': 'label', 'age': 'age'})
    """
    names = split_names(text)
    if names is None or not any("=" in name for name in names):
        return names
    pairs = [tuple(part.strip() for part in name.partition("=")) for name in names]
    found = {task: column or task for task, _, column in pairs}
    if len(found) < len(pairs):
        raise ConfigError(f"--task_columns {text!r} names a task twice.")
    return found
