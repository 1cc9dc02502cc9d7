"""What jobs of every kind share: launch options, a model and its processor, and stages that are done once."""

import copy
import hashlib
import json
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import torch
from accelerate import PartialState
from torch.utils.data import Dataset as TorchDataset
from transformers import BaseImageProcessor, PreTrainedModel, TrainingArguments

from hf_dtl.audit import AttackConfig, AttackedTask, PiggybackRecord, no_model, run_audit, scratch_models
from hf_dtl.data import check_forward, embedded_processor
from hf_dtl.errors import ConfigError, PublishError
from hf_dtl.functional import Augmentation
from hf_dtl.hub import save_plain
from hf_dtl.hub.claims import check_words
from hf_dtl.methods.by_name import MethodChoice, own_fields, parse_methods, with_goal
from hf_dtl.models.built_in import WIDTHS, built_in_model
from hf_dtl.models.loading import load_classifier, processor_of
from hf_dtl.pipeline.commands import command
from hf_dtl.pipeline.cost import COST, Cost, read_cost
from hf_dtl.pipeline.forget_options import CANNOT, ForgetOptions
from hf_dtl.pipeline.stages import Run, load_stage, made_from
from hf_dtl.pipeline.transfer import check_transfer, public_weights, transfer_options, transfer_parts
from hf_dtl.pipeline.twin import Twin
from hf_dtl.processes import one_core_each
from hf_dtl.scenarios.scenario import Measurements, Models, Scenario
from hf_dtl.trainers.learning_rates import TRAIN, passes, rate
from hf_dtl.trainers.request import Request
from hf_dtl.trainers.training import fine_tune, last_checkpoint, run_trainer, stage_arguments

logger = logging.getLogger(__name__)
STORE = "attacks.jsonl"
PASSES = 16
"""Over the data in training, by default."""
BAR = ("disposal_value", "mean_cosine", "source_loss", "retain_loss")


