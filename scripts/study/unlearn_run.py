"""The comparison of unlearning methods: cells in three parts, then the tables, the results and the picture."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_dtl.unlearn_options import UnlearnOptions

from hf_dtl.audit.attacks import parse_attacks as attack_names
from hf_dtl.data import ForgetRequest
from hf_dtl.errors import ConfigError, DivergedError
from hf_dtl.functional import average_gap
from hf_dtl.methods.by_name import parse_method
from hf_dtl.methods.registry import method_names
from hf_dtl.options import numbers, option
from hf_dtl.pipeline.stages import write_atomically
from study.folder import start_folder
from study.options import Method
from study.settings import write_tiny_resnet
from study.unlearn_cells import TUNED_ON, UnlearnCell, outcome
from study.unlearn_report import Comparison, markdown, method_row, plot_gap, reference_row, results
from study.unlearn_settings import RATES, REQUESTS, UNLEARN_KNOBS, UNLEARN_METHODS, UNLEARN_SETTINGS
from study.workers import run_cells


@dataclass
class ComparisonOptions:
    """Options of the comparison."""

    setting: str = option("fashion_vit", f"Data and model: {', '.join(UNLEARN_SETTINGS)}.")
    output_dir: str | None = option(None, "Folder, continued there; default: outputs/compare/SETTING.")
    seeds: str = option("1,2,3", "Training seeds that are reported, separated by commas.")
    tuning_seed: int = option(1000, "Training seed of a run of its own, on which each method's strength is chosen.")
    requests: str = option(";".join(REQUESTS), "What to forget, separated by semicolons, as in scripts/unlearn.py.")
    methods: str = option(",".join(UNLEARN_METHODS), "Methods, each NAME[:OPTION=VALUE]..., separated by commas.")
    attacks: str = option("linear_probe,full,full_published", "Attacks as in scripts/unlearn.py.")
    data_dir: str | None = option(None, "CIFAR-10 for the settings on it: a folder of parquet files, or a Hub id.")
    workers: int = option(2, "Processes side by side, each with one thread.")
    use_cpu: bool = option(False, "Train and attack on the CPU even if there is a GPU.")


@dataclass(frozen=True)
class Study:
    """A checked comparison, and its cells.

    Args:
        options: as asked for.
        output: its folder.
        shared: options of `UnlearnOptions` that all cells share.
        seeds: the reported training seeds.
        requests: what to forget.
        methods: what is compared.
    """

    options: ComparisonOptions
    output: Path
    shared: dict[str, Any]
    seeds: tuple[int, ...]
    requests: tuple[str, ...]
    methods: tuple[Method, ...]

    def job(self, request: str, seed: int) -> UnlearnOptions:
        """Options of the job of one request and training seed."""
        name = "".join(c if c.isalnum() else "_" for c in request)
        own: dict[str, Any] = {"output_dir": str(self.output / "seeds" / str(seed) / name), "seed": seed}
        if UNLEARN_SETTINGS[self.options.setting].tiny_resnet:
            own["model_name_or_path"] = str(self.output / "model" / f"seed{seed}")
        return UnlearnOptions(**self.shared, **own, forget=request)

    def trained(self, request: str) -> list[UnlearnCell]:
        """The cells that train and retrain on the reported seeds."""
        return [UnlearnCell("seed", self.job(request, seed)) for seed in self.seeds]

    def tuning_seed(self, request: str) -> UnlearnCell:
        """The same on the tuning seed."""
        return UnlearnCell("tuning seed", self.job(request, self.options.tuning_seed))

    def references(self, request: str) -> list[UnlearnCell]:
        """The attacks on the references."""
        return [UnlearnCell("references", self.job(request, seed)) for seed in self.seeds]

    def tuning(self, request: str, method: Method) -> dict[float, UnlearnCell]:
        """Every strength of a method on the tuning seed."""
        options = self.job(request, self.options.tuning_seed)
        return {strength: UnlearnCell("tuning", options, method.at(strength)) for strength in method.strengths}

    def method(self, request: str, method: Method, strength: float) -> list[UnlearnCell]:
        """A method on the reported seeds."""
        return [UnlearnCell("method", self.job(request, seed), method.at(strength)) for seed in self.seeds]

    def gaps(self, request: str, method: Method) -> dict[float, float | None]:
        """Average gap to the retrained model at every strength, on forget, retain and validation images.

        None where the training diverged.
        """
        accuracy = self.tuning_seed(request).result()["accuracy"]
        goal = {split: accuracy[split]["retrained"] for split in TUNED_ON}
        found: dict[float, float | None] = {}
        for strength, cell in self.tuning(request, method).items():
            own = cell.result().get("accuracy")
            found[strength] = average_gap({split: own[split]["scrubbed"] for split in TUNED_ON}, goal) if own else None
        return found

    def start(self) -> None:
        """Make the folder, or check that it holds an earlier part of this comparison.

        Raises:
            OutputError: it holds another one, or other files.
        """
        now = {"setting": self.options.setting, **{k: v for k, v in self.shared.items() if k not in ("attacks",)}}
        start_folder(self.output, now, "comparison")
        if UNLEARN_SETTINGS[self.options.setting].tiny_resnet:
            for seed in (*self.seeds, self.options.tuning_seed):
                write_tiny_resnet(self.output / "model" / f"seed{seed}", seed, num_labels=10)


def setting_options(name: str, data_dir: str | None) -> dict[str, Any]:
    """Options of `UnlearnOptions` of a setting.

    Raises:
        ConfigError: there is no such setting, or it needs a folder of data.
    """
    if name not in UNLEARN_SETTINGS:
        raise ConfigError(f"Unknown --setting {name!r}; there are: {', '.join(UNLEARN_SETTINGS)}.")
    options = UNLEARN_SETTINGS[name].options
    if "{data}" in str(options["dataset"]) and data_dir is None:
        raise ConfigError(f"--setting {name} needs --data_dir; see --help.")
    return {k: v.format(data=data_dir) if k == "dataset" else v for k, v in options.items()}


def reported_seeds(text: str, tuning_seed: int) -> tuple[int, ...]:
    """Read the training seeds.

    Raises:
        ConfigError: one is negative or listed twice, or tuning is done on it.
    """
    seeds = numbers(text, "seeds", int)
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0 or tuning_seed in seeds or tuning_seed < 0:
        raise ConfigError(
            f"--seeds {text!r} must be different numbers from 0 on, and --tuning_seed {tuning_seed} none of them."
        )
    return seeds


def plan(options: ComparisonOptions) -> Study:
    """Check the options before anything is written.

    Raises:
        ConfigError, DataError: an option is unknown, missing or out of its range.
    """
    o = options
    shared = setting_options(o.setting, o.data_dir)
    seeds = reported_seeds(o.seeds, o.tuning_seed)
    if o.workers < 1:
        raise ConfigError(f"--workers {o.workers} must be at least 1.")
    attack_names(o.attacks)
    requests = tuple(part.strip() for part in o.requests.split(";") if part.strip())
    if not requests:
        raise ConfigError("--requests names nothing to forget.")
    for request in requests:
        ForgetRequest.parse(request)
    texts = [part.strip() for part in o.methods.split(",") if part.strip()]
    if not texts or len(set(texts)) < len(texts):
        raise ConfigError(f"--methods {o.methods!r} must name different methods: {', '.join(method_names())}.")
    shared |= {"attacks": o.attacks, "use_cpu": o.use_cpu}
    output = Path(o.output_dir or f"outputs/compare/{o.setting}")
    return Study(o, output, shared, seeds, requests, tuple(_method(text) for text in texts))


def _method(text: str) -> Method:
    """The method with its strengths; a strength among its own options is not tuned."""
    choice = parse_method(text)
    knob = UNLEARN_KNOBS.get(choice.name, RATES)
    return Method.of(text, knob, choice.options.get(knob.option))


def compare(options: ComparisonOptions, told: Callable[[str], None] = print) -> list[Comparison]:
    """Do what is left of a comparison and write `table.md`, `results.json`, `gap.png` and `gap.svg`.

    Args:
        options: see `ComparisonOptions`.
        told: called with every line of progress.

    Raises:
        DTLError: an option, the output folder, the data or the model cannot be used; finished cells stay.
    """
    study = plan(options)
    study.start()
    requests, workers = study.requests, options.workers
    told("Part 1 of 3: train the models, and train them again without what is to be forgotten.")
    run_cells([cell for r in requests for cell in (study.tuning_seed(r), *study.trained(r))], workers, told)
    told("Part 2 of 3: the strengths of the methods, and the attacks on the references.")
    tuning = [cell for r in requests for m in study.methods for cell in study.tuning(r, m).values()]
    run_cells([*tuning, *(cell for r in requests for cell in study.references(r))], workers, told)
    chosen: dict[tuple[str, Method], float] = {}
    failed: dict[str, dict[str, str]] = {request: {} for request in requests}
    for request in requests:
        for method in study.methods:
            gaps = {strength: gap for strength, gap in study.gaps(request, method).items() if gap is not None}
            if gaps:
                chosen[request, method] = min(gaps, key=lambda strength: gaps[strength])
            else:
                failed[request][method.text] = "the training diverged at every strength"
    told("Part 3 of 3: the methods, on every seed.")
    cells = {key: study.method(*key, strength) for key, strength in chosen.items()}
    run_cells([cell for own in zip(*cells.values(), strict=True) for cell in own], workers, told)
    found = [_comparison(study, request, chosen, failed[request]) for request in requests]
    trained = study.trained(requests[0])[0].result()
    values = results(options, study.shared, found, trained)
    plot_gap(found, study.output / "gap", UNLEARN_SETTINGS[options.setting].title)
    write_atomically(study.output / "table.md", markdown(values, found))
    write_atomically(study.output / "results.json", json.dumps(values, indent=1, ensure_ascii=False) + "\n")
    told(f"Tables, results and picture: {study.output}")
    return found


def _comparison(
    study: Study, request: str, chosen: dict[tuple[str, Method], float], failed: dict[str, str]
) -> Comparison:
    trained, references = study.trained(request), study.references(request)
    rows, any_outcome = [], []
    for method in study.methods:
        if (request, method) in chosen:
            strength = chosen[request, method]
            cells = study.method(request, method, strength)
            found = [outcome(*own) for own in zip(cells, trained, references, strict=True)]
            any_outcome = any_outcome or [o for o in found if o is not None and None not in found]
            rows.append(method_row(method.at(strength), found, study.gaps(request, method)))
    if not any_outcome:
        raise DivergedError(f"No method finished on {request} on every seed, so there is nothing to compare.")
    models = ("undisposed", "retrained")
    images = trained[0].result()["images"]
    before = [cell.result() for cell in trained]
    costs = {"undisposed": [b["cost"]["train"] for b in before], "retrained": [b["cost"]["retrained"] for b in before]}
    return Comparison(
        request=request,
        images={name: images[name] for name in ("forget", "retain")},
        seeds=study.seeds,
        references=tuple(reference_row(model, any_outcome, costs[model]) for model in models),
        rows=tuple(rows),
        failed=failed,
    )
