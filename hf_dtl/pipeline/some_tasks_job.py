"""The job of a model of several tasks: train or load it, and forget images for all tasks or some."""

import copy
import dataclasses
import logging
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Trainer

from hf_dtl.audit import PiggybackRecord, scratch_models
from hf_dtl.data import MultiTaskImages, check_forward
from hf_dtl.errors import ConfigError, ModelError, listing
from hf_dtl.hub import save_plain
from hf_dtl.methods.by_name import MethodChoice, parse_method
from hf_dtl.methods.task_pairs import PairSet, TaskRequest, forget_table, partial_task, read_labels
from hf_dtl.models.heads import MultiHeadClassifier
from hf_dtl.models.labels import head_names, unnamed
from hf_dtl.models.loading import processor_of
from hf_dtl.pipeline.job import PASSES, Job
from hf_dtl.pipeline.stages import fresh_folder, made_from, replace_folder
from hf_dtl.scenarios.scenario import Measurements
from hf_dtl.scenarios.some_tasks import SomeTasks
from hf_dtl.trainers.learning_rates import TRAIN
from hf_dtl.trainers.multitask_training import MultiTaskTrainer, MultiTaskTrainingConfig, with_task_heads
from hf_dtl.trainers.request import Request
from hf_dtl.trainers.training import stage_arguments

logger = logging.getLogger(__name__)

TASKS_FILE = "tasks.json"
"""Marks a folder that `MultiHeadClassifier.save` wrote."""
_SCHEDULE = {"lr_scheduler_type": "cosine", "warmup_steps": 0.1}


