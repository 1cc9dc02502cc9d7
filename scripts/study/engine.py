"""The engine of every study: trials that are done once, in parts that follow each other, then tables and a picture."""

import json
import math
import shlex
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar

from hf_dtl.audit import PiggybackRecord
from hf_dtl.audit.attacks import parse_attacks
from hf_dtl.audit.report import library_version, machine, without_folders
from hf_dtl.errors import ConfigError, DataError, DivergedError, OutputError
from hf_dtl.fingerprint import fingerprint
from hf_dtl.methods.by_name import MethodChoice
from hf_dtl.models.loading import quiet
from hf_dtl.options import numbers, option
from hf_dtl.pipeline.forget import JOBS
from hf_dtl.pipeline.forget_options import ForgetOptions
from hf_dtl.pipeline.job import Job
from hf_dtl.pipeline.options import RATES
from hf_dtl.pipeline.stages import changed_settings, write_atomically
from study.settings import Setting, write_tiny_resnet
from study.tuning import Method
from study.workers import run_trials

RECORD = "study.json"
SCHEMA_VERSION = 2
"""Of results.json. 1 had older names of options, and called the attack with the best TEST accuracy the strongest
(`relearned` of single images and of several tasks, `new_head`); from 2 on validation accuracy decides everywhere."""
ATTACKER = frozenset({"suite", "attacks", "budgets", "seeds", *RATES, "successive_halving"})
"""Options of the attacker: what attacks nothing does not depend on them."""
_MACHINE = frozenset({"use_cpu", "max_stack", "save_steps"})
DIVERGED = "the training diverged at every strength"

Log = Callable[[str], None]


@dataclass(frozen=True)
class Trial:
    """One piece of a study: done once, in any process; its result is a file.

    Args:
        kind: what is done, see `works`.
        options: of the job that it is a piece of.
        method: at one strength, as a command line names it; empty for what all methods share.
        place: the request, or what else the study puts methods side by side on; empty where there is one.
        needs: trials of the same part that come before it.
    """

    kind: str
    options: ForgetOptions
    method: str = ""
    place: str = ""
    needs: tuple["Trial", ...] = ()

    works: ClassVar[Mapping[str, Callable[[Any, Any], dict[str, Any]]]]
    """By kind: what is done with the trial and its job, to give a result in JSON values."""
    attacking: ClassVar[frozenset[str]]
    """Kinds that attack; in all others, tuning among them, nothing is attacked."""

    @property
    def title(self) -> str:
        """The trial for a line of progress."""
        where = f"{self.kind}, seed {self.options.seed}" + (f", {self.place}" if self.place else "")
        return f"{where}: {self.method}" if self.method else where

    @property
    def path(self) -> Path:
        """The file of the result; the trial is finished when it is there."""
        return Path(self.options.output_dir) / "results" / f"{self._name(self.kind in self.attacking)}.json"

    @property
    def store(self) -> str:
        """File of its finished attacks in the job's folder, which another attacker adds to."""
        return f"attacks/{self._name(False)}.jsonl"

    def _name(self, attacker: bool) -> str:
        """A name from all that decides the result."""
        out = _MACHINE if attacker else _MACHINE | ATTACKER
        options = {name: value for name, value in self.options.recorded().items() if name not in out}
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("options", "needs")}
        name = self.method.split(":")[0] or self.kind.split()[-1]
        return f"{name}-{fingerprint([without_folders(options), own])[:12]}"

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.path.exists()

    def result(self) -> dict[str, Any]:
        """The result of a finished trial; of a method that diverged, the reason alone."""
        return json.loads(self.path.read_text(encoding="utf-8"))

    def load(self) -> Job:
        """The job of the trial; the last two are kept, because trials of a seed follow each other."""
        quiet()
        job = _load_job(json.dumps(asdict(self.options)))
        job.run.share()  # other trials of the seed are done in other processes, none of them twice
        return job

    def do(self, job: Job) -> None:
        """Do the trial unless it is finished; that a method diverges, or refuses its images, is a result."""
        if self.finished:
            return
        try:
            result = self.works[self.kind](self, job)
        except (DivergedError, DataError) as error:
            if not self.method:
                raise
            result = {"diverged": str(error)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, json.dumps(result, indent=1) + "\n")

    def scrub(self, job: Any, choice: MethodChoice) -> tuple[Any, dict[str, float] | None]:
        """What a method makes of the prepared model, and what that took."""
        job.prepare()
        return job.unlearn(choice), job.cost(job.disposal_stage(choice))

    def attack(self, job: Job, models: Mapping[str, Any], task: str = "source") -> list[dict[str, Any]]:
        """Attack models by role on one task of the job; a store of the trial's own keeps every finished attack."""
        attacked = {task: job.scenario.attacked[task]}
        return [asdict(record) for record in job.attack_on(models, attacked, self.store, progress=False)]


@lru_cache(maxsize=2)
def _load_job(options: str) -> Job:
    options_of_job = ForgetOptions(**json.loads(options))
    return JOBS[options_of_job.kind](options_of_job)


