"""Forget a task's images until they are named as held-out ones were, and no further."""

from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from hf_dtl.errors import ConfigError
from hf_dtl.methods.pair_trainer import PairTrainer
from hf_dtl.methods.task_pairs import PairSet, read_labels
from hf_dtl.trainers.readiness import evaluating


class PursueUntilUnseen(TrainerCallback, ExportableState):
    """Every few steps, forget on only for the tasks whose images to forget are still named too well.

    Too well is above the score (`task_scores`) that the given model had on held-out images: what the Unlearning Impact
    Score asks for of forgotten instances. Retention goes on, and a task that rises again is taken up again. The tasks
    of the moment are in every checkpoint, so a resumed run goes on as it was.

    Args:
        trainer: with an `eval_dataset`.
        every: steps between two measurements, >= 1.

    Raises:
        ConfigError: the trainer has no eval_dataset.
        DataError: its labels cannot be used.
    """

    def __init__(self, trainer: PairTrainer, every: int):
        if trainer.eval_dataset is None:
            raise ConfigError("forget_until='unseen' needs held-out images with labels of all tasks: eval_dataset.")
        self.trainer, self.every = trainer, every
        self.held_out: Dataset = PairSet(trainer.eval_dataset, read_labels(trainer.eval_dataset, trainer.model)[0])
        self.unseen_scores = task_scores(trainer, self.held_out, trainer.teacher)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.pursued = self.trainer.forgotten
        if state.global_step and type(self).__name__ in state.stateful_callbacks:
            self.trainer.pursued = tuple(state.stateful_callbacks[type(self).__name__]["attributes"]["pursued"])

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer = self.trainer
        if state.global_step % self.every == 0:
            model = trainer.accelerator.unwrap_model(trainer.model)
            scores = task_scores(trainer, trainer.train_dataset.forget, model)
            trainer.pursued = tuple(t for t in trainer.forgotten if scores[t] > self.unseen_scores[t])
            for task in trainer.forgotten:
                trainer.record(f"forget_score_{task}", scores[task])

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"args": {}, "attributes": {"pursued": list(self.trainer.pursued)}}


@torch.no_grad()
def task_scores(trainer: PairTrainer, pairs: PairSet, model: torch.nn.Module) -> dict[str, float]:
    """Measure a model on pairs, shared among the processes: 1 is perfect for every task.

    Args:
        trainer: whose tasks, device and processes are used.
        pairs: at least one of each task that is read from the result.
        model: a `MultiHeadClassifier`; its mode is left as it was.

    Returns:
        By task that has pairs: accuracy, or for a regression 1 - (mean squared error) / (variance of the training
        labels), which is 0 for one who always says their mean and below 0 for one who does worse.
    """
    sums = torch.zeros(2, len(trainer.tasks), dtype=torch.float64, device=trainer.args.device)
    with evaluating(model):
        for images, labels in trainer.batches(pairs, "scores"):
            outputs = model(images)
            for column, task in enumerate(trainer.tasks):
                scale, true, found = trainer.scales[task], labels[:, column], outputs[task].float()
                right = found.argmax(-1) == true if scale is None else 1 - ((found[:, 0] - true) / scale).square()
                known = ~true.isnan()
                sums[:, column] += torch.stack([right.double()[known].sum(), known.double().sum()])
    sums = trainer.share.summed(sums)
    return {t: (total / n).item() for t, total, n in zip(trainer.tasks, *sums, strict=True) if n}
