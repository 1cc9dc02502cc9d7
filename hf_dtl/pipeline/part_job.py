"""The job of a part of one data set: train or load the model, and unlearn."""

import copy
import logging
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from hf_dtl.data import check_forward
from hf_dtl.errors import ConfigError
from hf_dtl.methods.by_name import MethodChoice
from hf_dtl.models.heads import MultiHeadClassifier
from hf_dtl.pipeline.job import Job
from hf_dtl.pipeline.stages import load_stage, made_from
from hf_dtl.scenarios.part import MEASURED_ON, Part
from hf_dtl.scenarios.scenario import Measurements
from hf_dtl.trainers.config import UnlearningConfig
from hf_dtl.trainers.learning_rates import TRAIN
from hf_dtl.trainers.projection import collect_subspace, fingerprints, load_subspace
from hf_dtl.trainers.readiness import check_fits
from hf_dtl.trainers.request import Request
from hf_dtl.trainers.shares import Share

logger = logging.getLogger(__name__)
LAYER_INPUTS = "layer_inputs.safetensors"


class PartJob(Job):
    """A classifier of one data set, trained here or given, forgets a part of it."""

    scenario: Part
    model: PreTrainedModel
    undisposed: PreTrainedModel
    layer_inputs: Path | None = None

    def _open(self) -> Part:
        return Part(self.options.spec(), max(self.options.attacker().budgets))

    def _load_model(self) -> PreTrainedModel:
        if self.options.model is not None:
            return self.given_model(new_head=False)
        labels = self.scenario.labels
        model = self.small_model(labels)
        model.config.id2label = dict(enumerate(labels))
        model.config.label2id = {label: i for i, label in enumerate(labels)}
        return model

    def _check(self) -> None:
        o, scenario = self.options, self.scenario
        configs = [self.disposal_config(choice, Path(o.output_dir)) for choice in self.choices]
        if scenario.division.new_labels and not any(config.gives_new_labels for config in configs):
            raise ConfigError(
                f"--forget {scenario.request} names new labels, which none of the methods gives: add "
                "--method instancewise:goal=relabel, or leave the labels out of the file."
            )
        for config in configs:
            check_fits(self.model, config)
            config.streams(self.images["forget"], self.images["retain"])
        check_forward(self.model, self.images["retain"])
        for note in self._notes():
            logger.warning(note)
        for choice in self.choices:
            self._check_layer_inputs(choice)
        given = self._load_retrained(self.images["retain"])
        if given is not None:
            scenario.check_numbered(given, "retrained")

    def _notes(self) -> list[str]:
        """That a given model may know images which are asked for and not forgotten."""
        scenario = self.scenario
        if self.epochs:
            return []
        asked, knows = f"--forget {scenario.request}: ", "A model that was trained on them still knows them."
        notes = []
        if scenario.held_out:
            drawn = " and no ".join(scenario.task.drawn)
            notes.append(
                f"{asked}{scenario.held_out} of its images are held out to judge by, as the data have no {drawn} "
                f"split. {knows} Give the data such splits."
            )
        if scenario.judging_copies:
            notes.append(
                f"{asked}{scenario.judging_copies} of its training images are also test or validation images, and are "
                f"not forgotten. {knows} Take them out of those splits."
            )
        return notes

    def _check_layer_inputs(self, choice: MethodChoice) -> None:
        """Refuse layer inputs of another model now, and not when it is the method's turn."""
        path = choice.options.get("subspace_file")
        if path is not None and self.epochs:
            raise ConfigError(
                f"subspace_file={path!r} belongs to a model that is there already: give it as --model, "
                "with --train_epochs 0."
            )
        if path is not None:
            task = UnlearningConfig.retain_task
            model = MultiHeadClassifier(copy.deepcopy(self.model), task=task)
            load_subspace(path, fingerprints(model, task, self.processor), torch.device("cpu"))

    def request(self) -> Request:
        o, division, rows = self.options, self.scenario.division, self.scenario.rows
        new = division.new_labels
        return Request(
            kind="part",
            whole_classes=bool(division.classes),
            forget_classes=len(np.unique(division.forget["label"])),
            processes=self.state.num_processes,
            batch_size=o.forget_batch_size,
            rows=tuple(division.rows),
            new_labels=None if new is None else tuple(rows[label] for label in new),
            layer_inputs=self.layer_inputs,
            parameters=self.parameters,
            small=o.model is None,
        )

    # Stages ---------------------------------------------------------------------------------------------------

    def trained_images(self) -> dict[str, float]:
        retain = len(self.images["retain"])
        return {
            "train": self.epochs * (retain + len(self.images["forget"])),
            "retrained": self.retrain_epochs * retain,
        }

    def train(self) -> PreTrainedModel:
        """The model that knows everything: the given one, or one trained on all the data."""
        if self.epochs == 0:
            return self.model
        rate = self.learning_rate(TRAIN, self.options.train_learning_rate)
        training = self.training_options(num_train_epochs=self.epochs, learning_rate=rate)
        return self.train_stage("train", self.model, self.scenario.together(), training)

    def prepare(self) -> PreTrainedModel:
        self.undisposed = self.train()
        return self.undisposed

    def retrain(self, scratch: PreTrainedModel) -> PreTrainedModel:
        """Trained on the retained images alone, from random weights."""
        training = self.training_options(num_train_epochs=self.retrain_epochs, learning_rate=self.retrain_rate)
        return self.train_stage("retrained", scratch, self.images["retain"], training)

    def unlearn(self, choice: MethodChoice, undisposed: PreTrainedModel | None = None) -> PreTrainedModel:
        """The scrubbed model.

        A method that needs the moments of layer inputs gets those on all training data, which a stage of their own
        collects once for the model, and leaves those on the retained images for the next request.
        """
        model = undisposed or self.undisposed
        if choice.config_class.wants_layer_inputs and "subspace_file" not in choice.options:
            self.layer_inputs = self.collect_layer_inputs(model)
        return load_stage(self.method_stage(choice, model, self.images["forget"], self.images["retain"]))

    @property
    def validation(self) -> torch.utils.data.Dataset:
        return self.images["validation"]

    def collect_layer_inputs(self, undisposed: PreTrainedModel) -> Path:
        """The moments of layer inputs on all training data: a stage, done once for the model."""
        parts = made_from(undisposed, self.scenario.together())
        return self.run.stage("layer_inputs", partial(self._collect, undisposed), parts) / LAYER_INPUTS

    def _collect(self, undisposed: PreTrainedModel, folder: Path) -> None:
        task = UnlearningConfig.retain_task
        model = MultiHeadClassifier(copy.deepcopy(undisposed), task=task).to(self.state.device).eval()
        share = Share(self.state.process_index, self.state.num_processes)
        moments = collect_subspace(model, self.scenario.together(), task, share=share)
        if self.state.is_main_process:
            moments.save(folder / LAYER_INPUTS, **fingerprints(model, task, self.processor))

    def keep(self, choice: MethodChoice, model: PreTrainedModel, folder: Path) -> None:
        found = self.run.folder / "stages" / self.disposal_stage(choice) / LAYER_INPUTS
        if found.exists():
            new = folder / f".{LAYER_INPUTS}.partial"
            shutil.copy(found, new)
            new.replace(folder / LAYER_INPUTS)

    # What is measured -----------------------------------------------------------------------------------------

    def measure(
        self, models: Mapping[str, Any], splits: Sequence[str] = MEASURED_ON, *, membership: bool = True
    ) -> Measurements:
        membership = membership and self.options.membership
        for model in (model for model in models.values() if isinstance(model, PreTrainedModel)):
            model.to(self.state.device)  # type: ignore[arg-type]
        found = self.scenario.measure(models, self.state.device, splits, membership=membership)
        found.notes += self._notes()
        return found
