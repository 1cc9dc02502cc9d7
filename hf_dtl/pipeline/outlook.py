"""What a run will do and about how long that takes, said before it begins."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_dtl.audit.attacks import plan
from hf_dtl.audit.attacks.registry import find_attack
from hf_dtl.models.heads import MultiHeadClassifier
from hf_dtl.pipeline.job import Job

TIMED_IMAGES = 16
DISPOSAL_PASSES = 3
"""Training steps, on as many images to forget, that a step of disposal is about worth."""


def outlook(job: Job) -> str:
    """One sentence: what is left to do, and about how long it takes here.

    The time is that of a few steps of the model, times the images that all stages train on: within a factor of two.
    """
    o, finished = job.options, job.run.folder / "stages"
    stages = job.trained_images()
    if o.reference != "retrain":
        del stages["retrained"]
    for choice in job.choices:
        steps = max(0, job.disposal_config(choice, Path()).max_steps)
        stages[job.disposal_stage(choice)] = DISPOSAL_PASSES * steps * o.forget_batch_size
    once: dict[str, float] = {}
    left = {name: images for name, images in stages.items() if images and not (finished / name).is_dir()}
    models = 2 + len(job.choices) + ("retrained" in stages or job.given_retrained is not None) + job.has_base
    if job.scenario.attacked and (left or not (job.run.folder / "leakage_report.json").is_file()):
        work = _attacked_images(job)
        once = {name: work.pop(name) for name in list(work) if find_attack(name).ignores_model}
        left[f"attacks on {models} models"] = models * sum(work.values()) / job.workers
    if not left:
        return "Everything is done, unless the data have changed: what lies in the folder is read again."
    names = ", ".join(name.removeprefix("dispose/").rpartition("-")[0] or name for name in left)
    if not job.scenario.attacked:
        return f"To do: {names}. Nothing is attacked: what is forgotten has no classes."
    model, images = _model_and_images(job)
    seconds = sum(left.values()) * _seconds_an_image(lambda x: model(pixel_values=x).logits, model, images)
    for name, number in once.items():
        attack: Any = find_attack(name)
        network = attack.network(images.shape[1], 2)
        seconds += number / job.workers * _seconds_an_image(network, network, attack.standard(images.float()))
    return f"To do: {names}; {about(seconds)}. Ctrl-C stops it, and the same command goes on."


def about(seconds: float) -> str:
    """A time in words.

    Example:
        >>> about(20), about(100), about(7000)
        ('less than a minute', 'about 2 minutes', 'about 2 hours')
    """
    if seconds < 60:
        return "less than a minute"
    minutes = round(seconds / 60)
    return f"about {minutes} minute{'s' * (minutes > 1)}" if minutes < 90 else f"about {seconds / 3600:.0f} hours"


def _attacked_images(job: Job) -> dict[str, float]:
    """About how many images each attack trains on, on one model: in the first draws all, in the others finalists."""
    (model, _), config, total = _model_and_images(job), job.attacks, dict[str, float]()
    trial = config.seeds[: config.trial_seeds] if config.finalists else config.seeds
    share = min(1.0, config.finalists / len(config.attacks)) * (len(config.seeds) / len(trial) - 1)
    for task in job.scenario.attacked.values():
        units = [unit for unit in plan.units(model, task, config) if unit.seed in trial]
        for group in plan.groups(units, model, task, config, torch.device(job.state.device)):
            name = group[0].attack
            total[name] = total.get(name, 0) + (1 + share) * plan.cost(group, task, config)
    return total


def _model_and_images(job: Job) -> tuple[PreTrainedModel, Tensor]:
    task, attacked = next(iter(job.scenario.attacked.items()))
    several = isinstance(job.model, MultiHeadClassifier)
    return job.model.export(task) if several else job.model, attacked.train.pixel_values[:TIMED_IMAGES]


def _seconds_an_image(forward: Callable[[Tensor], Tensor], model: nn.Module, images: Tensor) -> float:
    """Time that one image of a training step takes."""
    taken, training = [], model.training
    weights = [weight for weight in model.eval().parameters() if weight.requires_grad]
    for _ in range(3):  # the first one warms up
        begin = time.perf_counter()
        torch.autograd.grad(forward(images).logsumexp(1).sum(), weights, allow_unused=True)
        taken.append(time.perf_counter() - begin)
    model.train(training)
    return min(taken[1:]) / len(images)
