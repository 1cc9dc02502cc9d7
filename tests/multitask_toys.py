"""A toy of several tasks over one backbone; run by every process of a launcher, it trains some cases and saves them.

torchrun --nproc_per_node 2 tests/multitask_toys.py OUTPUT
"""

import copy
import sys
from functools import cache
from pathlib import Path

import torch
from architectures import CONFIGS
from safetensors.torch import save_file
from torch.utils.data import Dataset
from toy_tasks import OPTIONS
from transformers import AutoModelForImageClassification

from hf_dtl.functional.pair_losses import pair_losses
from hf_dtl.methods.multitask import MultiTaskUnlearningTrainer
from hf_dtl.methods.multitask_config import MultiTaskUnlearningConfig
from hf_dtl.methods.task_pairs import full_task, partial_task
from hf_dtl.models.heads import MultiHeadClassifier
from hf_dtl.trainers.config import UnlearningConfig

ROWS = range(0, 24, 2)
FULL, PARTIAL = full_task(ROWS), partial_task(ROWS, ["shape"])
TASKS = ("shape", "side", "size")


class Toy(Dataset):
    """Images (N, 3, 8, 8) with labels by task."""

    def __init__(self, pixel_values, labels):
        self.pixel_values, self.labels = pixel_values, labels

    def __len__(self):
        return len(self.pixel_values)

    def __getitem__(self, index):
        return {"pixel_values": self.pixel_values[index], "labels": {t: v[index] for t, v in self.labels.items()}}

    def subset(self, rows):
        return Toy(self.pixel_values[rows], {task: values[rows] for task, values in self.labels.items()})


@cache
def toy(count: int = 48, seed: int = 0) -> Toy:
    """Three tasks: which of four patterns (shape), dark or bright at the left (side), and how strong (size, a number).

    The noise makes every image one that a model can remember.
    """
    generator = torch.Generator().manual_seed(seed)
    shape, side = torch.arange(count) % 4, torch.arange(count) // 4 % 2
    size = torch.rand(count, generator=generator)
    patterns = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(99))
    images = patterns[shape] * (0.5 + size)[:, None, None, None]
    images[..., :4] += (2.0 * side - 1)[:, None, None, None]
    images = images + 0.7 * torch.randn(images.shape, generator=generator)
    return Toy(images, {"shape": shape, "side": side, "size": size})


def fresh(name: str = "vit") -> MultiHeadClassifier:
    """A random model of an architecture with a head for each task of the toy, the last a regression."""
    torch.manual_seed(0)
    config = copy.deepcopy(CONFIGS[name]())
    config.image_size, config.patch_size, config.num_labels = 8, 4, 4
    model = MultiHeadClassifier(AutoModelForImageClassification.from_config(config), task="shape")
    model.add_head("side", ["dark", "bright"])
    model.add_regression_head("size")
    return model


@cache
def _learned() -> MultiHeadClassifier:
    model, data = fresh(), toy()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(60):
        outputs = model(data.pixel_values)
        losses = [pair_losses(outputs[t], v.float(), 0.3 if t == "size" else None) for t, v in data.labels.items()]
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        optimizer.step()
    return model.eval()


def learned() -> MultiHeadClassifier:
    """A model that knows the toy's training images by heart."""
    return copy.deepcopy(_learned())


def build(folder, forget=PARTIAL, model=None, data=None, held_out=None, **options) -> MultiTaskUnlearningTrainer:
    """A trainer on the toy, or on the model and the images given."""
    defaults = {"target_ce_weight": 1.0, "num_chunks": 4, "learning_rate": 0.1}
    args = MultiTaskUnlearningConfig(output_dir=str(folder), **OPTIONS | defaults | options)
    return MultiTaskUnlearningTrainer(
        fresh() if model is None else model, args, toy() if data is None else data, forget, eval_dataset=held_out
    )


CASES = {
    "ours_partial": (PARTIAL, {"learning_rate": 1.0}),
    "ours_full_accumulated": (
        FULL,
        {"gradient_accumulation_steps": 2, "orthogonalisation": "conflict", "distillation_weight": 0.5},
    ),
    "ours_mini_batch_adamw": (
        PARTIAL,
        {"retain_gradients": "mini_batch", "optim": "adamw_torch", "weight_decay": 0.1, "learning_rate": 1e-3},
    ),
    "retrain_resnet": (PARTIAL, {"strategy": "retrain"}),
    "neg_grad_plus_unseen": (FULL, {"strategy": "neg_grad_plus", "forget_until": "unseen", "check_every": 1}),
    "scrub": (PARTIAL, {"strategy": "scrub", "min_phase": 1, "max_until": 1.0}),
    "salun": (FULL, {"strategy": "salun"}),
    "pcgrad": (PARTIAL, {"strategy": "pcgrad"}),
}


def run(case: str, folder: Path) -> MultiTaskUnlearningTrainer:
    """Train a case with 16 images to forget and 4 chunks a step, whatever the number of processes."""
    forget, options = CASES[case]
    world = UnlearningConfig(output_dir=str(folder), use_cpu=True).world_size
    size = 16 // (world * options.get("gradient_accumulation_steps", 1))
    model = fresh("resnet" if "resnet" in case else "vit")
    options = {"per_device_train_batch_size": size, "max_steps": 2} | options
    trainer = build(folder, forget, model, held_out=toy(21, 1), **options)
    trainer.train()
    return trainer


def logged(trainer) -> dict[str, torch.Tensor]:
    """What was logged, by name."""
    history = trainer.state.log_history
    names = ("disposal_value", "retain_loss", "source_loss", "forget_gradient_left", "forget_score_shape")
    return {name: torch.tensor([e[name] for e in history if name in e], dtype=torch.float64) for name in names}


def main(output: Path) -> None:
    for case in CASES:
        trainer = run(case, output)
        state = {n: v.detach().clone().contiguous() for n, v in trainer.model.state_dict().items()}
        state |= {f"log.{name}": values for name, values in logged(trainer).items()}
        state["world_size"] = torch.tensor(trainer.accelerator.num_processes)
        save_file(state, output / f"{case}-rank{trainer.args.process_index}.safetensors")
    trainer.end()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
