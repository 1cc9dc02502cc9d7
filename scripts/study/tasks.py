"""The study of multi-task unlearning: images forgotten for all tasks of a model, or for some of them."""

from collections.abc import Mapping
from copy import copy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from hf_dtl.errors import ConfigError, DivergedError
from hf_dtl.methods.by_name import MethodChoice, parse_method
from hf_dtl.options import option
from hf_dtl.pipeline.forget_options import ForgetOptions
from hf_dtl.pipeline.some_tasks_job import SomeTasksJob
from study.engine import Log, RunOptions, Study, Trial, read_names, training_record
from study.plots import plot_impact
from study.settings import options_of
from study.settings.tasks import ABLATION, METHODS, OURS, RATES, SCOPES, SETTINGS
from study.tables.tasks import GOALS, Scope, markdown, reference_row, row_of
from study.tuning import Method, least


@dataclass
class TaskStudyOptions(RunOptions):
    """Options of the study."""

    setting: str = option("glyphs", f"Data and model: {', '.join(SETTINGS)}.")
    scopes: str = option(
        ",".join(SCOPES),
        "Forget images for all tasks (full), for the setting's own choice of them (partial), or both.",
    )
    forget: str = option("random=10%", "Images to forget, as in scripts/unlearn.py.")
    methods: str = option(
        ",".join(METHODS),
        "Strategies of multi-task unlearning, separated by commas, each with options of its config: "
        "NAME[:OPTION=VALUE]....",
    )


def strategy(text: str) -> MethodChoice:
    """The method of a strategy, with options of `MultiTaskUnlearningConfig` after colons.

    Raises:
        ConfigError: an unknown option, or a value of the wrong type.
    """
    return parse_method(f"multitask:strategy={text}")


def _train(trial: Trial, job: SomeTasksJob) -> dict[str, Any]:
    return training_record(job, "train", sum(p.numel() for p in job.prepare().parameters()))


def _references(trial: Trial, job: SomeTasksJob) -> dict[str, Any]:
    models = {"undisposed": job.prepare(), **job.references()}
    scenario = job.scenario
    tasks = {task: task in scenario.forgotten for task in scenario.tasks}
    images = {name: scenario.counts()[name] for name in ("forget", "retain")}
    return _measurements(trial, job, models) | {"cost": job.cost("retrained"), "tasks": tasks, "images": images}


def _unlearn(trial: Trial, job: SomeTasksJob) -> dict[str, Any]:
    model, cost = trial.scrub(job, strategy(trial.method))
    models = {"undisposed": job.prepare(), "scrubbed": model}
    if trial.kind == "tuning":
        return _measurements(trial, _on_validation(job), models)["scrubbed"]
    result = _measurements(trial, job, models, "scrubbed")
    return result["scrubbed"] | {"cost": cost, "notes": result["notes"]}


def _on_validation(job: SomeTasksJob) -> SomeTasksJob:
    """The job with validation images in the place of test images."""
    validating = copy(job)
    validating.scenario = job.scenario.with_test("validation")
    return validating


def _measurements(trial: Trial, job: SomeTasksJob, models: Mapping[str, Any], *roles: str) -> dict[str, Any]:
    """What models score and how little they hide, by role; all, or those wanted beside the undisposed one."""
    measurements, scenario = job.measure(models), job.scenario
    result: dict[str, Any] = {}
    for role in roles or models:
        impact = scenario.impact(measurements.accuracy, role, measurements.notes)
        splits = {task: {split: by[role] for split, by in own.items()} for task, own in measurements.accuracy.items()}
        result[role] = {"scores": splits, "uis": None if impact is None else impact._asdict()}
        if trial.kind in trial.attacking:
            hidden = {row["task"]: row["auc"] for row in measurements.membership if row["model"] == role}
            plain = {task: {role: models[role].export(task)} for task in scenario.attacked}
            attacks = {task: trial.attack(job, model, task) for task, model in plain.items()}
            result[role] |= {"membership": hidden, "attacks": attacks}
    return result | {"notes": list(dict.fromkeys(measurements.notes))}


class TaskTrial(Trial):
    """tuning seed, seed: train the model that knows everything. references: measure and attack it, and the model that
    is trained again without what is to be forgotten. tuning: one strength of a method on the tuning seed. method: one
    method on a reported seed."""

    works: ClassVar = {
        "tuning seed": _train, "seed": _train, "references": _references, "tuning": _unlearn, "method": _unlearn
    }  # fmt: skip
    attacking: ClassVar = frozenset({"references", "method"})


