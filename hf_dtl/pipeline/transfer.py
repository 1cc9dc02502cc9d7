"""What a run gives a method that has a use for transfer images and public weights, and the check of both."""

import copy
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel

from hf_dtl.audit.transfer_bound import TransferBound
from hf_dtl.data import check_forward
from hf_dtl.methods.anchored_distillation import BOUND
from hf_dtl.methods.by_name import MethodChoice
from hf_dtl.methods.public_weights import load_base
from hf_dtl.methods.transfer_images import TRANSFER
from hf_dtl.models.heads import MultiHeadClassifier
from hf_dtl.models.loading import load_classifier
from hf_dtl.trainers import UnlearningConfig

if TYPE_CHECKING:
    from hf_dtl.pipeline.job import Job


def transfer_options(job: "Job", choice: MethodChoice) -> dict[str, Any]:
    """Options of the run that such a method takes; its public weights are the given model where that learns here."""
    o = job.options
    if not choice.config_class.transfers:
        return {}
    base = o.base_model or (o.model if job.epochs else None)
    return {name: value for name, value in {"channel": o.channel, "base_model": base}.items() if value is not None}


def transfer_parts(job: "Job", choice: MethodChoice) -> dict[str, Any]:
    """Transfer images for the trainer of such a method, where there are some."""
    images = job.scenario.transfer if choice.config_class.transfers else None
    return {} if images is None else {"transfer_dataset": images}


def public_weights(config: UnlearningConfig) -> list[PreTrainedModel]:
    """The model that a student starts from, for the record of what a stage is made from."""
    base = getattr(config, "base_model", None)
    return [] if base is None else [load_classifier(base, new_head=True)]


def check_transfer(job: "Job") -> None:
    """Load transfer images and public weights before any work.

    Raises:
        DataError, ModelError, ConfigError: they cannot be used.
    """
    for choice in (choice for choice in job.choices if choice.config_class.transfers):
        base = choice.options.get("base_model") or job.options.base_model
        if base is not None:
            given = MultiHeadClassifier(copy.deepcopy(job.model), task="given")
            load_base(base, given, same=bool(job.epochs))  # what is trained here starts from public weights
        for images in transfer_parts(job, choice).values():
            check_forward(job.model, images)


def bound_of(job: "Job", choice: MethodChoice) -> TransferBound | None:
    """How much of the given model can be in the scrubbed one, where the method left a count."""
    file = stage_folder(job, choice) / BOUND
    return TransferBound.from_dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None


def keep_labels(job: "Job", choice: MethodChoice, folder: Path) -> None:
    """Put what the given model said beside the scrubbed model, where it is kept."""
    if (file := stage_folder(job, choice) / TRANSFER).is_file():
        shutil.copyfile(file, folder / TRANSFER)


def stage_folder(job: "Job", choice: MethodChoice) -> Path:
    """The folder of a method's stage."""
    return job.run.folder / "stages" / job.disposal_stage(choice)
