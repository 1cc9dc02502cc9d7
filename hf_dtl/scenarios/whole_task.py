"""A whole task is forgotten and another one kept: disposable transfer learning."""

import logging
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from transformers import BaseImageProcessor, PreTrainedModel

from hf_dtl.audit import AttackConfig, AttackedTask, accuracy, membership_inference
from hf_dtl.audit.store import Axis
from hf_dtl.audit.task import draw_up_to
from hf_dtl.data import ImageTensors, TaskData, check_disjoint, load_task
from hf_dtl.data.columns import labels_of
from hf_dtl.data.processors import channels_of
from hf_dtl.data.selection import DatasetSpec
from hf_dtl.errors import ConfigError, DataError, listing
from hf_dtl.models.published_heads import PublishedHeads, with_head_labels
from hf_dtl.scenarios.scenario import (
    Images,
    Measurements,
    Scenario,
    accuracy_notes,
    check_budget,
    in_memory,
    model_pair,
    tell_order,
)
from hf_dtl.scenarios.spec import ScenarioKind

SPLITS = ("train", "validation", "test")
AXES: dict[str, Axis] = {"source": "source_subset", "novel": "novel_downstream"}
ALL = "all"
_SPEC = {"source": "forget", "target": "retain", "novel": "novel"}

logger = logging.getLogger(__name__)


