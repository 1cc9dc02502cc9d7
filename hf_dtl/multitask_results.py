"""Measure and attack what multi-task unlearning left, and write the output folder."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard
from matplotlib.figure import Figure

from hf_dtl.audit import PiggybackRecord, leakage, membership_inference, run_audit, scratch_models
from hf_dtl.audit.plots.look import COLOURS, MARKERS, plain, wrapped
from hf_dtl.audit.report import library_version, machine, without_folders
from hf_dtl.audit.tables import NOT_MEASURED, Cells, with_deviation
from hf_dtl.data import MultiTaskImages
from hf_dtl.errors import DataError
from hf_dtl.functional.metrics import TaskImpact, task_impact
from hf_dtl.hub.multitask_card import multitask_card
from hf_dtl.methods.by_name import MethodChoice
from hf_dtl.models.heads import MultiHeadClassifier
from hf_dtl.multitask_job import MultiTaskJob
from hf_dtl.pipeline.stages import fresh_folder, replace_folder, write_atomically
from hf_dtl.results import disposal_settings, repeated
from hf_dtl.trainers.multitask_training import predict_tasks
from hf_dtl.unlearn_options import UnlearnOptions

SCHEMA_VERSION = 1
REPORT, PLOT = "multitask_report.json", "scores.png"
SPLITS = ("forget", "retain", "test")
_ROLES = {"original": "undisposed", "unlearned": "scrubbed", "retrained": "retrained"}
"""What the audit calls a model."""

Scores = dict[str, dict[str, float]]


@dataclass
class Result:
    """One model and what was measured of it.

    Args:
        role: original, unlearned or retrained.
        model: with a head a task.
        choice: the method that made it, of an unlearned one.
        scores: by task, then by split: accuracy, or for a regression 1 - (mean squared error) / (variance of the
            training labels), which is 0 for one who always says their mean.
        impact: Unlearning Impact Scores; None where none is defined.
        membership_auc: by forgotten task: how well forgotten images are told from held-out ones by their loss, 0.5
            being chance.
        attacks: relearning, by forgotten task; of an unlearned model those on its references too.
    """

    role: str
    model: MultiHeadClassifier
    choice: MethodChoice | None = None
    scores: Scores = field(default_factory=dict)
    impact: TaskImpact | None = None
    membership_auc: dict[str, float] = field(default_factory=dict)
    attacks: dict[str, list[PiggybackRecord]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The model in tables and plots."""
        return self.role if self.choice is None else without_folders(self.choice.text).removeprefix("multitask:")


def measure(job: MultiTaskJob, results: Sequence[Result]) -> list[str]:
    """Fill in what every model answers; all processes may call it. Regressions have neither membership nor attacks.

    Args:
        job: whose images are used.
        results: the first is the original model.

    Returns:
        What was left out, as sentences.
    """
    notes: list[str] = []
    images = {split: job.split(split) for split in SPLITS}
    for result in results:
        model = result.model.to(job.state.device)
        found = {split: _scores(job, model, images[split]) for split in SPLITS}
        result.scores = {task: {split: found[split][task] for split in SPLITS} for task in job.tasks}
        result.impact = _impact(job, results[0].scores, result.scores, notes)
        if job.options.membership:
            result.membership_auc = _membership(job, model, images, notes)
    return list(dict.fromkeys(notes))


def _scores(job: MultiTaskJob, model: MultiHeadClassifier, images: MultiTaskImages) -> dict[str, float]:
    outputs, found = predict_tasks(model, images), {}
    for task, names in job.tasks.items():
        labels, answers = images.labels[task], outputs[task].double()
        if names:
            found[task] = (answers.argmax(-1) == labels).double().mean().item()
        else:
            found[task] = 1 - (answers[:, 0] - labels).square().mean().item() / job.variance(task)
    return found


def _impact(job: MultiTaskJob, original: Scores, unlearned: Scores, notes: list[str]) -> TaskImpact | None:
    """UIS of the tasks that it is defined for; a regression's score below 0 counts as 0."""
    before, after = (
        {task: (max(own["test"], 0.0), max(own["forget"], 0.0)) for task, own in scores.items()}
        for scores in (original, unlearned)
    )
    for task, shares in list(before.items()):
        divisors = shares[:1] if task in job.forgotten else shares
        if min(divisors) == 0:
            notes.append(f"UIS of the task {task}: left out, the original model scores 0 on it.")
            del before[task], after[task]
    return task_impact(before, after, [task for task in job.forgotten if task in before]) if before else None


