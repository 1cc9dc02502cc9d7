"""Train one backbone and a head for each of several tasks together, and measure every task."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, default_collate
from transformers import EvalPrediction, PreTrainedModel, TrainingArguments
from transformers.trainer_utils import PredictionOutput

from hf_dtl.data import MultiTaskImages, load_multitask_images
from hf_dtl.errors import ConfigError, DataError, ModelError
from hf_dtl.functional import Augmentation, augment
from hf_dtl.models.heads import MultiHeadClassifier
from hf_dtl.trainers.head_rows import task_rows
from hf_dtl.trainers.items import items_of
from hf_dtl.trainers.option_fields import check_options, option
from hf_dtl.trainers.readiness import check_trainable, evaluating, freeze_unused, leaves_one
from hf_dtl.trainers.saving import SavingTrainer


@dataclass
class MultiTaskTrainingConfig(TrainingArguments):
    """`transformers.TrainingArguments` for training on several tasks at once.

    The loss of a step is the sum over the tasks of weight * loss: cross-entropy for classes, and the mean squared
    error for a regression task.

    Raises:
        ConfigError: a weight or an augmentation that cannot be used, or DeepSpeed or FSDP.
    """

    task_weights: dict[str, float] | str | None = option(
        None,
        'Weights of the tasks\' losses, >= 0, as JSON: {"case": 0.5}. Others have 1; the head of a task with 0 is '
        "frozen.",
    )
    augmentation: Augmentation = option(
        "none",
        "Random transforms of the training images: 'none', 'affine' or 'affine_flip' (mirrored too). They rotate, "
        "scale and shift: not for a task that asks for just that.",
    )
    remove_unused_columns: bool = option(False, "Must stay False: the image columns are read by this library.")
    ddp_find_unused_parameters: bool | None = option(
        False, "Not needed: parameters without a gradient are frozen beforehand."
    )

    def __post_init__(self):
        for name in ("deepspeed", "fsdp"):
            if getattr(self, name):
                raise ConfigError(f"{name} has not been verified. Instead: use DDP (accelerate launch).")
        if isinstance(self.task_weights, str):
            try:
                self.task_weights = json.loads(self.task_weights)
            except json.JSONDecodeError as error:
                raise ConfigError(f"task_weights={self.task_weights!r} is not JSON: {error}.") from error
        weights = self.task_weights or {}
        if not isinstance(weights, dict):
            raise ConfigError(f"task_weights={weights!r} must be task: weight pairs, such as {{'case': 0.5}}.")
        for task, weight in weights.items():
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
                raise ConfigError(f"task_weights: the weight of '{task}' is {weight!r}; it must be a number >= 0.")
        check_options(self)
        super().__post_init__()
        self.remove_unused_columns = False
        self.label_names = ["labels"]


class MultiTaskTrainer(SavingTrainer):
    """A `transformers.Trainer` that trains a `MultiHeadClassifier` on all tasks of its data.

    `evaluate()` gives `eval_<task>_accuracy`, or `eval_<task>_mean_absolute_error` for a regression task, beside the
    loss. Heads of tasks that the data lack, or whose weight is 0, stay as they are. The augmentation of a batch is a
    function of the seed and the batch's number alone, whichever process it is on.

    Args:
        model: with a head for every task of the data; see `with_task_heads`.
        args: the options.
        train_dataset: a `MultiTaskImages`, or a split of `MultiTaskData` (then `processing_class` is needed).
        eval_dataset: likewise; its tasks are measured.
        processing_class: the model's image processor; saved with the model.
        **kwargs: passed on to `transformers.Trainer` (callbacks, optimizers, ...).

    Raises:
        ConfigError: a weight for a task that the data do not have, or no task with a weight.
        DataError: labels that a head cannot have.
        ModelError: a task without a head, or a regression task with a head for classes, or the other way round.
    """

    loss_is_scaled_for_ga = False

    args: MultiTaskTrainingConfig
    model: MultiHeadClassifier
    train_dataset: MultiTaskImages

    def __init__(
        self,
        model: MultiHeadClassifier,
        args: MultiTaskTrainingConfig,
        train_dataset: MultiTaskImages | datasets.Dataset,
        *,
        eval_dataset: MultiTaskImages | datasets.Dataset | None = None,
        processing_class=None,
        **kwargs: Any,
    ):
        if not isinstance(model, MultiHeadClassifier):
            raise ModelError(
                f"Expected a MultiHeadClassifier, got {type(model).__name__}. Make one of a Hub classifier with "
                "with_task_heads(model, tasks)."
            )
        self.refuse_unused(kwargs)
        check_trainable(model.backbone, heads_alone=True)
        train, evaluation = (_items(d, model, processing_class) for d in (train_dataset, eval_dataset))
        self.weights = _weights(args, train)
        """Trained task → weight, > 0."""
        args._n_gpu = min(args.n_gpu, 1)  # several GPUs in one process would be DataParallel: use accelerate launch
        args.dataloader_drop_last |= leaves_one(model, train, args.train_batch_size)
        kwargs |= {"train_dataset": train, "eval_dataset": evaluation, "processing_class": processing_class}
        defaults = {"data_collator": default_collate, "compute_metrics": _metrics}
        super().__init__(model=model, args=args, **defaults | kwargs)
        self._micro_batch = 0
        for task, head in self.model.heads.items():
            if task not in self.weights:
                head.requires_grad_(False)
        freeze_unused(
            self.model, self.train_dataset, lambda x: torch.cat([self.model(x)[t] for t in self.weights], -1)
        )

    def training_step(self, model, inputs, num_items_in_batch=None) -> Tensor:
        """One micro-batch; they are numbered within the optimizer step."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._micro_batch = 0 if self.accelerator.sync_gradients else self._micro_batch + 1
        return loss

    def compute_loss(self, model, inputs, return_outputs: bool = False, num_items_in_batch=None):
        """Weighted sum of the tasks' losses; in evaluation, the outputs of all tasks that have labels too."""
        images, labels = inputs["pixel_values"], inputs["labels"]
        if model.training:
            images = augment(images, self.args.augmentation, self._generator())
        outputs = model(images)
        loss = sum(w * task_loss(outputs[t], labels[t]) for t, w in self.weights.items() if t in labels)
        loss = torch.as_tensor(loss, device=images.device)  # data for evaluation may hold none of the trained tasks
        return (loss, {f"task {task}": outputs[task] for task in labels}) if return_outputs else loss

    def _generator(self) -> torch.Generator:
        """Draws for the present micro-batch: the same on one process and on several that share the step."""
        args = self.args
        batch = self.state.global_step * args.gradient_accumulation_steps + self._micro_batch
        return torch.Generator().manual_seed(args.seed * 1_000_003 + batch * args.world_size + args.process_index)

    def evaluate(self, eval_dataset=None, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Loss, and accuracy or mean absolute error of every task of `eval_dataset`."""
        if eval_dataset is not None and not isinstance(eval_dataset, str):
            eval_dataset = self._measured(eval_dataset)
        return super().evaluate(eval_dataset, *args, **kwargs)

    def predict(self, test_dataset, *args: Any, **kwargs: Any) -> PredictionOutput:
        """As `transformers.Trainer` does, of data as for `evaluate`."""
        return super().predict(self._measured(test_dataset), *args, **kwargs)

    def _measured(self, data: Any) -> Any:
        return _items(data, self.accelerator.unwrap_model(self.model), self.processing_class)


def _items(data: Any, model: MultiHeadClassifier, processing_class: Any) -> Any:
    """Images whose classes are rows of the heads: by name where the data have names."""
    images = items_of(data, model, processing_class, load_multitask_images)
    images = task_rows(images, model, "The data set")
    if images is not None and not isinstance(images, MultiTaskImages):
        raise DataError(
            f"The data set is a {type(images).__name__}. Give a datasets.Dataset, or what load_multitask_images makes."
        )
    if images is not None:
        _check_labels(model, images)
    return images


def with_task_heads(model: PreTrainedModel, tasks: Mapping[str, tuple[str, ...]]) -> MultiHeadClassifier:
    """Give a Hub classifier new heads for several tasks in place of its own.

    Args:
        model: it becomes the backbone, in place.
        tasks: task → class names, none for a regression task: as in `MultiTaskData`.

    Raises:
        ModelError: see `MultiHeadClassifier`.

    Example:
        >>> from transformers import AutoModelForImageClassification, ViTConfig
        >>> config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        ...                    image_size=8, patch_size=4)
        >>> plain = AutoModelForImageClassification.from_config(config)
        >>> model = with_task_heads(plain, {"case": ("upper", "lower"), "rotation": ()})
        >>> {task: tuple(output.shape) for task, output in model(torch.zeros(1, 3, 8, 8)).items()}
        {'case': (1, 2), 'rotation': (1, 1)}
    """
    if not tasks:
        raise ModelError("No task is named; a model needs at least one.")
    own = "_" * (1 + max(map(len, tasks)))  # no task is called so
    heads = MultiHeadClassifier(model, task=own)
    for task, labels in tasks.items():
        if labels:
            heads.add_head(task, labels)
        else:
            heads.add_regression_head(task)
    heads.remove_head(own)
    return heads


def task_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean loss of one task: cross-entropy of classes, mean squared error where the labels are floats.

    Args:
        outputs: (batch, classes), or (batch, 1) of a regression head.
        labels: (batch,) int64, or float32 for a regression task.
    """
    if labels.is_floating_point():
        return F.mse_loss(outputs.float().squeeze(-1), labels.float())
    return F.cross_entropy(outputs.float(), labels)


