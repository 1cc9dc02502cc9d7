"""The study of multi-task unlearning: cells in three parts, then the tables, the results and the picture."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hf_dtl.multitask_options import split_names
from hf_dtl.unlearn_options import UnlearnOptions

from hf_dtl.audit import parse_attacks
from hf_dtl.errors import ConfigError, DivergedError
from hf_dtl.options import option
from hf_dtl.pipeline.stages import write_atomically
from study.folder import start_folder
from study.options import Method
from study.task_cells import TaskCell, strategy
from study.task_report import Scope, markdown, plot_impact, reference_row, results, row_of
from study.task_settings import ABLATION, METHODS, OURS, RATES, SCOPES, TASK_SETTINGS
from study.unlearn_run import reported_seeds
from study.workers import run_cells


@dataclass
class TaskStudyOptions:
    """Options of the study."""

    setting: str = option("glyphs", f"Data and model: {', '.join(TASK_SETTINGS)}.")
    output_dir: str | None = option(None, "Folder, continued there; default: outputs/tasks/SETTING.")
    seeds: str = option("1,2,3", "Training seeds that are reported, separated by commas.")
    tuning_seed: int = option(1000, "Training seed of a run of its own, on which learning rates are chosen.")
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
    workers: int = option(2, "Processes side by side, each with one thread.")
    use_cpu: bool = option(False, "Train and attack on the CPU even if there is a GPU.")


@dataclass(frozen=True)
class TaskStudy:
    """A checked study, and its cells.

    Args:
        options: as asked for.
        output: its folder.
        shared: options of `UnlearnOptions` that all cells share.
        seeds: the reported training seeds.
        scopes: for which tasks images are forgotten.
        methods: what is compared.
    """

    options: TaskStudyOptions
    output: Path
    shared: dict[str, Any]
    seeds: tuple[int, ...]
    scopes: tuple[str, ...]
    methods: tuple[Method, ...]

    def model(self, seed: int) -> UnlearnOptions:
        """Options of the job that trains the model of a training seed, which all scopes share."""
        folder = self.output / "seeds" / str(seed) / "model"
        return UnlearnOptions(**self.shared, output_dir=str(folder), seed=seed)

    def job(self, scope: str, seed: int) -> UnlearnOptions:
        """Options of the job of one scope on that model."""
        model, partial = self.model(seed), TASK_SETTINGS[self.options.setting].partial
        own = {
            "output_dir": str(self.output / "seeds" / str(seed) / scope),
            "model_name_or_path": str(Path(model.output_dir) / "stages" / "train"),
            "forget_tasks": ",".join(partial) if scope == "partial" else None,
            "reference": "retrain",
            "train_epochs": None,
            "retrain_epochs": model.train_epochs,
        }
        return replace(model, **own)

    def trained(self) -> list[TaskCell]:
        """The cells that train, on the tuning seed first."""
        return [TaskCell("seed", self.model(seed)) for seed in (self.options.tuning_seed, *self.seeds)]

    def references(self, scope: str) -> list[TaskCell]:
        """What the models before, and those trained again, answer on the reported seeds."""
        return [TaskCell("references", self.job(scope, seed)) for seed in self.seeds]

    def tuning(self, scope: str, method: Method) -> dict[float, TaskCell]:
        """Every strength of a method on the tuning seed."""
        job = replace(self.job(scope, self.options.tuning_seed), membership=False)
        return {strength: TaskCell("tuning", job, method.at(strength)) for strength in method.strengths}

    def method(self, scope: str, method: Method, strength: float) -> list[TaskCell]:
        """A method on the reported seeds."""
        return [TaskCell("method", self.job(scope, seed), method.at(strength)) for seed in self.seeds]

    def tried(self, scope: str, method: Method) -> dict[float, float | None]:
        """Mean UIS of the tuning seed at every strength, on validation images; None where it diverged."""
        return {strength: cell.result().get("uis") for strength, cell in self.tuning(scope, method).items()}

    def start(self) -> None:
        """Make the folder, or check that it holds an earlier part of this study.

        Raises:
            OutputError: it holds another one, or other files.
        """
        start_folder(self.output, {"setting": self.options.setting, **self.shared})


def plan(options: TaskStudyOptions) -> TaskStudy:
    """Check the options before anything is written.

    Raises:
        ConfigError: an option is unknown, missing or out of its range.
    """
    o = options
    if o.setting not in TASK_SETTINGS:
        raise ConfigError(f"Unknown --setting {o.setting!r}; there are: {', '.join(TASK_SETTINGS)}.")
    seeds = reported_seeds(o.seeds, o.tuning_seed)
    if o.workers < 1:
        raise ConfigError(f"--workers {o.workers} must be at least 1.")
    scopes = tuple(split_names(o.scopes) or ())
    if not scopes or len(set(scopes)) < len(scopes) or not set(scopes) <= set(SCOPES):
        raise ConfigError(f"--scopes {o.scopes!r} must be {' or '.join(SCOPES)}, or both.")
    texts = split_names(o.methods) or []
    if not texts or len(set(texts)) < len(texts):
        raise ConfigError(f"--methods {o.methods!r} must name different strategies: {', '.join(METHODS)}.")
    shared = TASK_SETTINGS[o.setting].options | {
        "methods": "multitask",
        "forget": o.forget,
        "use_cpu": o.use_cpu,
    }
    parse_attacks(shared["attacks"])
    output = Path(o.output_dir or f"outputs/tasks/{o.setting}")
    return TaskStudy(o, output, shared, seeds, scopes, tuple(_method(text, OURS in texts) for text in texts))


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


def study_tasks(options: TaskStudyOptions, told: Callable[[str], None] = print) -> list[Scope]:
    """Do what is left of the study and write `table.md`, `results.json`, `impact.png` and `impact.svg`.

    Args:
        options: see `TaskStudyOptions`.
        told: called with every line of progress.

    Raises:
        DTLError: an option, the output folder or the data cannot be used; finished cells stay.
    """
    study = plan(options)
    study.start()
    workers, scopes = options.workers, study.scopes
    told("Part 1 of 3: train one model a seed.")
    run_cells(study.trained(), workers, told)
    told("Part 2 of 3: the learning rates of the methods, and the references.")
    tuning = [cell for s in scopes for m in study.methods for cell in study.tuning(s, m).values()]
    run_cells([*tuning, *(cell for scope in scopes for cell in study.references(scope))], workers, told)
    chosen: dict[tuple[str, Method], float] = {}
    for scope in scopes:
        whole = next((method for method in study.methods if method.text == OURS), None)
        for method in study.methods:
            tuned = method if method.strengths or whole is None else whole
            tried = {s: uis for s, uis in study.tried(scope, tuned).items() if uis is not None}
            if tried:
                chosen[scope, method] = min(tried, key=lambda s: tried[s])
    told("Part 3 of 3: the methods, on every seed.")
    cells = {key: study.method(*key, strength) for key, strength in chosen.items()}
    run_cells([cell for own in zip(*cells.values(), strict=True) for cell in own], workers, told)
    found = [_scope(study, scope, {m: c for (s, m), c in cells.items() if s == scope}) for scope in scopes]
    if not any(one.rows for one in found):
        raise DivergedError("No method finished at any learning rate, so there is nothing to compare.")
    values = results(options, study.shared, found, study.trained()[1].result())
    plot_impact(found, study.output / "impact", TASK_SETTINGS[options.setting].title)
    write_atomically(study.output / "table.md", markdown(values, found))
    write_atomically(study.output / "results.json", json.dumps(values, indent=1, ensure_ascii=False) + "\n")
    told(f"Tables, results and picture: {study.output}")
    return found


def _scope(study: TaskStudy, scope: str, cells: dict[Method, list[TaskCell]]) -> Scope:
    before = [cell.result() for cell in study.references(scope)]
    rows = [
        row_of(own[0].method, [cell.result() for cell in own], before, study.tried(scope, method))
        for method, own in cells.items()
    ]
    failed = {m.text: "the training diverged at every learning rate" for m in study.methods if m not in cells}
    return Scope(
        name=scope,
        tasks=tuple(before[0]["tasks"]),
        forgotten=tuple(task for task, forgotten in before[0]["tasks"].items() if forgotten),
        images=before[0]["images"],
        references=tuple(reference_row(role, before) for role in ("original", "retrained")),
        rows=tuple(rows),
        failed=failed,
    )
