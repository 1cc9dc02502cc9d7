"""Verify a published model: are these the weights that its report speaks of, and do our attacks give its numbers?"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import PreTrainedModel

from hf_dtl.audit import (
    AttackConfig,
    AttackedTask,
    LeakageReport,
    PiggybackRecord,
    no_model,
    run_audit,
    scratch_models,
)
from hf_dtl.audit.axis_leakage import FLOORS
from hf_dtl.data import load_processor
from hf_dtl.errors import ConfigError, DataError, DTLError, ModelError
from hf_dtl.hub.verification import (
    UNMEASURED,
    Number,
    Verification,
    compare_numbers,
    compare_together,
    report_again,
    said_otherwise,
)
from hf_dtl.models.classifiers import locate_classifiers
from hf_dtl.models.loading import load_classifier
from hf_dtl.pipeline.answered_again import answered_again
from hf_dtl.pipeline.audit_options import VerifyOptions
from hf_dtl.pipeline.job import STORE
from hf_dtl.pipeline.options import FEW_PARAMETERS, as_given
from hf_dtl.pipeline.published import (
    attacker,
    check_counts,
    check_places,
    other_pictures,
    public_base,
    read_published,
    spec_of,
    weaker_images,
)
from hf_dtl.pipeline.rebuild import rebuild
from hf_dtl.pipeline.stages import Run, write_atomically
from hf_dtl.pipeline.trained_again import trained_again
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
GIVEN = {"undisposed": "undisposed", "retrained": "retrained", "base": "base_model", "twin": "twin"}
"""Models by role that may be at hand, and the options that say where."""


def verify(model: str | Path, **options: Any) -> Verification:
    """Compare a published model with its report, and write the result to the output folder.

    Files first, as publishing checks them; then the scenario is built again from the report's `spec`, and the
    report's suite attacks the published model, the floors without a model, random weights of its configuration, the
    public weights where the report names some, and what is given. What was not attacked here is claimed, and said to
    be. Finished attacks are kept, and every process must call this.

    Args:
        model: Hub id, or folder with weights and leakage_report.json.
        **options: every field of `VerifyOptions`.

    Raises:
        DataError, ModelError, ConfigError, OutputError: there is no report, no safetensors file, something that a
            published model must not hold, or something lacks that the attacks need; before any attack.
    """
    return run(VerifyOptions(**as_given({"model": str(model), **options}, VerifyOptions)))


def run(options: VerifyOptions) -> Verification:
    """The same from options."""
    published = read_published(options)
    report, notes = published.report, [*published.notes]
    state = PartialState(cpu=options.use_cpu)
    models = _models(published.folder, report)
    size = max(model.num_parameters() for model in models.values())
    config, strange, less, narrowed = attacker(report, size, options)
    given = _given(report, options, models, notes)
    scenario = _rebuilt(report, options, published.folder, models, max(config.budgets))
    if options.retrain:
        given = trained_again(report, scenario.spec, options) | given
    attacked = _attacked(report, scenario, models, given, config)
    wrong = [*published.wrong, *strange, *other_names(report, scenario, models, options)]
    if not report.settings.get("retain_images", True) and any(t.retain for t in scenario.attacked.values()):
        wrong.append("The report says that its attacks had no images of the retained task; its spec names some.")
    if options.rebuild:
        differs, said = rebuild(published.folder, report, scenario, models[""] if "" in models else None, options)
        (wrong if differs else notes).append(said)
    tasks = {task.name: task for _, task in attacked.values()}
    splits = {f"{part} images": getattr(t, part) for t in tasks.values() for part in ("validation", "test")}
    less += weaker_images(report, {name: len(images.labels) for name, images in splits.items()})
    run = Run(options.output_dir, {"verify": report.method, "spec": scenario.public_spec()}, state)
    config = replace(config, workers=one_core_each(state.device, 1) if size < FEW_PARAMETERS else 1)
    records: list[PiggybackRecord] = []
    for name, (own, task) in attacked.items():
        records += run_audit(own, {name: task}, config, store=run.folder / STORE, device=state.device)
    roles = {record.model for record in records} - _not_drawn_again(report)
    compared = [record for record in records if record.model in roles]
    answers = [*answered_again(report, scenario, models, given, state.device)]
    again = None if narrowed else report_again(report, records, answers)
    headline = again.headline if again is not None and "source_subset" in again.axes else None
    found = [
        *compare_numbers(report, compared, tasks, config, roles),
        *compare_together(report, compared, tasks, headline),
        *answers,
    ]
    otherwise = (*published.otherwise, *(() if again is None else said_otherwise(report, again)))
    trusted = [role for role in ("undisposed", *FLOORS) if role in {r.model for r in report.piggyback} - roles]
    claimed = _claimed(report, tasks, config, narrowed, found, trusted, options.rebuild)
    if again is not None and (unsaid := {flag.name for flag in again.flags} - {flag.name for flag in report.flags}):
        claimed.append(f"that it has no flag {' or '.join(sorted(unsaid))} (this run has)")
    result = Verification(
        report.method, report.floor, tuple(wrong), tuple(found), report.headline, headline, tuple(less),
        otherwise, tuple(claimed), tuple(trusted), tuple(notes),
    )  # fmt: skip
    if result.holds and (other := other_pictures(published.folder, report)):
        result = replace(result, claimed=(*result.claimed, f"what the pictures show ({', '.join(other)})"))
    if state.is_main_process:
        write_atomically(run.folder / RESULT, result.to_json())
    return result


def _not_drawn_again(report: LeakageReport) -> set[str]:
    """Floors made here that the report made otherwise, so that their numbers are not compared one by one."""
    return set() if report.settings.get("scratch_from_scrubbed", True) is True else {"scratch"}


# Models -------------------------------------------------------------------------------------------------------


def _models(folder: Path, report: LeakageReport) -> dict[str, PreTrainedModel]:
    """The published model, or of several tasks each task's, by task."""
    if report.tasks is None:
        return {"": load_classifier(folder)}
    return {task: load_classifier(folder / task) for task in report.tasks}