def task_score(outputs: Tensor, labels: Tensor) -> float:
    """Accuracy in 0..1 of classes, mean absolute error where the labels are floats; shapes as in `task_loss`."""
    if labels.is_floating_point():
        return (outputs.double().squeeze(-1) - labels.double()).abs().mean().item()
    return (outputs.argmax(-1) == labels).double().mean().item()


@torch.no_grad()
def predict_tasks(model: MultiHeadClassifier, images: MultiTaskImages, batch_size: int = 256) -> dict[str, Tensor]:
    """Compute every head's outputs for many images, in evaluation mode.

    Args:
        model: stays as it is.
        images: any.
        batch_size: images a forward pass.

    Returns:
        Task → (N, outputs) float32 on the CPU, for every head of the model.
    """
    like = next(model.parameters())
    with evaluating(model):
        batches = DataLoader(images, batch_size=batch_size)
        found = [model(batch["pixel_values"].to(like.device, like.dtype)) for batch in batches]
    return {task: torch.cat([batch[task].float().cpu() for batch in found]) for task in model.heads}


def measure_tasks(model: MultiHeadClassifier, images: MultiTaskImages, batch_size: int = 256) -> dict[str, float]:
    """Measure a model on every task of the images.

    Args:
        model: with a head for every task of the images.
        images: at least one.
        batch_size: images a forward pass.

    Returns:
        Task → accuracy in 0..1, or the mean absolute error of a regression task.

    Raises:
        DataError: there is no image, or labels that a head cannot have.
        ModelError: a task has no head or one of another kind, or the model gives values that are not finite.
    """
    if not len(images):
        raise DataError("The accuracy of zero images is not defined. Give at least one image.")
    images = task_rows(images, model, "The data set")
    _check_labels(model, images)
    outputs = predict_tasks(model, images, batch_size)
    for task in images.labels:
        if not torch.isfinite(outputs[task]).all():
            raise ModelError(
                f"The head of '{task}' gave values that are not finite. The weights are damaged: repeat the training "
                "with a smaller learning rate."
            )
    return {task: task_score(outputs[task], labels) for task, labels in images.labels.items()}


