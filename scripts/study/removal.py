"""The study of removal where weights matter: what a method keeps of transfer's benefit, against what it leaks."""

import copy
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from filelock import FileLock

from hf_dtl.audit import scratch_models
from hf_dtl.audit.suites import find_suite
from hf_dtl.data.splits import draw_by_class
from hf_dtl.errors import ConfigError
from hf_dtl.functional.channel import parse_channel
from hf_dtl.methods.by_name import parse_method, parse_methods
from hf_dtl.models.loading import quiet
from hf_dtl.options import option
from hf_dtl.pipeline.forget_options import ForgetOptions
from hf_dtl.pipeline.stages import Run
from hf_dtl.pipeline.transfer import bound_of, check_transfer
from hf_dtl.pipeline.twin import middle
from hf_dtl.pipeline.whole_task_job import WholeTaskJob, with_new_head
from hf_dtl.scenarios.scenario import accuracies
from study.engine import Log, RunOptions, Study, Trial, read_names, training_record
from study.main_job import read_overrides
from study.plots import plot_removal
from study.settings import options_of, write_tiny_resnet
from study.settings.removal import COLLISION, SETTINGS
from study.tables.removal import Summary, markdown, order, summarise
from study.tuning import Method

ANCHORED = "anchored_distillation"
FINALISTS = 3
PUBLIC = 999_983
"""Seed of the weights that students of a ResNet start from: not those that the private training started from."""
TREE = ("fewest", "most", "", "l", "h", "ll", "lh", "hl", "hh")
"""Numbers of labels that twins are trained with beforehand: the ends, and the first three steps of every bisection."""


@dataclass
class RemovalOptions(RunOptions):
    """Options of the study."""

    setting: str = option("families", f"Data and model: {', '.join(SETTINGS)}.")
    workers: int = option(2, "Processes side by side, each with one thread.", aliases=("parallel",))
    methods: str | None = option(
        None,
        "What is screened, separated by commas: methods as a command line names them, or CHANNEL[@N], anchored "
        "distillation through labels, outputs:q or outputs with N unlabelled images a class (all: as many as there "
        "are); default: those of the setting.",
    )
    finalists: str | None = option(
        None, f"Which of them the reported seeds have; default: the {FINALISTS} that screening puts first."
    )
    suite: str = option("standard-1", "Suite of attacks on the reported seeds.")
    screening: str = option("quick-1", "Suite of attacks on the tuning seed.")
    minutes: float | None = option(
        None, "Start nothing after so many minutes; the tables are of what is finished, and what is left is named."
    )
    data_dir: str | None = option(None, "Images of the CIFAR setting, as scripts/prepare_data.py --cifar leaves them.")
    model: str | None = option(None, "Public weights of the setting with a base: a folder or a Hub id.")
    override: str | None = option(None, "Other options of the main job, as a JSON object; they come last.")


@dataclass(frozen=True)
class Contender:
    """What is compared: a method, and the options of the job that are its own.

    Args:
        name: in tables, and how it is asked for.
        method: as a command line names it.
        options: of `ForgetOptions`.
    """

    name: str
    method: str
    options: dict[str, Any]

    @classmethod
    def of(cls, name: str, retain: str, classes: int, base: str | None) -> "Contender":
        """Read `CHANNEL[@N]` or a method.

        Raises:
            ConfigError: it is neither.
        """
        channel, _, count = name.partition("@")
        if channel.partition(":")[0] not in ("labels", "outputs", "features"):
            return cls(name, parse_method(name).text, {"method": name})
        try:
            parse_channel(channel)
        except ValueError as error:
            raise ConfigError(f"--methods {name!r}: {error}") from None
        options: dict[str, Any] = {"method": ANCHORED, "channel": channel, "base_model": base}
        if count:
            if count != "all" and not count.isdecimal():
                raise ConfigError(f"--methods {name!r}: after @ stands a number of images a class, or all.")
            options |= {"transfer_dataset": retain}
            options |= {} if count == "all" else {"transfer_images": int(count) * classes}
        return cls(name, ANCHORED, options)


# Pieces -------------------------------------------------------------------------------------------------------


