"""The trainer of (image, task) pairs: two streams over the same images, each with the labels it is to look at."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate
from transformers import PreTrainedModel

from hf_dtl.errors import ModelError
from hf_dtl.functional.pair_losses import pair_distance, pair_losses
from hf_dtl.methods.multitask_config import MultiTaskUnlearningConfig
from hf_dtl.methods.task_pairs import Forget, PairSet, forget_table, read_labels
from hf_dtl.models.heads import MultiHeadClassifier
from hf_dtl.trainers import Chunk, PairedStreams, SavingTrainer, UnlearningTrainer
from hf_dtl.trainers.head_rows import task_rows

Outputs = dict[str, Tensor]
"""Task → (images, outputs)."""


class PairTrainer(UnlearningTrainer):
    """An `UnlearningTrainer` for a model with one head a task: an image counts for some of the tasks in each stream.

    Retention is the cross-entropy, or squared error, of the pairs to keep, and the distillation of the original
    model's outputs on them, each where it has a weight. Every pair has the same weight: an image's loss is the sum
    over its pairs, divided by the number of tasks. Methods that are written in terms of `outputs`, `label_loss` and
    `distance` become methods of pairs by standing before this class.

    Args, Raises: see `MultiTaskUnlearningTrainer`.
    """

    args: MultiTaskUnlearningConfig
    train_dataset: PairedStreams[PairSet]
    tasks: tuple[str, ...]
    """Of the model, in the order of its heads."""
    forgotten: tuple[str, ...]
    """Those that some image is forgotten for."""
    pursued: tuple[str, ...]
    """Those of them that are being forgotten at present."""
    scales: dict[str, float | None]
    """By task None for classes, or the deviation of a regression's labels."""

    def __init__(
        self,
        model: MultiHeadClassifier,
        args: MultiTaskUnlearningConfig,
        dataset: Dataset,
        forget: Forget,
        **kwargs: Any,
    ):
        if not isinstance(model, MultiHeadClassifier):
            raise ModelError(f"Expected a MultiHeadClassifier, one head a task, got {type(model).__name__}.")
        dataset = task_rows(dataset, model, "The data set")
        labels, self.scales = read_labels(dataset, model)
        if kwargs.get("eval_dataset") is not None:
            kwargs["eval_dataset"] = task_rows(kwargs["eval_dataset"], model, "The evaluation data set")
            read_labels(kwargs["eval_dataset"], model)
        self.tasks = tuple(model.heads)
        table = forget_table(forget, len(labels), self.tasks)
        self.forgotten = tuple(task for task, some in zip(self.tasks, table.any(0).tolist(), strict=True) if some)
        self.pursued = self.forgotten
        # one of them all: the base class needs a name
        args.forget_task = args.retain_task = next((t for t in self.tasks if self.scales[t] is None), self.tasks[0])
        super().__init__(
            model,
            args,
            PairSet(dataset, labels.masked_fill(~table, torch.nan)),
            PairSet(dataset, labels.masked_fill(table, torch.nan)),
            **kwargs,
        )
        self.data_collator = default_collate  # of what is evaluated

    def trains(self, name: str, parameter: nn.Parameter) -> bool:
        return not name.startswith("heads.") or name.split(".")[1] in self.forgotten

    # Losses ---------------------------------------------------------------------------------------------------

    def column(self, task: str, labels: Tensor) -> Tensor:
        """Labels (images,) for one task, of all (images, tasks)."""
        return labels[:, self.tasks.index(task)]

    def losses(self, task: str, outputs: Outputs, labels: Tensor) -> Tensor:
        """Loss of each image's pair with `task`, (images,); `labels` (images, tasks)."""
        return pair_losses(outputs[task], self.column(task, labels), self.scales[task])

    def over_pairs(self, losses: Iterable[Tensor], labels: Tensor) -> Tensor:
        """Losses by task as one: their sum over a chunk's pairs, divided by its images and the forgotten tasks."""
        return torch.stack([loss.sum() for loss in losses]).sum() / (len(labels) * len(self.forgotten))

    def outputs(self, model: nn.Module, pixel_values: Tensor) -> Outputs:
        return model(pixel_values)

    def label_loss(self, outputs: Outputs, labels: Tensor, *, mean: bool = True) -> Tensor:
        """Of the pairs that are being forgotten."""
        losses = [self.losses(task, outputs, labels) for task in self.pursued]
        return self.over_pairs(losses, labels) if mean else torch.stack([loss.sum() for loss in losses]).sum()

    def known_loss(self, outputs: Outputs, chunk: Chunk) -> Tensor:
        return self.over_pairs([self.losses(task, outputs, chunk.labels) for task in self.forgotten], chunk.labels)

    def distance(self, outputs: Outputs, original: Outputs, chunk: Chunk) -> Tensor:
        """Of the pairs that are being forgotten."""
        distances = [self.task_distance(task, outputs, original, chunk.labels) for task in self.pursued]
        return self.over_pairs(distances, chunk.labels)

    def task_distance(self, task: str, outputs: Outputs, original: Outputs, labels: Tensor) -> Tensor:
        """Distance of the outputs for `task` from the original ones, summed over the images."""
        column, temperature = self.column(task, labels), self.args.temperature
        return pair_distance(outputs[task], original[task], column, self.scales[task], temperature=temperature)

    def retention_loss(self, outputs: Outputs, labels: Tensor, taught: Outputs, only: str | None = None) -> Tensor:
        """Retention loss of the pairs of some images, averaged over the images; of one task where one is named."""
        total, args = torch.zeros((), device=labels.device), self.args
        for task in self.tasks if only is None else (only,):
            total = total + (args.target_ce_weight or 0.0) * self.losses(task, outputs, labels).sum()
            if taught:
                distance = self.task_distance(task, outputs, taught, labels)
                total = total + (args.distillation_weight or 0.0) * distance
        return total / (len(labels) * len(self.tasks))

    def teacher_outputs(self, images: Tensor) -> Outputs:
        """The original model's outputs, where retention distils them."""
        if not self.args.distillation_weight:
            return {}
        with torch.no_grad():
            return self.teacher(images)

    def retention(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        images = self.augment_retained(inputs["retain"]["pixel_values"], inputs["chunk"])
        labels, taught = inputs["retain"]["labels"].flatten(0, 1), self.teacher_outputs(images)
        self.observe_retained(inputs["chunk"], images, labels, taught)
        loss = self.retention_loss(model(images), labels, taught)
        self.record("retain_loss", loss)
        return loss

    def observe_retained(self, chunks: Tensor, images: Tensor, labels: Tensor, taught: Outputs) -> None:
        """Told of the retain images of a micro-batch, chunk after chunk, before their loss."""

    # What Trainer calls ---------------------------------------------------------------------------------------

    def compute_loss(self, model, inputs, return_outputs: bool = False, num_items_in_batch=None):
        """Mean loss over images and tasks; only evaluation calls it."""
        outputs = model(inputs["pixel_values"])
        losses = [pair_losses(outputs[t], inputs["labels"][t].float(), self.scales[t]) for t in self.tasks]
        loss = torch.stack(losses).mean()
        return (loss, outputs) if return_outputs else loss

    def export(self, task: str | None = None) -> PreTrainedModel:
        """A plain Hub model of one task; default: the first."""
        return self.accelerator.unwrap_model(self.model).export(task or self.tasks[0])

    write = SavingTrainer.write
