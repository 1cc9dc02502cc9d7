"""Verify a published model: are these the weights that its report speaks of, and do the attacks give its numbers?"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from huggingface_hub import snapshot_download
from transformers import PreTrainedModel

from hf_dtl.audit import (
    AttackConfig,
    AttackedTask,
    LeakageReport,
    PiggybackRecord,
    accuracy,
    no_model,
    run_audit,
    scratch_models,
)
from hf_dtl.audit.attacks import attack_sets, parse_attacks
from hf_dtl.data import load_processor
from hf_dtl.errors import ConfigError, DataError, DTLError, ModelError
from hf_dtl.hub import weights_sha256
from hf_dtl.hub.staging import REPORT
from hf_dtl.hub.verification import (
    Number,
    Verification,
    compare_numbers,
    differing_weights,
    leakage_again,
    not_verified,
    target_number,
)
from hf_dtl.models.loading import load_classifier, resized
from hf_dtl.options import numbers
from hf_dtl.pipeline.audit_options import VerifyOptions
from hf_dtl.pipeline.job import STORE
from hf_dtl.pipeline.options import FEW_PARAMETERS, as_given
from hf_dtl.pipeline.stages import Run, write_atomically
from hf_dtl.processes import one_core_each
from hf_dtl.scenarios.part import Part
from hf_dtl.scenarios.scenario import Scenario
from hf_dtl.scenarios.some_tasks import SomeTasks
from hf_dtl.scenarios.spec import ScenarioSpec
from hf_dtl.scenarios.whole_task import WholeTask

RESULT = "verification.json"
SCENARIOS: Mapping[str, type[Scenario]] = {"task": WholeTask, "part": Part, "tasks": SomeTasks}
AttackedModels = dict[str, tuple[dict[str, Any], AttackedTask]]
"""By a name: the models to attack by role, and the task."""


def verify(model: str | Path, **options: Any) -> Verification:
    """Compare a published model with its report, and write the result to the output folder.

    Hashes first; then the scenario is built again from the report's `spec`, and the report's attacks are run on the
    published model, and on random weights where its configuration is enough to draw them again. Finished attacks are
    kept, and every process must call this.

    Args:
        model: Hub id, or folder with weights and leakage_report.json.
        **options: every field of `VerifyOptions`.

    Raises:
        DataError, ModelError, ConfigError, OutputError: there is no report, no safetensors file, or something that the
            attacks need; before any attack.
    """
    return run(VerifyOptions(**as_given({"model": str(model), **options}, VerifyOptions)))


def run(options: VerifyOptions) -> Verification:
    """The same from options."""
    folder, report, config, narrowed = _read(options)
    weights = tuple(differing_weights(report.weights, weights_sha256(folder)))
    state = PartialState(cpu=options.use_cpu)
    models = _models(folder, report)
    scenario = _rebuilt(report, options, folder, models, max(config.budgets))
    run = Run(options.output_dir, {"verify": report.method, "spec": scenario.public_spec()}, state)
    drawn = bool(report.settings.get("scratch_from_scrubbed", True))
    attacked = _attacked(report, scenario, models, config, scratch=drawn)
    small = max(model.num_parameters() for model in models.values()) < FEW_PARAMETERS
    config = replace(config, workers=one_core_each(state.device, 1) if small else 1)
    records: list[PiggybackRecord] = []
    for name, (own, task) in attacked.items():
        records += run_audit(own, {name: task}, config, store=run.folder / STORE, device=state.device)
    tasks = {task.name: task for _, task in attacked.values()}
    roles = {record.model for record in records}
    found = [*compare_numbers(report, records, tasks, config, roles), *_target(report, scenario, models, state.device)]
    again = None if narrowed else leakage_again(report, records)
    notes = tuple(not_verified(report, roles, tasks))
    result = Verification(report.method, report.floor, weights, tuple(found), report.headline, again, notes)
    if state.is_main_process:
        write_atomically(run.folder / RESULT, result.to_json())
    return result


# What is published --------------------------------------------------------------------------------------------


def _read(options: VerifyOptions) -> tuple[Path, LeakageReport, AttackConfig, bool]:
    folder = _folder(options)
    if not (folder / REPORT).is_file():
        inside = f" There is a model in {options.model}/scrubbed." if (folder / "scrubbed" / REPORT).is_file() else ""
        raise DataError(f"There is no {REPORT} in {options.model!r}, so there is nothing to verify.{inside}")
    report = LeakageReport.load(folder / REPORT)
    if not weights_sha256(folder):
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl"))
        instead = f"; {', '.join(pickles)} is a pickle, which is never loaded" if pickles else ""
        raise ModelError(f"There are no safetensors weights in {options.model!r}{instead}.")
    return folder, report, *_config(report, options)


def _folder(options: VerifyOptions) -> Path:
    """The folder of the published model: as given, or what the Hub has of it, with the folders of several tasks."""
    folder = Path(options.model).expanduser()
    if folder.is_dir():
        return folder
    try:
        found = snapshot_download(
            options.model,
            revision=options.revision,
            allow_patterns=["*.json", "*.safetensors"],
            ignore_patterns=["*/*/*"],
        )
    except Exception as error:  # whatever the Hub's client raises
        raise ModelError(
            f"{options.model!r} is no folder here, and cannot be read from the Hub: {error}\nGive a folder or a Hub "
            "id; the Hub needs a network and HF_HUB_OFFLINE unset."
        ) from error
    return Path(found)


def _models(folder: Path, report: LeakageReport) -> dict[str, PreTrainedModel]:
    """The published model, or of several tasks each task's, by task."""
    if report.tasks is None:
        return {"": load_classifier(folder)}
    return {task: load_classifier(folder / task) for task in report.tasks}


