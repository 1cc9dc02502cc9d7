"""When to stop forgetting, and which weights to keep: rules on accuracies that are measured now and then."""

import json
import logging
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import Dataset, Subset
from transformers import TrainerCallback

from hf_dtl.data.images import size_of
from hf_dtl.errors import ConfigError
from hf_dtl.trainers.readiness import evaluating
from hf_dtl.trainers.saving import write_whole
from hf_dtl.trainers.trainer import UnlearningTrainer

logger = logging.getLogger(__name__)

StopRule = Literal["steps", "validation_accuracy", "retain_drop"]
"""steps: no rule. validation_accuracy (removal of random images): as soon as the model names the forgotten images no
better than held-out ones. retain_drop (removal of a class, of poison): once held-out accuracy has fallen by a margin;
of the weights within the margin, those with the least forget accuracy are kept."""

_FILE = "best.safetensors"


class StopWhenForgotten(TrainerCallback):
    """Measure forget and held-out accuracy every few steps; stop by the rule and go back to the best weights.

    The best weights lie in the output folder too, so an interrupted run that resumes ends in the same ones.

    Args:
        trainer: with an `eval_dataset` of held-out images of what is retained.
        rule: see `StopRule`, not "steps".
        margin: of retain_drop, in 0..1.
        every: steps between two measurements, >= 1.
        images: most images of each kind that a measurement looks at, a fixed draw, >= 1.

    Raises:
        ConfigError: the trainer has no eval_dataset.
    """

    def __init__(self, trainer: UnlearningTrainer, rule: StopRule, margin: float, every: int, images: int):
        if trainer.eval_dataset is None or not size_of(trainer.eval_dataset):
            raise ConfigError(f"stop={rule!r} needs held-out images of what is retained: give eval_dataset.")
        self.trainer, self.rule, self.margin, self.every = trainer, rule, margin, every
        self.forget = fixed_sample(trainer.train_dataset.forget, images)
        self.held_out = fixed_sample(trainer.eval_dataset, images)
        self.start = 0.0
        self.best: tuple[float, float] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.rule == "retain_drop":
            self.start = accuracy(self.trainer, self.trainer.teacher, self.held_out)
        self.best = None
        if state.global_step and self._path.exists():
            with safe_open(self._path, "pt") as file:
                found = json.loads(file.metadata()["about"])
            if found["step"] <= state.global_step:  # a later one will be found again
                self.best = (found["forget"], found["held_out"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.every and state.global_step < state.max_steps:
            return
        trainer, model = self.trainer, self.trainer.accelerator.unwrap_model(self.trainer.model)
        forget, held_out = (accuracy(trainer, model, images) for images in (self.forget, self.held_out))
        trainer.record("forget_accuracy", forget)
        trainer.record("held_out_accuracy", held_out)
        if self.rule == "validation_accuracy":
            control.should_training_stop |= forget <= held_out
            return
        if held_out < self.start - self.margin - 1e-9:
            control.should_training_stop = True
        elif self.best is None or (forget, -held_out) < (self.best[0], -self.best[1]):
            self.best = (forget, held_out)
            if args.should_save:
                weights = {n: p.detach().cpu().contiguous() for n, p in model.named_parameters() if p.requires_grad}
                about = {"forget": forget, "held_out": held_out, "step": state.global_step}
                write_whole(weights, self._path, about=json.dumps(about))
            trainer.accelerator.wait_for_everyone()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.rule == "validation_accuracy":
            return
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        if self.best is None:
            logger.warning(
                "Held-out accuracy fell by more than %g within %d steps: the given weights are kept and nothing is "
                "forgotten. Lower learning_rate, raise threshold, or measure more often (check_every).",
                self.margin, self.every,
            )  # fmt: skip
            weights: dict[str, Tensor] = dict(self.trainer.teacher.named_parameters())
        else:
            weights = load_file(self._path)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in weights and parameter.requires_grad:
                    parameter.copy_(weights[name])

    @property
    def _path(self) -> Path:
        return Path(str(self.trainer.args.output_dir)) / _FILE


def fixed_sample(images: Dataset, most: int) -> Dataset:
    """The images, or a fixed draw of them."""
    count = size_of(images)
    return images if count <= most else Subset(images, np.random.default_rng(0).permutation(count)[:most].tolist())


@torch.no_grad()
def accuracy(trainer: UnlearningTrainer, model: torch.nn.Module, images: Dataset, batch_size: int = 128) -> float:
    """Share of images, 0..1, that a model with several heads names as labelled, shared among the processes.

    Args:
        trainer: whose device, retained task and processes are used.
        model: a `MultiHeadClassifier`; its mode is left as it was.
        images: items {"pixel_values", "labels"}.
        batch_size: at once.
    """
    args = trainer.args
    mine = range(args.process_index, size_of(images), args.world_size)
    right = torch.zeros((), dtype=torch.float64, device=args.device)
    with evaluating(model):
        for start in range(0, len(mine), batch_size):
            pixels, labels = trainer.load_rows(images, mine[start : start + batch_size])
            right += (model(pixels, task=trainer.retain_task).argmax(-1) == labels).sum()
    return trainer.share.summed(right).item() / size_of(images)
