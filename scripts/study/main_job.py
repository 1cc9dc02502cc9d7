"""The study of the main job: what each method leaks of a whole task, and what it costs the target."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import NoneType
from typing import Any, ClassVar, get_args, get_type_hints

from hf_dtl.errors import ConfigError, DivergedError
from hf_dtl.methods.by_name import parse_method
from hf_dtl.methods.registry import method_names
from hf_dtl.options import option
from hf_dtl.pipeline.forget_options import ForgetOptions
from hf_dtl.pipeline.whole_task_job import WholeTaskJob
from hf_dtl.scenarios.scenario import accuracies
from study.engine import Log, RunOptions, Study, Trial, attack_references, read_names, training_record
from study.plots import plot_tradeoff
from study.settings import Knob, options_of
from study.settings.main_job import FORGET_WEIGHT, KNOBS, SETTINGS
from study.tables.main_job import GOAL_LEAKAGE, GOAL_POINTS, Summary, markdown, method_row, reference_rows
from study.tuning import ChosenStrength, Method, choose_strength


@dataclass
class StudyOptions(RunOptions):
    """Options of the study of the main job."""

    setting: str = option("mnist_vit", f"Tasks and model: {', '.join(SETTINGS)}.")
    margin: float = option(0.005, "Most that the target's validation accuracy may fall in tuning, as a share.")
    methods: str | None = option(
        None, "Methods, separated by commas, each NAME[:OPTION=VALUE]...; default: those of the setting."
    )
    attacks: str | None = option(None, "Attacks as in the main job; default: those of the setting.")
    budgets: str | None = option(None, "Images a class that the attacker gets; default: those of the setting.")
    audit_seeds: str | None = option(None, "Seeds of the attacks; default: those of the setting.")
    data_dir: str | None = option(None, "Data set of the CIFAR settings: a folder of parquet files, or a Hub id.")
    model: str | None = option(None, "Pre-trained model of the DINOv2 setting: a folder or a Hub id.")
    override: str | None = option(
        None, "Other options of the main job, as a JSON object: '{\"steps\": 600}'; they come last."
    )


def _train(trial: Trial, job: WholeTaskJob) -> dict[str, Any]:
    """Pre-train and adapt; for a reported seed also retrain, and measure the models on test images."""
    undisposed, device = job.prepare(), job.state.device
    # on a GPU the processor's seconds say little
    clock = "cpu" if device.type == "cpu" else "wall"
    result = training_record(job, "pretrain", undisposed.num_parameters()) | {"clock": clock}
    if trial.kind == "tuning seed":
        return result | {"validation": accuracies({"undisposed": undisposed}, _target(job, "validation"), device)}
    models = {"undisposed": undisposed, "retrained": job.references()["retrained"]}
    source = {"undisposed": job.heads.export("source")}
    return result | {
        "target": accuracies(models, _target(job, "test"), device),
        "source": accuracies(source, job.images["source"]["test"], device),
    }


def _target(job: WholeTaskJob, split: str) -> Any:
    return job.images["target"][split]


def _tune(trial: Trial, job: WholeTaskJob) -> dict[str, Any]:
    """Measure a scrubbed model on validation images of the target alone."""
    model, cost = trial.scrub(job, parse_method(trial.method))
    accuracy = accuracies({"scrubbed": model}, _target(job, "validation"), job.state.device)
    return {"validation": accuracy["scrubbed"], "cost": cost}


def _dispose(trial: Trial, job: WholeTaskJob) -> dict[str, Any]:
    """Measure a scrubbed model on test images, the source with the undisposed model's head, and attack it."""
    model, cost = trial.scrub(job, parse_method(trial.method))
    accuracy = {task: by_role["scrubbed"] for task, by_role in job.measure({"scrubbed": model}).accuracy.items()}
    return accuracy | {"cost": cost, "attacks": trial.attack(job, {"scrubbed": model})}


class MainTrial(Trial):
    """tuning seed: pre-train and adapt. seed: the same, and the retrained reference. tuning: one strength of a method
    on the tuning seed. references: the attacks on the references of a seed. method: one method on a reported seed."""

    works: ClassVar = {
        "tuning seed": _train, "seed": _train, "references": attack_references, "tuning": _tune, "method": _dispose
    }  # fmt: skip
    attacking: ClassVar = frozenset({"references", "method"})