def _check_labels(model: MultiHeadClassifier, images: MultiTaskImages) -> None:
    for task, labels in images.labels.items():
        if task not in model.heads:
            raise ModelError(
                f"The model has no head for the task '{task}' of the data; its tasks are: {', '.join(model.heads)}. "
                "Add one with add_head or add_regression_head, or leave the task out."
            )
        regression = labels.is_floating_point()
        if regression != model.is_regression(task):
            kinds = ("classes", "a regression task")
            raise ModelError(
                f"The labels of '{task}' are those of {kinds[regression]}, its head is for {kinds[not regression]}."
            )
        classes = len(model.labels[task])
        fine = labels.isfinite() if regression else (labels >= 0) & (labels < classes)
        if not fine.all():
            allowed = "finite numbers" if regression else f"0..{classes - 1}"
            raise DataError(f"The task '{task}' has labels that are not {allowed}: every image needs one.")


def _weights(args: MultiTaskTrainingConfig, images: MultiTaskImages) -> dict[str, float]:
    given = args.task_weights or {}
    assert not isinstance(given, str)  # the config has read it
    for task in given:
        if task not in images.labels:
            raise ConfigError(
                f"task_weights names '{task}', which the data do not have. Tasks: {', '.join(images.labels)}."
            )
    weights = {task: float(given.get(task, 1.0)) for task in images.labels}
    if not any(weights.values()):
        raise ConfigError("task_weights gives every task the weight 0; nothing would be trained. Raise one of them.")
    return {task: weight for task, weight in weights.items() if weight}


def _metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Scores by task, from what all processes found."""
    outputs = prediction.predictions if isinstance(prediction.predictions, tuple) else (prediction.predictions,)
    labels_by_task: Any = prediction.label_ids
    scores = {}
    for (task, labels), output in zip(labels_by_task.items(), outputs, strict=True):
        true = torch.as_tensor(labels)
        kind = "mean_absolute_error" if true.is_floating_point() else "accuracy"
        scores[f"{task}_{kind}"] = task_score(torch.as_tensor(output), true)
    return scores