def _config(report: LeakageReport, options: VerifyOptions) -> tuple[AttackConfig, bool]:
    """The attacker of the report, and whether the options leave some of its attacks out."""
    own = report.settings.get("audit")
    if not isinstance(own, dict):
        raise DataError("The report's settings have no `audit`, so it is not known how the attacks were run.")
    try:
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in own.items()}
        config = AttackConfig(**values)
        # What has a result was run, also where the settings were cut.
        attacks = dict.fromkeys((*config.attacks, *(record.attack for record in report.piggyback)))
        budgets = dict.fromkeys((*config.budgets, *(record.budget for record in report.piggyback)))
        config = replace(config, attacks=tuple(attacks), budgets=tuple(budgets))
    except (TypeError, ConfigError) as error:
        raise DataError(f"The attacker's settings in the report cannot be used: {error}") from error
    every = config.attacks, config.budgets
    if options.attacks is not None:
        chosen = _among("attacks", parse_attacks(options.attacks), config.attacks, sets=options.attacks)
        config = replace(config, attacks=chosen)
    if options.budgets is not None:
        chosen = _among("budgets", numbers(options.budgets, "budgets", int), config.budgets)
        config = replace(config, budgets=chosen)
    return config, (config.attacks, config.budgets) != every


def _among(name: str, requested: Sequence[Any], available: Sequence[Any], sets: str = "") -> tuple[Any, ...]:
    """Those of the report's values that are wanted; of a named set of attacks the report may lack some."""
    words = [word.strip() for word in sets.split(",")]
    named_sets = {attack for word in words for attack in attack_sets().get(word, ())}
    unknown = [value for value in requested if value not in available and value not in named_sets]
    chosen = tuple(value for value in available if value in requested)
    if unknown or not chosen:
        missing = ", ".join(map(str, unknown or requested))
        raise ConfigError(f"--{name}: {missing} is not in the report, which has {', '.join(map(str, available))}.")
    return chosen


# The scenario -------------------------------------------------------------------------------------------------


def spec_of(report: LeakageReport) -> dict[str, Any]:
    """The spec of a report; of schema 1 it follows from the settings of the job that wrote it."""
    if report.spec:
        return report.spec
    s = report.settings
    images = {name: s.get(name) for name in ("image_column", "max_eval_images")} | {"seed": s.get("seed", 0)}
    if report.unlearning is not None:
        own = {"forget": s.get("forget"), "retain": s.get("dataset")}
        own |= {"retain_label_column": s.get("label_column"), "retain_images_per_class": s.get("images_per_class")}
        return {"kind": "part", **_set(images | own)}
    names = {"forget": "source", "retain": "target", "novel": "novel"}
    own = {new: s.get(f"{old}_dataset") for new, old in names.items()}
    own |= {f"{new}_label_column": s.get(f"{old}_label_column") for new, old in names.items()}
    if "scrubbed" not in s:
        own |= {f"{new}_images_per_class": s.get(f"{names[new]}_images_per_class") for new in ("forget", "retain")}
        return {"kind": "task", **_set(images | own)}
    most = max(s["audit"]["budgets"])
    pool = s.get("max_train_images_per_class") or min(max(400, 4 * most), 20 * most)
    retain_pool = None if s.get("retrain") and not s.get("max_train_images_per_class") else pool
    return {"kind": "task", **_set(images | own | {"seed": 0, "pool": pool, "retain_pool": retain_pool})}