def records_of(result: Mapping[str, Any]) -> list[PiggybackRecord]:
    """The attacks of a result; none on a model that diverged."""
    return [PiggybackRecord.from_dict(entry) for entry in result.get("attacks", ())]


def attack_references(trial: Trial, job: Any) -> dict[str, Any]:
    """The attacks on the undisposed model and the references."""
    return {"attacks": trial.attack(job, {"undisposed": job.prepare(), **job.references()})}


def training_record(job: Job, stage: str, parameters: int) -> dict[str, Any]:
    """What a trial that trains tells of the model, its images and the machine."""
    return {
        "cost": job.cost(stage),
        "images": job.scenario.counts(),
        "machine": machine(job.state.device),
        "parameters": parameters,
    }


@dataclass
class RunOptions:
    """Options of every study."""

    setting: str = option("", "Data and model.")
    output_dir: str | None = option(None, "Folder of the study, continued there; default: in outputs/, by setting.")
    seeds: str = option("1,2,3", "Training seeds that are reported, separated by commas.")
    tuning_seed: int = option(1000, "Training seed of a run of its own, on which each method's strength is chosen.")
    workers: int = option(2, "Processes side by side, each with one thread.")
    use_cpu: bool = option(False, "Train and attack on the CPU even if there is a GPU.")

    def reported_seeds(self) -> tuple[int, ...]:
        """Check the seeds and the number of workers, and read the former.

        Raises:
            ConfigError: a seed is negative or listed twice, or tuning is done on it.
        """
        seeds, tuning = numbers(self.seeds, "seeds", int), self.tuning_seed
        if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0 or tuning in seeds or tuning < 0:
            raise ConfigError(
                f"--seeds {self.seeds!r} must be different numbers from 0 on, and --tuning_seed {tuning} none of them."
            )
        if self.workers < 1:
            raise ConfigError(f"--workers {self.workers} must be at least 1.")
        return seeds


def read_names(text: str, name: str, what: str) -> list[str]:
    """Read different names separated by commas, of an option.

    Raises:
        ConfigError: there is none, or one twice; the message says `what` it must do.
    """
    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"--{name} {text!r} must {what}.")
    return names


