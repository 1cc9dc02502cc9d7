"""What the jobs share: launch options, images, and stages that train or dispose, each done once."""

import copy
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from accelerate import PartialState
from datasets import Dataset
from torch.utils.data import Dataset as TorchDataset
from transformers import (
    AutoModelForImageClassification,
    BaseImageProcessor,
    PreTrainedModel,
    TrainingArguments,
    ViTConfig,
)

from hf_dtl.audit import AttackConfig, parse_attacks
from hf_dtl.audit.task import draw_up_to
from hf_dtl.data import ImageTensors, LazyImages, default_processor, embedded_processor, load_images, load_processor
from hf_dtl.errors import ConfigError
from hf_dtl.functional import Augmentation
from hf_dtl.methods.by_name import MethodChoice
from hf_dtl.models.heads import MultiHeadClassifier
from hf_dtl.models.loading import load_classifier
from hf_dtl.options import numbers
from hf_dtl.pipeline.cost import COST, Cost, read_cost
from hf_dtl.pipeline.stages import Run
from hf_dtl.processes import one_core_each
from hf_dtl.trainers.trainer import UnlearningTrainer
from hf_dtl.trainers.training import fine_tune, last_checkpoint, run_trainer, stage_arguments


class StagedJob:
    """A run of stages over one model; subclasses load tasks, name the stages, and say what is audited.

    Args:
        options: with output_dir, seed, use_cpu, bf16, save_steps, batch_size, augmentation, max_eval_images,
            model_name_or_path, revision, image_size, the attacker's options, and `disposal()`.

    Raises:
        ConfigError: an option is out of range.
    """

    processor: BaseImageProcessor
    model: PreTrainedModel
    run: Run

    def __init__(self, options: Any):
        self.options = options
        launch = TrainingArguments(**stage_arguments(Path(options.output_dir), use_cpu=options.use_cpu))
        self.state: PartialState = launch.distributed_state
        small = options.model_name_or_path is None
        self.workers = one_core_each(self.state.device, self.state.num_processes) if small else 1
        if options.augmentation not in get_args(Augmentation):
            raise ConfigError(
                f"--augmentation {options.augmentation!r} is unknown; use one of: {', '.join(get_args(Augmentation))}."
            )
        self.check_batch("batch_size")
        self.attacks = self._attacks()

    # Checks and loading ---------------------------------------------------------------------------------------

    def check_batch(self, name: str) -> None:
        """Refuse a batch that the processes cannot share."""
        size, processes = getattr(self.options, name), self.state.num_processes
        if size < 1 or size % processes:
            raise ConfigError(f"--{name} {size} must be a positive multiple of the {processes} processes.")

    def _attacks(self) -> AttackConfig:
        o = self.options
        chosen: dict[str, Any] = {}
        if o.attack_learning_rates is not None or o.model_name_or_path is not None:
            text = o.attack_learning_rates or "3e-5,1e-4,3e-4,1e-3"  # larger networks need smaller steps
            chosen["full_learning_rates"] = numbers(text, "attack_learning_rates", float)
        return AttackConfig(
            attacks=parse_attacks(o.attacks),
            budgets=numbers(o.budgets, "budgets", int),
            seeds=numbers(o.audit_seeds, "audit_seeds", int),
            successive_halving=o.successive_halving,
            workers=self.workers,
            **chosen,
        )

    def small_model(self, num_labels: int) -> PreTrainedModel:
        """The built-in ViT of 0.3 M parameters with seeded random weights, and its processor."""
        size = self.options.image_size or 28
        config = ViTConfig(
            hidden_size=96, num_hidden_layers=4, num_attention_heads=4, intermediate_size=192,
            image_size=size, patch_size=7, num_labels=num_labels,
        )  # fmt: skip
        if size % 7:
            raise ConfigError(f"--image_size {size} must be a multiple of the built-in model's patch size, 7.")
        self.processor = embedded_processor(size)
        torch.manual_seed(self.options.seed)
        return AutoModelForImageClassification.from_config(config)

    def given_model(self, *, new_head: bool) -> PreTrainedModel:
        """The model that the user names, and its processor."""
        o = self.options
        model = load_classifier(o.model_name_or_path, o.revision, new_head=new_head)
        self.processor = (
            default_processor(model.config, o.image_size)
            if o.image_size
            else load_processor(o.model_name_or_path, model.config)
        )
        return model

    def load_split(self, dataset: Dataset, name: str, *, held_out: bool) -> ImageTensors | LazyImages:
        """Images of a split as tensors; a held-out one is cut to max_eval_images and kept in memory."""
        cap = self.options.max_eval_images
        if held_out and cap is not None and cap < len(dataset):
            dataset = dataset.shuffle(seed=0).select(range(cap))
        channels = getattr(self.model.config, "num_channels", 3)
        # the audit keeps held-out splits in memory; training data above the limit are decoded on the fly
        limit = {"memory_limit_gib": float("inf")} if held_out else {}
        return load_images(dataset, self.processor, num_channels=channels, desc=name, **limit)

    def training_options(self, **options: Any) -> dict[str, Any]:
        """Trainer options that every stage takes from the job's."""
        o = self.options
        return {
            "per_device_train_batch_size": o.batch_size // self.state.num_processes,
            "seed": o.seed,
            "use_cpu": o.use_cpu,
            "dataloader_pin_memory": self.state.device.type == "cuda",
            "bf16": o.bf16,
            "save_steps": o.save_steps,
            **options,
        }

    def disposal_config(self, choice: MethodChoice, work: Path):
        """The config of a method's stage."""
        raise NotImplementedError

    # Stages ---------------------------------------------------------------------------------------------------

    def trained(
        self, name: str, model: PreTrainedModel, images: TorchDataset, training: Mapping[str, Any]
    ) -> PreTrainedModel:
        """A stage of ordinary fine-tuning; `cost.json` in its folder says what it took."""
        augmentation: Augmentation = self.options.augmentation

        def work(folder: Path) -> None:
            cost = self._cost(folder)
            result = fine_tune(model, images, folder, name, augmentation=augmentation, **training)
            if self.state.is_main_process:
                result.save_pretrained(folder)
                self.processor.save_pretrained(folder)
                if cost is not None:
                    cost.save()

        return load_stage(self.run.stage(name, work))

    def disposed(
        self,
        choice: MethodChoice,
        model: MultiHeadClassifier | PreTrainedModel,
        forget: TorchDataset,
        retain: TorchDataset,
        *,
        then: Callable[[UnlearningTrainer, Path], None] | None = None,
        **given: Any,
    ) -> PreTrainedModel:
        """The scrubbed model; the stage keeps what was logged while it was made, and what it took.

        Args:
            choice: the method.
            model: to scrub; copied.
            forget, retain: images.
            then: called with the trainer when it is done, and the stage's folder.
            **given: further arguments of the trainer.
        """

        def work(folder: Path) -> None:
            cost = self._cost(folder)
            trainer = choice.trainer_class(
                model=copy.deepcopy(model),
                args=self.disposal_config(choice, folder),
                forget_dataset=forget,
                retain_dataset=retain,
                processing_class=self.processor,
                **given,
            )
            shown = ("disposal_value", "mean_cosine", "source_loss", "retain_loss")
            run_trainer(trainer, folder, f"dispose: {choice.text}", shown)
            trainer.save_model(folder)
            if self.state.is_main_process:
                logs = [e for e in trainer.state.log_history if {"retain_loss", "disposal_value"} & e.keys()]
                (folder / "log.json").write_text(json.dumps(logs))
                if cost is not None:
                    cost.save()
            if then is not None:
                then(trainer, folder)

        return load_stage(self.run.stage(self.disposal_stage(choice), work))

    def disposal_stage(self, choice: MethodChoice) -> str:
        """Name of a method's stage: other options of the disposal make another one."""
        text = json.dumps([self.options.disposal(), choice.options], sort_keys=True)
        return f"dispose/{choice.name}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"

    def cost(self, stage: str) -> dict[str, float] | None:
        """Seconds and memory of a finished stage, see `Cost.save`; None when it was done in several parts."""
        return read_cost(self.run.folder / "stages" / stage)

    def _cost(self, folder: Path) -> Cost | None:
        """Begin to count the cost of a stage; None when an interrupted run has done a part of it."""
        resumed = last_checkpoint(folder / "checkpoints") is not None
        return None if resumed else Cost(folder / COST, self.state.device)


def load_stage(folder: Path) -> PreTrainedModel:
    """The model of a finished stage, in evaluation mode on the CPU."""
    return AutoModelForImageClassification.from_pretrained(folder, use_safetensors=True).eval()


def in_memory(images: TorchDataset, per_class: int) -> ImageTensors:
    """The images themselves, or a fixed draw of a data set that is too large to keep decoded."""
    if isinstance(images, ImageTensors):
        return images
    chosen = draw_up_to(images.labels, per_class, seed=0)
    return ImageTensors(torch.stack([images[int(i)]["pixel_values"] for i in chosen]), images.labels[chosen])