def _set(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _rebuilt(
    report: LeakageReport, options: VerifyOptions, folder: Path, models: dict[str, PreTrainedModel], most_budget: int
) -> Scenario:
    """The scenario of a report, its images loaded as the published model takes them.

    Raises:
        DataError, ModelError, ...: the spec or the data cannot be used, or give other images than the report's.
    """
    if report.settings.get("processor", "scrubbed") != "scrubbed":
        raise DataError(
            f"The report's models were attacked with the image processor {report.settings['processor']!r}, which is "
            "not published with the scrubbed one: the attacks cannot be run again from here."
        )
    try:
        given = {"forget": options.forget, "retain": options.retain, "novel": options.novel}
        spec = ScenarioSpec.from_dict(spec_of(report), **given)
        scenario = SCENARIOS[spec.kind](spec, most_budget)
        name, model = next(iter(models.items()))
        processor = load_processor(folder / name, model.config)
        size = report.settings.get("image_size")
        if size and "scrubbed" in report.settings:
            processor = resized(processor, model, size)
        if isinstance(scenario, WholeTask):
            scenario.read_heads({"undisposed": model, "scrubbed": model})
        scenario.load(processor, model)
    except DataError as error:
        raise DataError(
            f"{error}\nA report names local data and files without their folders: give what it means with "
            "--forget, --retain or --novel."
        ) from error
    except DTLError:
        raise
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise DataError(f"The settings of the report are not those of a job of this library: {error!r}.") from error
    _check_counts(report.settings, scenario.counts())
    return scenario


def _check_counts(settings: Mapping[str, Any], images: Mapping[str, Any]) -> None:
    """Refuse data that are not as many as the report's: other images give other numbers."""
    told, here = _counts(settings.get("images") or {}), _counts(images)
    both = sorted(told.keys() & here)
    other = [f"{name} {told[name]} there, {here[name]} here" for name in both if told[name] != here[name]]
    if other:
        raise DataError(
            f"The report's attacks had other numbers of images: {'; '.join(other)}. Give the same data, with "
            "--forget, --retain or --novel where they are in another place."
        )


def _counts(images: Mapping[str, Any]) -> dict[str, int]:
    """Number of images by name, or by name and split."""
    flat: dict[str, int] = {}
    for name, part in images.items():
        splits = {f"{name} {split}": own for split, own in part.items()} if isinstance(part, Mapping) else {name: part}
        flat |= splits
    return flat


def _attacked(
    report: LeakageReport,
    scenario: Scenario,
    models: dict[str, PreTrainedModel],
    config: AttackConfig,
    *,
    scratch: bool,
) -> AttackedModels:
    """What is attacked again: the report's tasks, on the published model and on random weights."""
    scratch = scratch and any(record.model == "scratch" for record in report.piggyback)
    found: AttackedModels = {}
    for name, task in scenario.attacked.items():
        told = {record.dataset for record in report.piggyback if record.axis == task.axis}
        if not told:
            continue
        if len(told) == 1:  # the data may lie in another place here, under another name
            task = replace(task, name=told.pop())
        if not report.settings.get("retain_images", True):
            task = replace(task, retain=None)
        model = models[name if report.tasks is not None else ""]
        own: dict[str, Any] = {"scrubbed": model}
        if scratch:
            own["scratch"] = scratch_models(model, len(config.seeds), report.seed)
        if any(record.model == "no_model" for record in report.piggyback):
            own["no_model"] = no_model(task)
        found[name] = own, task
    return found


def _target(
    report: LeakageReport, scenario: Scenario, models: dict[str, PreTrainedModel], device: torch.device
) -> list[Number]:
    """Target accuracy of the published model, where the data to measure it on are there."""
    published = report.target_accuracy["scrubbed"]
    if isinstance(scenario, SomeTasks):
        test, accuracies = scenario.images["test"], []
        for task in (task for task, names in scenario.tasks.items() if names):
            accuracies.append(accuracy(models[task].to(device), scenario.one_task(test, task)))  # type: ignore[arg-type]
        return target_number(published, sum(accuracies) / len(accuracies) if accuracies else None, len(test))
    model = models[""].to(device)  # type: ignore[arg-type]
    if isinstance(scenario, Part):
        images = scenario.images["test"]
        return target_number(published, accuracy(model, scenario.capped(images)), len(images))
    assert isinstance(scenario, WholeTask)
    if "target" not in scenario.images or published is None:
        return []
    found = scenario.measure({"scrubbed": model}).accuracy["target"]["scrubbed"]
    return target_number(published, found, len(scenario.images["target"]["test"]))
