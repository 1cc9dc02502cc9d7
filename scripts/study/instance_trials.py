"""Trials of the study of instance-wise unlearning: requests of several sizes to one model a training seed."""

import copy
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np
from transformers import PreTrainedModel
from transformers.trainer_callback import PrinterCallback

from hf_dtl.data import ImageTensors
from hf_dtl.methods import InstanceUnlearningTrainer
from hf_dtl.methods.by_name import MethodChoice, parse_method
from hf_dtl.methods.continual import unlearn_in_sequence
from hf_dtl.methods.instancewise import AlreadyForgottenError
from hf_dtl.pipeline.part_job import PartJob
from hf_dtl.scenarios.scenario import POOL, in_memory
from study.engine import Trial, training_record
from study.settings.instances import ADVERSARIES_A_STEP, CHECK_EVERY, VARIANTS_BY_NAME
from study.tables.instances import MEASURED_ON

TUNED_ON = ("forget", "validation")


def instancewise(variant: str, search: str) -> MethodChoice:
    """The method of a variant.

    Args:
        variant: its name in `VARIANTS_BY_NAME`, and options of the method: both:delta=0.05.
        search: options of the adversarial examples, likewise; those of the variant come over them.

    Raises:
        ConfigError: an unknown option, or a value of the wrong type.
    """
    name, *own = variant.split(":")
    batch = f"per_device_retain_batch_size={ADVERSARIES_A_STEP}:check_every={CHECK_EVERY}"
    return parse_method(":".join(["instancewise", batch, search, VARIANTS_BY_NAME[name], *own]))


def _train(trial: "InstanceTrial", job: PartJob) -> dict[str, Any]:
    return training_record(job, "train", job.prepare().num_parameters())


def _image_order(job: PartJob) -> ImageTensors:
    """The images that requests are dealt from, in an order of the seed's: every request begins at the first."""
    images = job.images["forget"]
    assert isinstance(images, ImageTensors)
    return images.subset(np.random.default_rng(job.options.seed).permutation(len(images)).tolist())


def _request_images(job: PartJob, sizes: Sequence[int]) -> list[ImageTensors]:
    """The images of requests that follow each other."""
    drawn, ends = _image_order(job), np.cumsum(sizes)
    return [drawn.subset(range(end - size, end)) for size, end in zip(sizes, ends, strict=True)]


def _job_of_requests(job: PartJob, sizes: Sequence[int]) -> PartJob:
    """The job as if these requests were all that it is to forget.

    Retained are the same images for all requests, those that none draws. Relearning is judged by all forgotten images,
    and the attacker has retained ones: he does not have what was forgotten.
    """
    result, scenario = copy.copy(job), copy.copy(job.scenario)
    forget = _image_order(job).subset(range(sum(sizes)))
    retain = scenario.by_class(in_memory(job.images["retain"], POOL))
    task = replace(job.scenario.attacked["source"], train=retain, test=scenario.by_class(forget))
    scenario.images, scenario.attacked = {**job.images, "forget": forget}, {"source": task}
    result.scenario = scenario
    return result


def _measurements(trial: "InstanceTrial", job: PartJob, model: PreTrainedModel, role: str) -> dict[str, Any]:
    """What the model answers, who was a member, and what is relearned; no attacks and no test images in tuning."""
    job, tuning = _job_of_requests(job, trial.requests), trial.kind == "tuning"
    measurements = job.measure({role: model}, TUNED_ON if tuning else MEASURED_ON, membership=not tuning)
    accuracy = {"accuracy": {split: by[role] for split, by in measurements.accuracy.items()}}
    if tuning:
        return accuracy
    auc = [row["auc"] for row in measurements.membership if (row["attack"], row["calibration"]) == ("loss", "retain")]
    return {**accuracy, "mia": auc[0] if auc else None, "attacks": trial.attack(job, {role: model})}


def _undisposed(trial: "InstanceTrial", job: PartJob) -> dict[str, Any]:
    return _measurements(trial, job, job.prepare().to(job.state.device), "undisposed")


def _trainer(
    trial: "InstanceTrial", job: PartJob, model: PreTrainedModel, images: ImageTensors, work: Path
) -> InstanceUnlearningTrainer:
    """The trainer of one request; single ones share adversarial examples of the model before."""
    choice = instancewise(trial.method, trial.search)
    choice.options.update(save_strategy="no", logging_strategy="no", disable_tqdm=True)
    if len(trial.requests) == 1:  # else every variant has a model of its own from the second request on
        choice.options["adversaries_folder"] = str(job.run.folder / "adversaries")
    args = job.disposal_config(choice, work)
    trainer = InstanceUnlearningTrainer(model, args, images, processing_class=job.processor)
    trainer.remove_callback(PrinterCallback)
    return trainer


def _make_adversaries(trial: "InstanceTrial", job: PartJob) -> dict[str, Any]:
    """Make the examples, by preparing a trainer of them; the seconds that it took."""
    model, (images,) = job.prepare().to(job.state.device), _request_images(job, trial.requests)
    start = time.process_time()
    with TemporaryDirectory() as work:
        try:
            _trainer(trial, job, model, images, Path(work))
        except AlreadyForgottenError as error:
            return {"cpu": 0.0, "nothing": str(error)}
    return {"cpu": time.process_time() - start}


def _unlearn(trial: "InstanceTrial", job: PartJob) -> dict[str, Any]:
    """Serve the requests one after another, and measure what is left."""
    model, start = job.prepare().to(job.state.device), time.process_time()
    with TemporaryDirectory() as work:

        def trainer(present: PreTrainedModel, images: Any, number: int) -> InstanceUnlearningTrainer:
            return _trainer(trial, job, present, images, Path(work) / str(number))

        requests, together = _request_images(job, trial.requests), trial.kind == "cumulative"
        served = list(unlearn_in_sequence(model, requests, trainer, cumulative=together))
    cpu = time.process_time() - start
    last = served[-1].model.to(job.state.device)
    steps, after = [one.steps for one in served], [one.accuracy for one in served]
    return {**_measurements(trial, job, last, "scrubbed"), "steps": steps, "after": after, "cpu": cpu}


@dataclass(frozen=True)
class InstanceTrial(Trial):
    """seed: train the model. undisposed: measure and attack it as if it had served the request. adversaries: make the
    examples that variants share. tuning: one strength of a variant on the tuning seed. single, continual, cumulative:
    a variant on a reported seed; requests one after another come each alone or with all earlier ones.

    Args:
        requests: images of each request; one after another, they are dealt from one order of the drawn images.
        search: see `instancewise`; its method is a variant at its strength.
    """

    requests: tuple[int, ...] = ()
    search: str = ""

    works: ClassVar = {
        "seed": _train, "undisposed": _undisposed, "adversaries": _make_adversaries,
        **dict.fromkeys(("tuning", "single", "continual", "cumulative"), _unlearn),
    }  # fmt: skip
    attacking: ClassVar = frozenset({"undisposed", "single", "continual", "cumulative"})

    def do(self, job: PartJob) -> None:
        with _without_warnings():
            super().do(job)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """What is skipped or not forgotten stands in the tables; the warnings would name every image of every trial."""
    logger = logging.getLogger("hf_dtl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