class SomeTasksJob(Job):
    """A backbone with a head for each task forgets images for some of them."""

    scenario: SomeTasks
    model: MultiHeadClassifier
    undisposed: MultiHeadClassifier

    def _open(self) -> SomeTasks:
        return SomeTasks(self.options.spec(), max(self.options.attacker().budgets))

    def _load_model(self) -> MultiHeadClassifier:
        o, scenario = self.options, self.scenario
        if not self._has_heads:
            if not self.epochs:
                raise ConfigError("--train_epochs 0 leaves the new heads of the tasks random; train at least one.")
            plain = self.small_model(scenario.labels) if o.model is None else self.given_model(new_head=True)
            if o.model is not None and not unnamed(names := head_names(plain)):
                told = "The head of '%s' (%s) is not kept: each task gets a new one, trained on %s."
                logger.warning(told, o.model, listing(names, 5), scenario.data.name)
            torch.manual_seed(o.seed)
            return with_task_heads(plain, scenario.tasks)
        assert o.model is not None
        try:
            model = MultiHeadClassifier.load(o.model).eval()
        except Exception as error:  # whatever a broken configuration or file raises
            raise ModelError(
                f"The folder {o.model!r} cannot be loaded as a model of several tasks: {error}"
            ) from error
        tasks = scenario.tasks
        different = [t for t in {**tasks, **model.labels} if tasks.get(t) != model.labels.get(t)]
        if different:
            raise ModelError(
                f"The heads of {o.model!r} ({', '.join(model.labels)}) are not for the tasks of "
                f"'{scenario.data.name}' ({', '.join(tasks)}): {', '.join(different)} is only there, or has other "
                "classes. Choose the data and --task_columns that it was trained on."
            )
        self.processor = processor_of(o.model, model.backbone, size=o.image_size)
        return model

    @property
    def _has_heads(self) -> bool:
        """Whether the given model has a head for each task."""
        return self.options.model is not None and (Path(self.options.model) / TASKS_FILE).is_file()

    @property
    def epochs(self) -> float:
        given = self.options.train_epochs
        return given if given is not None else (0 if self._has_heads else PASSES)

    def _check(self) -> None:
        scenario = self.scenario
        table = forget_table(self.pairs, len(scenario.data.train), list(scenario.tasks))
        configs = [self.disposal_config(choice, Path(self.options.output_dir)) for choice in self.choices]
        labels, _ = read_labels(self.images["train"], self.model)
        table = table[:, [list(scenario.tasks).index(task) for task in self.model.heads]]
        parts = [PairSet(self.images["train"], labels.masked_fill(mask, torch.nan)) for mask in (~table, table)]
        for config in configs:
            config.streams(*parts)
        check_forward(self.model.export(scenario.forgotten[0]), self.images["train"])
        for choice in self.choices:
            self._rehearse(choice)

    def _rehearse(self, choice: MethodChoice) -> None:
        """Build a method's trainer on a few images, so that what it refuses is refused before any training."""
        # these measure the model, which is not trained yet
        quick = {"task_projection": False, "forget_until": "steps"}
        choice = dataclasses.replace(choice, options=choice.options | quick)
        forget = self.scenario.rows[:2]
        retain = np.setdiff1d(np.arange(len(self.scenario.data.train)), self.scenario.rows)[:2]
        few = self.images["train"].subset([*forget, *retain])
        with tempfile.TemporaryDirectory() as folder:  # a trainer makes its folder at once
            config = self.disposal_config(choice, Path(folder))
            pairs = partial_task(range(len(forget)), self.scenario.forgotten)
            trainer = self._trainer(choice, self.model, config, few, pairs)
            trainer.state.max_steps = config.max_steps
            trainer.active_streams()  # asked when training starts: some steps are too few

    @property
    def pairs(self) -> TaskRequest:
        """What is to be forgotten."""
        return partial_task(self.scenario.rows, self.scenario.forgotten)

    def request(self) -> Request:
        o = self.options
        return Request(
            kind="tasks", whole_classes=False, forget_classes=0, processes=self.state.num_processes,
            batch_size=o.forget_batch_size, parameters=self.parameters,
            small=o.model is None,
        )  # fmt: skip

    # Stages ---------------------------------------------------------------------------------------------------

    def trained_images(self) -> dict[str, float]:
        images = len(self.scenario.data.train)
        return {"train": self.epochs * images, "retrained": self.retrain_epochs * images}

    def train(self) -> MultiHeadClassifier:
        """The model that knows everything: the given one, or one trained on all tasks of all the data.

        A regression's loss is taken in units of its labels' deviation, as unlearning takes it.
        """
        if not self.epochs:
            return self.model
        o, scenario = self.options, self.scenario
        weights = {task: 1 / scenario.variance(task) for task, names in scenario.tasks.items() if not names}

        def build(folder: Path) -> Trainer:
            rate = self.learning_rate(TRAIN, o.train_learning_rate)
            own = {"num_train_epochs": self.epochs, "learning_rate": rate, "task_weights": weights}
            options = self.training_options(augmentation=o.augmentation, **own, **_SCHEDULE)
            args = MultiTaskTrainingConfig(**stage_arguments(folder, **options))
            model = copy.deepcopy(self.model)
            return MultiTaskTrainer(model, args, self.images["train"], processing_class=self.processor)

        parts = made_from(self.model, self.images["train"])
        return self._load_heads(self.trainer_stage("train", "train", build, parts, ("loss",), scrubs=False))

    def prepare(self) -> MultiHeadClassifier:
        self.undisposed = self.train()
        return self.undisposed

    def scratch(self, undisposed: MultiHeadClassifier) -> dict[str, Any]:
        """Nothing: each task has its own, see `attack`."""
        return {}

    def retrain(self, scratch: Any = None) -> MultiHeadClassifier:
        """The same architecture, trained from random weights, which the method draws, on the pairs that are kept."""
        o, scenario = self.options, self.scenario
        everywhere = set(scenario.forgotten) == set(scenario.tasks)
        kept = len(scenario.data.train) - (len(scenario.rows) if everywhere else 0)
        choice = parse_method("multitask:strategy=retrain")
        own = {
            "per_device_retain_batch_size": o.batch_size // self.state.num_processes,
            "max_steps": max(1, math.ceil(self.retrain_epochs * kept / o.batch_size)),
            "learning_rate": self.retrain_rate,
            **_SCHEDULE,
        }

        def build(folder: Path) -> Trainer:
            return self._trainer(choice, self.model, self.disposal_config(choice, folder, **own))

        parts = made_from(self.model, self.images["train"], [scenario.rows, scenario.forgotten])
        return self._load_heads(self.trainer_stage("retrained", "retrain", build, parts, _BAR))

    def unlearn(self, choice: MethodChoice, original: MultiHeadClassifier | None = None) -> MultiHeadClassifier:
        """The scrubbed model."""
        model, scenario = original or self.undisposed, self.scenario

        def build(folder: Path) -> Trainer:
            return self._trainer(choice, model, self.disposal_config(choice, folder))

        parts = made_from(model, self.images["train"], [scenario.rows, scenario.forgotten])
        stage = self.disposal_stage(choice)
        return self._load_heads(self.trainer_stage(stage, f"dispose: {choice.text}", build, parts, _BAR))

    def _trainer(
        self,
        choice: MethodChoice,
        model: MultiHeadClassifier,
        config: Any,
        images: MultiTaskImages | None = None,
        pairs: TaskRequest | None = None,
    ) -> Any:
        """The trainer of a method, on all training images unless others are given."""
        trainer_class: Any = choice.trainer_class
        return trainer_class(
            model=copy.deepcopy(model),
            args=config,
            dataset=images or self.images["train"],
            forget=pairs or self.pairs,
            processing_class=self.processor,
            eval_dataset=self.images["validation"],
        )

    def _load_heads(self, folder: Path) -> MultiHeadClassifier:
        return MultiHeadClassifier.load(folder).eval()

    # What is measured -----------------------------------------------------------------------------------------

    def measure(self, models: Mapping[str, Any]) -> Measurements:
        return self.scenario.measure(models, self.state.device, membership=self.options.membership)

    def attack(self, models: Mapping[str, Any], store: str = "attacks.jsonl", *, progress: bool = True):
        """Let the attacker relearn every forgotten task from every model, each task's plain one."""
        records: list[PiggybackRecord] = []
        for task, attacked in self.scenario.attacked.items():
            plain = {role: model.export(task) for role, model in models.items()}
            if "undisposed" in plain:
                plain["scratch"] = scratch_models(plain["undisposed"], len(self.attacks.seeds), seed=self.options.seed)
            records += self.attack_on(plain, {task: attacked}, store, progress=progress)
        return records

    def save(self, model: MultiHeadClassifier, folder: Path) -> None:
        """Write each task's plain model and its processor into a folder of its own."""
        for task in self.scenario.tasks:
            save_plain(model.export(task), self.processor, folder / task)

    def keep(self, choice: MethodChoice, model: MultiHeadClassifier, folder: Path) -> None:
        """Write the backbone with all heads."""
        new = fresh_folder(folder / "all_tasks")
        model.cpu().save(new)
        self.processor.save_pretrained(new)
        replace_folder(new, folder / "all_tasks")


_BAR = ("retain_loss", "source_loss")
