"""Unlearn images of a model of several tasks: train or load it, forget for all tasks or some, train the reference."""

import copy
import dataclasses
import math
import tempfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from transformers import Trainer

from hf_dtl.audit import AttackedTask
from hf_dtl.audit.task import draw_up_to
from hf_dtl.data import (
    ForgetRequest,
    ImageTensors,
    MultiTaskData,
    MultiTaskImages,
    TaskData,
    check_forward,
    default_processor,
    load_multitask,
    load_multitask_images,
    load_processor,
)
from hf_dtl.data.multitask import Tasks
from hf_dtl.errors import ConfigError, DataError, ModelError
from hf_dtl.job import StagedJob
from hf_dtl.methods.by_name import MethodChoice, parse_method
from hf_dtl.methods.task_pairs import PairSet, TaskRequest, forget_table, partial_task, read_labels
from hf_dtl.models.heads import MultiHeadClassifier
from hf_dtl.multitask_options import split_names, task_columns
from hf_dtl.pipeline.stages import Run
from hf_dtl.trainers.multitask_training import MultiTaskTrainer, MultiTaskTrainingConfig, with_task_heads
from hf_dtl.trainers.request import Request
from hf_dtl.trainers.training import run_trainer, stage_arguments
from hf_dtl.unlearn import POOL
from hf_dtl.unlearn_options import UnlearnOptions

TASKS_FILE = "tasks.json"
"""Marks a folder that `MultiHeadClassifier.save` wrote."""
_EPOCHS = 16
_SCHEDULE = {"lr_scheduler_type": "cosine", "warmup_steps": 0.1}