@dataclass(frozen=True)
class MainStudy(Study):
    """The study of the main job.

    Args:
        unknown: methods of the setting that this library does not have.
    """

    unknown: tuple[str, ...] = ()

    script: ClassVar = "reproduce"
    outputs: ClassVar = "study"
    picture: ClassVar = "tradeoff"
    markdown: ClassVar = staticmethod(markdown)
    plot: ClassVar = staticmethod(plot_tradeoff)
    settings: ClassVar = SETTINGS
    trial: ClassVar = MainTrial
    parts: ClassVar = (
        "the models before disposal",
        "the strengths of the methods, and the attacks on the references",
        "the methods, trained and attacked on every seed",
    )

    def tuning(self, method: Method, place: str = "") -> dict[float, Any]:
        return super().tuning(method) if len(method.strengths) > 1 else {}

    def training_trials(self) -> list[Any]:
        tuned = any(len(method.strengths) > 1 for method in self.methods)
        return [*([self.before_tuning()] if tuned else []), *self.on_seeds("seed")]

    def choose(self, method: Method) -> ChosenStrength:
        """The strength of a method, once its tuning trials are finished.

        Raises:
            DivergedError: the training diverged at every strength.
        """
        trials = self.tuning(method)
        if not trials:
            return ChosenStrength(method.strengths[0], None, None, {})
        before = self.before_tuning().result()["validation"]["undisposed"]
        tried = {strength: trial.result().get("validation") for strength, trial in trials.items()}
        return choose_strength(tried, before, self.options.margin)

    def strength(self, method: Method, place: str) -> float | None:
        try:
            return self.choose(method).strength
        except DivergedError:
            return None

    def summary(self) -> Summary:
        trained, attacked = ([c.result() for c in self.on_seeds(kind)] for kind in ("seed", "references"))
        trials = self.method_trials()
        rows = [
            method_row(method, self.choose(method), [trial.result() for trial in own], trained, attacked)
            for (_, method), own in trials.items()
        ]
        references = reference_rows(trained, attacked)
        return Summary(self.seeds, references, tuple(rows), self.failures("", trials), trained[0]["clock"])

    def values(self, summary: Summary) -> dict[str, Any]:
        return {
            "margin": self.options.margin,
            "goal": {"leakage_over_retrained": GOAL_LEAKAGE, "loss_points": GOAL_POINTS},
            "model": self.options.model,
            "missing_methods": self.unknown,
            "summary": summary.to_dict(),
        }


def reproduce(options: StudyOptions, log: Log = print) -> Summary:
    """Do what is left of the study, see `Study.run`."""
    study = main_study(options)
    if study.unknown:
        log(f"Not in this version of the library, left out: {', '.join(study.unknown)}.")
    return study.run(log)


def main_study(options: StudyOptions) -> MainStudy:
    """Check the options before anything is written.

    Raises:
        ConfigError: an option is unknown, missing or out of its range.
    """
    o = options
    shared = options_of(SETTINGS, o.setting, data_dir=o.data_dir, model=o.model)
    if not 0 <= o.margin <= 1:
        raise ConfigError(f"--margin {o.margin} must be in 0..1 (0.01 is one point of accuracy).")
    given = {"attacks": o.attacks, "budgets": o.budgets, "seeds": o.audit_seeds}
    shared |= {name: value for name, value in given.items() if value is not None}
    shared |= {"use_cpu": o.use_cpu} | read_overrides(o.override)
    names, unknown = SETTINGS[o.setting].methods, tuple[str, ...]()
    if o.methods is None:
        unknown = tuple(text for text in names if text.split(":")[0] not in method_names())
        names = tuple(text for text in names if text not in unknown)
    else:
        names = tuple(read_names(o.methods, "methods", f"name different methods: {', '.join(method_names())}"))
    return MainStudy(o, shared, tuple(_method(text, shared) for text in names), unknown=unknown)


def read_overrides(text: str | None) -> dict[str, Any]:
    """Options of the main job under their own names; older names are taken too."""
    try:
        overrides = json.loads(text or "{}")
    except ValueError as error:
        raise ConfigError(f"--override {text!r} is not JSON ({error}); write '{{\"steps\": 600}}'.") from None
    if not isinstance(overrides, dict):
        raise ConfigError(f"--override {text!r} must be a JSON object, such as '{{\"steps\": 600}}'.")
    options = [f for f in fields(ForgetOptions) if f.name not in ("output_dir", "seed", "method")]
    names = {name: f.name for f in options for name in (f.name, *f.metadata["aliases"])}
    types, checked = get_type_hints(ForgetOptions), {}
    for name, value in overrides.items():
        if name not in names:
            raise ConfigError(
                f"--override has the unknown option {name!r}; there are: {', '.join(f.name for f in options)}."
            )
        kinds = set(get_args(types[names[name]])) or {types[names[name]]}
        if type(value) not in kinds and not (float in kinds and type(value) is int):
            wanted = " or ".join(kind.__name__ for kind in kinds - {NoneType})
            raise ConfigError(f"--override {name}={value!r} must be of the type {wanted}.")
        checked[names[name]] = value
    return checked


def _method(text: str, shared: Mapping[str, Any]) -> Method:
    """The method with its strengths; a strength among its own options is not tuned."""
    choice = parse_method(text)
    knob: Knob = KNOBS.get(choice.name, FORGET_WEIGHT)
    method = Method.of(text, knob, choice.options.get(knob.option))
    batch = shared.get("forget_batch_size", ForgetOptions.forget_batch_size)
    for strength in method.strengths:
        parse_method(method.at(strength)).config(output_dir="", use_cpu=True, per_device_train_batch_size=batch)
    return method
