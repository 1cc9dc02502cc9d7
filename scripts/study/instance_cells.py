"""Cells of the study of instance-wise unlearning: requests of several sizes to one model a training seed."""

import copy
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from transformers import PreTrainedModel
from transformers.trainer_callback import PrinterCallback

from hf_dtl.audit.report import machine
from hf_dtl.data import ImageTensors
from hf_dtl.errors import DivergedError
from hf_dtl.job import in_memory, load_stage
from hf_dtl.methods import InstanceUnlearningTrainer
from hf_dtl.methods.by_name import MethodChoice, parse_method
from hf_dtl.methods.continual import Served, unlearn_in_sequence
from hf_dtl.methods.instancewise import AlreadyForgottenError
from hf_dtl.unlearn import POOL, UnlearnJob
from hf_dtl.unlearn_options import UnlearnOptions
from hf_dtl.unlearn_results import Measured, attack, measure
from study.cells import keep, short_hash
from study.instance_settings import ADVERSARIES_A_STEP, CHECK_EVERY, VARIANTS_BY_NAME
from study.job_cell import JobCell

Kind = Literal["seed", "undisposed", "adversaries", "tuning", "single", "continual", "cumulative"]
"""seed: train the model. undisposed: measure and attack it as if it had served the request. adversaries: make the
examples that variants share. tuning: one strength of a variant on the tuning seed. single, continual, cumulative: a
variant on a reported seed, measured and attacked; requests one after another come each alone or with all earlier ones.
In tuning no test image is looked at, and nothing is attacked."""

MEASURED_ON = ("forget", "retain", "test")
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


@dataclass(frozen=True)
class InstanceCell(JobCell):
    """One piece of the study.

    Args:
        kind: see `Kind`.
        options: of the job of its training seed.
        requests: images of each request; one after another, they are dealt from one order of the drawn images.
        variant: at its strength, see `instancewise`.
        search: see `instancewise`.
    """

    kind: Kind
    options: UnlearnOptions
    requests: tuple[int, ...] = ()
    variant: str = ""
    search: str = ""

    @property
    def title(self) -> str:
        """The cell for a line of progress."""
        several = f"{len(self.requests)} x " if len(self.requests) > 1 else ""
        size = f", k = {several}{self.requests[0]}" if self.requests else ""
        return f"{self.kind}, seed {self.options.seed}{size}" + (f": {self.variant}" if self.variant else "")

    @property
    def path(self) -> Path:
        """The file of the result; the cell is finished when it is there."""
        parts = [self.kind, self.options.recorded(), self.requests, self.variant, self.search]
        return Path(self.options.output_dir) / "results" / f"{self.kind}-{short_hash(parts)}.json"

    def do(self, job: UnlearnJob) -> None:
        """Do the cell unless it is finished."""
        work = {"seed": _train, "undisposed": _undisposed, "adversaries": _make_adversaries}.get(self.kind, _unlearn)
        with _without_warnings():
            keep(self.path, lambda: work(self, job))