class MultiTaskJob(StagedJob):
    """Everything is loaded and checked before the output folder is touched; the stages then run in order.

    Args:
        options: see `UnlearnOptions`.

    Attributes:
        tasks: task → its class names, none for a regression.
        forgotten: tasks that images are forgotten for.
        rows: positions of these images among the training images.
        images: by name: `train`, `validation` and `test`.

    Raises:
        ConfigError, DataError, ModelError, OutputError: bad input, before any training.
    """

    model: MultiHeadClassifier  # type: ignore[assignment]

    def __init__(self, options: UnlearnOptions):
        super().__init__(options)
        o = options
        self.choices = o.choices
        self.check_batch("unlearn_batch_size")
        if o.reference not in ("none", "retrain"):
            raise ConfigError(f"--reference {o.reference!r} is unknown; use none or retrain.")
        self.request = ForgetRequest.parse(o.forget)
        self.data = self._load_data()
        self.tasks: Tasks = {t: names for t, names in self.data.tasks.items() if t != self.request.column}
        named = split_names(o.forget_tasks)
        self.forgotten = tuple(dict.fromkeys(self.tasks if named is None else named))
        self.rows = self._rows()
        table = forget_table(self.pairs, len(self.data.train), list(self.tasks))
        configs = [self.disposal_config(choice, Path(o.output_dir)) for choice in self.choices]
        self.model = self._load_model()
        self.images = {name: self._images(name) for name in ("train", "validation", "test")}
        labels, _ = read_labels(self.images["train"], self.model)
        table = table[:, [list(self.tasks).index(task) for task in self.model.heads]]
        parts = [PairSet(self.images["train"], labels.masked_fill(mask, torch.nan)) for mask in (~table, table)]
        for config in configs:
            config.streams(*parts)
        check_forward(self.model.export(self.forgotten[0]), self.images["train"])
        for choice in self.choices:
            self._rehearse(choice)
        _ = self.axes
        self.run = Run(o.output_dir, o.settings(), self.state)

    # Checks and loading ---------------------------------------------------------------------------------------

    def _load_data(self) -> MultiTaskData:
        """The data; the column that a request names is loaded beside the tasks, as if it were one."""
        o, column = self.options, self.request.column
        wanted = task_columns(o.task_columns)
        if column is not None and wanted is not None and column not in wanted:
            wanted = {**wanted, column: column} if isinstance(wanted, dict) else [*wanted, column]
        elif column is not None:
            raise ConfigError(
                f"--forget {self.request}: {column!r} must be a column that is no task, since forgetting a class of a "
                "task is not what this does. Name the tasks with --task_columns, without it."
            )
        data = load_multitask(
            o.dataset, task_columns=wanted, image_column=o.image_column, images=o.images, seed=o.seed
        )
        if column is None:
            return data
        if not data.tasks[column]:
            raise DataError(f"--forget {self.request}: the column {column!r} holds floats; it must hold names.")
        held_out = {
            split: whole.select(np.flatnonzero(~self.request.has_value(whole)))
            for split, whole in (("validation", data.validation), ("test", data.test))
        }
        for split, rest in held_out.items():
            if not len(rest):
                raise DataError(f"'{data.name}': the {split} split has no image of what is retained.")
        return dataclasses.replace(data, **held_out)

    def _rows(self) -> list[int]:
        """Positions of the images to forget among the training images."""
        data, column = self.data, self.request.column
        # a request reads the labels for whole classes alone, which there are none of here
        columns = {"label": np.zeros(len(data.train), dtype=np.int64)}
        train = datasets.Dataset.from_dict(columns)
        if column is not None:
            train = data.train.select_columns([column])
            train = train if column == "label" else train.add_column("label", columns["label"])
        stand_in = TaskData(data.name, ("", ""), train, train, train, 0, data.source_key, data.train_rows)
        if self.request.kind == "indices":
            lines = Path(self.request.name).read_text(encoding="utf-8", errors="replace").splitlines()
            if any("," in line.partition("#")[0] for line in lines):
                raise DataError(f"--forget {self.request} names new labels, which multitask does not give: list rows.")
        division = self.request.divide(stand_in, self.options.seed)
        return np.flatnonzero(np.isin(data.train_rows, division.rows)).tolist()

    @property
    def pairs(self) -> TaskRequest:
        """What is to be forgotten."""
        return partial_task(self.rows, self.forgotten)

    def _load_model(self) -> MultiHeadClassifier:
        o = self.options
        if o.model_name_or_path is None or not (Path(o.model_name_or_path) / TASKS_FILE).is_file():
            if not self._epochs:
                raise ConfigError("--train_epochs 0 leaves the new heads of the tasks random; train at least one.")
            plain = self.small_model(2) if o.model_name_or_path is None else self.given_model(new_head=True)
            torch.manual_seed(o.seed)
            return with_task_heads(plain, self.tasks)
        try:
            model = MultiHeadClassifier.load(o.model_name_or_path).eval()
        except Exception as error:  # whatever a broken configuration or file raises
            raise ModelError(
                f"The folder {o.model_name_or_path!r} cannot be loaded as a model of several tasks: {error}"
            ) from error
        different = [t for t in {**self.tasks, **model.labels} if self.tasks.get(t) != model.labels.get(t)]
        if different:
            raise ModelError(
                f"The heads of {o.model_name_or_path!r} ({', '.join(model.labels)}) are not for the tasks of "
                f"'{self.data.name}' ({', '.join(self.tasks)}): {', '.join(different)} is only there, or has other "
                "classes. Choose the data and --task_columns that it was trained on."
            )
        config = model.backbone.config
        self.processor = (
            default_processor(config, o.image_size) if o.image_size else load_processor(o.model_name_or_path, config)
        )
        return model

    @property
    def _epochs(self) -> float:
        """Passes of ordinary training."""
        o = self.options
        if o.train_epochs is not None:
            return o.train_epochs
        trained = o.model_name_or_path is not None and (Path(o.model_name_or_path) / TASKS_FILE).is_file()
        return 0 if trained else _EPOCHS

    def _images(self, split: str) -> MultiTaskImages:
        """Images of a split; a held-out one is cut to max_eval_images and kept in memory."""
        dataset = getattr(self.data, split).select_columns(["image", *self.tasks])
        cap, own = self.options.max_eval_images, {}
        if split != "train":
            own = {"memory_limit_gib": float("inf")}
            if cap is not None and cap < len(dataset):
                dataset = dataset.shuffle(seed=0).select(range(cap))
        channels = getattr(self.model.backbone.config, "num_channels", 3)
        name = f"{self.data.name} {split}"
        return load_multitask_images(dataset, self.processor, num_channels=channels, desc=name, **own)

    def disposal_config(self, choice: MethodChoice, work: Path, **own: Any):
        o = self.options
        small = o.model_name_or_path is None
        request = Request("tasks", self.state.num_processes, o.unlearn_batch_size, small=small)
        given = {"max_steps": o.unlearn_steps, "learning_rate": o.unlearn_learning_rate, **own}
        return self.method_config(choice, work, request, given)

    def _rehearse(self, choice: MethodChoice) -> None:
        """Build a method's trainer on a few images, so that what it refuses is refused before any training."""
        quick = {
            "task_projection": False,
            "forget_until": "steps",
        }  # these measure the model, which is not trained yet
        choice = dataclasses.replace(choice, options=choice.options | quick)
        forget = self.rows[:2]
        retain = np.setdiff1d(np.arange(len(self.data.train)), self.rows)[:2]
        few = self.images["train"].subset([*forget, *retain])
        with tempfile.TemporaryDirectory() as folder:  # a trainer makes its folder at once
            config = self.disposal_config(choice, Path(folder))
            trainer = self._trainer(choice, self.model, config, few, partial_task(range(len(forget)), self.forgotten))
            trainer.state.max_steps = config.max_steps
            trainer.shown()  # asked when training starts: some steps are too few

    # Stages ---------------------------------------------------------------------------------------------------

    def train(self) -> MultiHeadClassifier:
        """The model that knows everything: the given one, or one trained on all tasks of all the data.

        A regression's loss is taken in units of its labels' deviation, as unlearning takes it.
        """
        if not self._epochs:
            return self.model
        o = self.options
        weights = {task: 1 / self.variance(task) for task, names in self.tasks.items() if not names}

        def build(folder: Path) -> Trainer:
            own = {"num_train_epochs": self._epochs, "learning_rate": o.train_learning_rate, "task_weights": weights}
            options = self.training_options(augmentation=o.augmentation, **own, **_SCHEDULE)
            args = MultiTaskTrainingConfig(**stage_arguments(folder, **options))
            model = copy.deepcopy(self.model)
            return MultiTaskTrainer(model, args, self.images["train"], processing_class=self.processor)

        return self._stage("train", "train", build, ("loss",))

    def retrained(self) -> MultiHeadClassifier | None:
        """The reference: the same architecture, trained from random weights on the pairs that are kept."""
        o = self.options
        if o.reference == "none":
            return None
        epochs = o.retrain_epochs if o.retrain_epochs is not None else (o.train_epochs or _EPOCHS)
        rate = o.train_learning_rate if o.retrain_learning_rate is None else o.retrain_learning_rate
        kept = len(self.data.train) - (len(self.rows) if set(self.forgotten) == set(self.tasks) else 0)
        batch = o.batch_size // self.state.num_processes
        choice = parse_method("multitask:strategy=retrain")
        own = {
            "per_device_retain_batch_size": batch,
            "max_steps": max(1, math.ceil(epochs * kept / o.batch_size)),
            "learning_rate": rate,
            **_SCHEDULE,
        }
        return self._stage(
            "retrained",
            "retrain",
            lambda folder: self._trainer(choice, self.model, self.disposal_config(choice, folder, **own)),
        )

    def unlearn(self, choice: MethodChoice, original: MultiHeadClassifier) -> MultiHeadClassifier:
        """The scrubbed model."""
        return self._stage(
            self.disposal_stage(choice),
            f"dispose: {choice.text}",
            lambda folder: self._trainer(choice, original, self.disposal_config(choice, folder)),
        )

    def _trainer(
        self,
        choice: MethodChoice,
        model: MultiHeadClassifier,
        config: Any,
        images: MultiTaskImages | None = None,
        pairs: TaskRequest | None = None,
    ) -> Trainer:
        """The trainer of a method, on all training images unless others are given."""
        return choice.trainer_class(
            model=copy.deepcopy(model),
            args=config,
            dataset=images or self.images["train"],
            forget=pairs or self.pairs,
            processing_class=self.processor,
            eval_dataset=self.images["validation"],
        )

    def _stage(
        self,
        name: str,
        title: str,
        build: Callable[[Path], Trainer],
        shown: tuple[str, ...] = ("retain_loss", "source_loss"),
    ) -> MultiHeadClassifier:
        """A stage of training with all heads; `cost.json` in its folder says what it took."""

        def work(folder: Path) -> None:
            cost = self._cost(folder)
            trainer = build(folder)
            run_trainer(trainer, folder, title, shown)
            trainer.save_model(str(folder))
            if self.state.is_main_process and cost is not None:
                cost.save()

        return MultiHeadClassifier.load(self.run.stage(name, work)).eval()

    # What is measured -----------------------------------------------------------------------------------------

    def variance(self, task: str) -> float:
        """Variance of a regression's training labels, 1 where they are all the same."""
        return self.images["train"].labels[task].double().var(correction=0).item() or 1.0

    def split(self, name: str) -> MultiTaskImages:
        """The images `forget`, `retain` (no task forgets them) or `test`; the former two cut to max_eval_images."""
        if name == "test":
            return self.images["test"]
        train = self.images["train"]
        rows = self.rows if name == "forget" else np.setdiff1d(np.arange(len(train)), self.rows)
        return train.subset(rows[: self.options.max_eval_images])

    def one_task(self, images: MultiTaskImages, task: str, per_class: int | None = None) -> ImageTensors:
        """Images in memory with the labels of one task, or a fixed draw of so many a class of them."""
        labels = images.labels[task]
        if per_class is not None:
            images = images.subset(draw_up_to(labels, per_class, seed=0))
        pixels = images.pixel_values
        if not isinstance(pixels, torch.Tensor):
            pixels = torch.stack([item["pixel_values"] for item in pixels])
        return ImageTensors(pixels, images.labels[task])

    @cached_property
    def axes(self) -> dict[str, AttackedTask]:
        """What the attacker relearns, by task: its classes from retained images, judged by the forgotten ones."""
        train, pool = self.images["train"], max(POOL, 4 * max(self.attacks.budgets))
        retain = train.subset(np.setdiff1d(np.arange(len(train)), self.rows))
        forget, axes = train.subset(self.rows), {}
        for task in (task for task in self.forgotten if self.tasks[task]):
            images = self.one_task(retain, task, pool)
            counts = np.bincount(images.labels, minlength=len(self.tasks[task]))
            if counts.min() < max(self.attacks.budgets):
                raise DataError(
                    f"A budget of {max(self.attacks.budgets)} images a class cannot be drawn for the task {task!r} of "
                    f"'{self.data.name}': the class '{self.tasks[task][int(counts.argmin())]}' has {counts.min()} "
                    "retained images. Lower --budgets."
                )
            axes[task] = AttackedTask(
                f"{self.data.name}, {task}, {self.request}", "source_subset", self.tasks[task], images,
                self.one_task(self.images["validation"], task), self.one_task(forget, task), retain=images,
            )  # fmt: skip
        return axes
