"""Audit the main job's models, and write its output folder: models, reports, card and plots."""

import copy
import json
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from hf_dtl.audit import (
    LeakageReport,
    accuracy,
    comparison_markdown,
    markdown_table,
    plot_attacks,
    plot_comparison,
    plot_piggyback,
    run_audit,
)
from hf_dtl.audit.plots.disposal import plot_disposal
from hf_dtl.audit.report import machine
from hf_dtl.dtl import DTLJob, DTLOptions
from hf_dtl.hub import leakage_card, weights_sha256
from hf_dtl.job import StagedJob
from hf_dtl.methods.by_name import MethodChoice, own_fields
from hf_dtl.models.heads import MultiHeadClassifier
from hf_dtl.pipeline.stages import fresh_folder, replace_folder, write_atomically

REPORT = "leakage_report.json"


@dataclass(frozen=True)
class Scrubbed:
    """One method's result."""

    choice: MethodChoice
    model: PreTrainedModel
    report: LeakageReport


def audit(
    job: DTLJob,
    choice: MethodChoice,
    scrubbed: PreTrainedModel,
    undisposed: PreTrainedModel,
    references: Mapping[str, PreTrainedModel | list[PreTrainedModel]],
    tl_model: MultiHeadClassifier,
) -> LeakageReport:
    """Attack the scrubbed model and its references; attacks that were finished before are not repeated.

    Every process runs its share of the attacks, so all must call this, and all get the report.
    Source accuracy is read out with one and the same head, fitted on the undisposed model and frozen in the disposal.
    """
    device = job.state.device
    models = {"undisposed": undisposed, "scrubbed": scrubbed, **references}
    for given in models.values():
        for model in given if isinstance(given, list) else (given,):
            model.to(device)
    records = run_audit(models, job.axes, job.attacks, store=job.run.folder / "attacks.jsonl")
    target, source = job.images["target"]["test"], job.images["source"]["test"]
    tl_model = tl_model.eval().to(device)
    before = tl_model.export("source").to(device)
    after = _with_head(scrubbed, tl_model, "source").to(device)
    return LeakageReport(
        method=choice.text,
        seed=job.options.seed,
        target_accuracy={"undisposed": accuracy(undisposed, target), "scrubbed": accuracy(scrubbed, target)},
        source_accuracy={"undisposed": accuracy(before, source), "scrubbed": accuracy(after, source)},
        piggyback=tuple(records),
        settings=_settings(job, choice),
        machine=machine(device),
        chance={task.name: 1 / len(task.labels) for task in (job.tasks["source"], job.tasks["novel"])},
    )


def _with_head(model: PreTrainedModel, heads: MultiHeadClassifier, task: str) -> PreTrainedModel:
    """The backbone of `model` under a head of another model."""
    split = MultiHeadClassifier(copy.deepcopy(model), task="own")
    split.add_head(task, heads.labels[task])
    split.heads[task].load_state_dict(heads.heads[task].state_dict())
    return split.export(task)


def _settings(job: DTLJob, choice: MethodChoice) -> dict[str, Any]:
    options = job.options.recorded()
    for name, task in job.tasks.items():
        options[f"{name}_dataset"] = task.name
    options["command"] = repeated("dtl_finetune", DTLOptions().recorded(), job.options.recorded(), choice)
    options["audit"] = asdict(job.attacks)
    options["disposal"] = disposal_settings(job, choice)
    options["images"] = {n: {s: len(images) for s, images in task.items()} for n, task in job.images.items()}
    return options


def disposal_settings(job: StagedJob, choice: MethodChoice) -> dict[str, Any]:
    """Every option of a method that decides what it does."""
    names = (*own_fields(choice.config_class), "learning_rate", "lr_scheduler_type", "max_steps", "optim")
    found = job.disposal_config(choice, Path()).to_dict()
    return {name: value for name, value in found.items() if name in names}


def repeated(script: str, defaults: Mapping[str, Any], chosen: Mapping[str, Any], choice: MethodChoice) -> str:
    """The command that repeats a run with one method, with the options that differ from their defaults."""
    words = ["accelerate", "launch", f"scripts/{script}.py"]
    for name, value in {**chosen, "methods": choice.text}.items():
        if value != defaults.get(name):
            words += [f"--{name}", shlex.quote(str(value))]
    return " ".join(words)


def _save_model(job: StagedJob, model: PreTrainedModel, folder: Path) -> None:
    model.cpu().save_pretrained(folder)
    job.processor.save_pretrained(folder)


def write_method(job: StagedJob, result: Scrubbed, folder: Path, compared: Sequence[LeakageReport] = ()) -> None:
    """Write what one method leaves to be published, the plots and the report beside it, each in one step."""
    plots = fresh_folder(folder / "plots")
    pictures = plot_piggyback(result.report, plots / "piggyback") + plot_attacks(result.report, plots / "attacks")
    log = job.run.folder / "stages" / job.disposal_stage(result.choice) / "log.json"
    plot_disposal(json.loads(log.read_text()), f"Disposal by {result.choice.text}", plots / "disposal.png")
    if len(compared) > 1:
        plot_comparison(compared, plots / "comparison")

    scrubbed = fresh_folder(folder / "scrubbed")
    _save_model(job, result.model, scrubbed)
    report = replace(result.report, weights=weights_sha256(scrubbed))
    (scrubbed / "plots").mkdir()
    for picture in pictures:
        shutil.copy(picture, scrubbed / "plots")
    base = job.options.model_name_or_path
    card = leakage_card(
        report,
        base_model=base if base and not Path(base).exists() else None,
        model_labels=result.model.config.id2label,
        plots=[f"plots/{picture.name}" for picture in pictures if picture.suffix == ".png"],
    )
    card.save(scrubbed / "README.md")
    report.save(scrubbed / REPORT)

    replace_folder(plots, folder / "plots")
    replace_folder(scrubbed, folder / "scrubbed")
    report.save(folder / REPORT)


def write_outputs(job: StagedJob, results: Sequence[Scrubbed], undisposed: PreTrainedModel) -> None:
    """Write the output folder: the first method at its top, the others under `methods/`.

    The first method's report is written last: where a first run's report stands, everything beside it is complete.
    """
    output = job.run.folder
    new = fresh_folder(output / "undisposed")
    _save_model(job, undisposed, new)
    replace_folder(new, output / "undisposed")
    for result in results[1:]:
        write_method(job, result, output / "methods" / result.choice.folder)
    reports = [result.report for result in results]
    if len(reports) > 1:
        write_atomically(output / "comparison.md", comparison_markdown(reports))
    write_atomically(output / "tables.md", "\n".join(markdown_table(report) for report in reports))
    write_method(job, results[0], output, compared=reports)