class WholeTask(Scenario):
    """A source task to forget, and where they are given a target task to keep and a novel one that nobody trained.

    Attributes:
        tasks: `source`, `target`, `novel`: the data.
        images: the same names, then `train`, `validation`, `test`; labelled by position in the task's classes.
        channels: of the images, once `load` was called.
        heads: rows of the audited models' published heads; set by `read_heads`.
    """

    kind: ClassVar[ScenarioKind] = "task"
    tasks: dict[str, TaskData]
    channels: int
    heads: PublishedHeads | None = None

    def _open(self) -> None:
        self.tasks = {name: self._task(name) for name in _SPEC if getattr(self.spec, _SPEC[name]) is not None}
        if "target" in self.tasks:
            check_disjoint(self.tasks["source"], self.tasks["target"])
        for name in AXES:
            if name in self.tasks:
                self._check_budget(name)

    def _task(self, name: str) -> TaskData:
        s, what = self.spec, _SPEC[name]
        return load_task(
            getattr(s, what),
            image_column=s.image_column,
            label_column=getattr(s, f"{what}_label_column"),
            images_per_class=getattr(s, f"{what}_images_per_class", None),
            seed=s.seed,
            background=s.background,
        )

    def further(self, text: str) -> tuple[TaskData, Images]:
        """All labelled training images of the target: beyond a draw of them, or of other data with its classes.

        Args:
            text: `all`, or the other data.

        Raises:
            DataError: the data cannot be used, or have other classes.
            ConfigError: all of them are retained already.
        """
        s, own = self.spec, self.tasks["target"]
        if text == ALL and s.retain_images_per_class is None:
            raise ConfigError("--twin all: no label is left, --retain has all. Limit --retain_images_per_class.")
        task = load_task(
            str(s.retain) if text == ALL else text, image_column=s.image_column, label_column=s.retain_label_column,
            background=s.background,
        )  # fmt: skip
        if task.labels != own.labels:
            raise DataError(f"--twin {text}: its classes are {listing(task.labels)}, those of --retain "
                            f"{listing(own.labels)}. A twin takes the same ones in the same order.")  # fmt: skip
        return task, self._read(task.train, f"{task.name} for a twin", self.channels, held_out=False)

    def _check_budget(self, name: str) -> None:
        task = self.tasks[name]
        counts = np.bincount(labels_of(task.train), minlength=len(task.labels)).tolist()
        if self.spec.pool is not None:
            counts = [min(count, self.spec.pool) for count in counts]
        check_budget(counts, task.labels, self.most_budget, task.name)

    def _title(self, name: str) -> str:
        """A task as attacks and tables name it: with the column of its classes where one is asked for."""
        column = getattr(self.spec, f"{_SPEC[name]}_label_column")
        return self.tasks[name].name + (f" by {column}" if column is not None else "")

    @property
    def names(self) -> dict[str, str]:
        return {name: task.name for name, task in self.tasks.items()}

    @property
    def labels(self) -> tuple[str, ...]:
        return self.tasks["source"].labels

    def public_spec(self) -> dict[str, Any]:
        return self.spec.to_dict() | {_SPEC[name]: own for name, own in self.names.items()}

    def counts(self) -> dict[str, Any]:
        return {name: {split: len(images) for split, images in task.items()} for name, task in self.images.items()}

    def load(self, processor: BaseImageProcessor, model: PreTrainedModel) -> None:
        self.processor, self.channels = processor, channels_of(model.config)
        self.images = {name: {split: self._split(name, split) for split in SPLITS} for name in self.tasks}
        if "target" in self.tasks and self.spec.retain is not None:
            self._tell_shared(*(DatasetSpec.parse(text).name for text in (self.spec.forget, self.spec.retain)))

    def _tell_shared(self, forget: str, retain: str) -> None:
        """Say which pictures two tasks share; one data set under two columns, of the same rows, is meant to."""
        rows = [self.tasks[name].train_rows for name in ("source", "target")]
        if forget == retain and np.isin(rows[0], rows[1]).any():
            return
        seen = [
            {hash(image.numpy().tobytes()) for split in own.values() if isinstance(split, ImageTensors)
             for image in split.pixel_values}
            for own in (self.images["source"], self.images["target"])
        ]  # fmt: skip
        if both := len(seen[0] & seen[1]):
            names = self.names
            logger.warning(
                "%d pictures of %s are in %s too: they are kept, and what is learned from them is not forgotten. Take "
                "them out of one of the two if that is not meant.", both, names["source"], names["target"],
            )  # fmt: skip

    def _guard(self) -> dict[str, Any]:
        source, target = self.tasks["source"], self.tasks["target"]
        return {
            "forgotten": [source.train, source.validation, source.test],
            "labelled": target.train,
            "held_out": [target.validation, target.test],
            "labels": source.labels,
            "forgotten_key": source.source_key,
        }

    def _split(self, name: str, split: str) -> Images:
        task, pool = self.tasks[name], self.spec.retain_pool if name == "target" else self.spec.pool
        dataset: Dataset = getattr(task, split)
        if split == "train" and pool is not None:
            rows = draw_up_to(torch.tensor(labels_of(dataset)), pool, seed=0).sort().values
            dataset = dataset.select(rows.tolist())
        return self._read(
            dataset, f"{task.name} {split}", self.channels, held_out=split != "train", whole=self.spec.pool is None
        )

    def read_heads(self, models: Mapping[str, PreTrainedModel]) -> None:
        """Find the classes of the data among those of the models' published heads.

        Raises:
            DataError: the scrubbed model's head does not know the target classes.
        """
        labels = {name: task.labels for name, task in self.tasks.items()}
        self.heads = PublishedHeads.find(models, labels, self.spec.head_by_position)

    @property
    def attacked(self) -> dict[str, AttackedTask]:
        """The source task and the novel one, with retain images where all heads number the target classes alike."""
        retain = None
        if "target" in self.tasks:
            rows = range(len(self.tasks["target"].labels)) if self.heads is None else self.heads.numbered_alike()
            if rows is not None:
                held = in_memory(self.images["target"]["train"], AttackConfig().retain_images_per_class)
                retain = with_head_labels(held, list(rows))
        task = partial(AttackedTask, retain=retain)
        return {
            name: task(
                self._title(name),
                axis,
                self.tasks[name].labels,
                in_memory(self.images[name]["train"], 20 * self.most_budget),
                self.images[name]["validation"],
                self.images[name][self.spec.test],
            )
            for name, axis in AXES.items()
            if name in self.tasks
        }

    def measure(
        self, models: Mapping[str, PreTrainedModel], source: Mapping[str, PreTrainedModel] | None = None
    ) -> Measurements:
        """Accuracy on what was kept and what was forgotten, of the undisposed and the scrubbed model among these.

        Args:
            models: by role.
            source: models whose head names the source classes in order, by role; None asks the published heads.
        """
        roles = [role for role in ("undisposed", "scrubbed") if role in models]
        of = {"target": models, "source": models if source is None else source}
        found = {task: {role: self._accuracy(task, role, own[role]) for role in roles} for task, own in of.items()}
        if "target" in self.tasks:
            tell_order(models, found["target"], len(self.tasks["target"].labels))
        return Measurements(found, notes=accuracy_notes(models))

    def _accuracy(self, task: str, role: str, model: PreTrainedModel) -> float | None:
        if task not in self.images:
            return None
        test = self.images[task][self.spec.test]
        if self.heads is None:
            return accuracy(model, test)
        rows = getattr(self.heads, task)[role]
        return None if rows is None else accuracy(model, with_head_labels(test, rows))

    def findings(self, measurements: Measurements, cost: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return {
            "target_accuracy": model_pair(measurements.accuracy["target"]),
            "source_accuracy": model_pair(measurements.accuracy["source"]),
            "membership": measurements.membership,
            "chance": {self._title(name): 1 / len(self.tasks[name].labels) for name in AXES if name in self.tasks},
        }

    def infer_membership(self, models: Mapping[str, PreTrainedModel], notes: list[str]) -> list[dict[str, Any]]:
        """Tell the source train split from the source test split by the answers of the published heads.

        Args:
            models: by role; after `read_heads`.
            notes: gets a sentence where nothing can be told.
        """
        assert self.heads is not None
        rows = {role: self.heads.source[role] for role in ("undisposed", "scrubbed", "retrained") if role in models}
        if rows["undisposed"] is None or rows["scrubbed"] is None:
            notes.append("Membership inference: left out, the published heads do not have the source classes.")
            return []
        results = []
        for role, own in rows.items():
            target = self.heads.target[role]
            if own is None:
                continue
            source = {split: with_head_labels(images, own) for split, images in self.images["source"].items()}
            retain: dict[str, Any] = {}
            if target is not None:
                images = self.images["target"]
                retain = {
                    "retain": with_head_labels(images["train"], target),
                    "retain_held_out": with_head_labels(images[self.spec.test], target),
                }
            try:
                results += membership_inference(
                    models[role], source["train"], source[self.spec.test], **retain, name=role
                )
            except DataError as error:
                notes.append(f"Membership inference: left out. {error}")
                return []
        return [asdict(result) for result in results]
