"""The tasks that a report's attacks were run on, made again from its settings."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from hf_dtl.audit import AttackedTask, LeakageReport
from hf_dtl.audit_job import AuditJob
from hf_dtl.audit_options import IMAGES, AuditOptions
from hf_dtl.data import ImageTensors
from hf_dtl.dtl import DTLJob, DTLOptions
from hf_dtl.errors import DataError, DTLError
from hf_dtl.models.published_heads import numbered
from hf_dtl.unlearn import UnlearnJob
from hf_dtl.unlearn_options import UnlearnOptions

# What decides the images of each job, besides its data sets and budgets.
_DTL = (
    *("image_column", "source_label_column", "target_label_column", "novel_label_column", "seed"),
    *("source_images_per_class", "target_images_per_class", "max_eval_images"),
)
_DATASETS = ("source_dataset", "target_dataset", "novel_dataset")
_UNLEARN = ("image_column", "label_column", "images_per_class", "max_eval_images", "seed")


@dataclass(frozen=True)
class Given:
    """What a verification takes instead of what the report names: local folders are cut off there."""

    source_dataset: str | None = None
    target_dataset: str | None = None
    novel_dataset: str | None = None
    forget: str | None = None


@dataclass(frozen=True)
class Rebuilt:
    """The attacked tasks of a report, for the published model.

    Args:
        axes: by axis of the report.
        target_test: test images of what was kept, numbered as the published head; None where they are not known.
        scratch: whether the `scratch` reference follows from the published architecture and the seed.
        folder: of the run; finished attacks may be kept there.
        device: where to attack.
    """

    axes: dict[str, AttackedTask]
    target_test: ImageTensors | None
    scratch: bool
    folder: Path
    device: torch.device


def rebuild(report: LeakageReport, model: Path, given: Given, output_dir: str, use_cpu: bool) -> Rebuilt:
    """Load the images that a report's attacks had, by the job that made the report.

    Args:
        report: with the settings of `scripts/dtl_finetune.py`, `scripts/unlearn.py` or `scripts/audit.py`.
        model: folder of the published model, whose processor prepares the images.
        given: data sets in place of those that the report names.
        output_dir: folder of the run.
        use_cpu: attack on the CPU even if there is a GPU.

    Raises:
        DataError, ModelError, ...: the settings or the data cannot be used, or give other images than the report's.
    """
    common = {"output_dir": output_dir, "use_cpu": use_cpu}
    try:
        if report.unlearning is not None:
            job, rebuilt = _unlearned(report, model, given, common)
        elif "scrubbed" in report.settings:
            job, rebuilt = _audited(report, model, given, common)
        else:
            job, rebuilt = _disposed(report, model, given, common)
    except DataError as error:
        raise DataError(
            f"{error}\nA report names local data and files without their folders: give what it means with "
            "--source_dataset, --target_dataset, --novel_dataset or --forget."
        ) from error
    except DTLError:
        raise
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise DataError(f"The settings of the report are not those of a job of this library: {error!r}.") from error
    _check_counts(report.settings, job.images)
    return rebuilt


def _check_counts(settings: Mapping[str, Any], images: Mapping[str, Any]) -> None:
    """Refuse data that are not as many as the report's: other images give other numbers."""
    told, here = _counts(settings.get("images") or {}), _counts(images)
    if settings.get("retrain"):  # a model was trained there on all of them
        told.pop("target train", None)
    other = [
        f"{name} {told[name]} there, {here[name]} here" for name in told.keys() & here if told[name] != here[name]
    ]
    if other:
        raise DataError(
            f"The report's attacks had other numbers of images: {'; '.join(other)}. Give the same data, with "
            "--source_dataset, --target_dataset or --novel_dataset where they are in another place."
        )


def _counts(images: Mapping[str, Any]) -> dict[str, int]:
    """Number of images by name, or by name and split."""
    flat: dict[str, int] = {}
    for name, part in images.items():
        splits = {f"{name} {split}": own for split, own in part.items()} if isinstance(part, Mapping) else {name: part}
        flat |= {key: own if isinstance(own, int) else len(own) for key, own in splits.items()}
    return flat


def _taken(report: LeakageReport, names: tuple[str, ...]) -> dict[str, Any]:
    budgets = ",".join(map(str, report.settings["audit"]["budgets"]))
    return {"budgets": budgets} | {name: report.settings[name] for name in names if name in report.settings}


def _disposed(report: LeakageReport, model: Path, given: Given, common: dict[str, Any]) -> tuple[DTLJob, Rebuilt]:
    settings = report.settings
    data = {name: getattr(given, name) or settings[name] for name in _DATASETS}
    # The job asks for a method; this one fits any number of classes and images.
    fixed = {"model_name_or_path": str(model), "methods": "representation_erasure"}
    job = DTLJob(DTLOptions(**_taken(report, _DTL), **data, **fixed, **common))
    target = job.images["target"]["test"]
    axes = {axis.axis: axis for axis in job.axes.values()}
    return job, Rebuilt(axes, target, True, job.run.folder, job.state.device)


def _unlearned(report: LeakageReport, model: Path, given: Given, common: dict[str, Any]) -> tuple[UnlearnJob, Rebuilt]:
    settings = report.settings
    relabel = "instancewise" in report.method and "goal=relabel" in report.method
    job = UnlearnJob(
        UnlearnOptions(
            forget=given.forget or settings["forget"],
            dataset=given.source_dataset or settings["dataset"],
            model_name_or_path=str(model),
            methods="instancewise:goal=relabel" if relabel else "fine_tune",
            **_taken(report, _UNLEARN),
            **common,
        )
    )
    target = job.images["test"]
    assert isinstance(target, ImageTensors)
    axes = {axis.axis: axis for axis in job.axes.values()}
    return job, Rebuilt(axes, target, True, job.run.folder, job.state.device)


def _audited(report: LeakageReport, model: Path, given: Given, common: dict[str, Any]) -> tuple[AuditJob, Rebuilt]:
    settings = report.settings
    data = {name: getattr(given, name) or settings[name] for name in _DATASETS if name in settings}
    own = _taken(report, IMAGES)
    if own.pop("processor", "scrubbed") != "scrubbed":
        raise DataError(
            f"The models of this report were attacked with the image processor {settings['processor']!r}, which is "
            "not published with the scrubbed one: the attacks cannot be run again from here."
        )
    # The published model stands for the undisposed one too, which is not published; only the former is attacked.
    places = {"scrubbed": str(model), "undisposed": str(model)}
    seeds = ",".join(map(str, settings["audit"]["seeds"]))
    wanted = AuditOptions(**places, **data, **own, **common, seeds=seeds, attacks="linear_probe", resume=True)
    job = AuditJob(wanted, train=False)
    tasks = {task.axis: task for task in job.attacked.values()}
    if not settings.get("retain_images", True):
        tasks = {axis: replace(task, retain=None) for axis, task in tasks.items()}
    rows = job.heads.target["scrubbed"]
    target = None if rows is None else numbered(job.images["target"]["test"], rows)
    scratch = bool(settings.get("scratch_from_scrubbed"))
    return job, Rebuilt(tasks, target, scratch, job.run.folder, job.state.device)
