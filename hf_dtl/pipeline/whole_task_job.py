"""The job of a whole task: pre-train, adapt, dispose."""

import copy
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from hf_dtl.audit import scratch_models
from hf_dtl.data import TaskData, check_forward
from hf_dtl.data.splits import draw_by_class
from hf_dtl.errors import ConfigError, listing
from hf_dtl.methods.by_name import MethodChoice
from hf_dtl.models.heads import MultiHeadClassifier
from hf_dtl.models.labels import named_rows
from hf_dtl.models.loading import load_classifier
from hf_dtl.pipeline.job import PASSES, Job
from hf_dtl.pipeline.stages import load_stage, made_from
from hf_dtl.pipeline.twin import Twin, as_good
from hf_dtl.scenarios.scenario import Measurements, accuracies
from hf_dtl.scenarios.whole_task import WholeTask
from hf_dtl.trainers.learning_rates import ADAPT, TRAIN
from hf_dtl.trainers.readiness import check_fits
from hf_dtl.trainers.request import Request
from hf_dtl.trainers.training import fit_head


class WholeTaskJob(Job):
    """A model that knows the source task is adapted to the target task, and then disposed of the source.

    A given model whose head names the target classes already is the TL model: it is not adapted.

    Attributes:
        heads: the TL model with a head for each task, once `prepare` was called.
    """

    scenario: WholeTask
    model: PreTrainedModel
    undisposed: PreTrainedModel
    heads: MultiHeadClassifier

    def _open(self) -> WholeTask:
        return WholeTask(self.options.spec(), max(self.options.attacker().budgets))

    def _load_model(self) -> PreTrainedModel:
        """The model before any stage; with a head for the source task unless it is the TL model."""
        source, target = (self.scenario.tasks[name].labels for name in ("source", "target"))
        if self.options.model is None:
            return self.small_model(source)
        model = self.given_model(new_head=True)
        if named_rows(model, target) is not None and not self.epochs and not self.options.adapt_epochs:
            self.adapted = True
            return load_classifier(self.options.model, self.options.revision)
        if self.options.adapt_epochs == 0:
            raise ConfigError(
                "--adapt_epochs 0 would leave a random head: that of the model does not name the classes "
                f"{listing(target, 12)}, or --train_epochs takes it away. Leave out the 0, or correct id2label in the "
                "model's config.json."
            )
        return with_new_head(model, source, self.options.seed)

    adapted = False

    @property
    def has_base(self) -> bool:
        o = self.options
        return o.base_model is not None or (o.model is not None and bool(self.epochs))

    def _check(self) -> None:
        configs = [self.disposal_config(choice, Path(self.options.output_dir)) for choice in self.choices]
        for config in configs:
            check_fits(self.model, config)
            config.streams(self.images["source"]["train"], self.images["target"]["train"])
        for images in self.images.values():
            check_forward(self.model, images["train"])
        self._load_retrained(self.images["target"]["train"])
        if self.options.twin is not None:
            _ = self.further

    def request(self) -> Request:
        o, task = self.options, self.scenario.tasks["source"]
        return Request(
            kind="task", whole_classes=True, forget_classes=len(task.labels), processes=self.state.num_processes,
            batch_size=o.forget_batch_size, parameters=self.parameters, small=o.model is None,
        )  # fmt: skip

    # Stages ---------------------------------------------------------------------------------------------------

    def trained_images(self) -> dict[str, float]:
        source, target = (len(self.images[name]["train"]) for name in ("source", "target"))
        return {
            "pretrain": self.epochs * source,
            "adapt": 0 if self.adapted else target * self.adapt_epochs,
            "retrained": target * self.retrain_epochs,
        }

    @property
    def adapt_epochs(self) -> float:
        """Passes over the target data in adaptation."""
        return self.passes(200, len(self.images["target"]["train"]), self.options.adapt_epochs)

    @property
    def retrain_epochs(self) -> float:
        """Passes over the target data of the retrained reference."""
        return self.passes(400, len(self.images["target"]["train"]), self.options.retrain_epochs)

    def pretrain(self) -> PreTrainedModel:
        """A model that knows the source task: the given one, or one trained on the source data."""
        if self.epochs == 0:
            return self.model
        rate = self.learning_rate(TRAIN, self.options.train_learning_rate)
        training = self.training_options(num_train_epochs=self.epochs, learning_rate=rate)
        return self.train_stage("pretrain", self.model, self.images["source"]["train"], training)

    def adapt(self, pretrained: PreTrainedModel) -> tuple[PreTrainedModel, MultiHeadClassifier]:
        """The TL model: as a plain target model (`undisposed`), and with a source head for the disposal.

        The source head is the published one's where that names the source classes, else it is fitted.
        """
        o, images = self.options, self.images["target"]["train"]
        source, target = (self.scenario.tasks[name].labels for name in ("source", "target"))
        if self.adapted:
            undisposed = with_rows(pretrained, target)
        else:
            start = self.head_first("head", pretrained, target, images)
            training = self.training_options(
                num_train_epochs=self.adapt_epochs,
                learning_rate=self.learning_rate(ADAPT, o.adapt_learning_rate),
            )
            undisposed = self.train_stage("adapt", start, images, training)

        def refit(work: Path) -> None:
            if self.state.is_main_process:
                rows = named_rows(pretrained, source) if self.adapted else None
                if rows is None:
                    model = fitted_source(undisposed, source, self.images["source"]["train"], self.state.device)
                else:
                    model = MultiHeadClassifier(copy.deepcopy(undisposed), task="target")
                    model.add_head("source", source)
                    own = MultiHeadClassifier(with_rows(pretrained, source), task="source")
                    model.heads["source"].load_state_dict(own.heads["source"].state_dict())
                model.cpu().save(work)

        parts = made_from(undisposed, self.images["source"]["train"])
        return undisposed, MultiHeadClassifier.load(self.run.stage("source_head", refit, parts))

    def head_first(self, stage: str, model: PreTrainedModel, labels: Sequence[str], images: Any) -> PreTrainedModel:
        """The same backbone under a head that is fitted to it, so that fine-tuning need not bend it for a random one.

        Source: Kumar et al., Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution, 2022.
        """

        def fit(work: Path) -> None:
            if self.state.is_main_process:
                split = MultiHeadClassifier(copy.deepcopy(model), task="old")
                split.add_head("new", labels)
                fit_head(split, "new", images, device=self.state.device)
                split.export("new").cpu().save_pretrained(work)

        return load_stage(self.run.stage(stage, fit, made_from(model, images)))

    def prepare(self) -> PreTrainedModel:
        self.undisposed, self.heads = self.adapt(self.pretrain())
        return self.undisposed

    def references(self, undisposed: Any = None) -> dict[str, Any]:
        found = super().references(undisposed)
        if (base := self.public()) is not None:
            found["base"] = base
        return found

    def public(self) -> PreTrainedModel | None:
        """What is public: the given base, or what a given model knew before it learned the source here."""
        o = self.options
        if not self.has_base:
            return None
        base = (
            self.given_model(new_head=True) if o.base_model is None else load_classifier(o.base_model, new_head=True)
        )
        return with_new_head(base, self.scenario.tasks["target"].labels, o.seed)

    def retrain(self, scratch: PreTrainedModel) -> PreTrainedModel:
        """Trained on the target alone.

        It starts at what is public: the given base, or a given model that learns the source task here. A model that
        comes with the source task leaves nothing but random weights to start from.
        """
        return self.target_alone("retrained", scratch, self.images["target"]["train"])

    def target_alone(self, stage: str, scratch: PreTrainedModel, images: Any) -> PreTrainedModel:
        """Trained on these images of the target, in as many steps as on the retained ones, at least in 16 passes."""
        o, own = self.options, self.retrain_epochs
        steps = [-(-len(some) // o.batch_size) for some in (self.images["target"]["train"], images)]
        passes = max(min(PASSES, own), own * steps[0] / steps[1])
        start = self.public()
        training = self.training_options(num_train_epochs=passes, learning_rate=self.retrain_rate)
        return self.train_stage(stage, scratch if start is None else start, images, training)

    @cached_property
    def further(self) -> tuple[TaskData, Any]:
        """Labelled images of the target for twins."""
        return self.scenario.further(str(self.options.twin))

    @cached_property
    def blank(self) -> PreTrainedModel:
        """A target model of which the architecture counts alone."""
        return with_new_head(copy.deepcopy(self.model), self.scenario.tasks["target"].labels, self.options.seed)

    @property
    def label_range(self) -> tuple[int, int]:
        """Fewest and most true labels a class: those that are retained, and all that there are."""
        task, images = self.further
        splits = self.images["target"]["train"], images
        fewest, most = (int(np.bincount(own.labels, minlength=len(task.labels)).min()) for own in splits)
        return min(fewest, most), most

    def with_labels(self, count: int) -> PreTrainedModel:
        """Trained on the target alone, with so many true labels a class; fewer are among more."""
        task, images = self.further
        drawn = draw_by_class(np.asarray(images.labels), task.labels, count=count, seed=self.options.seed)
        (scratch,) = scratch_models(self.blank, 1, seed=self.options.seed)
        return self.target_alone(f"twin/{count}", scratch, images.subset(np.flatnonzero(drawn).tolist()))

    def labels_for(self, wanted: float) -> int:
        """Labels a class that come to a validation accuracy, see `as_good`."""
        return as_good(lambda count: self._validated(self.with_labels(count)), wanted, *self.label_range)

    def _validated(self, model: PreTrainedModel) -> float:
        return accuracies({"": model}, self.images["target"]["validation"], self.state.device)[""]

    def twin(self, scrubbed: PreTrainedModel) -> Twin | None:
        if self.options.twin is None:
            return None
        wanted = self._validated(scrubbed)
        count = self.labels_for(wanted)
        model = self.with_labels(count)
        return Twin(model, count, self._validated(model), wanted)

    def unlearn(self, choice: MethodChoice) -> PreTrainedModel:
        return self.dispose(choice, self.heads)

    def dispose(self, choice: MethodChoice, heads: MultiHeadClassifier) -> PreTrainedModel:
        """The scrubbed target model."""
        images = self.images["source"]["train"], self.images["target"]["train"]
        return load_stage(self.method_stage(choice, heads, *images))

    # What is measured -----------------------------------------------------------------------------------------

    def measure(self, models: Mapping[str, Any]) -> Measurements:
        """Source accuracy is read out with one and the same head, fitted on the undisposed model and frozen."""
        device = self.state.device
        plain = {role: model.to(device) for role, model in models.items() if isinstance(model, PreTrainedModel)}
        source = read_by_source(plain, self.heads.eval().to(device))
        return self.scenario.measure(plain, source)


def fitted_source(
    undisposed: PreTrainedModel, labels: Sequence[str], images: Any, device: torch.device
) -> MultiHeadClassifier:
    """The TL model with a head for the source task that is fitted to its frozen features."""
    model = MultiHeadClassifier(copy.deepcopy(undisposed), task="target")
    model.add_head("source", labels)
    fit_head(model, "source", images, device=device)
    return model


def read_by_source(models: Mapping[str, PreTrainedModel], heads: MultiHeadClassifier) -> dict[str, PreTrainedModel]:
    """The undisposed and the scrubbed model among these under the source head of `heads`, on their own device."""
    found = {}
    for role in [role for role in models if role in ("undisposed", "scrubbed")]:
        own = heads.export("source") if role == "undisposed" else with_head(models[role], heads, "source")
        found[role] = own.to(models[role].device)  # type: ignore[arg-type]
    return found


def with_new_head(model: PreTrainedModel, labels: Sequence[str], seed: int) -> PreTrainedModel:
    """The same backbone under a new, seeded head, as a plain model; the old head is dropped."""
    split = MultiHeadClassifier(model, task="old")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        split.add_head("new", labels)
    return split.export("new")


def with_rows(model: PreTrainedModel, labels: Sequence[str]) -> PreTrainedModel:
    """A copy of a model under those rows of its head that name some classes, in their order."""
    rows = named_rows(model, labels)
    assert rows is not None
    split = MultiHeadClassifier(copy.deepcopy(model), task="whole")
    split.add_head("rows", labels, multi_label="whole" in split.multi_label)
    whole, own = split.heads["whole"], split.heads["rows"]
    with torch.no_grad():
        own.weight.copy_(whole.weight[rows])
        own.bias.copy_(whole.bias[rows] if whole.bias is not None else own.bias)
    return split.export("rows")


def with_head(model: PreTrainedModel, heads: MultiHeadClassifier, task: str) -> PreTrainedModel:
    """The backbone of `model` under a head of another model."""
    split = MultiHeadClassifier(copy.deepcopy(model), task="own")
    split.add_head(task, heads.labels[task])
    split.heads[task].load_state_dict(heads.heads[task].state_dict())
    return split.export(task)