def _train(trial: Trial, job: WholeTaskJob) -> dict[str, Any]:
    """The model before disposal."""
    undisposed = job.prepare()
    own = training_record(job, "pretrain", undisposed.num_parameters())
    return own | _accuracies(trial, job, undisposed, "undisposed")


def _reference(trial: Trial, job: WholeTaskJob) -> dict[str, Any]:
    """One reference, attacked; the undisposed model with the floor that has none."""
    role, seed = trial.place, job.options.seed
    if role == "undisposed":
        models: dict[str, Any] = {role: job.prepare()}
    elif role == "scratch":
        models = job.scratch(job.blank)
    elif role == "base":
        models = {role: with_new_head(job.given_model(new_head=True), job.scenario.tasks["target"].labels, seed)}
    else:
        models = {role: job.retrain(scratch_models(job.blank, 1, seed)[0])}
    alone = models[role] if role in ("undisposed", "retrained") else None
    measured = {} if alone is None else _accuracies(trial, job, alone, role)
    return measured | {"attacks": _attack(trial, job, models)}


def _dispose(trial: Trial, job: WholeTaskJob) -> dict[str, Any]:
    """A scrubbed model, attacked; with the most of the given model that can be in it."""
    choice = parse_method(trial.method)
    model, cost = trial.scrub(job, choice)
    bound = bound_of(job, choice)
    measured = _accuracies(trial, job, model, "scrubbed") | {
        "bytes": None if bound is None else bound.to_dict()["bytes"]
    }
    return measured | {"cost": cost, "attacks": _attack(trial, job, {"scrubbed": model})}


def _labels(trial: Trial, job: WholeTaskJob) -> dict[str, Any]:
    """A model of the target alone, with as many true labels as a bisection asks for."""
    low, high = job.label_range
    count = {"fewest": low, "most": high}.get(trial.place)
    if count is None:
        for side in trial.place:
            low, high = (middle(low, high), high) if side == "h" else (low, middle(low, high))
        count = middle(low, high)
    return {"labels": count} | _accuracies(trial, job, job.with_labels(count), "twin")


def _find_twins(trial: Trial, job: WholeTaskJob) -> dict[str, Any]:
    """How many labels come to the validation accuracy of each scrubbed model, by contender."""
    results = {name: needed.result() for name, needed in zip(trial.place.split(","), trial.needs, strict=True)}
    return {name: job.labels_for(own["target"]["validation"]) for name, own in results.items() if "target" in own}


def _twin(trial: Trial, job: WholeTaskJob) -> dict[str, Any]:
    """The twin of a scrubbed model, attacked; contenders that share it wait for each other's attacks."""
    (search,) = trial.needs
    count = search.result().get(trial.place)
    if count is None:
        return {}
    model, store = job.with_labels(count), f"attacks/twin-{count}-{job.options.suite}.jsonl"
    (job.run.folder / store).parent.mkdir(exist_ok=True)
    with FileLock(job.run.folder / f"{store}.lock"):
        records = job.attack_on({"twin": model}, {"source": job.scenario.attacked["source"]}, store, progress=False)
    return {"labels": count} | _accuracies(trial, job, model, "twin") | {"attacks": [asdict(r) for r in records]}


def _accuracies(trial: Trial, job: WholeTaskJob, model: Any, role: str) -> dict[str, Any]:
    """Accuracy at the target by split; on the tuning seed no test image is looked at."""
    splits = ("validation",) if trial.kind in TUNING else ("validation", "test")
    found = {s: accuracies({role: model}, job.images["target"][s], job.state.device)[role] for s in splits}
    return {"target": found}


