"""What models answer without an attack, measured again where a verification has model and images."""

from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import Any

import torch
from transformers import PreTrainedModel

from hf_dtl.audit import LeakageReport, accuracy
from hf_dtl.audit.report_fields import MEMBERSHIP_SHARES
from hf_dtl.errors import DTLError
from hf_dtl.hub.verification import Number, answered
from hf_dtl.pipeline.whole_task_job import fitted_source, read_by_source
from hf_dtl.scenarios.part import Part
from hf_dtl.scenarios.scenario import Scenario
from hf_dtl.scenarios.some_tasks import SomeTasks
from hf_dtl.scenarios.whole_task import WholeTask

Given = Mapping[str, PreTrainedModel]


def answered_again(
    report: LeakageReport, scenario: Scenario, models: Given, given: Given, device: torch.device
) -> Iterator[Number]:
    """Accuracies and membership of the published model and of those at hand, as numbers beside the report's.

    Args:
        report: the published one.
        scenario: with its images.
        models: the published model, or of several tasks each task's, by task.
        given: others at hand, by role.
        device: where to measure.
    """
    if isinstance(scenario, SomeTasks):
        yield from _of_tasks(report, scenario, models, device)
        return
    own = {role: model.to(device) for role, model in {"scrubbed": models[""], **given}.items()}  # type: ignore[arg-type]
    own = {role: model for role, model in own.items() if role in ("scrubbed", "undisposed", "retrained")}
    if isinstance(scenario, Part):
        yield from _of_part(report, scenario, own, device)
    elif isinstance(scenario, WholeTask):
        yield from _of_whole_task(report, scenario, own, device)


def _of_whole_task(report: LeakageReport, scenario: WholeTask, own: Given, device: torch.device) -> Iterator[Number]:
    """On the target by the published heads; on the source by them, or where a head was fitted by one fitted again."""
    own = {role: own[role] for role in ("undisposed", "scrubbed") if role in own}
    asked = own
    try:
        scenario.read_heads({"undisposed": own["scrubbed"], **own})
    except DTLError:  # whose rows cannot be told: what is said of them stays a claim
        asked = {"scrubbed": own["scrubbed"]}
        scenario.read_heads(asked | {"undisposed": own["scrubbed"]})
    found = scenario.measure(asked).accuracy
    told, test = report.settings, scenario.spec.test
    if "scrubbed" not in told:  # of a job, not of an audit
        # A given model that knew the target already lends its own rows, which its export does not have.
        fitted = told.get("model") is None or bool(told.get("train_epochs") or told.get("adapt_epochs"))
        found["source"] = {}
        if fitted and "undisposed" in own and "source" in scenario.images:
            images = scenario.images["source"]
            heads = fitted_source(own["undisposed"], scenario.tasks["source"].labels, images["train"], device)
            read = read_by_source(own, heads.eval())
            found["source"] = {role: accuracy(model, images[test]) for role, model in read.items()}
    for name, by_role in found.items():
        for role, value in by_role.items():
            count = len(scenario.images[name][test]) if value is not None else 1
            yield from answered(f"{name} accuracy", role, getattr(report, f"{name}_accuracy")[role], value, count)


def _of_part(report: LeakageReport, scenario: Part, own: Given, device: torch.device) -> Iterator[Number]:
    found = scenario.measure(own, device)
    told = report.unlearning.accuracy if report.unlearning is not None else {}
    for split, by_role in found.accuracy.items():
        count = len(scenario.capped(scenario.images[split.replace("test", scenario.spec.test)]))
        for role, value in by_role.items():
            yield from answered(f"{split} accuracy", role, told.get(split, {}).get(role), value, count)
            name = {"test": "target", "forget": "source"}.get(split)
            if name and role != "retrained":
                yield from answered(f"{name} accuracy", role, getattr(report, f"{name}_accuracy")[role], value, count)
    rows = {_kind(row): row for row in report.membership}
    fewest = min(len(images) for name, images in scenario.images.items() if name in ("forget", "test"))
    for row in found.membership:
        for name in MEMBERSHIP_SHARES:
            published = rows.get(_kind(row), {}).get(name)
            yield from answered(f"membership {name}, {row['attack']}", row["model"], published, row[name], fewest)


def _kind(row: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """What a row of membership inference is of: its texts."""
    return tuple(sorted((key, value) for key, value in row.items() if isinstance(value, str)))


def _of_tasks(report: LeakageReport, scenario: SomeTasks, models: Given, device: torch.device) -> Iterator[Number]:
    """Of the tasks with classes; their mean on test images is the target accuracy, on forgotten ones the source's."""
    means: dict[str, list[float]] = {"target": [], "source": []}
    counts = dict.fromkeys(means, 1)
    for task in (task for task, names in scenario.tasks.items() if names):
        model = models[task].to(device)  # type: ignore[arg-type]
        for split in ("test", "forget", "retain"):
            images = scenario.one_task(scenario.split(split), task)
            value, count = accuracy(model, images), len(images.labels)
            told = (report.tasks or {})[task].scores[split]["scrubbed"]
            yield from answered(f"{task}, {split} score", "scrubbed", told, value, count)
            name = {"test": "target", "forget": "source"}.get(split)
            if name and (name == "target" or task in scenario.forgotten):
                means[name].append(value)
                counts[name] = count
    for name, found in means.items():
        published = getattr(report, f"{name}_accuracy")["scrubbed"]
        yield from answered(f"{name} accuracy", "scrubbed", published, fmean(found) if found else None, counts[name])
