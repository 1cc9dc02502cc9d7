"""Instance-wise unlearning: make a model misname, or rename, single images, with nothing but the model and the images.

Source: Cha, Cho, Hwang, Lee, Moon and Lee, "Learning to Unlearn: Instance-wise Unlearning for Pre-trained
Classifiers", arXiv 2301.11578, and its released code. `project`, `delta` and the distillation on adversaries are
this project's.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import PreTrainedModel, TrainerCallback

from hf_dtl.adversaries import make_adversaries
from hf_dtl.config import WholeBatchConfig
from hf_dtl.errors import ConfigError, DataError
from hf_dtl.functional import (
    bounded_forgetting,
    importance_penalty,
    negative_cross_entropy,
    weight_importance,
    wrong_labels,
)
from hf_dtl.functional.augmentation import Augmentation
from hf_dtl.functional.subspace import Criterion
from hf_dtl.heads import MultiHeadClassifier
from hf_dtl.instances import Instances, predict, read_instances, shown
from hf_dtl.methods.projection import ProjectingTrainer
from hf_dtl.streams import PairedStreams
from hf_dtl.trainer import items_of, sum_over_processes

logger = logging.getLogger(__name__)

Goal = Literal["misclassify", "relabel"]

_OFFSET = 4_256_233
_BATCH = 64


class AlreadyForgottenError(DataError):
    """The model names no image of a request by its label, so there is nothing to forget."""


@dataclass
class InstanceUnlearningConfig(WholeBatchConfig):
    """Options of instance-wise unlearning.

    Parameters that control what is forgotten, and when to stop:
        goal, delta, stop_when_forgotten, check_every, max_steps.
    Parameters that control the adversarial regularisation:
        adversarial, examples, epsilon, step_size, attack_steps, adversaries_folder, and from `UnlearningConfig`
        target_ce_weight, distillation_weight, temperature and per_device_retain_batch_size, which are about the
        adversaries here, and forget_weight.
    Parameters that control the weight importance:
        importance, importance_weight.
    Parameters that control the projection:
        project, criterion, threshold.
    """

    retains: ClassVar[bool] = False  # each kind of retention can be switched off
    one_task: ClassVar[bool] = True

    goal: Goal = field(
        default="misclassify",
        metadata={
            "help": "'misclassify' makes the model give each image any other label than its own, 'relabel' a given "
            "one, or one that the seed draws."
        },
    )
    delta: float = field(
        default=0.0,
        metadata={
            "help": "With goal=misclassify, > 0, such as 0.05, takes -log(1 + delta - p_y) in place of log p_y: "
            "images that are still remembered push most, and forgotten ones no more. 0: the paper's loss, which does "
            "the opposite."
        },
    )
    stop_when_forgotten: bool = field(
        default=True, metadata={"help": "Stop as soon as every image is misnamed or renamed."}
    )
    check_every: int = field(default=1, metadata={"help": "Steps between two looks at what is forgotten, >= 1."})
    adversarial: bool = field(
        default=True, metadata={"help": "Retain the original model's answers on adversarial examples of the images."}
    )
    examples: int = field(
        default=20, metadata={"help": "Adversarial examples of an image, >= 1; 200 for 100 classes and more."}
    )
    epsilon: float = field(
        default=4.0, metadata={"help": "L2 distance of an example from its image, in pixels of range 0..1, > 0."}
    )
    step_size: float = field(default=0.1, metadata={"help": "Step (alpha) of the search for them, likewise, > 0."})
    attack_steps: int = field(default=100, metadata={"help": "Steps of that search, >= 1."})
    adversaries_folder: str | None = field(
        default=None,
        metadata={
            "help": "Folder to keep the examples in and find them again. They look like what is to be forgotten: "
            "delete it in the end."
        },
    )
    importance: bool = field(
        default=True, metadata={"help": "Anchor weights that matter little to the outputs on the images."}
    )
    importance_weight: float = field(default=1.0, metadata={"help": "Weight (lambda) of these anchors, >= 0."})
    project: bool = field(
        default=False,
        metadata={"help": "Keep every update outside the span of the layer inputs of the adversarial examples."},
    )
    criterion: Criterion = field(
        default="energy",
        metadata={"help": "What the protected directions hold a share of: 'energy' (squares) or 'sigma'."},
    )
    threshold: float = field(
        default=0.9, metadata={"help": "That share, in (0, 1]: larger protects more and forgets less."}
    )
    forget_weight: float = field(
        default=0.125,
        metadata={
            "help": "Weight of the loss on the images against that on the examples, >= 0; the default is the ratio of "
            "the two batches of the paper's code, 32 and 256, all of whose images weigh alike."
        },
    )
    distillation_weight: float = field(
        default=0.0, metadata={"help": "Weight of a distillation of the original model on the examples, >= 0."}
    )
    retain_augmentation: Augmentation = field(
        default="none", metadata={"help": "Set to 'none': an adversarial example is one as it is."}
    )
    optim: str = field(default="sgd", metadata={"help": "Optimizer."})
    optim_args: str | None = field(
        default="momentum=0.9", metadata={"help": "Options of the optimizer, where it has them."}
    )
    learning_rate: float = field(default=1e-3, metadata={"help": "Learning rate."})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "Schedule of the learning rate."})
    max_steps: int = field(default=1000, metadata={"help": "Most steps; training stops when everything is forgotten."})

    def __post_init__(self):
        self.retain_augmentation = "none"
        super().__post_init__()
        for name, low, strict in (
            ("delta", 0, False), ("check_every", 1, False), ("examples", 1, False), ("epsilon", 0, True),
            ("step_size", 0, True), ("attack_steps", 1, False), ("importance_weight", 0, False),
        ):  # fmt: skip
            value = getattr(self, name)
            if not (value > low or (value == low and not strict)):
                raise ConfigError(f"{name}={value} must be {'>' if strict else '>='} {low}.")
        for name, allowed in (("goal", get_args(Goal)), ("criterion", get_args(Criterion))):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name}={getattr(self, name)!r} is unknown; use one of: {', '.join(allowed)}.")
        if not 0 < self.threshold <= 1:
            raise ConfigError(f"threshold={self.threshold} must be in (0, 1].")
        if self.project and not self.adversarial:
            raise ConfigError("project=True protects layer inputs of adversarial examples: set adversarial=True.")
        if self.adversarial and not (self.target_ce_weight or self.distillation_weight or self.project):
            raise ConfigError(
                "adversarial=True, but nothing uses the examples: raise target_ce_weight or distillation_weight, set "
                "project=True, or set adversarial=False."
            )

    def streams(self, forget: Dataset, retain: Dataset) -> PairedStreams:
        """As in `UnlearningConfig`, but a step does not show few images several times over."""
        streams = super().streams(forget, retain)
        streams.chunk_size = min(streams.chunk_size, -(-len(forget) // self.num_chunks))  # type: ignore[arg-type]
        return streams


class InstanceUnlearningTrainer(ProjectingTrainer):
    """Minimise forget_weight * L_f + CE(f(adversaries), y-bar) + lambda/2 sum (1 - Omega) (theta - theta_0)^2.

    L_f is -CE(f(x), y) for goal=misclassify (see `delta`) and CE(f(x), y*) for goal=relabel. Adversaries and the
    importance Omega come from the model as it is given. Every image is used once. One that the model does not name by
    its label is skipped, unless it was given a new one; a warning names them.

    Args:
        forget_dataset: the images to forget with their true labels. No other images are needed.
        retain_dataset: not looked at; there so that all methods are called alike.
        new_labels: for goal=relabel, what each image is to be named; None for a draw among the other labels.
        rows: numbers to name the images by in messages; default: their positions.
        **: as for `UnlearningTrainer`. With adversaries, `processing_class` must be the processor that the images
            went through (None for pixels in 0..1): it tells which values a pixel can have.

    Raises:
        ConfigError: options that contradict each other, the model or the images.
        DataError: labels that the head does not have, or a new label that is the old one.
        AlreadyForgottenError: no image is left.
    """

    instances: Instances
    """What is forgotten."""
    skipped: Instances
    """What was already forgotten when training started."""
    aims: Tensor
    """(instances,), the label that the loss of each is about: the true one, or the new one."""
    importance: list[Tensor]
    """Omega of each trained parameter."""

    def __init__(
        self,
        model: MultiHeadClassifier | PreTrainedModel,
        args: InstanceUnlearningConfig,
        forget_dataset: Dataset,
        retain_dataset: Dataset | None = None,
        *,
        new_labels: Sequence[int] | None = None,
        rows: Sequence[int] | None = None,
        processing_class=None,
        **kwargs: Any,
    ):
        if isinstance(model, PreTrainedModel):
            model = MultiHeadClassifier(model, task=args.retain_task)
            args.forget_task = args.retain_task
        self.forget_task = self.retain_task = args.retain_task
        self._check(model, args)
        model.to(args.device)
        processes: dict[str, Any] = {
            "process": (args.process_index, args.world_size),
            "reduce": sum_over_processes if args.world_size > 1 else None,
        }
        classes = model.heads[self.retain_task].out_features
        _check_goal(args, classes, new_labels)
        images = items_of(forget_dataset, model, processing_class)
        found = read_instances(images, classes, new_labels=new_labels, rows=rows)
        named = predict(model, found.images.pixel_values, self.retain_task, **processes)
        self.instances, self.skipped = _without_forgotten(found, named)
        self.aims = _aims(self.instances, args, classes)
        retain: Dataset = self.instances.images  # the streams need a data set, also where no retain image is shown
        if args.adversarial:
            retain = make_adversaries(
                model, self.instances.images, self.retain_task, processing_class=processing_class,
                examples=args.examples, epsilon=args.epsilon, step_size=args.step_size, steps=args.attack_steps,
                seed=args.seed, folder=args.adversaries_folder, progress=not args.disable_tqdm, **processes,
            )  # fmt: skip
        super().__init__(model, args, self.instances.images, retain, processing_class=processing_class, **kwargs)
        pairs = zip(self.model.parameters(), self.teacher.parameters(), strict=True)
        self._trained, self._given = zip(*((mine, given) for mine, given in pairs if mine.requires_grad), strict=True)
        if args.importance:
            self.importance = self._importance()
        self.add_callback(_StopWhenForgotten(self))

    def _check(self, model: MultiHeadClassifier, args: InstanceUnlearningConfig) -> None:  # type: ignore[override]
        if args.forget_task != args.retain_task:
            raise ConfigError(
                f"Instance-wise unlearning works on the one head that names the images, but forget_task="
                f"{args.forget_task!r} and retain_task={args.retain_task!r} differ. Set both to that head's task."
            )
        super()._check(model, args)

    def prepare(self) -> None:
        if self.args.project:
            subspace = self.collect(self.train_dataset.retain)
            self.protect(subspace, self.args.criterion, self.args.threshold)

    def _importance(self) -> list[Tensor]:
        """Omega of the trained parameters at the given weights, the same on every process."""
        args, images = self.args, self.instances.images.pixel_values
        self.model.eval()
        batches = (batch.to(args.device) for batch in images[args.process_index :: args.world_size].split(_BATCH))
        return weight_importance(
            lambda batch: self.model(batch, task=self.forget_task), batches, self._trained, reduce=self.reduce
        )

    # One step -------------------------------------------------------------------------------------------------

    @property
    def _shows_adversaries(self) -> bool:
        args = self.args
        return args.adversarial and bool(args.target_ce_weight or args.distillation_weight)

    def shown(self) -> tuple[bool, bool]:
        return self._shows_adversaries or self.args.importance, super().shown()[1]

    def retention(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        """Cross-entropy and distillation on adversaries, and the anchors, as far as they are switched on."""
        terms = [super().retention(model, inputs)] if self._shows_adversaries else []
        if self.args.importance:
            penalty = importance_penalty(self._trained, self._given, self.importance)
            self._metrics["importance_penalty"].append(penalty.detach())
            terms.append(self.args.importance_weight * penalty)
        return sum(terms[1:], terms[0])

    def _chunk_loss(self, pixel_values: Tensor, labels: Tensor, cell: int) -> Tensor:
        step, chunk = divmod(cell, self.train_dataset.num_chunks)
        self._aim = self.aims[self.train_dataset.forget_indices(step)[chunk]].to(labels.device)
        return super()._chunk_loss(pixel_values, labels, cell)

    def forget_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.args.goal == "relabel":
            return F.cross_entropy(logits.float(), self._aim)
        if self.args.delta:
            return bounded_forgetting(logits, self._aim, delta=self.args.delta, entropy_weight=0.0)
        return negative_cross_entropy(logits, self._aim, cap=math.inf)

    # When to stop ---------------------------------------------------------------------------------------------

    def remembered(self) -> list[int]:
        """Row numbers of the images that are not forgotten by the goal, the same on every process."""
        named = self._named(self.instances)
        left = named != self.aims if self.args.goal == "relabel" else named == self.aims
        return self.instances.part(left).rows

    def _named(self, instances: Instances) -> Tensor:
        model = self.accelerator.unwrap_model(self.model)
        process = (self.args.process_index, self.args.world_size)
        return predict(model, instances.images.pixel_values, self.retain_task, process=process, reduce=self.reduce)

    def warn_of_the_remembered(self) -> None:
        """Name what training did not make the model forget, and what it brought back."""
        left = self.remembered()
        if left:
            logger.warning(
                "Not forgotten after %d steps: %s (%d of %d). Raise max_steps, learning_rate or forget_weight.",
                self.state.global_step, shown(left), len(left), len(self.aims),
            )  # fmt: skip
        if self.skipped.rows:
            back = self.skipped.part(self._named(self.skipped) == self.skipped.images.labels).rows
            if back:
                logger.warning("Skipped, but now named by their label: %s. Make another request of them.", shown(back))


def _check_goal(args: InstanceUnlearningConfig, classes: int, new_labels: Sequence[int] | None) -> None:
    if classes < 2:
        raise ConfigError("The head has one class, so an image cannot be given another. Use a model with more.")
    if new_labels is not None and args.goal != "relabel":
        raise ConfigError(f"new_labels are given, but goal={args.goal!r}: set goal='relabel', or leave them out.")
    if args.delta and args.goal != "misclassify":
        raise ConfigError(f"delta={args.delta:g} belongs to goal='misclassify'; leave it at 0 for {args.goal!r}.")


def _without_forgotten(found: Instances, named: Tensor) -> tuple[Instances, Instances]:
    """What is to be forgotten, and what already is; images with a given new label are all to be named by it."""
    if found.new_labels is None:
        done, reason = named != found.images.labels, "the model misnames them"
    else:
        done, reason = named == found.new_labels, "the model names them by their new label"
    if done.all():
        raise AlreadyForgottenError(
            f"There is nothing to forget: {reason} already ({shown(found.rows)}). Check that labels are numbered as "
            "the model's id2label does, and that the images went through the model's own processor."
        )
    if found.new_labels is not None:
        done = torch.zeros_like(done)
    if done.any():
        logger.warning("Skipped, because %s already: %s.", reason, shown(found.part(done).rows))
    return found.part(~done), found.part(done)


def _aims(instances: Instances, args: InstanceUnlearningConfig, classes: int) -> Tensor:
    """The label that the loss of each image is about."""
    if args.goal == "misclassify":
        return instances.images.labels
    if instances.new_labels is not None:
        return instances.new_labels
    return wrong_labels(instances.images.labels, classes, torch.Generator().manual_seed(args.seed + _OFFSET))


class _StopWhenForgotten(TrainerCallback):
    """Look every few steps, and after the last, at what is forgotten; stop when all is."""

    def __init__(self, trainer: InstanceUnlearningTrainer):
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % args.check_every and state.global_step < state.max_steps:
            return
        trainer = self.trainer
        share = len(trainer.remembered()) / len(trainer.aims)
        trainer._metrics["remembered"].append(torch.tensor(share, device=args.device))
        if not share and args.stop_when_forgotten:
            control.should_training_stop = control.should_log = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.warn_of_the_remembered()