def _attack(trial: Trial, job: WholeTaskJob, models: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The attacks; on the tuning seed validation images stand in the place of test images."""
    if trial.kind in TUNING:
        job = copy.copy(job)
        job.scenario = job.scenario.with_test("validation")
    return trial.attack(job, models)


TUNING = frozenset({"tuning seed", "tuning reference", "screening"})


class RemovalTrial(Trial):
    """tuning seed, seed: the model before disposal. tuning reference, reference: one of the others, attacked.
    screening, method: a scrubbed model, attacked. labels: a model of the target alone. twins: which of them are as
    good as the scrubbed ones. twin: one of these, attacked."""

    works: ClassVar = {
        "tuning seed": _train, "seed": _train, "tuning reference": _reference, "reference": _reference,
        "screening": _dispose, "method": _dispose, "labels": _labels, "twins": _find_twins, "twin": _twin,
    }  # fmt: skip
    attacking: ClassVar = frozenset({"tuning reference", "reference", "screening", "method", "twin"})

    @property
    def _shared(self) -> ForgetOptions:
        """The options without those of one contender."""
        return replace(self.options, **dict.fromkeys((*ForgetOptions.TRANSFER, "method")))

    def load(self) -> WholeTaskJob:
        """The job. Images are decoded once a process: of seeds only the labelled ones differ, a draw of them all."""
        quiet()
        whole = _opened(json.dumps(asdict(self._anywhere)))
        o, job, scenario = self.options, copy.copy(whole), copy.copy(whole.scenario)
        task, images = whole.further
        drawn = draw_by_class(np.asarray(images.labels), task.labels, count=o.retain_images_per_class, seed=o.seed)
        rows = np.flatnonzero(drawn).tolist()
        own = replace(scenario.tasks["target"], train=task.train.select(rows))
        scenario.spec, scenario.most_budget = o.spec(), max(o.attacker().budgets)
        scenario.tasks = scenario.tasks | {"target": own}
        scenario.images = scenario.images | {"target": scenario.images["target"] | {"train": images.subset(rows)}}
        job.options, job.scenario, job.choices = o, scenario, parse_methods(str(o.method))
        job.model = job._load_model()
        check_transfer(job)
        job.run = Run(o.output_dir, o.settings(), job.state)
        job.run.share()
        return job

    @property
    def _anywhere(self) -> ForgetOptions:
        """The options of a job with the same images, whatever its seed where no other draw depends on it."""
        o = self._shared
        model = None if o.model is None else re.sub(r"seed\d+$", f"seed{PUBLIC}", o.model)
        seed = 0 if o.forget_images_per_class is None else o.seed
        folder = str(Path(o.output_dir).with_name(f"images-{seed}-{os.getpid()}"))
        return replace(o, seed=seed, output_dir=folder, model=model, suite="quick-1", twin="all")


@lru_cache(maxsize=1)
def _opened(options: str) -> WholeTaskJob:
    return WholeTaskJob(ForgetOptions(**json.loads(options)))


# The study ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RemovalStudy(Study):
    """The study of removal.

    Args:
        contenders: what is screened.
        asked: finalists; empty for those that screening puts first.
    """

    contenders: tuple[Contender, ...] = ()
    asked: tuple[str, ...] = ()

    script: ClassVar = "study_removal"
    outputs: ClassVar = "removal"
    picture: ClassVar = "removal"
    markdown: ClassVar = staticmethod(markdown)
    plot: ClassVar = staticmethod(plot_removal)
    settings: ClassVar = SETTINGS
    trial: ClassVar = RemovalTrial
    parts: ClassVar = (
        "models, references, and the screening on the tuning seed",
        "the finalists on every seed, and their twins",
    )

    @property
    def roles(self) -> tuple[str, ...]:
        """The references."""
        return ("undisposed", "retrained", "scratch", *(("base",) if "{model}" in self.setting.needs else ()))

    def job(self, seed: int, place: str = "", **own: Any) -> ForgetOptions:
        options = super().job(seed, place)
        tuning = {"suite": self.options.screening} if seed == self.options.tuning_seed else {}
        return replace(options, **tuning | own)

    def start(self) -> None:
        super().start()
        if self.setting.tiny_resnet:
            write_tiny_resnet(self.output / "model" / f"seed{PUBLIC}", PUBLIC, self.setting)

    def strength(self, method: Method, place: str) -> float | None:
        return None

    def training_trials(self) -> list[Any]:
        return [self.before_tuning(), *self.on_seeds("seed")]

    def references(self, seed: int) -> dict[str, Any]:
        """The attacks on the references of one seed, by role."""
        kind = "tuning reference" if seed == self.options.tuning_seed else "reference"
        needs = {"undisposed": (self.trained(seed),)}
        return {role: self.trial(kind, self.job(seed), "", role, needs.get(role, ())) for role in self.roles}

    def trained(self, seed: int) -> Any:
        """The trial that trains the model before disposal of one seed."""
        return self.trial("tuning seed" if seed == self.options.tuning_seed else "seed", self.job(seed))

    def disposal(self, contender: Contender, seed: int) -> Any:
        """A contender on one seed."""
        kind = "screening" if seed == self.options.tuning_seed else "method"
        return self.trial(kind, self.job(seed, **contender.options), contender.method, "", (self.trained(seed),))

    def labels(self, seed: int) -> list[Any]:
        """Models of the target alone that most twins are found among."""
        return [self.trial("labels", self.job(seed), "", node) for node in TREE]

    @cached_property
    def finalists(self) -> tuple[Contender, ...]:
        """What the reported seeds have: what was asked for, or what screening put first; and gradient collision."""
        names = self.asked or order(self)[:FINALISTS]
        return tuple(c for c in self.contenders if c.name in (*names, COLLISION))

    def twins(self, seed: int) -> dict[str, Any]:
        """The attacks on the twins of all finalists of a seed, by contender."""
        needed = tuple(self.disposal(c, seed) for c in self.finalists)
        names, options = ",".join(c.name for c in self.finalists), self.job(seed)
        search = self.trial("twins", options, "", names, (*needed,))
        return {c.name: self.trial("twin", options, "", c.name, (search,)) for c in self.finalists}

    def trials(self, part: int) -> list[Any]:
        seeds, tuning = self.seeds, self.options.tuning_seed
        if part == 0:
            first = [c for c in self.contenders if c.name in (*self.asked, COLLISION)]
            return [
                *self.training_trials(),
                *(t for seed in seeds for t in (*self.labels(seed), *self.references(seed).values())),
                *(self.disposal(c, seed) for c in first for seed in seeds),
                *(self._with_twins() if self.asked else ()),
                *self.references(tuning).values(),
                *(self.disposal(c, tuning) for c in self.contenders),
            ]
        return [*(self.disposal(c, seed) for c in self.finalists for seed in seeds), *self._with_twins()]

    def _with_twins(self) -> list[Any]:
        found = [twin for seed in self.seeds for twin in self.twins(seed).values()]
        return [*{needed.path: needed for twin in found for needed in twin.needs}.values(), *found]

    def summary(self) -> Summary:
        return summarise(self)

    def values(self, summary: Summary) -> dict[str, Any]:
        suites = {"suite": self.options.suite, "screening": self.options.screening}
        hashes = {name: find_suite(name).hashes[0] for name in suites.values()}
        return suites | {"hashes": hashes, "summary": summary.to_dict()}


def study_removal(options: RemovalOptions, log: Log = print) -> Summary:
    """Do what is left of the study, see `Study.run`."""
    return removal_study(options).run(log)


def removal_study(options: RemovalOptions) -> RemovalStudy:
    """Check the options before anything is written.

    Raises:
        ConfigError: an option is unknown, missing or out of its range.
    """
    o = options
    shared = options_of(SETTINGS, o.setting, data_dir=o.data_dir, model=o.model)
    shared |= {"suite": o.suite, "use_cpu": o.use_cpu} | read_overrides(o.override)
    for name in (o.suite, o.screening):
        find_suite(name)
    setting = SETTINGS[o.setting]
    study = RemovalStudy(o, shared)
    base = str(study.output / "model" / f"seed{PUBLIC}") if setting.tiny_resnet else None
    names = list(setting.methods) if o.methods is None else read_names(o.methods, "methods", "name different methods")
    contenders = tuple(Contender.of(name, shared["retain"], setting.classes, base) for name in names)
    asked = () if o.finalists is None else tuple(read_names(o.finalists, "finalists", "name some of the methods"))
    if unknown := [name for name in asked if name not in names]:
        raise ConfigError(f"--finalists {', '.join(unknown)}: they are not among the methods, {', '.join(names)}.")
    return replace(study, contenders=contenders, asked=asked)
