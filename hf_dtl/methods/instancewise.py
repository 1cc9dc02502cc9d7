"""Instance-wise unlearning: make a model misname, or rename, single images, with nothing but the model and the images.

Source of the strategy l2ul: Cha, Cho, Hwang, Lee, Moon and Lee, "Learning to Unlearn: Instance-wise Unlearning for
Pre-trained Classifiers", arXiv 2301.11578, and its released code; `project`, `delta` and the distillation on
adversaries are this project's there. The strategy collages is this project's.
"""

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset
from transformers import PreTrainedModel, TrainerCallback

from hf_dtl.errors import ConfigError, DataError
from hf_dtl.functional import (
    bounded_forgetting,
    importance_penalty,
    margin_loss,
    negative_cross_entropy,
    weight_importance,
    wrong_labels,
)
from hf_dtl.methods.instancewise_config import InstanceUnlearningConfig
from hf_dtl.methods.registry import register_method
from hf_dtl.models.heads import MultiHeadClassifier
from hf_dtl.trainers import Chunk, ProjectingTrainer, Request, UnlearningConfig
from hf_dtl.trainers.adversaries import make_adversaries
from hf_dtl.trainers.collages import Collages
from hf_dtl.trainers.instances import Instances, new_rows, predict, read_instances, row_list
from hf_dtl.trainers.items import labelled_items
from hf_dtl.trainers.readiness import with_one_head
from hf_dtl.trainers.shares import Share

logger = logging.getLogger(__name__)

_COLLAGES = 1000  # of each image; they are made when they are shown
_SPAN = 2048

_OFFSET = 4_256_233
_BATCH = 64


class AlreadyForgottenError(DataError):
    """The model names no image of a request by its label, so there is nothing to forget."""


