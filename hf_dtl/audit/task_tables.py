"""Models of several tasks side by side, task by task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hf_dtl.audit.axis_leakage import Average
from hf_dtl.audit.tasks import SPLITS, TaskScores, mean_uis, roles
from hf_dtl.audit.text_table import NOT_MEASURED, TextTable, average, mark, number
from hf_dtl.errors import DataError

if TYPE_CHECKING:
    from hf_dtl.audit.report import LeakageReport


def task_table(reports: Sequence[LeakageReport]) -> TextTable:
    """Every task of every model: the undisposed one, each method's, the retrained one, and random weights.

    Args:
        reports: of one model or of several methods on the same request; the references are those of the first.

    Raises:
        DataError: a report has no tasks, or they are not those of the first report.
    """
    tasks = _tasks(reports[0])
    told = {name: (task.kind, task.forgotten) for name, task in tasks.items()}
    for report in reports:
        if {name: (task.kind, task.forgotten) for name, task in _tasks(report).items()} != told:
            raise DataError("Only reports on the same tasks and request compare side by side.")
    models = table_models(reports)
    rows = []
    for name, task in tasks.items():
        title = f"{name}{' (number)' if task.kind == 'regression' else ''}{' *' if task.forgotten else ''}"
        for report, role, model in models:
            own = _tasks(report)[name]
            scores = [number(own.scores[split][role]) for split in SPLITS]
            rest = [number(found.get(role), "") for found in (own.uis, own.membership_auc)]
            again = relearned(report, name, role)
            rows.append((title, model, *scores, *rest, "" if again is None else average(again)))
        scratch = relearned(reports[0], name, "scratch")
        if scratch is not None:
            rows.append((title, "scratch", *[""] * 5, average(scratch)))
    for report, role, model in models:
        mean = mean_uis(_tasks(report), role)
        rows.append(("mean of all tasks", model, "", "", "", number(mean, NOT_MEASURED), "", ""))
    said = [report.settings.get("notes", []) for report in reports]
    notes = (
        "* forgotten for these images; every other task is to stay as it was. forget: the images to forget, retain: "
        "other training images, test: images never seen. A regression's score is 1 - (squared error) / (variance).",
        "UIS: 0 is ideal: forgotten images answered as unseen ones were, test scores and other tasks as they were.",
        "relearned: score on the images to forget after an attacker relearned the task from the weights, mean over "
        "budgets; compare it with the retrained model's, or that of random weights (scratch).",
        *dict.fromkeys(note for own in said for note in ([own] if isinstance(own, str) else own)),
        *dict.fromkeys(report.attacked_by for report in reports),
    )
    columns = ("task", "model", *SPLITS, "UIS", "membership AUC", "relearned")
    forgotten = ", ".join(name for name, task in tasks.items() if task.forgotten)
    request = f"{reports[0].spec['forget']} for " if reports[0].spec else ""
    return TextTable(f"Unlearning {request}{forgotten}", columns, tuple(rows), notes)


def table_models(reports: Sequence[LeakageReport]) -> list[tuple[LeakageReport, str, str]]:
    """The report, the role and the name of every model that is shown, each reference once."""
    first, known = reports[0], roles(next(iter(_tasks(reports[0]).values())))
    methods = [(report, "scrubbed", report.method + mark(report)) for report in reports]
    return [(first, "undisposed", "undisposed"), *methods, *((first, r, r) for r in known if r == "retrained")]


def relearned(report: LeakageReport, task: str, role: str) -> Average | None:
    """Score on the images to forget after relearning by the strongest attack, mean over budgets; None: not attacked.

    Args:
        report: of several tasks.
        task: one of them.
        role: the attacked model.
    """
    dataset = _tasks(report)[task].dataset or task
    found = report.axes.get("source_subset")
    points = [p for p in found.points(role).values() if p.dataset == dataset] if found else []
    return Average.over(points) if points else None


def _tasks(report: LeakageReport) -> dict[str, TaskScores]:
    if report.tasks is None:
        raise DataError(f"The report of {report.method} is not on a model of several tasks.")
    return report.tasks
