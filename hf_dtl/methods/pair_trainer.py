"""The trainer of (image, task) pairs: two streams over the same images, each with the labels it is to look at."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate
from tqdm import tqdm
from transformers import PreTrainedModel

from hf_dtl.errors import ModelError
from hf_dtl.functional.pair_losses import pair_distance, pair_losses
from hf_dtl.methods.multitask_config import MultiTaskUnlearningConfig
from hf_dtl.methods.task_pairs import Forget, PairSet, forget_table, read_labels
from hf_dtl.models.heads import MultiHeadClassifier
from hf_dtl.trainers.every_head import SavesEveryHead
from hf_dtl.trainers.trainer import UnlearningTrainer

_BATCH = 64


class PairTrainer(SavesEveryHead, UnlearningTrainer):
    """An `UnlearningTrainer` for a model with one head a task: an image counts for some of the tasks in each stream.

    Retention is the cross-entropy, or squared error, of the pairs to keep, and the distillation of the original
    model's outputs on them, each where it has a weight. Every pair has the same weight: an image's loss is the sum
    over its pairs, divided by the number of tasks. A strategy is a subclass that says what forgets (`forgetting`).

    Args, Raises: see `MultiTaskUnlearningTrainer`.
    """

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
        *,
        processing_class=None,
        eval_dataset: Dataset | None = None,
        **kwargs: Any,
    ):
        if not isinstance(model, MultiHeadClassifier):
            raise ModelError(f"Expected a MultiHeadClassifier, one head a task, got {type(model).__name__}.")
        labels, self.scales = read_labels(dataset, model)
        self.tasks = tuple(model.heads)
        table = forget_table(forget, len(labels), self.tasks)
        self.forgotten = tuple(task for task, some in zip(self.tasks, table.any(0).tolist(), strict=True) if some)
        self.pursued = self.forgotten
        super().__init__(
            model,
            args,
            PairSet(dataset, labels.masked_fill(~table, torch.nan)),
            PairSet(dataset, labels.masked_fill(table, torch.nan)),
            processing_class=processing_class,
            eval_dataset=eval_dataset,
            **{"data_collator": default_collate, **kwargs},
        )
        pairs = zip(self.model.parameters(), self.teacher.parameters(), strict=True)
        self._trained = [(mine, given) for mine, given in pairs if mine.requires_grad]

    def _check(self, model: MultiHeadClassifier, args: MultiTaskUnlearningConfig) -> None:
        self.forget_task = self.retain_task = self.tasks[0]  # one of them all: the base class needs a name
        super()._check(model, args)

    def _freeze_unused(self) -> None:
        super()._freeze_unused()
        for task, head in self.model.heads.items():
            head.requires_grad_(task in self.forgotten or self.args.strategy == "retrain")

    # Losses ---------------------------------------------------------------------------------------------------

    def forgetting(self, images: Tensor, outputs: dict[str, Tensor], labels: Tensor, cell: int) -> dict[str, Tensor]:
        """What is minimised to forget a chunk, by task, summed or of each image: 0 where the pair's label is NaN."""
        raise NotImplementedError

    def _column(self, task: str, labels: Tensor) -> Tensor:
        return labels[:, self.tasks.index(task)]

    def _losses(self, task: str, outputs: dict[str, Tensor], labels: Tensor) -> Tensor:
        """Loss of each image's pair with `task`, (images,); `labels` (images, tasks)."""
        return pair_losses(outputs[task], self._column(task, labels), self.scales[task])

    def _distance(self, task: str, outputs: dict[str, Tensor], original: dict[str, Tensor], labels: Tensor) -> Tensor:
        """Distance of the outputs for `task` from the original ones, summed over the images."""
        column, temperature = self._column(task, labels), self.args.temperature
        return pair_distance(outputs[task], original[task], column, self.scales[task], temperature=temperature)

    def _retention(
        self, outputs: dict[str, Tensor], labels: Tensor, taught: dict[str, Tensor], only: str | None = None
    ) -> Tensor:
        """Retention loss of the pairs of some images, averaged over the images; of one task where one is named."""
        total = torch.zeros((), device=labels.device)
        for task in self.tasks if only is None else (only,):
            total = total + self.args.target_ce_weight * self._losses(task, outputs, labels).sum()
            if taught:
                total = total + self.args.distillation_weight * self._distance(task, outputs, taught, labels)
        return total / (len(labels) * len(self.tasks))

    def _taught(self, images: Tensor) -> dict[str, Tensor]:
        """The original model's outputs, where retention distils them."""
        if not self.args.distillation_weight:
            return {}
        with torch.no_grad():
            return self.teacher(images)

    def retention(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        images = self._augmented(inputs["retain"]["pixel_values"], inputs["cell"])
        labels, taught = inputs["retain"]["labels"].flatten(0, 1), self._taught(images)
        self.seen(inputs["cell"], images, labels, taught)
        loss = self._retention(model(images), labels, taught)
        self._metrics["retain_loss"].append(loss.detach())
        return loss

    def seen(self, cells: Tensor, images: Tensor, labels: Tensor, taught: dict[str, Tensor]) -> None:
        """Told of the retain images of a micro-batch, cell after cell, before their loss."""

    def _chunk_loss(self, pixel_values: Tensor, labels: Tensor, cell: int) -> Tensor:
        """The sum over a chunk's pairs to forget, divided by its images and the tasks that are to forget."""
        pairs = len(labels) * len(self.forgotten)
        with torch.random.fork_rng(devices=[pixel_values.device] if pixel_values.is_cuda else []):
            torch.manual_seed(self.args.seed * 1_000_003 + cell)
            outputs = self.model(pixel_values)
            losses = self.forgetting(pixel_values, outputs, labels, cell)
        true = [self._losses(task, outputs, labels).detach().sum() for task in self.forgotten]
        self._source_losses.setdefault(cell, torch.stack(true).sum() / pairs)
        return torch.stack([losses[task].sum() for task in self.pursued]).sum() / pairs

    # Data -----------------------------------------------------------------------------------------------------

    def batches(self, pairs: PairSet, what: str, rows: Sequence[int] | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels (images, tasks) on the device, this process's share, for a pass besides the training.

        Args:
            pairs: of which data set.
            what: the pass is called in its progress bar.
            rows: which of them; None for all.
        """
        args = self.args
        mine = (range(len(pairs)) if rows is None else rows)[args.process_index :: args.world_size]
        for start in tqdm(range(0, len(mine), _BATCH), desc=what, unit="batch", leave=False, **self.quiet):
            items = [pairs[row] for row in mine[start : start + _BATCH]]
            images, labels = (torch.stack([item[key] for item in items]) for key in ("pixel_values", "labels"))
            yield images.to(args.device), labels.to(args.device)

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