@contextmanager
def _without_warnings() -> Iterator[None]:
    """What is skipped or not forgotten stands in the tables; the warnings would name every image of every cell."""
    logger = logging.getLogger("hf_dtl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _train(cell: InstanceCell, job: UnlearnJob) -> dict[str, Any]:
    model = job.train()
    images = {name: len(images) for name, images in job.images.items()}
    parameters = model.num_parameters()
    return {
        "cost": job.cost("train"),
        "images": images,
        "machine": machine(job.state.device),
        "parameters": parameters,
    }


def _model(job: UnlearnJob) -> PreTrainedModel:
    return load_stage(job.run.folder / "stages" / "train").to(job.state.device)


def _drawn(job: UnlearnJob) -> ImageTensors:
    """The images that requests are dealt from, in an order of the seed's: every request begins at the first."""
    images = job.images["forget"]
    assert isinstance(images, ImageTensors)
    return images.subset(np.random.default_rng(job.options.seed).permutation(len(images)).tolist())


def _dealt(job: UnlearnJob, sizes: Sequence[int]) -> list[ImageTensors]:
    """The images of requests that follow each other."""
    drawn, ends = _drawn(job), np.cumsum(sizes)
    return [drawn.subset(range(end - size, end)) for size, end in zip(sizes, ends, strict=True)]


def _about(job: UnlearnJob, sizes: Sequence[int]) -> UnlearnJob:
    """The job as if these requests were all that it is to forget.

    Retained are the same images for all requests, those that none draws. Relearning is judged by all forgotten images,
    and the attacker has retained ones: he does not have what was forgotten.
    """
    found = copy.copy(job)
    forget = _drawn(job).subset(range(sum(sizes)))
    found.images = {**job.images, "forget": forget}
    retain = job._by_class(in_memory(job.images["retain"], POOL))
    task = job.axes["source"]
    found.axes = {"source": replace(task, train=retain, test=job._by_class(forget))}
    return found


def _measured(cell: InstanceCell, job: UnlearnJob, model: PreTrainedModel, role: str) -> dict[str, Any]:
    """What the model answers, who was a member, and what is relearned; no attacks and no test images in tuning."""
    job = _about(job, cell.requests)
    if cell.kind == "tuning":
        return _accuracy(measure(job, {role: model}, TUNED_ON, membership=False), role)
    found = measure(job, {role: model}, MEASURED_ON)
    auc = [row["auc"] for row in found.membership if (row["attack"], row["calibration"]) == ("loss", "retain")]
    records = attack(job, {role: model}, f"attacks-{cell.path.stem}", progress=False)
    relearned = {name: fmean(r.accuracy for r in records if r.attack == name) for name in job.attacks.attacks}
    return {**_accuracy(found, role), "mia": auc[0] if auc else None, "relearned": relearned}


def _accuracy(found: Measured, role: str) -> dict[str, Any]:
    return {"accuracy": {split: by[role] for split, by in found.accuracy.items()}}


def _undisposed(cell: InstanceCell, job: UnlearnJob) -> dict[str, Any]:
    return _measured(cell, job, _model(job), "undisposed")


def _trainer(
    cell: InstanceCell, job: UnlearnJob, model: PreTrainedModel, images: ImageTensors, work: Path
) -> InstanceUnlearningTrainer:
    """The trainer of one request; single ones share adversarial examples of the model before."""
    choice = instancewise(cell.variant, cell.search)
    choice.options.update(save_strategy="no", logging_strategy="no", disable_tqdm=True)
    if len(cell.requests) == 1:  # else every variant has a model of its own from the second request on
        choice.options["adversaries_folder"] = str(job.run.folder / "adversaries")
    args = job.disposal_config(choice, work)
    trainer = InstanceUnlearningTrainer(model, args, images, processing_class=job.processor)
    trainer.remove_callback(PrinterCallback)
    return trainer


def _make_adversaries(cell: InstanceCell, job: UnlearnJob) -> dict[str, Any]:
    """Make the examples, by preparing a trainer of them; the seconds that it took."""
    (images,), start = _dealt(job, cell.requests), time.process_time()
    with TemporaryDirectory() as work:
        try:
            _trainer(cell, job, _model(job), images, Path(work))
        except AlreadyForgottenError as error:
            return {"cpu": 0.0, "nothing": str(error)}
    return {"cpu": time.process_time() - start}


def _unlearn(cell: InstanceCell, job: UnlearnJob) -> dict[str, Any]:
    """Serve the requests one after another, and measure what is left."""
    model, start = _model(job), time.process_time()
    with TemporaryDirectory() as work:

        def trainer(present: PreTrainedModel, images: Any, number: int) -> InstanceUnlearningTrainer:
            return _trainer(cell, job, present, images, Path(work) / str(number))

        try:
            requests, together = _dealt(job, cell.requests), cell.kind == "cumulative"
            served: list[Served] = list(unlearn_in_sequence(model, requests, trainer, cumulative=together))
        except DivergedError as error:
            return {"diverged": str(error)}
    cpu = time.process_time() - start
    steps, after = [one.steps for one in served], [one.accuracy for one in served]
    last = served[-1].model.to(job.state.device)
    return {**_measured(cell, job, last, "scrubbed"), "steps": steps, "after": after, "cpu": cpu}
