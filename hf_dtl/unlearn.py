"""Unlearn a part of one data set: train or load the model, divide its data, forget, and prepare what is audited."""

import copy
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path

import datasets
import numpy as np
import torch
from transformers import PreTrainedModel

from hf_dtl.audit import AttackedTask, scratch_models
from hf_dtl.data import Division, ForgetRequest, ImageTensors, LazyImages, TaskData, check_forward, load_task
from hf_dtl.errors import ConfigError, DataError, ModelError
from hf_dtl.job import StagedJob, in_memory
from hf_dtl.methods.by_name import MethodChoice, parse_methods
from hf_dtl.models.heads import MultiHeadClassifier
from hf_dtl.models.labels import published_rows
from hf_dtl.models.loading import load_classifier
from hf_dtl.pipeline.stages import Run
from hf_dtl.trainers.config import UnlearningConfig
from hf_dtl.trainers.request import Request
from hf_dtl.trainers.subspaces import LAYER_INPUTS, collect_subspace, fingerprints, load_subspace
from hf_dtl.trainers.trainer import sum_over_processes
from hf_dtl.unlearn_options import UnlearnOptions

POOL = 400
"""Images a class that membership inference and the attacks' retain images are drawn from."""


class UnlearnJob(StagedJob):
    """Everything is loaded and checked before the output folder is touched; the stages then run in order.

    Args:
        options: see `UnlearnOptions`.

    Attributes:
        images: by name: `forget` and `retain` (training), `validation` and `test` (of what is retained), and
            `forgotten_validation` and `forgotten_test` (held-out images of classes that are forgotten as a whole).
            Labels are numbered as the model's head numbers them.

    Raises:
        ConfigError, DataError, ModelError, OutputError: bad input, before any training.
    """

    layer_inputs: Path | None = None
    rows: Sequence[int] = ()

    def __init__(self, options: UnlearnOptions):
        super().__init__(options)
        o = options
        self.choices = parse_methods(o.methods)
        self.check_batch("unlearn_batch_size")
        if o.reference not in ("none", "retrain"):
            raise ConfigError(f"--reference {o.reference!r} is unknown; use none or retrain.")
        if o.reference == "retrain" and o.retrained is not None:
            raise ConfigError("Give --reference retrain or --retrained, not both.")
        self.request = ForgetRequest.parse(o.forget)
        self.task: TaskData = load_task(
            o.dataset,
            image_column=o.image_column,
            label_column=o.label_column,
            images_per_class=o.images_per_class,
            seed=o.seed,
            keep_column=self.request.column,
        )
        self.division: Division = self.request.divide(self.task, o.seed)
        configs = [self.disposal_config(choice, Path(o.output_dir)) for choice in self.choices]
        if self.division.new_labels and not any(config.gives_new_labels for config in configs):
            raise ConfigError(
                f"--forget {self.request} names new labels, which none of the methods gives: add "
                "--methods instancewise:goal=relabel, or leave the labels out of the file."
            )
        self.model = self._load_model()
        self.rows = _rows_of_the_head(self.model, self.task)
        self.images = {name: self._images(name, part) for name, part in self._parts().items()}
        for config in configs:
            config.streams(self.images["forget"], self.images["retain"])
        check_forward(self.model, self.images["retain"])
        for config in configs:
            self._check_subspace(config)
        if o.retrained is not None:
            self.given_retrained = load_classifier(o.retrained, o.retrained_revision)
            if _rows_of_the_head(self.given_retrained, self.task) != self.rows:
                raise ModelError(f"The head of --retrained {o.retrained} numbers the classes in another way.")
            check_forward(self.given_retrained, self.images["retain"])
        _ = self.axes
        self.run = Run(o.output_dir, o.settings(), self.state)

    # Checks and loading ---------------------------------------------------------------------------------------

    def _load_model(self) -> PreTrainedModel:
        if self.options.model_name_or_path is not None:
            return self.given_model(new_head=False)
        model = self.small_model(len(self.task.labels))
        model.config.id2label = dict(enumerate(self.task.labels))
        model.config.label2id = {label: i for i, label in enumerate(self.task.labels)}
        return model

    def _check_subspace(self, config: UnlearningConfig) -> None:
        """Refuse layer inputs of another model now, and not when it is the method's turn."""
        path = getattr(config, "subspace_file", None)
        if path is not None and self._epochs:
            raise ConfigError(
                f"subspace_file={path!r} belongs to a model that is there already: give it as --model_name_or_path, "
                "with --train_epochs 0."
            )
        if path is not None:
            model = MultiHeadClassifier(copy.deepcopy(self.model), task=config.retain_task)
            wanted = fingerprints(model, config.retain_task, self.processor)
            load_subspace(path, wanted, torch.device("cpu"))

    @property
    def _epochs(self) -> float:
        """Passes of ordinary training."""
        o = self.options
        return o.train_epochs if o.train_epochs is not None else (16 if o.model_name_or_path is None else 0)

    def _parts(self) -> dict[str, datasets.Dataset]:
        task, classes = self.task, self.division.classes
        parts = {"forget": self.division.forget, "retain": self.division.retain}
        for split in ("validation", "test"):
            whole: datasets.Dataset = getattr(task, split)
            whole = whole.select(np.flatnonzero(~self.request.has_value(whole)))
            forgotten = np.isin(_labels(whole), classes)
            if classes and not forgotten.any():
                raise DataError(f"'{task.name}': the {split} split has no image of the classes to forget.")
            if forgotten.all():
                raise DataError(f"'{task.name}': the {split} split has no image of what is retained.")
            parts[split] = whole.select(np.flatnonzero(~forgotten))
            if classes:
                parts[f"forgotten_{split}"] = whole.select(np.flatnonzero(forgotten))
        return parts

    def _images(self, name: str, part: datasets.Dataset) -> ImageTensors | LazyImages:
        images = self.load_split(part, f"{self.task.name} {name}", held_out=name not in ("forget", "retain"))
        images.labels = torch.tensor(self.rows)[images.labels]
        return images

    def disposal_config(self, choice: MethodChoice, work: Path):
        given = {"max_steps": self.options.unlearn_steps, "learning_rate": self.options.unlearn_learning_rate}
        return self.method_config(choice, work, self._told(), given)

    def _told(self) -> Request:
        """What a method is told of the request; before the model is there, nothing that depends on its head."""
        o, division = self.options, self.division
        new = division.new_labels
        return Request(
            "part", self.state.num_processes, o.unlearn_batch_size, len(np.unique(_labels(division.forget))),
            whole_classes=bool(division.classes), rows=tuple(division.rows), small=o.model_name_or_path is None,
            new_labels=None if new is None or not self.rows else tuple(self.rows[label] for label in new),
            layer_inputs=self.layer_inputs,
        )  # fmt: skip

    # Stages ---------------------------------------------------------------------------------------------------

    def train(self) -> PreTrainedModel:
        """The model that knows everything: the given one, or one trained on all the data."""
        epochs = self._epochs
        if epochs == 0:
            return self.model
        training = self.training_options(num_train_epochs=epochs, learning_rate=self.options.train_learning_rate)
        return self.trained("train", self.model, self._together(), training)

    def _together(self) -> torch.utils.data.Dataset:
        """All training images."""
        return torch.utils.data.ConcatDataset([self.images["forget"], self.images["retain"]])

    def references(self, undisposed: PreTrainedModel) -> dict[str, PreTrainedModel | list[PreTrainedModel]]:
        """`scratch` (random weights, a draw for each attack seed), and `retrained` where it is asked for."""
        o = self.options
        scratch = scratch_models(undisposed, len(self.attacks.seeds), seed=o.seed)
        if o.retrained is not None:
            return {"scratch": scratch, "retrained": self.given_retrained}
        if o.reference == "none":
            return {"scratch": scratch}
        rate = o.train_learning_rate if o.retrain_learning_rate is None else o.retrain_learning_rate
        epochs = o.retrain_epochs if o.retrain_epochs is not None else (o.train_epochs or 16)
        training = self.training_options(num_train_epochs=epochs, learning_rate=rate)
        start = scratch_models(undisposed, 1, seed=o.seed)[0]
        return {"scratch": scratch, "retrained": self.trained("retrained", start, self.images["retain"], training)}

    def unlearn(self, choice: MethodChoice, undisposed: PreTrainedModel) -> PreTrainedModel:
        """The scrubbed model.

        A method that needs the moments of layer inputs gets those on all training data, which a stage of their own
        collects once for the model, and leaves those on the retained images for the next request.
        """
        if choice.config_class.wants_layer_inputs and "subspace_file" not in choice.options:
            self.layer_inputs = self.collect_layer_inputs(undisposed)
        return self.disposed(
            choice, undisposed, self.images["forget"], self.images["retain"],
            request=self._told(), eval_dataset=self.images["validation"],
        )  # fmt: skip

    def collect_layer_inputs(self, undisposed: PreTrainedModel) -> Path:
        """The moments of layer inputs on all training data: a stage, done once for the model."""
        return self.run.stage("layer_inputs", partial(self._collect, undisposed)) / LAYER_INPUTS

    def _collect(self, undisposed: PreTrainedModel, folder: Path) -> None:
        task = UnlearningConfig.retain_task
        model = MultiHeadClassifier(copy.deepcopy(undisposed), task=task).to(self.state.device).eval()
        processes = self.state.process_index, self.state.num_processes
        reduce = sum_over_processes if processes[1] > 1 else None
        moments = collect_subspace(model, self._together(), task, process=processes, reduce=reduce)
        if self.state.is_main_process:
            moments.save(folder / LAYER_INPUTS, **fingerprints(model, task, self.processor))

    # What the audit gets --------------------------------------------------------------------------------------

    @cached_property
    def axes(self) -> dict[str, AttackedTask]:
        """The task that the attacker relearns.

        Of forgotten classes: all classes, judged half by images of the forgotten ones and half by others, so that
        neither naming everything alike nor what was retained alone scores. Of single images: half of them, or where
        that is not enough retain images, judged by the other forgotten images.
        """
        retain = in_memory(self.images["retain"], self._pool)
        forget = in_memory(self.images["forget"], self._pool)
        if self.division.classes:
            train = _together(forget, retain)
            validation, test = (
                _half_and_half(self.images[f"forgotten_{split}"], self.images[split])
                for split in ("validation", "test")
            )
            validation, test = (self._by_class(images) for images in (validation, test))
            train = self._by_class(train)
        else:
            order = np.random.default_rng(0).permutation(len(forget))
            half = forget.subset(order[: len(order) // 2].tolist())
            counts = np.bincount(self._by_class(half).labels, minlength=len(self.task.labels))
            attacker, judged = (
                (half, forget.subset(order[len(order) // 2 :].tolist()))
                if counts.min() >= max(self.attacks.budgets)
                else (retain, forget)
            )
            train, test = self._by_class(attacker), self._by_class(judged)
            validation = self._by_class(self.images["validation"])
        counts = np.bincount(train.labels, minlength=len(self.task.labels))
        if counts.min() < max(self.attacks.budgets):
            raise DataError(
                f"A budget of {max(self.attacks.budgets)} images a class cannot be drawn from '{self.task.name}': the "
                f"class '{self.task.labels[int(counts.argmin())]}' has {counts.min()}. Lower --budgets."
            )
        name = f"{self.task.name}, {self.request}"
        task = AttackedTask(name, "source_subset", self.task.labels, train, validation, test, retain=retain)
        return {"source": task}

    @property
    def _pool(self) -> int:
        return max(POOL, 4 * max(self.attacks.budgets))

    def _by_class(self, images: ImageTensors) -> ImageTensors:
        """The same images, labelled by position in the task's classes instead of the head's rows."""
        position = torch.full((max(self.rows) + 1,), -1)
        position[torch.tensor(self.rows)] = torch.arange(len(self.rows))
        return ImageTensors(images.pixel_values, position[images.labels])


def _labels(dataset: datasets.Dataset) -> np.ndarray:
    return np.asarray(dataset.select_columns(["label"]).with_format("numpy")[:]["label"])


def _rows_of_the_head(model: PreTrainedModel, task: TaskData) -> list[int]:
    """Row of the head for each class of the task.

    Raises:
        ModelError: the head does not know a class.
    """
    rows = published_rows(model, int(model.config.num_labels or 0), task.labels)
    if rows is None:
        known = [str(name) for name in (model.config.id2label or {}).values()]
        folded = {name.casefold() for name in known}
        unknown = [label for label in task.labels if label.casefold() not in folded]
        raise ModelError(
            f"The model's head does not name the classes {', '.join(unknown[:12])} of '{task.name}'; it names "
            f"{', '.join(known[:12])}{' ...' if len(known) > 12 else ''}. Choose classes that it was trained on, "
            "--dataset NAME[CLASS,...], or correct id2label in its config.json."
        )
    return rows


def _together(*parts: ImageTensors) -> ImageTensors:
    return ImageTensors(torch.cat([p.pixel_values for p in parts]), torch.cat([p.labels for p in parts]))


def _half_and_half(forgotten: ImageTensors, others: ImageTensors) -> ImageTensors:
    """As many images of others as forgotten ones, drawn with a fixed seed; fewer forgotten ones if others lack."""
    count = min(len(forgotten), len(others))
    chosen = [np.random.default_rng(0).permutation(len(part))[:count].tolist() for part in (forgotten, others)]
    return _together(forgotten.subset(chosen[0]), others.subset(chosen[1]))