class Job(ABC):
    """A run over one scenario: prepare the model, train references, scrub it by every method, and attack the results.

    Making one loads and checks everything, before the output folder is touched. A subclass knows one kind of scenario.

    Args:
        options: see `ForgetOptions`.

    Attributes:
        widths: of the stages of the built-in ResNet, in channels.
        scenario: images and attacked tasks.
        choices: the methods.
        state: the processes.
        run: the output folder.
        undisposed: the model before disposal, once `prepare` was called.

    Raises:
        ConfigError, DataError, ModelError, OutputError: bad input.
    """

    scenario: Scenario
    processor: BaseImageProcessor
    widths: Sequence[int] = WIDTHS
    model: Any
    undisposed: Any

    def __init__(self, options: ForgetOptions):
        self.options = options
        launch = TrainingArguments(**stage_arguments(Path(options.output_dir), use_cpu=options.use_cpu))
        self.state: PartialState = launch.distributed_state
        if options.augmentation not in get_args(Augmentation):
            raise ConfigError(
                f"--augmentation {options.augmentation!r} is unknown; use one of: {', '.join(get_args(Augmentation))}."
            )
        for name in ("batch_size", "forget_batch_size"):
            size, processes = getattr(options, name), self.state.num_processes
            if size < 1 or size % processes:
                raise ConfigError(f"--{name} {size} must be a positive multiple of the {processes} processes.")
        assert options.method is not None
        self.choices = parse_methods(with_goal(options.method, options.goal) if options.goal else options.method)
        for choice in self.choices:
            self._check_kind(choice)
        options.attacker()
        self.scenario = self._open()
        self.model = self._load_model()
        small = options.model is None
        self.workers = one_core_each(self.state.device, self.state.num_processes) if small else 1
        self.scenario.load(self.processor, self.model)
        self._check()
        check_transfer(self)
        self.run = Run(options.output_dir, options.settings(), self.state)
        for name, text in self.scenario.public_spec().items():
            try:  # classes are called as they are called
                check_words(f"--{name}", re.sub(r"\[[^]]*\]|class=.*", "", str(text)))
            except PublishError as error:  # better now than after the attacks
                logger.warning("What is made here cannot be published: %s", error)

    # Checks and loading ---------------------------------------------------------------------------------------

    def _check_kind(self, choice: MethodChoice) -> None:
        kinds = choice.config_class.kinds
        if self.options.kind not in kinds:
            raise ConfigError(f"--method {choice.text} cannot be used: {CANNOT[self.options.kind]}. Use another one.")

    @cached_property
    def attacks(self) -> AttackConfig:
        """What the attacker may do, its learning rates by the size of the model."""
        return self.options.attacker(self.parameters, workers=self.workers)

    @abstractmethod
    def _open(self) -> Scenario:
        """Open the data."""

    @abstractmethod
    def _load_model(self) -> Any:
        """The model before any stage; sets `processor`."""

    @abstractmethod
    def _check(self) -> None:
        """Refuse what methods cannot do with the loaded images and model."""

    def small_model(self, labels: Sequence[str]) -> PreTrainedModel:
        """The built-in model with seeded random weights, and its processor."""
        o, size = self.options, self.options.image_size or 28
        assert o.architecture is not None
        model = built_in_model(o.architecture, labels, size=size, widths=self.widths, seed=o.seed)
        self.processor = embedded_processor(size)
        torch.manual_seed(o.seed)
        return model

    def given_model(self, *, new_head: bool) -> PreTrainedModel:
        """The model that the user names, and its processor."""
        o = self.options
        assert o.model is not None
        model = load_classifier(o.model, o.revision, new_head=new_head)
        self.processor = processor_of(o.model, model, o.revision, size=o.image_size)
        return model

    @property
    def images(self) -> Mapping[str, Any]:
        """The images of the scenario."""
        return self.scenario.images

    @property
    def epochs(self) -> float:
        """Passes of the training before anything else."""
        given = self.options.train_epochs
        return given if given is not None else (PASSES if self.options.model is None else 0)

    @property
    def retrain_epochs(self) -> float:
        """Passes of the retrained reference."""
        given = self.options.retrain_epochs
        return given if given is not None else (self.options.train_epochs or PASSES)

    @abstractmethod
    def trained_images(self) -> dict[str, float]:
        """About how many images each stage of ordinary training takes, in order."""

    def learning_rate(self, small: float, value: float | None) -> float:
        """A peak learning rate: the given one, or what suits the model where `small` suits one of 0.3 M parameters."""
        return value if value is not None else rate(small, self.parameters)

    def passes(self, steps: int, images: int, value: float | None) -> float:
        """Passes over so many images: the given ones, or as many as make up the steps, at least 16."""
        steps_a_pass = -(-images // self.options.batch_size)
        return value if value is not None else passes(max(16, steps / steps_a_pass), self.parameters, steps_a_pass)

    @property
    def parameters(self) -> int:
        """Number of parameters of the model."""
        return sum(p.numel() for p in self.model.parameters())

    # Training -------------------------------------------------------------------------------------------------

    @abstractmethod
    def request(self) -> Request:
        """What a method is told of the request."""

    def disposal_config(self, choice: MethodChoice, work: Path, **own: Any) -> Any:
        """The config of a method's stage: the user's options, then what the method chooses for this request."""
        o = self.options
        given = {"learning_rate": o.learning_rate, "max_steps": o.steps, "forget_weight": o.forget_weight}
        given["lora_rank"] = o.lora_rank
        own |= transfer_options(self, choice)
        asked = {name: value for name, value in given.items() if value is not None} | own
        chosen = choice.config_class.for_request(self.request(), asked | choice.options)
        common = self.training_options(retain_augmentation=o.augmentation) | chosen | asked
        return choice.config(**stage_arguments(work, **common))

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

    def train_stage(
        self, name: str, model: PreTrainedModel, images: TorchDataset, training: Mapping[str, Any]
    ) -> PreTrainedModel:
        """A stage of ordinary fine-tuning; `cost.json` in its folder says what it took."""
        augmentation: Any = self.options.augmentation

        def work(folder: Path) -> None:
            cost = self._cost(folder)
            result = fine_tune(copy.deepcopy(model), images, folder, name, augmentation=augmentation, **training)
            if self.state.is_main_process:
                result.save_pretrained(folder)
                self.processor.save_pretrained(folder)
                if cost is not None:
                    cost.save()

        return load_stage(self.run.stage(name, work, made_from(model, images)))

    def method_stage(self, choice: MethodChoice, model: Any, forget: TorchDataset, retain: TorchDataset) -> Path:
        """The stage of a method; it keeps what was logged while the scrubbed model was made, and what it took.

        Args:
            choice: the method.
            model: to scrub; copied.
            forget, retain: images.
        """
        config = self.disposal_config(choice, Path())
        arguments = choice.trainer_class.request_arguments(self.request(), config)
        given, public = transfer_parts(self, choice), public_weights(config)

        def build(folder: Path) -> Any:
            return choice.trainer_class(
                model=copy.deepcopy(model),
                args=self.disposal_config(choice, folder),
                forget_dataset=forget,
                retain_dataset=retain,
                processing_class=self.processor,
                eval_dataset=self.validation,
                **arguments,
                **given,
            )

        parts = made_from(model, forget, retain, arguments, *given.values(), *public)
        return self.trainer_stage(self.disposal_stage(choice), f"dispose: {choice.text}", build, parts)

    @property
    def validation(self) -> TorchDataset | None:
        """Held-out images that a method may look at."""
        return None

    def trainer_stage(
        self, name: str, title: str, build: Any, made_from: str, bar: Sequence[str] = BAR, *, scrubs: bool = True
    ) -> Path:
        """A stage that trains by a trainer, saves its model, and keeps what it logged and took.

        Args:
            name, made_from: see `Run.stage`.
            title: of the progress bar.
            build: gives the trainer, from the stage's folder.
            bar: logged values that the progress bar shows.
            scrubs: the trainer is a method's, which may leave something for a later request.
        """

        def work(folder: Path) -> None:
            cost = self._cost(folder)
            trainer = build(folder)
            run_trainer(trainer, folder, title, bar)
            trainer.save_model(folder)
            if self.state.is_main_process:
                logs = [e for e in trainer.state.log_history if {"retain_loss", "disposal_value"} & e.keys()]
                (folder / "log.json").write_text(json.dumps(logs))
                if cost is not None:
                    cost.save()
            if scrubs:
                trainer.save_artifacts(folder)

        return self.run.stage(name, work, made_from)

    def settings_of(self, choice: MethodChoice) -> dict[str, Any]:
        """Every option of a method that decides what it does."""
        names = (
            *own_fields(choice.config_class),
            "learning_rate", "lr_scheduler_type", "warmup_steps", "max_steps", "optim",
        )  # fmt: skip
        return {name: value for name, value in self.disposal_config(choice, Path()).to_dict().items() if name in names}

    def disposal_stage(self, choice: MethodChoice) -> str:
        """Name of a method's stage: other options of the disposal make another one."""
        given = self.options.disposal(choice.config_class.transfers)
        text = json.dumps([given, choice.options], sort_keys=True)
        return f"dispose/{choice.name}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"

    def command(self, choice: MethodChoice) -> str:
        """The command that repeats the run with this method, for the report."""
        return command("forget", asdict(self.options) | {"method": choice.text}, self.options.plain())

    def cost(self, stage: str) -> dict[str, float] | None:
        """Seconds and memory of a finished stage, see `Cost.save`; None when it was done in several parts."""
        return read_cost(self.run.folder / "stages" / stage)

    def _cost(self, folder: Path) -> Cost | None:
        """Begin to count the cost of a stage; None when an interrupted run has done a part of it."""
        resumed = last_checkpoint(folder / "checkpoints") is not None
        return None if resumed else Cost(folder / COST, self.state.device)

    # What a run does, kind by kind ----------------------------------------------------------------------------

    @abstractmethod
    def prepare(self) -> Any:
        """Do the stages before disposal; sets and returns `undisposed`."""

    def references(self, undisposed: Any = None) -> dict[str, Any]:
        """What the attacks are compared with, by role, beside the undisposed model: `scratch`, and `retrained`."""
        found = self.scratch(undisposed or self.undisposed)
        if self.given_retrained is not None:
            found["retrained"] = self.given_retrained
        elif self.options.reference == "retrain":
            found["retrained"] = self.retrain(copy.deepcopy(found["scratch"][0]) if found else None)
        return found

    def scratch(self, undisposed: Any) -> dict[str, Any]:
        """Random weights, a draw for each attack seed."""
        return {"scratch": scratch_models(undisposed, len(self.attacks.seeds), seed=self.options.seed)}

    @abstractmethod
    def retrain(self, scratch: Any) -> Any:
        """The reference that is trained on what is kept alone, from random weights."""

    def twin(self, scrubbed: Any) -> Twin | None:
        """The floor that is as good at the target as a scrubbed model; None where there are no labels for one."""
        return None

    @property
    def retrain_rate(self) -> float:
        """Its peak learning rate."""
        own = self.options.retrain_learning_rate
        return self.learning_rate(TRAIN, self.options.train_learning_rate if own is None else own)

    given_retrained: PreTrainedModel | None = None

    @property
    def has_base(self) -> bool:
        """Whether the public weights that a given model was are attacked too."""
        return False

    def _load_retrained(self, images: TorchDataset) -> PreTrainedModel | None:
        """The reference that the user has, checked on images."""
        if self.options.retrained is not None:
            self.given_retrained = load_classifier(self.options.retrained, self.options.retrained_revision)
            check_forward(self.given_retrained, images)
        return self.given_retrained

    @abstractmethod
    def unlearn(self, choice: MethodChoice) -> Any:
        """The scrubbed model of a method."""

    @abstractmethod
    def measure(self, models: Mapping[str, Any]) -> Measurements:
        """What models answer, by role."""

    def attack(self, models: Mapping[str, Any], store: str = STORE, *, progress: bool = True) -> list[PiggybackRecord]:
        """Attack models by role; finished attacks are kept in a file of that name in the run's folder.

        Every process runs its share, so all must call this, and all get the records.
        """
        return self.attack_on(models, self.scenario.attacked, store, progress=progress)

    def attack_on(
        self, models: Models, attacked: Mapping[str, AttackedTask], store: str, *, progress: bool = True
    ) -> list[PiggybackRecord]:
        """Attack models on some tasks, see `attack`."""
        for given in models.values():
            for model in given if isinstance(given, Sequence) else (given,):
                model.to(self.state.device)  # type: ignore[arg-type]
        if "undisposed" in models:
            models = {**models, "no_model": no_model(next(iter(attacked.values())))}
        return run_audit(
            models, attacked, self.attacks, store=self.run.folder / store, progress=progress, device=self.state.device
        )

    def save(self, model: Any, folder: Path) -> None:
        """Write a model and its processor, to be published or kept."""
        save_plain(model.cpu(), self.processor, folder)

    def keep(self, choice: MethodChoice, model: Any, folder: Path) -> None:
        """Write what a later request on the scrubbed model needs beside it; it is not published."""
        return None
