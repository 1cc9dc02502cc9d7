"""Measure and attack what unlearning left, and write the output folder."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from transformers import PreTrainedModel

from hf_dtl.audit import LeakageReport, PiggybackRecord, accuracy, run_audit
from hf_dtl.audit.membership import MembershipResult, membership_inference
from hf_dtl.audit.report import machine, without_folders
from hf_dtl.audit.unlearning import ROLES, Unlearning
from hf_dtl.errors import DataError
from hf_dtl.job import in_memory
from hf_dtl.methods.by_name import MethodChoice
from hf_dtl.results import Scrubbed, disposal_settings, repeated, write_outputs
from hf_dtl.unlearn import LAYER_INPUTS, POOL, UnlearnJob
from hf_dtl.unlearn_options import UnlearnOptions

MEASURED_ON = ("forget", "retain", "test", "forgotten_test")

Models = Mapping[str, PreTrainedModel | list[PreTrainedModel]]


@dataclass
class Measured:
    """What models answer, before any attack trains them.

    Args:
        accuracy: by split, then by model.
        membership: one object an attack on a model.
        notes: what was left out, as sentences.
    """

    accuracy: dict[str, dict[str, float]] = field(default_factory=dict)
    membership: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __add__(self, other: "Measured") -> "Measured":
        """The measurements of both; the models must differ."""
        splits = {**self.accuracy, **other.accuracy}
        return Measured(
            {split: self.accuracy.get(split, {}) | other.accuracy.get(split, {}) for split in splits},
            self.membership + other.membership,
            list(dict.fromkeys(self.notes + other.notes)),
        )


def audit(
    job: UnlearnJob, choice: MethodChoice, scrubbed: PreTrainedModel, references: Models, before: Measured
) -> LeakageReport:
    """Measure the scrubbed model, and attack it and its references; attacks that are finished are not repeated.

    Every process runs its share of the attacks, so all must call this, and all get the report.

    Args:
        job: whose images are used.
        choice: the method.
        scrubbed: its result.
        references: by role: undisposed, scratch, and retrained where there is one.
        before: what the references answer, which all methods share.
    """
    found = before + measure(job, {"scrubbed": scrubbed})
    found.membership.sort(key=lambda row: ROLES.index(row["model"]))
    return report(job, choice, found, attack(job, {"scrubbed": scrubbed, **references}, "attacks"))


def attack(job: UnlearnJob, models: Models, store: str, *, progress: bool = True) -> list[PiggybackRecord]:
    """Attack models by role; finished attacks are kept in a file of that name in the run's folder."""
    for given in models.values():
        for model in given if isinstance(given, list) else (given,):
            model.to(job.state.device)  # type: ignore[arg-type]
    own = {"store": job.run.folder / f"{store}.jsonl", "progress": progress, "device": job.state.device}
    return run_audit(models, job.axes, job.attacks, **own)


def measure(
    job: UnlearnJob, models: Models, splits: Sequence[str] = MEASURED_ON, *, membership: bool = True
) -> Measured:
    """Accuracy on splits, on at most max_eval_images of each, and membership inference, of single models.

    Args:
        job: whose images are used.
        models: by role; several draws of one role are left out.
        splits: names of the job's images; those that it does not have are left out.
        membership: whether to try membership inference too.
    """
    found = Measured()
    given = {role: m.to(job.state.device) for role, m in models.items() if not isinstance(m, list)}  # type: ignore
    for split in splits:
        if split in job.images:
            images = job.images[split]
            cap = job.options.max_eval_images
            if cap is not None and cap < len(images):
                images = images.subset(range(cap))
            whole = in_memory(images, len(images))
            found.accuracy[split] = {role: accuracy(model, whole) for role, model in given.items()}
    if membership and job.options.membership:
        for role, model in given.items():
            found.membership += [asdict(result) for result in _membership(job, model, role, found.notes)]
    return found


def _membership(job: UnlearnJob, model: PreTrainedModel, role: str, notes: list[str]) -> list[MembershipResult]:
    """Tell forgotten images from held-out images of the same classes."""
    forget, retain = (in_memory(job.images[name], POOL) for name in ("forget", "retain"))
    test = in_memory(job.images["test"], POOL)
    own = {}
    if "forgotten_test" in job.images:
        test, own = in_memory(job.images["forgotten_test"], POOL), {"retain_held_out": test}
    try:
        return membership_inference(model, forget, test, retain=retain, **own, name=role)
    except DataError as error:
        notes.append(f"Membership inference: left out. {error}")
        return []


def report(
    job: UnlearnJob, choice: MethodChoice, found: Measured, records: Sequence[PiggybackRecord]
) -> LeakageReport:
    """Put together what was measured and attacked."""
    unlearning = Unlearning(
        request=str(job.request),
        images={name: len(job.images[name]) for name in ("forget", "retain")},
        accuracy=found.accuracy,
        cost={"scrubbed": job.cost(job.disposal_stage(choice)), "retrained": job.cost("retrained")},
    )
    target, source = unlearning.accuracy["test"], unlearning.accuracy["forget"]
    return LeakageReport(
        method=without_folders(choice.text),
        seed=job.options.seed,
        target_accuracy={role: target[role] for role in ("undisposed", "scrubbed")},
        source_accuracy={role: source[role] for role in ("undisposed", "scrubbed")},
        piggyback=tuple(records),
        membership=found.membership,
        settings=_settings(job, choice) | {"notes": found.notes},
        machine=machine(job.state.device),
        chance={job.axes["source"].name: 1 / len(job.task.labels)},
        unlearning=unlearning,
    )


def _settings(job: UnlearnJob, choice: MethodChoice) -> dict[str, Any]:
    o, classes = job.options, job.division.classes
    kept = [label for i, label in enumerate(job.task.labels) if i not in classes]
    return o.recorded() | {
        "dataset": job.task.name,
        "forget": str(job.request),
        "source_dataset": f"{job.task.name}, {job.request}",
        "target_dataset": f"{job.task.name}, classes {', '.join(kept)}" if classes else f"the rest of {job.task.name}",
        "command": repeated("unlearn", _defaults(), o.recorded(), choice),
        "audit": asdict(job.attacks),
        "disposal": disposal_settings(job, choice),
        "images": {name: len(images) for name, images in job.images.items()},
    }


def _defaults() -> dict[str, Any]:
    defaults = UnlearnOptions(forget="").recorded()
    return {name: value for name, value in defaults.items() if name != "forget"}


def write(job: UnlearnJob, results: Sequence[Scrubbed], undisposed: PreTrainedModel) -> None:
    """Write the output folder as the main job does, and beside it the layer inputs for the next request."""
    for result in results:
        found = job.run.folder / "stages" / job.disposal_stage(result.choice) / LAYER_INPUTS
        if found.exists():
            new = job.run.folder / f".{LAYER_INPUTS}.partial"
            shutil.copy(found, new)
            new.replace(job.run.folder / LAYER_INPUTS)
            break
    write_outputs(job, results, undisposed)