def _given(
    report: LeakageReport, options: VerifyOptions, models: Mapping[str, PreTrainedModel], notes: list[str]
) -> dict[str, PreTrainedModel]:
    """Models at hand by role, and the public weights that the report names.

    Raises:
        ModelError, ConfigError: one that was given cannot be loaded or used.
    """
    places = {role: getattr(options, name) for role, name in GIVEN.items() if getattr(options, name)}
    if places and report.tasks is not None:
        raise ConfigError(f"--{GIVEN[next(iter(places))]} is for models of one task; this one has several.")
    found = {role: load_classifier(place, new_head=role == "base") for role, place in places.items()}
    if "undisposed" in found and "scrubbed" not in report.settings:  # a job keeps the architecture
        widths = [
            [model.get_submodule(head).weight.shape[1] for head in locate_classifiers(model)]  # type: ignore[index, union-attr]
            for model in (found["undisposed"], models[""])
        ]
        if widths[0] != widths[1]:
            raise ModelError(
                f"The head of --undisposed reads {widths[0]} features, that of the published model {widths[1]}: it is "
                "not the model that was disposed of. Give the run's `undisposed`."
            )
    if "base" not in found and report.tasks is None and (name := public_base(report)):
        try:
            found["base"] = load_classifier(name, new_head=True)
        except ModelError as error:
            notes.append(f"The public weights that the report names were not to be had: {error}")
    return found


# The scenario -------------------------------------------------------------------------------------------------


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
        given = {name: getattr(options, name) for name in ("forget", "retain", "novel", "transfer_dataset")}
        values = spec_of(report)
        check_places({name: value for name, value in values.items() if given.get(name) is None})
        spec = ScenarioSpec.from_dict(values, **given)
        scenario = SCENARIOS[spec.kind](spec, most_budget)
        name, model = next(iter(models.items()))
        processor = load_processor(folder / name, model.config)
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
    check_counts(report.settings, scenario.counts())
    return scenario