@register_method("instancewise")
class InstanceUnlearningTrainer(ProjectingTrainer):
    """Make a model misname images, or name them anew, by one of two strategies.

        collages: forget_weight * L_f + KL(f_0(c) || f(c)) on collages c of the images, new ones in every step, with
            L_f = relu(z_y - max_{j != y} z_j + margin), or what brings y* on top for goal=relabel. An image is pushed
            only over the nearest boundary, and collages, as sharp as real images, tell the model that it is this image
            alone and not its kind.
        l2ul: forget_weight * L_f + CE(f(adversaries), y-bar) + lambda/2 sum (1 - Omega) (theta - theta_0)^2, with
            L_f = -CE(f(x), y) for goal=misclassify (see `delta`) and CE(f(x), y*) for goal=relabel. Adversaries and
            the importance Omega come from the model as it is given.

    Every image is used once. One that the model misnames already, and that has no given new label, is only kept
    misnamed by the margin of collages, which is zero for it, and skipped by l2ul; a warning names them.

    Args:
        forget_dataset: the images to forget with their true labels. No other images are needed.
        retain_dataset: not looked at; there so that all methods are called alike.
        new_labels: for goal=relabel, what each image is to be named: rows of the head, or names of its classes; None
            for a draw among the other labels.
        rows: numbers to name the images by in messages; default: their positions.
        **: as for `UnlearningTrainer`. With adversaries, `processing_class` must be the processor that the images
            went through (None for pixels in 0..1): it tells which values a pixel can have.

    Raises:
        ConfigError: options that contradict each other, the model or the images.
        DataError: labels that the head does not have, or a new label that is the old one.
        AlreadyForgottenError: no image is left.
    """

    config_class = InstanceUnlearningConfig
    args: InstanceUnlearningConfig

    instances: Instances
    """What the loss looks at."""
    skipped: Instances
    """What l2ul leaves out, because it was already forgotten when training started."""
    aims: Tensor
    """(instances,), the label that the loss of each is about: the true one, or the one to be given."""
    importance: list[Tensor]
    """Omega of each trained parameter."""

    def __init__(
        self,
        model: MultiHeadClassifier | PreTrainedModel,
        args: InstanceUnlearningConfig,
        forget_dataset: Dataset,
        retain_dataset: Dataset | None = None,
        *,
        new_labels: Sequence[int | str] | None = None,
        rows: Sequence[int] | None = None,
        processing_class=None,
        **kwargs: Any,
    ):
        if not isinstance(model, MultiHeadClassifier):
            model = with_one_head(model, args)
            args.forget_task = args.retain_task
        self.forget_task = self.retain_task = args.retain_task
        if args.forget_task != args.retain_task:
            raise ConfigError(
                f"Instance-wise unlearning works on the one head that names the images, but forget_task="
                f"{args.forget_task!r} and retain_task={args.retain_task!r} differ. Set both to that head's task."
            )
        self.check_tasks(model, args)
        model.to(args.device)
        share = Share(args.process_index, args.world_size, not args.disable_tqdm)
        classes = model.heads[self.retain_task].out_features
        _check_goal(args, classes, new_labels)
        aims = None if new_labels is None else new_rows(new_labels, model.labels[self.retain_task])
        (images,) = labelled_items({"forget": (forget_dataset, self.forget_task)}, model, processing_class)
        instances = read_instances(images, classes, new_labels=aims, rows=rows)
        named = predict(model, instances.images.pixel_values, self.retain_task, share=share)
        skip = _forgotten_mask(instances, named, keep=args.strategy == "collages")
        self.instances, self.skipped = instances.part(~skip), instances.part(skip)
        self.aims = _aims(self.instances, named[~skip], args, classes)
        retain: Dataset = self.instances.images  # the streams need a data set, also where no retain image is shown
        if args.strategy == "collages":
            retain = Collages(self.instances.images, _COLLAGES, args.seed)
        elif args.adversarial:
            retain = make_adversaries(
                model, self.instances.images, self.retain_task, processing_class=processing_class,
                examples=args.examples, epsilon=args.epsilon, step_size=args.step_size, steps=args.attack_steps,
                seed=args.seed, folder=args.adversaries_folder, share=share,
            )  # fmt: skip
        super().__init__(model, args, self.instances.images, retain, processing_class=processing_class, **kwargs)
        if args.importance:
            self.importance = self._importance()
        self.add_callback(_StopWhenForgotten(self))

    @classmethod
    def request_arguments(cls, request: Request, args: UnlearningConfig) -> dict[str, Any]:
        return {"rows": request.rows, "new_labels": request.new_labels if args.gives_new_labels else None}

    def prepare(self) -> None:
        if self.args.project:
            images = self.train_dataset.retain
            if isinstance(images, Collages):  # enough to know their span by
                images = Subset(images, range(min(_SPAN, len(images))))
            self.protect(self.collect(images), self.args.criterion, self.args.threshold)

    def _importance(self) -> list[Tensor]:
        """Omega of the trained parameters at the given weights, the same on every process."""
        args, images = self.args, self.instances.images.pixel_values
        self.model.eval()
        batches = (batch.to(args.device) for batch in images[args.process_index :: args.world_size].split(_BATCH))
        return weight_importance(
            lambda batch: self.model(batch, task=self.forget_task), batches, self.trained, reduce=self.reduce
        )

    # One step -------------------------------------------------------------------------------------------------

    @property
    def _shows_examples(self) -> bool:
        """Whether retention looks at adversaries or collages."""
        args = self.args
        made = args.adversarial or args.strategy == "collages"
        return made and bool(args.target_ce_weight or args.distillation_weight)

    def active_streams(self) -> tuple[bool, bool]:
        return self._shows_examples or bool(self.args.importance), super().active_streams()[1]

    def retention(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        """Cross-entropy and distillation on adversaries or collages, and the anchors, as far as switched on."""
        terms = [super().retention(model, inputs)] if self._shows_examples else []
        if self.args.importance:
            penalty = importance_penalty(self.trained, self.initial_weights, self.importance)
            self.record("importance_penalty", penalty)
            terms.append(self.args.importance_weight * penalty)
        return sum(terms[1:], terms[0])

    def forget_loss(self, outputs: Tensor, chunk: Chunk) -> Tensor:
        args, aims = self.args, self.aims.to(outputs.device)[chunk.rows]
        if args.margin:
            return margin_loss(outputs, aims, margin=args.margin, toward=args.goal == "relabel")
        if args.goal == "relabel":
            return self.label_loss(outputs, aims)
        if args.delta:
            return bounded_forgetting(outputs, aims, delta=args.delta, entropy_weight=0.0)
        return negative_cross_entropy(outputs, aims, cap=math.inf)

    # When to stop ---------------------------------------------------------------------------------------------

    def remaining_rows(self) -> list[int]:
        """Row numbers of the images that are not forgotten by the goal, the same on every process."""
        named = self._predictions(self.instances)
        left = named != self.aims if self.args.goal == "relabel" else named == self.aims
        return self.instances.part(left).rows

    def _predictions(self, instances: Instances) -> Tensor:
        model = self.accelerator.unwrap_model(self.model)
        return predict(model, instances.images.pixel_values, self.retain_task, share=self.share)

    def warn_of_remaining(self) -> None:
        """Name what training did not make the model forget, and what it brought back."""
        left = self.remaining_rows()
        if left:
            logger.warning(
                "Not forgotten after %d steps: %s (%d of %d). Raise max_steps, learning_rate or forget_weight.",
                self.state.global_step, row_list(left), len(left), len(self.aims),
            )  # fmt: skip
        if self.skipped.rows:
            back = self.skipped.part(self._predictions(self.skipped) == self.skipped.images.labels).rows
            if back:
                logger.warning("Skipped, but now named by their label: %s. Request them again.", row_list(back))


def _check_goal(args: InstanceUnlearningConfig, classes: int, new_labels: Sequence[int | str] | None) -> None:
    if classes < 2:
        raise ConfigError("The head has one class, so an image cannot be given another. Use a model with more.")
    if new_labels is not None and args.goal != "relabel":
        raise ConfigError(f"new_labels are given, but goal={args.goal!r}: set goal='relabel', or leave them out.")
    if args.delta and args.goal != "misclassify":
        raise ConfigError(f"delta={args.delta:g} belongs to goal='misclassify'; leave it at 0 for {args.goal!r}.")


def _forgotten_mask(instances: Instances, named: Tensor, *, keep: bool) -> Tensor:
    """Name the images that are forgotten already; those to skip, as a mask (images,): none where they are kept so."""
    if instances.new_labels is None:
        done, reason = named != instances.images.labels, "the model misnames them"
    else:
        done, reason = named == instances.new_labels, "the model names them by their new label"
    if done.all():
        raise AlreadyForgottenError(
            f"There is nothing to forget: {reason} already ({row_list(instances.rows)}). Check that labels are "
            "numbered as the model's id2label does, and that the images went through the model's own processor."
        )
    keep = keep or instances.new_labels is not None
    if done.any():
        what = "Only kept so" if keep else "Skipped"
        logger.warning("%s, because %s already: %s.", what, reason, row_list(instances.part(done).rows))
    return done & (not keep)


def _aims(instances: Instances, named: Tensor, args: InstanceUnlearningConfig, classes: int) -> Tensor:
    """The label that the loss of each image is about; one that is misnamed already keeps the name it has."""
    labels = instances.images.labels
    if args.goal == "misclassify":
        return labels
    if instances.new_labels is not None:
        return instances.new_labels
    drawn = wrong_labels(labels, classes, torch.Generator().manual_seed(args.seed + _OFFSET))
    return torch.where(named == labels, drawn, named)


class _StopWhenForgotten(TrainerCallback):
    """Look every few steps, and after the last, at what is forgotten; stop when all is."""

    def __init__(self, trainer: InstanceUnlearningTrainer):
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % args.check_every and state.global_step < state.max_steps:
            return
        trainer = self.trainer
        share = len(trainer.remaining_rows()) / len(trainer.aims)
        trainer.record("remembered", share)
        if not share and args.stop_when_forgotten:
            control.should_training_stop = control.should_log = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.warn_of_remaining()
