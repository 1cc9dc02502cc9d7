"""Ordinary training of the main job's models: pre-training, adaptation, the retrained reference, and a head alone."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm.auto import tqdm
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import get_last_checkpoint

from hf_dtl.data.images import size_of
from hf_dtl.errors import DataError, listing
from hf_dtl.functional import Augmentation, augment, classification_loss
from hf_dtl.models.heads import MULTI_LABEL, MultiHeadClassifier
from hf_dtl.trainers.checkpoints import Recorded
from hf_dtl.trainers.items import numbered
from hf_dtl.trainers.readiness import leaves_one

logger = logging.getLogger(__name__)


def last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint of a trainer to resume from, None where there is none; see `drop_damaged`."""
    return get_last_checkpoint(str(folder)) if folder.is_dir() else None


class StageProgress(ProgressCallback):
    """One progress bar for a stage, with the last logged values, instead of a line for every log."""

    def __init__(self, name: str, show: Sequence[str] = ("loss",)):
        super().__init__()
        self.name, self.show = name, show

    def on_train_begin(self, args, state, control, **kwargs):
        self.current_step = state.global_step
        if state.is_world_process_zero:
            self.training_bar = tqdm(total=state.max_steps, initial=state.global_step, desc=self.name, unit="step")

    def on_log(self, args, state, control, logs=None, **kwargs):
        shown = {name: f"{logs[name]:.3g}" for name in self.show if name in (logs or {})}
        if shown and self.training_bar is not None:
            self.training_bar.set_postfix(shown)


def run_trainer(trainer: Trainer, work: Path, name: str, show: Sequence[str] = ("loss",)) -> None:
    """Train from the last checkpoint of an interrupted stage, or from the start, with one progress bar."""
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(StageProgress(name, show))
    trainer.add_callback(Recorded())
    trainer.train(resume_from_checkpoint=last_checkpoint(work / "checkpoints"))


def stage_arguments(work: Path, **options: Any) -> dict[str, Any]:
    """Options that every trainer of a stage shares: checkpoints inside the stage's folder, the last two kept."""
    return {
        "output_dir": str(work / "checkpoints"),
        "report_to": "none",
        "save_strategy": "steps",
        "save_steps": 100,
        "save_total_limit": 2,  # one may be cut off by what stops the run
        "logging_steps": 10,
        "ddp_timeout": 7 * 24 * 3600,  # a process waits for the others' share of the audit
        **options,
    }


class _ClassifierTrainer(Trainer):
    """Cross-entropy on a Hub classifier's logits; the model's own loss would be rescaled by Trainer."""

    loss_is_scaled_for_ga = False

    def __init__(self, *args: Any, augmentation: Augmentation, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.augmentation = augmentation

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        images = inputs["pixel_values"]
        if model.training:
            images = augment(images, self.augmentation)
        outputs = model(pixel_values=images)
        multi_label = self.accelerator.unwrap_model(model).config.problem_type == MULTI_LABEL
        loss = classification_loss(outputs.logits, inputs["labels"], multi_label=multi_label)
        return (loss, outputs) if return_outputs else loss

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Trainer leaves out what `save_pretrained` renamed, as all layers of ViT (transformers issue 43701)."""
        own = self.accelerator.unwrap_model(self.model if model is None else model)
        own.load_state_dict(type(own).from_pretrained(resume_from_checkpoint, use_safetensors=True).state_dict())


def fine_tune(
    model: PreTrainedModel,
    train: Dataset,
    work: Path,
    name: str,
    *,
    augmentation: Augmentation = "none",
    **options: Any,
) -> PreTrainedModel:
    """Fine-tune every weight of a Hub classifier by cross-entropy, resuming what an interrupted stage left in `work`.

    Args:
        model: the classifier; trained in place.
        train: items {"pixel_values", "labels"}.
        work: the stage's folder.
        name: of the stage, for the progress bar.
        augmentation: see `hf_dtl.functional.Augmentation`.
        **options: of `transformers.TrainingArguments`.

    Returns:
        The trained model on the CPU, in evaluation mode.
    """
    options = {"lr_scheduler_type": "cosine", "warmup_steps": 0.1, "remove_unused_columns": False, **options}
    args = TrainingArguments(**stage_arguments(work, **options))
    args.dataloader_drop_last |= leaves_one(model, train, args.train_batch_size)
    trainer = _ClassifierTrainer(model=model, args=args, train_dataset=train, augmentation=augmentation)
    run_trainer(trainer, work, name)
    return trainer.accelerator.unwrap_model(trainer.model).eval().cpu()


@torch.no_grad()
def fit_head(
    model: MultiHeadClassifier, task: str, images: Dataset, *, device: torch.device, limit: int = 20_000
) -> None:
    """Fit the head of one task to the frozen backbone by logistic regression (scikit-learn) on standardised features.

    Adapting the backbone to another task leaves an old head stale; the refitted one reads out what the backbone still
    knows linearly.

    Args:
        model: changed in place.
        task: whose head is fitted.
        images: items {"pixel_values", "labels"}.
        device: where the features are computed.
        limit: at most so many images are used, drawn with a fixed seed.

    Raises:
        DataError: a class of the head has no image, or the images have other classes.
    """
    images = numbered(images, model.labels[task], "The images")
    model.eval().to(device)
    chosen = np.random.default_rng(0).permutation(size_of(images))[:limit]
    loader = DataLoader(Subset(images, chosen.tolist()), batch_size=256)
    batches = [(model.features(b["pixel_values"].to(device)).float().cpu(), b["labels"]) for b in loader]
    features, labels = (torch.cat(parts).numpy() for parts in zip(*batches, strict=True))
    if lacking := sorted(set(range(model.heads[task].out_features)) - set(labels.tolist())):
        named = listing([model.labels[task][row] for row in lacking], 5)
        raise DataError(f"There is no image of the classes {named}: their rows of the head could not be fitted.")
    scaler, regression = StandardScaler(), LogisticRegression(max_iter=1000)
    make_pipeline(scaler, regression).fit(features.astype(float), labels)
    weight, bias = regression.coef_ / scaler.scale_, regression.intercept_
    bias = bias - weight @ scaler.mean_
    if len(weight) == 1:  # two classes: scikit-learn gives the logit of the second
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    head = model.heads[task]
    head.weight.copy_(torch.from_numpy(weight))
    head.bias.copy_(torch.from_numpy(bias))
