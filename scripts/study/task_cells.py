"""Cells of the study of multi-task unlearning: a model a training seed, its references, and each method."""

import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from hf_dtl.multitask_job import MultiTaskJob
from hf_dtl.multitask_results import Result, measure
from hf_dtl.unlearn_options import UnlearnOptions

from hf_dtl.audit import run_audit
from hf_dtl.audit.report import machine
from hf_dtl.errors import DivergedError
from hf_dtl.methods.by_name import MethodChoice, parse_method
from study.cells import keep, short_hash
from study.job_cell import JobCell

Kind = Literal["seed", "references", "tuning", "method"]
"""seed: train the model that knows everything. references: measure and attack it, and the model that is trained again
without what is to be forgotten. tuning: one strength of a method on the tuning seed. method: one method on a reported
seed, measured and attacked. In tuning no test image is looked at, and nothing is attacked."""


def strategy(text: str) -> MethodChoice:
    """The method of a strategy, with options of `MultiTaskUnlearningConfig` after colons.

    Raises:
        ConfigError: an unknown option, or a value of the wrong type.
    """
    return parse_method(f"multitask:strategy={text}")


@dataclass(frozen=True)
class TaskCell(JobCell):
    """One piece of the study.

    Args:
        kind: see `Kind`.
        options: of the job of its training seed, and of its scope except for the kind seed.
        method: a strategy at one strength; for the kinds tuning and method.
    """

    kind: Kind
    options: UnlearnOptions
    method: str = ""

    @property
    def title(self) -> str:
        """The cell for a line of progress."""
        scope = "" if self.kind == "seed" else f" ({self.options.forget_tasks or 'all tasks'})"
        return f"{self.kind}, seed {self.options.seed}{scope}" + (f": {self.method}" if self.method else "")

    @property
    def path(self) -> Path:
        """The file of the result; the cell is finished when it is there."""
        name = self.method.split(":")[0] or self.kind
        recorded = {k: v for k, v in self.options.recorded().items() if k != "model_name_or_path"}
        return (
            Path(self.options.output_dir) / "results" / f"{name}-{short_hash([self.kind, recorded, self.method])}.json"
        )

    def do(self, job: MultiTaskJob) -> None:
        """Do the cell unless it is finished."""
        work = {"seed": _train, "references": _references}.get(self.kind, _unlearn)
        keep(self.path, lambda: work(self, job))


def _train(cell: TaskCell, job: MultiTaskJob) -> dict[str, Any]:
    model = job.train()
    images = {name: len(images) for name, images in job.images.items()}
    parameters = sum(p.numel() for p in model.parameters())
    made_on = machine(job.state.device)
    return {"cost": job.cost("train"), "images": images, "machine": made_on, "parameters": parameters}


def _references(cell: TaskCell, job: MultiTaskJob) -> dict[str, Any]:
    retrained = job.retrained()
    assert retrained is not None
    results = [Result("original", job.model), Result("retrained", retrained)]
    notes = measure(job, results)
    tasks = {task: task in job.forgotten for task in job.tasks}
    images = {"forget": len(job.rows), "retain": len(job.data.train) - len(job.rows)}
    found = {one.role: _numbers(job, one, cell) for one in results}
    return {**found, "cost": job.cost("retrained"), "tasks": tasks, "images": images, "notes": notes}


def _unlearn(cell: TaskCell, job: MultiTaskJob) -> dict[str, Any]:
    choice = strategy(cell.method)
    try:
        model = job.unlearn(choice, job.model)
    except DivergedError as error:
        return {"diverged": str(error)}
    results = [Result("original", job.model), Result("unlearned", model, choice)]
    if cell.kind == "tuning":
        tuned = copy.copy(job)
        tuned.images = {**job.images, "test": job.images["validation"]}
        measure(tuned, results)
        assert results[1].impact is not None
        return {"uis": results[1].impact.mean, "scores": results[1].scores}
    notes = measure(job, results)
    return {**_numbers(job, results[1], cell), "cost": job.cost(job.disposal_stage(choice)), "notes": notes}


def _numbers(job: MultiTaskJob, result: Result, cell: TaskCell) -> dict[str, Any]:
    """What a model scores and how little it hides: its attacks have a file of their own."""
    attacks = {}
    role = {"original": "undisposed", "unlearned": "scrubbed"}.get(result.role, result.role)
    for task, axis in job.axes.items():
        store = job.run.folder / "attacks" / f"{cell.path.stem}-{result.role}.jsonl"
        records = run_audit(
            {role: result.model.export(task)}, {task: axis}, job.attacks, store=store, progress=False,
            device=job.state.device,
        )  # fmt: skip
        attacks[task] = [asdict(record) for record in records]
    impact = None if result.impact is None else result.impact._asdict()
    return {"scores": result.scores, "uis": impact, "membership": result.membership_auc, "attacks": attacks}


def relearned(found: dict[str, Any]) -> dict[str, float]:
    """Score on forgotten images after relearning under the strongest attack, by task, from a cell's numbers."""
    best = {}
    for task, entries in found["attacks"].items():
        by_attack: dict[str, list[float]] = {}
        for entry in entries:
            by_attack.setdefault(entry["attack"], []).append(entry["accuracy"])
        best[task] = max(sum(own) / len(own) for own in by_attack.values())
    return best
