"""The main job of disposable transfer learning: pre-train, adapt, dispose, and prepare what is audited."""

import copy
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar

import torch
from transformers import PreTrainedModel

from hf_dtl.audit import AttackedTask, scratch_models
from hf_dtl.audit.task import draw_images
from hf_dtl.data import TaskData, check_disjoint, check_forward, load_task
from hf_dtl.errors import ConfigError
from hf_dtl.job import StagedJob, in_memory
from hf_dtl.job_options import JobOptions
from hf_dtl.methods.by_name import MethodChoice, parse_methods
from hf_dtl.methods.registry import method_names
from hf_dtl.models.heads import MultiHeadClassifier
from hf_dtl.options import option
from hf_dtl.pipeline.stages import Run
from hf_dtl.trainers.request import Request
from hf_dtl.trainers.training import fit_head

SPLITS = ("train", "validation", "test")


@dataclass(kw_only=True)
class DTLOptions(JobOptions):
    """Options of the main job.

    Parameters that control the data:
        source_dataset, target_dataset, novel_dataset, source_label_column, target_label_column, novel_label_column,
        image_column, source_images_per_class, target_images_per_class, max_eval_images.
    Parameters that control the model and its training:
        model_name_or_path, revision, image_size, batch_size, pretrain_epochs, pretrain_learning_rate, adapt_epochs,
        adapt_learning_rate, retrain_epochs, augmentation.
    Parameters that control disposal and audit:
        methods, dispose_steps, dispose_batch_size, dispose_learning_rate, forget_weight, attacks, budgets,
        audit_seeds, attack_learning_rates, successive_halving.
    Parameters that control the run:
        output_dir, seed, use_cpu, bf16, save_steps.
    """

    DISPOSAL: ClassVar[tuple[str, ...]] = (
        "dispose_steps",
        "dispose_batch_size",
        "dispose_learning_rate",
        "forget_weight",
    )
    FREE: ClassVar[tuple[str, ...]] = ("novel_dataset", "novel_label_column")

    output_dir: str = option("outputs/dtl", "Folder of the run; continued when it holds an unfinished part of it.")
    seed: int = option(0, "Seed of training and of the draw of target images.")
    source_dataset: str = option("mnist[0,1,2,3,4,5]", "Task to dispose of: NAME[:SPLIT][CLASS,CLASS,...].")
    target_dataset: str = option("mnist[6,7,8,9]", "Task to keep, written likewise.")
    novel_dataset: str = option(
        "fashion_mnist[0,1,2,3]", "Task that nobody trained, for the second axis of the audit."
    )
    source_label_column: str | None = option(None, "Column of source classes; default: label.")
    target_label_column: str | None = option(None, "Column of target classes; default: label.")
    novel_label_column: str | None = option(None, "Column of novel classes; default: label.")
    source_images_per_class: int | None = option(None, "Source training images a class; default: all.")
    target_images_per_class: int = option(10, "Target training images a class; few, so that transfer matters.")
    model_name_or_path: str | None = option(
        None, "Pre-trained Hub or local image classifier; default: a small ViT, pre-trained here on the source task."
    )
    pretrain_epochs: float | None = option(
        None, "Passes over the source data; default: 16, or 0 for a given model. 0 skips the stage."
    )
    pretrain_learning_rate: float = option(1e-3, "Peak learning rate of pre-training.")
    adapt_epochs: float = option(200, "Passes over the target data in adaptation.")
    adapt_learning_rate: float = option(5e-4, "Peak learning rate of adaptation.")
    retrain_epochs: float = option(400, "Passes over the target data of the retrained reference.")
    methods: str = option(
        "representation_erasure,gradient_collision:max_steps=100",
        "Disposal methods, separated by commas, each with options of its config, NAME[:OPTION=VALUE]...; the first "
        f"is put at the top of the output folder. There are: {', '.join(method_names())}.",
    )
    dispose_steps: int = option(300, "Steps of disposal.")
    dispose_batch_size: int = option(64, "Source images, and target images, a step of disposal.")
    dispose_learning_rate: float = option(2e-3, "Learning rate of disposal.")
    attacks: str = option(
        "linear_probe,full,head_then_full",
        "Attacks, separated by commas: names, grid, adaptive or all; those that do not apply are left out.",
    )