def other_names(
    report: LeakageReport, scenario: Scenario, models: Mapping[str, PreTrainedModel], options: VerifyOptions
) -> list[str]:
    """Names and chance of the attacked data that are not those of the scenario, and rows of no class, as sentences."""
    found = []
    moved = any((options.forget, options.retain, options.novel)) or not report.spec
    if not options.retain and isinstance(scenario, WholeTask) and "target" in scenario.tasks:
        rows, kept = models[""].config.num_labels or 0, len(scenario.tasks["target"].labels)
        if rows > kept:
            found.append(f"The head has {rows} rows, and {kept} classes are kept: the others may be forgotten ones.")
    for task in scenario.attacked.values():
        told = {record.dataset for record in report.piggyback if record.axis == task.axis}
        if not moved and told and task.name not in told:
            found.append(f"The report calls the attacked data {', '.join(sorted(told))}; they are {task.name}.")
        for name in told & report.chance.keys() if len(told) == 1 else {task.name} & report.chance.keys():
            if abs(report.chance[name] - 1 / len(task.labels)) > 1e-6:
                found.append(f"The report says that guessing gives {report.chance[name]:.3f}; of {len(task.labels)} "
                             f"classes it gives {1 / len(task.labels):.3f}.")  # fmt: skip
    return found


def _attacked(
    report: LeakageReport,
    scenario: Scenario,
    models: dict[str, PreTrainedModel],
    given: dict[str, PreTrainedModel],
    config: AttackConfig,
) -> AttackedModels:
    """What is attacked again: the report's tasks, on the published model, every floor made here, and what is given."""
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
        own: dict[str, Any] = {"scrubbed": model, **given}
        own["scratch"] = scratch_models(model, len(config.seeds), report.seed)
        own["no_model"] = no_model(task)
        found[name] = own, task
    return found


def _claimed(
    report: LeakageReport,
    tasks: Mapping[str, AttackedTask],
    config: AttackConfig,
    narrowed: bool,
    found: Sequence[Number],
    trusted: Sequence[str],
    rebuilt: bool,
) -> list[str]:
    """What of the report nobody checked here."""
    claimed = [f"every attack on the {role} model" for role in trusted]
    if narrowed:
        budgets = ", ".join(map(str, config.budgets))
        claimed.append(f"every attack but {', '.join(config.attacks)} with {budgets} images a class")
    datasets = dict.fromkeys(record.dataset for record in report.piggyback)
    claimed += [f"attacks on {name}" for name in datasets if name not in tasks]
    checked = {(number.what, number.model) for number in found}
    told: dict[str, Mapping[str, float | None]]
    told = {"target accuracy": report.target_accuracy, "source accuracy": report.source_accuracy}
    if report.unlearning is not None:
        told |= {f"{split} accuracy": own for split, own in report.unlearning.accuracy.items()}
    for task, own in (report.tasks or {}).items():
        told |= {f"{task}, {split} score": scores for split, scores in own.scores.items()}
        told[f"{task}, membership"] = own.membership_auc
    left = defaultdict[tuple[str, ...], list[str]](list)
    for which, by_role in told.items():
        left[tuple(r for r, v in by_role.items() if v is not None and (which, r) not in checked)].append(which)
    claimed += [f"{', '.join(names)} of the {' and the '.join(roles)} model" for roles, names in left.items() if roles]
    if report.membership and not any(what.startswith("membership") for what, _ in checked):
        claimed.append("membership inference")
    if report.bound is not None and not rebuilt:
        claimed.append("the bound (--rebuild checks it)")
    return [*claimed, *(UNMEASURED if report.unlearning is not None else UNMEASURED[1:])]