def _membership(
    job: MultiTaskJob, model: MultiHeadClassifier, images: Mapping[str, MultiTaskImages], notes: list[str]
) -> dict[str, float]:
    found = {}
    for task in job.axes:
        groups = [job.one_task(images[split], task) for split in ("forget", "test")]
        try:
            (result,) = membership_inference(model.export(task), *groups, attacks=("loss",))
        except DataError as error:
            notes.append(f"Membership inference for the task {task}: left out. {error}")
        else:
            found[task] = result.auc
    return found


def relearn(job: MultiTaskJob, results: Sequence[Result]) -> None:
    """Let the attacker relearn every forgotten task from every model; finished attacks are not repeated.

    Every process runs its share, so all must call this.
    """
    references = {_ROLES[r.role]: r.model for r in results if r.choice is None}
    for result in (r for r in results if r.choice is not None):
        for task, axis in job.axes.items():
            models: dict[str, Any] = {
                role: model.export(task) for role, model in {**references, "scrubbed": result.model}.items()
            }
            scratch = scratch_models(models["undisposed"], len(job.attacks.seeds), seed=job.options.seed)
            result.attacks[task] = run_audit(
                {**models, "scratch": scratch}, {task: axis}, job.attacks,
                store=job.run.folder / "attacks.jsonl", device=job.state.device,
            )  # fmt: skip


def relearned(result: Result, task: str, role: str) -> tuple[float, float | None] | None:
    """Score on forgotten images after relearning by the strongest attack, mean of all budgets, and its deviation."""
    found = leakage(result.attacks.get(task, []))
    if found is None:
        return None
    points = [point for point in found.pl_accuracy if point.model == role]
    if not points:
        return None
    seeds = torch.tensor([point.values for point in points], dtype=torch.float64).mean(0)
    return seeds.mean().item(), seeds.std().item() if len(seeds) > 1 else None


# Output -------------------------------------------------------------------------------------------------------


def tables(job: MultiTaskJob, results: Sequence[Result], notes: Sequence[str]) -> Cells:
    """Every task of every model, and the mean UIS."""
    attacked = next((r for r in results if r.choice is not None), results[0])
    rows = []
    for task, names in job.tasks.items():
        title = f"{task}{'' if names else ' (regression)'}{' *' if task in job.forgotten else ''}"
        for result in results:
            own, impact = result.scores[task], result.impact
            again = relearned(attacked if result.choice is None else result, task, _ROLES[result.role])
            auc = result.membership_auc.get(task)
            rows.append(
                (
                    title, result.name, *(f"{own[split]:.3f}" for split in SPLITS),
                    f"{impact.by_task[task]:.3f}" if impact and task in impact.by_task else "",
                    "" if auc is None else f"{auc:.3f}", "" if again is None else with_deviation(*again),
                )
            )  # fmt: skip
        scratch = relearned(attacked, task, "scratch")
        if scratch is not None:
            rows.append((title, "random weights", *[""] * 5, with_deviation(*scratch)))
    for result in results:
        mean = f"{result.impact.mean:.3f}" if result.impact else NOT_MEASURED
        rows.append(("mean of all tasks", result.name, *[""] * 3, mean, "", ""))
    explained = (
        "* forgotten for these images; every other task is to stay as it was. forget: the images to forget, retain: "
        "other training images, test: images never seen.",
        "UIS: 0 is ideal: forgotten images answered as unseen ones were, test scores and other tasks as they were.",
        "relearned: score on the images to forget after an attacker relearned the task from the weights; compare it "
        "with the retrained model's, or that of random weights.",
        *notes,
    )
    columns = ("task", "model", *SPLITS, "UIS", "membership AUC", "relearned")
    return Cells(f"Unlearning {job.request} for {', '.join(job.forgotten)}", columns, tuple(rows), explained)


def report(job: MultiTaskJob, results: Sequence[Result], notes: Sequence[str]) -> dict[str, Any]:
    """Everything that was measured, as JSON values that name no local folder."""
    o = job.options
    defaults = UnlearnOptions(forget="", methods="multitask").recorded()
    recorded = o.recorded()
    every = dataclasses.replace(job.choices[0], text=o.methods)
    found = {
        "schema_version": SCHEMA_VERSION,
        "library_version": library_version(),
        "command": repeated("unlearn", defaults | {"forget": None}, recorded, every),
        "seed": o.seed,
        "machine": machine(job.state.device),
        "dataset": job.data.name,
        "forget": str(job.request),
        "tasks": {
            task: {"kind": "classes" if names else "regression", "forgotten": task in job.forgotten}
            | ({"classes": len(names)} if names else {})
            for task, names in job.tasks.items()
        },
        "images": {
            "forget": len(job.rows),
            "retain": len(job.data.train) - len(job.rows),
            "validation": len(job.images["validation"]),
            "test": len(job.images["test"]),
        },
        "models": [_entry(job, result) for result in results],
        "relearning": [
            {"task": task, "method": r.choice.text, **asdict(record)}
            for r in results
            if r.choice is not None
            for task, records in r.attacks.items()
            for record in records
        ],
        "settings": recorded | {"audit": asdict(job.attacks)},
        "notes": list(notes),
    }
    return without_folders(found)