@dataclass(frozen=True)
class TaskStudy(Study):
    """The study; its places are the scopes, which share the model of a training seed (the place without a name)."""

    script: ClassVar = "study_tasks"
    outputs: ClassVar = "tasks"
    picture: ClassVar = "impact"
    markdown: ClassVar = staticmethod(markdown)
    plot: ClassVar = staticmethod(plot_impact)
    settings: ClassVar = SETTINGS
    trial: ClassVar = TaskTrial
    parts: ClassVar = (
        "train one model a seed",
        "the learning rates of the methods, and the references",
        "the methods, on every seed",
    )

    def job(self, seed: int, place: str = "") -> ForgetOptions:
        """Options of the job of one scope on the model of a training seed, or of the job that trains that."""
        model = super().job(seed, place or "model")
        if not place:
            return model
        return replace(
            model,
            model=str(Path(super().job(seed, "model").output_dir) / "stages" / "train"),
            forget_tasks=",".join(self.setting.partial) if place == "partial" else None,
            reference="retrain",
            train_epochs=None,
            retrain_epochs=model.train_epochs,
        )

    def training_trials(self) -> list[Any]:
        return [self.before_tuning(), *self.on_seeds("seed")]

    def tuning(self, method: Method, place: str = "") -> dict[float, Any]:
        trials = super().tuning(method, place)
        return {s: replace(trial, options=replace(trial.options, membership=False)) for s, trial in trials.items()}

    def tuning_results(self, method: Method, scope: str) -> dict[float, float | None]:
        """Mean UIS of the tuning seed at every strength, on validation images; None where it diverged."""
        results = {strength: trial.result() for strength, trial in self.tuning(method, scope).items()}
        return {s: one["uis"]["mean"] if one.get("uis") else None for s, one in results.items()}

    def strength(self, method: Method, place: str) -> float | None:
        whole = next((method for method in self.methods if method.text == OURS), method)
        return least(self.tuning_results(method if method.strengths else whole, place))

    def summary(self) -> list[Scope]:
        trials = self.method_trials()
        scopes = [self._scope(scope, trials) for scope in self.places]
        if not any(one.rows for one in scopes):
            raise DivergedError("No method finished at any learning rate, so there is nothing to compare.")
        return scopes

    def _scope(self, scope: str, trials: Mapping[tuple[str, Method], list[Trial]]) -> Scope:
        references = [trial.result() for trial in self.on_seeds("references", scope)]
        rows = [
            row_of(own[0].method, [trial.result() for trial in own], references, self.tuning_results(method, scope))
            for (place, method), own in trials.items()
            if place == scope
        ]
        return Scope(
            name=scope,
            tasks=tuple(references[0]["tasks"]),
            forgotten=tuple(task for task, forgotten in references[0]["tasks"].items() if forgotten),
            images=references[0]["images"],
            references=tuple(reference_row(role, references) for role in ("undisposed", "retrained")),
            rows=tuple(rows),
            failed=self.failures(scope, trials),
        )

    def values(self, scopes: list[Scope]) -> dict[str, Any]:
        scopes = [
            asdict(one) | {"strongest": one.strongest and one.strongest.name, "below": one.below} for one in scopes
        ]
        return {"goal": GOALS, "scopes": scopes}


def study_tasks(options: TaskStudyOptions, log: Log = print) -> list[Scope]:
    """Do what is left of the study, see `Study.run`."""
    return task_study(options).run(log)


def task_study(options: TaskStudyOptions) -> TaskStudy:
    """Check the options before anything is written.

    Raises:
        ConfigError: an option is unknown, missing or out of its range.
    """
    o = options
    shared = options_of(SETTINGS, o.setting) | {"method": "multitask", "forget": o.forget, "use_cpu": o.use_cpu}
    scopes = read_names(o.scopes, "scopes", f"be {' or '.join(SCOPES)}, or both")
    if not set(scopes) <= set(SCOPES):
        raise ConfigError(f"--scopes {o.scopes!r} must be {' or '.join(SCOPES)}, or both.")
    texts = read_names(o.methods, "methods", f"name different strategies: {', '.join(METHODS)}")
    return TaskStudy(o, shared, tuple(_method(text, OURS in texts) for text in texts), tuple(scopes))


def _method(text: str, whole: bool) -> Method:
    """The method with its strengths; a learning rate among its own options is not tuned.

    An ablation has none of its own where the whole method is compared too: it takes that one's.
    """
    choice = strategy(text)
    if choice.options["strategy"] == "retrain":
        raise ConfigError("--methods: retrain is a reference, in every table without being asked for. Leave it out.")
    choice.config(output_dir="", use_cpu=True)
    method = Method.of(text, RATES, choice.options.get(RATES.option))
    return replace(method, strengths=()) if whole and text in ABLATION else method
