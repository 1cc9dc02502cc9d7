"""A part of one data set is forgotten: classes, listed rows, a column's value, or a random share."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any, ClassVar

import datasets
import numpy as np
import torch
from transformers import BaseImageProcessor, PreTrainedModel

from hf_dtl.audit import AttackedTask, membership_inference
from hf_dtl.audit.unlearning import ROLES, Unlearning
from hf_dtl.data import Division, ForgetRequest, ImageTensors, TaskData, load_task
from hf_dtl.data.columns import labels_of
from hf_dtl.data.names import folded
from hf_dtl.data.processors import channels_of
from hf_dtl.errors import DataError, ModelError, listing
from hf_dtl.models.labels import check_named, head_names, published_rows, unnamed
from hf_dtl.scenarios.scenario import (
    POOL,
    Images,
    Measurements,
    Models,
    Scenario,
    accuracies,
    accuracy_notes,
    check_budget,
    in_memory,
    model_pair,
    tell_order,
)
from hf_dtl.scenarios.spec import ScenarioKind

logger = logging.getLogger(__name__)

MEASURED_ON = ("forget", "retain", "test", "forgotten_test")


class Part(Scenario):
    """Images to forget and to retain of one data set, numbered as the model's head numbers their classes.

    Attributes:
        task: the data.
        division: of its training images.
        rows: of the head, for each class of the data; set by `load`.
        images: `forget` and `retain` (training), `validation` and `test` (of what is retained), and
            `forgotten_validation` and `forgotten_test` (held-out images of classes that are forgotten as a whole).
        held_out: what was asked for and is not forgotten, because it was held out of the split that was named.
        judging_copies: what was asked for and is not forgotten, because the same picture judges.
    """

    kind: ClassVar[ScenarioKind] = "part"
    rows: list[int]

    def _open(self) -> None:
        s = self.spec
        self.request = ForgetRequest.parse(s.forget)
        assert s.retain is not None
        limit = s.retain_images_per_class
        self.task: TaskData = load_task(
            s.retain,
            image_column=s.image_column,
            label_column=s.retain_label_column,
            images_per_class=None if s.forget_all else limit,
            seed=s.seed,
            keep_column=self.request.column,
            background=s.background,
        )
        self.division: Division = self.request.divide(self.task, s.seed, limit if s.forget_all else None)
        self.parts, copies = self._parts(), self.task.copies
        asked = self.request.has_value(copies.images, self.task)
        asked |= np.isin(labels_of(copies.images), self.division.classes)
        self.judging_copies = int((asked & (copies.rows >= 0) & (copies.kept < 0)).sum())
        for note in self._notes():
            logger.warning(note)

    def _notes(self) -> list[str]:
        """What of the images may not be as the user thinks."""
        column, notes = f"--forget {self.request}: ", list[str]()
        if without := self.division.without_value:
            told = f"{without} of {len(self.division.retain)} retained images have no value in that column"
            notes.append(f"{column}{told}. Fill it in, or list rows, where they belong to what is asked for.")
        for split in ("validation", "test"):
            if self.request.says_nothing(getattr(self.task, split)):
                told = f"the {split} images say nothing of it, and may belong to what is asked for"
                notes.append(f"{column}{told}. Fill the column in there too.")
        return notes

    def _parts(self) -> dict[str, datasets.Dataset]:
        task, classes = self.task, self.division.classes
        self.held_out = 0
        parts = {"forget": self.division.forget, "retain": self.division.retain}
        for split in ("validation", "test"):
            whole: datasets.Dataset = getattr(task, split)
            asked = self.request.has_value(whole, task)
            whole = whole.select(np.flatnonzero(~asked))
            forgotten = np.isin(labels_of(whole), classes)
            self.held_out += int(asked.sum() + forgotten.sum()) if split in task.drawn else 0
            if classes and not forgotten.any():
                raise DataError(f"'{task.name}': the {split} split has no image of the classes to forget.")
            if forgotten.all():
                raise DataError(f"'{task.name}': the {split} split has no image of what is retained.")
            parts[split] = whole.select(np.flatnonzero(~forgotten))
            if classes:
                parts[f"forgotten_{split}"] = whole.select(np.flatnonzero(forgotten))
        return parts

    @property
    def names(self) -> dict[str, str]:
        classes, name = self.division.classes, self.task.name
        kept = [label for i, label in enumerate(self.task.labels) if i not in classes]
        target = f"{name}, classes {', '.join(kept)}" if classes else f"the rest of {name}"
        return {"source": f"{name}, {self.request}", "target": target}

    @property
    def labels(self) -> tuple[str, ...]:
        return self.task.labels

    def public_spec(self) -> dict[str, Any]:
        return self.spec.to_dict() | {"forget": str(self.request), "retain": self.task.name}

    def load(self, processor: BaseImageProcessor, model: PreTrainedModel) -> None:
        self.processor, self.rows = processor, self.rows_of(model)
        self.channels = channels_of(model.config)
        if unnamed(names := head_names(model)):
            last = max(range(len(self.rows)), key=self.rows.__getitem__)
            told = "The model's head has no names: '%s' is taken for %s, and the others likewise."
            logger.warning(told, self.task.labels[last], names[self.rows[last]])
        self.images = loaded = dict[str, Images]()
        for name, part in self.parts.items():
            held_out = name not in ("forget", "retain")
            images = self._read(part, f"{self.task.name} {name}", self.channels, held_out=held_out)
            images.labels = torch.tensor(self.rows)[images.labels]
            loaded[name] = images
        _ = self.attacked

    def _guard(self) -> dict[str, Any]:
        forgotten = [part for name, part in self.parts.items() if name.startswith("forget")]
        return {
            "forgotten": forgotten,
            "labelled": self.parts["retain"],
            "held_out": [self.parts["validation"], self.parts["test"]],
            "labels": [self.task.labels[i] for i in self.division.classes],
            "forgotten_key": self.task.source_key,
        }

    def rows_of(self, model: PreTrainedModel) -> list[int]:
        """Row of a model's head for each class of the task.

        Raises:
            ModelError: the head does not know a class, or which row is which cannot be told.
        """
        task = self.task
        check_named(model, task.labels, self.spec.head_by_position)
        rows = published_rows(model, int(model.config.num_labels or 0), task.labels)
        if rows is None:
            known = head_names(model)
            there = {folded(name) for name in known}
            unknown = [label for label in task.labels if folded(label) not in there]
            raise ModelError(
                f"The model's head does not name the classes {', '.join(unknown[:12])} of '{task.name}'; it names "
                f"{', '.join(known[:12])}{' ...' if len(known) > 12 else ''}. Choose classes that it was trained on, "
                "--retain NAME[CLASS,...], or correct id2label in its config.json."
            )
        return rows

    def check_numbered(self, model: PreTrainedModel, role: str) -> None:
        """Refuse a model that answers by other rows of its head than the undisposed one.

        Raises:
            ModelError: naming both orders; see also `rows_of`.
        """
        if (rows := self.rows_of(model)) != self.rows:
            own, other = (
                listing([label for _, label in sorted(zip(order, self.task.labels, strict=True))], 12)
                for order in (rows, self.rows)
            )
            raise ModelError(
                f"The head of the {role} model has its classes in the order {own}, that of the undisposed model "
                f"{other}. Give models trained with one order, or bring the rows of the classifier's weight and bias, "
                "and id2label, into the same."
            )

    def together(self) -> torch.utils.data.Dataset:
        """All training images."""
        return torch.utils.data.ConcatDataset([self.images["forget"], self.images["retain"]])

    # What is attacked and measured ----------------------------------------------------------------------------

    @cached_property
    def attacked(self) -> dict[str, AttackedTask]:
        """The task that the attacker relearns.

        Of forgotten classes: all classes, judged half by images of the forgotten ones and half by others, so that
        neither naming everything alike nor what was retained alone scores. Of single images: half of them, or where
        that is not enough retain images, judged by the other forgotten images.
        """
        pool, most = max(POOL, 4 * self.most_budget), self.most_budget
        retain, forget = (in_memory(self.images[name], pool) for name in ("retain", "forget"))
        if classes := self.division.classes:
            train = together(forget, retain)
            validation, test = (
                self.by_class(_half_and_half(self.images[f"forgotten_{split}"], self.images[split]))
                for split in ("validation", self.spec.test)
            )
            train = self.by_class(train)
        else:
            order = np.random.default_rng(0).permutation(len(forget))
            half = forget.subset(order[: len(order) // 2].tolist())
            counts = np.bincount(self.by_class(half).labels, minlength=len(self.task.labels))
            attacker, judged = (
                (half, forget.subset(order[len(order) // 2 :].tolist())) if counts.min() >= most else (retain, forget)
            )
            train, test = self.by_class(attacker), self.by_class(judged)
            validation = self.by_class(self.images["validation"])
        counts = np.bincount(train.labels, minlength=len(self.task.labels)).tolist()
        if not classes and not min(counts):
            gone = [label for label, count in zip(self.task.labels, counts, strict=True) if not count]
            raise DataError(
                f"--forget {self.request} takes all training images of the class {listing(gone)}: that is to forget "
                f"the class. Write --forget class={','.join(gone)}, or take off some of them."
            )
        check_budget(counts, self.task.labels, most, self.task.name)
        name = f"{self.task.name}, {self.request}"
        task = AttackedTask(name, "source_subset", self.task.labels, train, validation, test, retain=retain)
        return {"source": task}

    def by_class(self, images: ImageTensors) -> ImageTensors:
        """The same images, labelled by position in the task's classes instead of the head's rows."""
        position = torch.full((max(self.rows) + 1,), -1)
        position[torch.tensor(self.rows)] = torch.arange(len(self.rows))
        return ImageTensors(images.pixel_values, position[images.labels])

    def measure(
        self, models: Models, device: torch.device, splits: Sequence[str] = MEASURED_ON, *, membership: bool = True
    ) -> Measurements:
        """Accuracy on splits, on at most max_eval_images of each, and membership inference, of single models.

        Args:
            models: by role; several draws of one role are left out.
            device: where to measure.
            splits: names of the images; those that there are none of are left out.
            membership: whether to tell forgotten images from held-out ones too.
        """
        measurements = Measurements(notes=[*self._notes(), *accuracy_notes(models)])
        for split in splits:
            if split in self.images:
                measurements.accuracy[split] = accuracies(models, self.capped(self._split(split)), device)
        tell_order(models, measurements.accuracy.get("test", {}), len(self.labels))
        for role, model in models.items() if membership else ():
            if isinstance(model, PreTrainedModel):
                measurements.membership += self._membership(model, role, measurements.notes)
        return measurements

    def findings(self, measurements: Measurements, cost: Mapping[str, Any] | None = None) -> dict[str, Any]:
        images = {name: len(self.images[name]) for name in ("forget", "retain")}
        return {
            "target_accuracy": model_pair(measurements.accuracy["test"]),
            "source_accuracy": model_pair(measurements.accuracy["forget"]),
            "membership": sorted(measurements.membership, key=lambda row: ROLES.index(row["model"])),
            "chance": {self.attacked["source"].name: 1 / len(self.labels)},
            "unlearning": Unlearning(str(self.request), images, measurements.accuracy, dict(cost or {})),
        }

    def _split(self, name: str) -> Images:
        """Images by the name that a report gives them: what it calls test images are validation images in tuning."""
        return self.images[name.replace("test", self.spec.test)]

    def _membership(self, model: PreTrainedModel, role: str, notes: list[str]) -> list[dict[str, Any]]:
        """Tell forgotten images from held-out images of the same classes."""
        forget, retain = (in_memory(self.images[name], POOL) for name in ("forget", "retain"))
        test, own = in_memory(self._split("test"), POOL), dict[str, Any]()
        if "forgotten_test" in self.images:
            test, own = in_memory(self._split("forgotten_test"), POOL), {"retain_held_out": test}
        try:
            results = membership_inference(model, forget, test, retain=retain, **own, name=role)
        except DataError as error:
            notes.append(f"Membership inference: left out. {error}")
            return []
        return [asdict(result) for result in results]


def together(*parts: ImageTensors) -> ImageTensors:
    """Images one after another."""
    return ImageTensors(torch.cat([p.pixel_values for p in parts]), torch.cat([p.labels for p in parts]))


def _half_and_half(forgotten: ImageTensors, others: ImageTensors) -> ImageTensors:
    """As many images of others as forgotten ones, drawn with a fixed seed; fewer forgotten ones if others lack."""
    count = min(len(forgotten), len(others))
    chosen = [np.random.default_rng(0).permutation(len(part))[:count].tolist() for part in (forgotten, others)]
    return together(forgotten.subset(chosen[0]), others.subset(chosen[1]))