def _entry(job: MultiTaskJob, result: Result) -> dict[str, Any]:
    stages = {"original": "train", "retrained": "retrained"}
    stage = stages[result.role] if result.choice is None else job.disposal_stage(result.choice)
    entry: dict[str, Any] = {
        "model": result.role,
        "scores": result.scores,
        "uis": None if result.impact is None else result.impact._asdict(),
        "membership_auc": result.membership_auc,
        "cost": job.cost(stage),
    }
    if result.choice is None:
        return entry
    ratios = {task: leakage(records) for task, records in result.attacks.items()}
    return entry | {
        "method": result.choice.text,
        "disposal": disposal_settings(job, result.choice),
        "leakage": {
            task: {f"over_{floor}": asdict(found.over(floor)) for floor in ("scratch", "retrained")}
            for task, found in ratios.items()
            if found is not None
        },
    }


def plot_scores(job: MultiTaskJob, results: Sequence[Result], path: Path) -> Path:
    """Draw every model's score of every task on forgotten, retained and test images, one panel each.

    Args:
        job: whose tasks are drawn.
        results: measured.
        path: of the PNG.
    """
    tasks = list(job.tasks)
    figure = Figure(figsize=(3 + 1.1 * len(tasks), 6.5), layout="constrained")
    figure.suptitle(wrapped(f"Unlearning {job.request} for {', '.join(job.forgotten)}", 70))
    panels = figure.subplots(len(SPLITS), 1, sharex=True, sharey=True)
    wide = min(0.2, 0.6 / max(len(results) - 1, 1))
    for panel, split in zip(panels, SPLITS, strict=True):
        for i, result in enumerate(results):
            places = [place + (i - (len(results) - 1) / 2) * wide for place in range(len(tasks))]
            panel.plot(
                places, [result.scores[task][split] for task in tasks], linestyle="none", markersize=7,
                marker=MARKERS[i % len(MARKERS)], color=COLOURS[i % len(COLOURS)], label=wrapped(result.name, 30),
            )  # fmt: skip
        panel.set_ylabel(f"{split} score")
        panel.grid(alpha=0.3, axis="y")
        plain(panel)
    panels[-1].set_xticks(
        range(len(tasks)), [f"{t}\n(to forget)" if t in job.forgotten else t for t in tasks], fontsize=9
    )
    panels[0].legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, metadata={"Software": None})
    return path


def write(job: MultiTaskJob, results: Sequence[Result], notes: Sequence[str]) -> None:
    """Write the models, the first method's at the top and others under `methods/`, the plot, and last the report."""
    output, found = job.run.folder, report(job, results, notes)
    for number, result in enumerate(r for r in results if r.choice is not None):
        folder = output / "methods" / result.choice.folder if number else output
        new = fresh_folder(folder / "scrubbed")
        result.model.cpu().save(new)
        job.processor.save_pretrained(new)
        for task in job.tasks:
            result.model.export(task).save_pretrained(new / "tasks" / task)
            job.processor.save_pretrained(new / "tasks" / task)
        _card(job, result, results, found).save(new / "README.md")
        replace_folder(new, folder / "scrubbed")
    plot_scores(job, results, output / "plots" / PLOT)
    write_atomically(output / "tables.md", tables(job, results, notes).markdown() + "\n")
    write_atomically(output / REPORT, json.dumps(found, indent=2, allow_nan=False) + "\n")


def _card(job: MultiTaskJob, result: Result, results: Sequence[Result], found: dict[str, Any]) -> ModelCard:
    """The card of one unlearned model, beside the references."""
    assert result.choice is not None
    beside = [one for one in results if one.choice is None]
    again = {}
    for task in job.axes:
        by_role = {role: relearned(result, task, role) for role in (*_ROLES.values(), "scratch")}
        again[task] = {role: None if value is None else value[0] for role, value in by_role.items()}
    method = without_folders(result.choice.text)
    cells = tables(job, [beside[0], result, *beside[1:]], found["notes"])
    return multitask_card(found, method, cells, relearned=again)