@dataclass(frozen=True)
class Study(ABC):
    """A checked study: its trials, in parts of which a later one needs the earlier ones, and what they come to.

    Args:
        options: as asked for.
        shared: options of the jobs of all trials.
        methods: what is compared.
        places: on what: requests, or scopes.
    """

    options: Any
    shared: dict[str, Any]
    methods: tuple[Method, ...] = ()
    places: tuple[str, ...] = ("",)

    script: ClassVar[str]
    outputs: ClassVar[str]
    """Folder in outputs/."""
    picture: ClassVar[str]
    markdown: ClassVar[Callable[[Any, Any], str]]
    """Writes the study, from the results and the numbers."""
    plot: ClassVar[Callable[[Any, Path, str], Any]]
    settings: ClassVar[Mapping[str, Setting]]
    trial: ClassVar[type[Trial]]
    parts: ClassVar[tuple[str, ...]]
    """What is done in each part, in words; `trials` gives its trials."""

    def __post_init__(self) -> None:
        _ = self.seeds
        if "attacks" in self.shared:  # else a suite attacks
            parse_attacks(self.shared["attacks"])

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """The reported training seeds."""
        return self.options.reported_seeds()

    @property
    def setting(self) -> Setting:
        """Data and model."""
        return self.settings[self.options.setting]

    @property
    def output(self) -> Path:
        """Folder of the study."""
        return Path(self.options.output_dir or f"outputs/{self.outputs}/{self.options.setting}")

    # TextTable ----------------------------------------------------------------------------------------------------

    def job(self, seed: int, place: str = "") -> ForgetOptions:
        """Options of the job of one training seed."""
        own = {"output_dir": str(self.output / "seeds" / str(seed) / self._folder(place)), "seed": seed}
        if self.setting.tiny_resnet:
            own["model"] = str(self.output / "model" / f"seed{seed}")
        return ForgetOptions(**self.shared | own | self.of_place(place))

    def of_place(self, place: str) -> dict[str, Any]:
        """Options of the jobs of one place."""
        return {}

    @staticmethod
    def _folder(place: str) -> str:
        return "".join(c if c.isalnum() else "_" for c in place)

    def on_seeds(self, kind: str, place: str = "", method: str = "") -> list[Any]:
        """A trial on each of the reported seeds."""
        return [self.trial(kind, self.job(seed, place), method, place) for seed in self.seeds]

    def before_tuning(self, place: str = "") -> Any:
        """The trial that trains on the tuning seed."""
        return self.trial("tuning seed", self.job(self.options.tuning_seed, place), "", place)

    def tuning(self, method: Method, place: str = "") -> dict[float, Any]:
        """Every strength of a method on the tuning seed."""
        job = self.job(self.options.tuning_seed, place)
        return {s: self.trial("tuning", job, method.at(s), place) for s in method.strengths}

    @abstractmethod
    def strength(self, method: Method, place: str) -> float | None:
        """The strength that tuning chose; None where the training diverged at every one."""

    def method_trials(self) -> dict[tuple[str, Method], list[Any]]:
        """By place and method, the trials of what tuning found a strength for."""
        chosen = {(place, method): self.strength(method, place) for place in self.places for method in self.methods}
        return {
            (place, method): self.on_seeds("method", place, method.at(strength))
            for (place, method), strength in chosen.items()
            if strength is not None
        }

    def failures(self, place: str, trials: Iterable[tuple[str, Method]]) -> dict[str, str]:
        """Why a method has no row."""
        present = set(trials)
        return {method.text: DIVERGED for method in self.methods if (place, method) not in present}

    def training_trials(self) -> list[Any]:
        """The trials that train, on every seed."""
        return [c for place in self.places for c in (self.before_tuning(place), *self.on_seeds("seed", place))]

    def trials(self, part: int) -> Sequence[Any]:
        """The trials of a part; those of the parts before are finished."""
        if part == 0:
            return self.training_trials()
        if part == 1:
            tuning = [c for place in self.places for m in self.methods for c in self.tuning(m, place).values()]
            return [*tuning, *(c for place in self.places for c in self.on_seeds("references", place))]
        return by_seed(self.method_trials().values())

    # A run ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Make the folder, or check that it holds an earlier part of this study.

        Raises:
            OutputError: it holds another study, or files that are not a study's.
        """
        lasting = {name: value for name, value in self.shared.items() if name not in ATTACKER | _MACHINE}
        settings, folder = {"setting": self.options.setting, **lasting}, self.output
        record = folder / RECORD
        if folder.is_file():
            raise OutputError(f"The output folder {folder} is a file. Choose another --output_dir.")
        if record.exists() and (changed := changed_settings(record, settings)):
            raise OutputError(
                f"The output folder {folder} holds another study ({'; '.join(changed)}). Choose another "
                "--output_dir, or repeat that study's options to continue it."
            )
        files = folder.iterdir() if folder.is_dir() and not record.exists() else ()
        if any(path.name != f".{RECORD}.partial" for path in files):
            raise OutputError(f"The output folder {folder} holds files that are not a study's. Choose another one.")
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(record, json.dumps(settings, indent=2) + "\n")
        if self.setting.tiny_resnet:
            for seed in (*self.seeds, self.options.tuning_seed):
                write_tiny_resnet(self.output / "model" / f"seed{seed}", seed, self.setting)

    def run(self, log: Log) -> Any:
        """Do what is left, and write `table.md`, `results.json` and the picture as .png and .svg.

        Args:
            log: called with every line of progress.

        Raises:
            DTLError: the output folder, the data or the model cannot be used; finished trials stay.
        """
        minutes = getattr(self.options, "minutes", None)
        until = math.inf if minutes is None else time.monotonic() + 60 * minutes
        self.start()
        for number, title in enumerate(self.parts):
            log(f"Part {number + 1} of {len(self.parts)}: {title}.")
            left = run_trials(self.trials(number), self.options.workers, log, until)
            if left:
                log(f"Time is up. Left of this part: {', '.join(trial.title for trial in left)}.")
                if not any(trial.finished for trial in self.training_trials()):
                    return None
                break
        summary = self.summary()
        values = json.loads(json.dumps(without_folders(self.metadata() | self.values(summary))))
        self.plot(summary, self.output / self.picture, self.setting.title)
        write_atomically(self.output / "table.md", self.markdown(values, summary))
        write_atomically(self.output / "results.json", json.dumps(values, indent=1, ensure_ascii=False) + "\n")
        log(f"Tables, results and picture: {self.output}")
        return summary

    def metadata(self) -> dict[str, Any]:
        """What the results of every study begin with."""
        trial = next(trial for trial in reversed(self.training_trials()) if trial.finished)
        trained, options = trial.result(), trial.options.recorded()
        return {
            "schema_version": SCHEMA_VERSION,
            "library_version": library_version(),
            "setting": self.options.setting,
            "title": self.setting.title,
            "command": self.command(),
            "date": datetime.now(UTC).date().isoformat(),
            **{name: trained[name] for name in ("machine", "parameters", "images")},
            "seeds": self.seeds,
            "tuning_seed": self.options.tuning_seed,
            "options": {name: value for name, value in options.items() if name not in ("seed", "model")},
        }

    def command(self) -> str:
        """The command that repeats the study, with the options that differ from their defaults."""
        words = ["python", f"scripts/{self.script}.py", "--setting", self.options.setting]
        for own in fields(self.options):
            value = getattr(self.options, own.name)
            if own.name not in ("setting", "output_dir") and value != own.default:
                words += [f"--{own.name}", str(value)]
        return without_folders(shlex.join(words))

    @abstractmethod
    def summary(self) -> Any:
        """The numbers, from finished trials."""

    @abstractmethod
    def values(self, summary: Any) -> dict[str, Any]:
        """What the results say besides `metadata`."""


def by_seed(trials: Iterable[Sequence[Any]]) -> list[Any]:
    """Trials of several methods, one after another on each seed."""
    return [trial for own in zip(*trials, strict=True) for trial in own]