class DTLJob(StagedJob):
    """Everything is loaded and checked before the output folder is touched; the stages then run in order.

    Args:
        options: see `DTLOptions`.

    Raises:
        ConfigError, DataError, ModelError, OutputError: bad input, before any training.
    """

    def __init__(self, options: DTLOptions):
        super().__init__(options)
        self.choices = parse_methods(options.methods)
        for choice in self.choices:
            if "task" not in choice.config_class.kinds:
                raise ConfigError(
                    f"--methods {choice.text} forgets a part of one task, and this disposes of a whole one: use "
                    "scripts/unlearn.py, or another method here."
                )
        self.check_batch("dispose_batch_size")
        self._load_tasks()
        configs = [self.disposal_config(choice, Path(options.output_dir)) for choice in self.choices]
        self.model = self._load_model()
        self.images = {
            name: {
                split: self.load_split(getattr(task, split), f"{task.name} {split}", held_out=split != "train")
                for split in SPLITS
            }
            for name, task in self.tasks.items()
        }
        for config in configs:
            config.streams(self.images["source"]["train"], self.images["target"]["train"])
        for images in self.images.values():
            check_forward(self.model, images["train"])
        self.run = Run(options.output_dir, options.settings(), self.state)

    # Checks and loading ---------------------------------------------------------------------------------------

    def _load_tasks(self) -> None:
        o = self.options
        load = partial(load_task, image_column=o.image_column, seed=o.seed)
        self.tasks: dict[str, TaskData] = {
            "source": load(
                o.source_dataset, label_column=o.source_label_column, images_per_class=o.source_images_per_class
            ),
            "target": load(
                o.target_dataset, label_column=o.target_label_column, images_per_class=o.target_images_per_class
            ),
            "novel": load(o.novel_dataset, label_column=o.novel_label_column),
        }
        check_disjoint(self.tasks["source"], self.tasks["target"])
        for name in ("source", "novel"):
            task = self.tasks[name]
            labels = torch.as_tensor(task.train.select_columns(["label"]).with_format("numpy")[:]["label"])
            draw_images(labels, len(task.labels), max(self.attacks.budgets), seed=0)

    def _load_model(self) -> PreTrainedModel:
        """The model before any stage, with a head for the source task, and its processor."""
        o, labels = self.options, self.tasks["source"].labels
        if o.model_name_or_path is None:
            return self.small_model(len(labels))
        return _with_new_head(self.given_model(new_head=True), labels, o.seed)

    def disposal_config(self, choice: MethodChoice, work: Path):
        o = self.options
        classes = len(self.tasks["source"].labels)
        request = Request("task", self.state.num_processes, o.dispose_batch_size, classes, whole_classes=True)
        given = {"max_steps": o.dispose_steps, "learning_rate": o.dispose_learning_rate}
        return self.method_config(choice, work, request, given)

    # Stages ---------------------------------------------------------------------------------------------------

    def pretrain(self) -> PreTrainedModel:
        """A model that knows the source task: the given one, or one trained on the source data."""
        o = self.options
        if self._epochs == 0:
            return self.model
        training = self.training_options(num_train_epochs=self._epochs, learning_rate=o.pretrain_learning_rate)
        return self.trained("pretrain", self.model, self.images["source"]["train"], training)

    @property
    def _epochs(self) -> float:
        """Passes over the source data."""
        o = self.options
        return o.pretrain_epochs if o.pretrain_epochs is not None else (16 if o.model_name_or_path is None else 0)

    def adapt(self, pretrained: PreTrainedModel) -> tuple[PreTrainedModel, MultiHeadClassifier]:
        """The TL model: as a plain target model (`undisposed`), and with a refitted source head for the disposal."""
        o = self.options
        start = _with_new_head(pretrained, self.tasks["target"].labels, o.seed)
        training = self.training_options(num_train_epochs=o.adapt_epochs, learning_rate=o.adapt_learning_rate)
        undisposed = self.trained("adapt", start, self.images["target"]["train"], training)

        def refit(work: Path) -> None:
            if self.state.is_main_process:
                model = MultiHeadClassifier(copy.deepcopy(undisposed), task="target")
                model.add_head("source", self.tasks["source"].labels)
                fit_head(model, "source", self.images["source"]["train"], device=self.state.device)
                model.cpu().save(work)

        return undisposed, MultiHeadClassifier.load(self.run.stage("source_head", refit))

    def references(self, undisposed: PreTrainedModel) -> dict[str, PreTrainedModel | list[PreTrainedModel]]:
        """`scratch` (random weights, a draw for each attack seed) and `retrained` (trained on the target alone).

        A given model that learns the source task here is where `retrained` starts too: what it knew before is public.
        One that comes with the source task leaves nothing but random weights to start from.
        """
        o = self.options
        scratch = scratch_models(undisposed, len(self.attacks.seeds), seed=o.seed)
        training = self.training_options(num_train_epochs=o.retrain_epochs, learning_rate=o.pretrain_learning_rate)
        start = copy.deepcopy(scratch[0])
        if o.model_name_or_path is not None and self._epochs:
            start = _with_new_head(self.given_model(new_head=True), self.tasks["target"].labels, o.seed)
        retrained = self.trained("retrained", start, self.images["target"]["train"], training)
        return {"scratch": scratch, "retrained": retrained}

    def dispose(self, choice: MethodChoice, tl_model: MultiHeadClassifier) -> PreTrainedModel:
        """The scrubbed target model; the stage keeps what was logged while it was made."""
        return self.disposed(choice, tl_model, self.images["source"]["train"], self.images["target"]["train"])

    # What the audit gets --------------------------------------------------------------------------------------

    @cached_property
    def axes(self) -> dict[str, AttackedTask]:
        """The attacked tasks: a subset of the source data, and the novel downstream task."""
        return {
            name: AttackedTask(
                name=self.tasks[name].name,
                axis=axis,
                labels=self.tasks[name].labels,
                train=in_memory(self.images[name]["train"], 20 * max(self.attacks.budgets)),
                validation=self.images[name]["validation"],
                test=self.images[name]["test"],
                retain=in_memory(self.images["target"]["train"], self.attacks.retain_images_per_class),
            )
            for name, axis in (("source", "source_subset"), ("novel", "novel_downstream"))
        }


def _with_new_head(model: PreTrainedModel, labels: tuple[str, ...], seed: int) -> PreTrainedModel:
    """The same backbone under a new, seeded head, as a plain model; the old head is dropped."""
    split = MultiHeadClassifier(model, task="old")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        split.add_head("new", labels)
    return split.export("new")
