"""The study of instance-wise unlearning: cells in four parts, then the tables, the results and the picture."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_dtl.unlearn_options import UnlearnOptions

from hf_dtl.audit import parse_attacks
from hf_dtl.errors import ConfigError, DivergedError
from hf_dtl.options import numbers, option
from hf_dtl.pipeline.stages import write_atomically
from study.folder import start_folder
from study.instance_cells import InstanceCell, Kind, instancewise
from study.instance_report import (
    TOGETHER,
    Numbers,
    Requests,
    markdown,
    numbers_of,
    plot_instances,
    results,
    row_of,
)
from study.instance_settings import (
    COLLAGE_RATES,
    CONTINUAL,
    INSTANCE_OPTIONS,
    OURS,
    RATES,
    RESNET_RATES,
    SEARCH,
    VARIANTS,
    VARIANTS_BY_NAME,
)
from study.options import Method
from study.settings import write_tiny_resnet
from study.unlearn_run import reported_seeds, setting_options
from study.unlearn_settings import UNLEARN_SETTINGS
from study.workers import run_cells


@dataclass
class InstanceStudyOptions:
    """Options of the study."""

    setting: str = option("fashion_vit", f"Data and model: {', '.join(UNLEARN_SETTINGS)}.")
    output_dir: str | None = option(None, "Folder, continued there; default: outputs/instances/SETTING.")
    seeds: str = option("1,2,3", "Training seeds that are reported, separated by commas.")
    tuning_seed: int = option(1000, "Training seed of a run of its own, on which learning rates are chosen.")
    sizes: str = option("16,64,128,256", "Images of a single request (k), separated by commas.")
    tuned_sizes: str | None = option(
        None,
        "Those of --sizes that learning rates are chosen at; others take over those of the nearest. Default: every "
        "other one, from the smallest.",
    )
    drawn: int = option(256, "Training images that requests are dealt from; all others are retained.")
    variants: str = option(
        ",".join(VARIANTS),
        f"Variants, separated by commas: {', '.join(VARIANTS_BY_NAME)}, each with options of instancewise: "
        "NAME[:OPTION=VALUE]....",
    )
    continual: str = option("5x16", "Requests one after another, COUNTxSIZE; the size is one of --sizes.")
    continual_variants: str = option(",".join(CONTINUAL), "Variants that serve them, of --variants; empty: none.")
    cumulative_variants: str | None = option(
        None,
        "Those of --continual_variants that also serve each request together with all earlier ones, on the model "
        f"before the first. Default: {OURS}, where it is one of them.",
    )
    examples: int = option(8, "Adversarial examples of an image.")
    epsilon: float = option(4.0, "L2 distance of an example from its image, in pixels of range 0..1.")
    step_size: float = option(0.25, "Step of the search for them, likewise.")
    attack_steps: int = option(40, "Steps of that search.")
    attacks: str = option("linear_probe,full_published", "Attacks that relearn, as in scripts/unlearn.py.")
    data_dir: str | None = option(None, "CIFAR-10 for the settings on it: a folder of parquet files, or a Hub id.")
    workers: int = option(2, "Processes side by side, each with one thread.")
    use_cpu: bool = option(False, "Train and attack on the CPU even if there is a GPU.")


@dataclass(frozen=True)
class InstanceStudy:
    """A checked study, and its cells.

    Args:
        options: as asked for.
        output: its folder.
        shared: options of `UnlearnOptions` that all cells share.
        seeds: the reported training seeds.
        sizes: images of single requests, ascending.
        tuned: those of them that learning rates are chosen at.
        sequence: images of each of the requests that follow each other.
        variants: what is compared.
        continual: which of them serve requests one after another.
        cumulative: which of these also serve each together with all earlier ones.
    """

    options: InstanceStudyOptions
    output: Path
    shared: dict[str, Any]
    seeds: tuple[int, ...]
    sizes: tuple[int, ...]
    tuned: tuple[int, ...]
    sequence: tuple[int, ...]
    variants: tuple[Method, ...]
    continual: tuple[Method, ...]
    cumulative: tuple[Method, ...]

    @property
    def search(self) -> str:
        """Options of the adversarial examples."""
        return ":".join(f"{name}={getattr(self.options, name)}" for name in SEARCH)

    @property
    def requests(self) -> list[tuple[int, ...]]:
        """All requests, single ones first."""
        return [*((size,) for size in self.sizes), *([self.sequence] if self.continual else [])]

    def job(self, seed: int) -> UnlearnOptions:
        """Options of the job of one training seed, which knows all images that are drawn."""
        own: dict[str, Any] = {"output_dir": str(self.output / "seeds" / str(seed)), "seed": seed}
        if UNLEARN_SETTINGS[self.options.setting].tiny_resnet:
            own["model_name_or_path"] = str(self.output / "model" / f"seed{seed}")
        return UnlearnOptions(**self.shared, **own)

    def trained(self) -> list[InstanceCell]:
        """The cells that train, on the tuning seed first."""
        return [InstanceCell("seed", self.job(seed)) for seed in (self.options.tuning_seed, *self.seeds)]

    def undisposed(self, sizes: tuple[int, ...]) -> list[InstanceCell]:
        """What the models before answer, on every seed."""
        return [InstanceCell("undisposed", self.job(seed), sizes) for seed in self.seeds]

    def adversaries(self, seed: int, size: int, variant: Method) -> InstanceCell | None:
        """The cell that makes a variant's adversarial examples; None when it has none."""
        name, *own = variant.text.split(":")
        if not instancewise(variant.text, self.search).config(output_dir="", use_cpu=True).adversarial:
            return None
        sharing = ":".join(["adversarial", *(part for part in own if part.split("=")[0] in SEARCH)])
        return InstanceCell("adversaries", self.job(seed), (size,), sharing, self.search)

    def tuning(self, size: int, variant: Method) -> dict[float, InstanceCell]:
        """Every strength of a variant on the tuning seed."""
        job = self.job(self.options.tuning_seed)
        return {s: InstanceCell("tuning", job, (size,), variant.at(s), self.search) for s in variant.strengths}

    def unlearned(self, sizes: tuple[int, ...], variant: Method, strength: float, kind: Kind) -> list[InstanceCell]:
        """A variant on the reported seeds."""
        text = variant.at(strength)
        return [InstanceCell(kind, self.job(seed), sizes, text, self.search) for seed in self.seeds]

    def nearest(self, size: int) -> int:
        """The size whose learning rates a request takes: the nearest by their ratio, of two the larger."""
        return min(reversed(self.tuned), key=lambda tuned: max(tuned / size, size / tuned))

    def tried(self, size: int, variant: Method) -> dict[float, dict[str, float] | None]:
        """Accuracy on forget and validation images of the tuning seed at every strength; None where it diverged."""
        return {strength: cell.result().get("accuracy") for strength, cell in self.tuning(size, variant).items()}

    def start(self) -> None:
        """Make the folder, or check that it holds an earlier part of this study.

        Raises:
            OutputError: it holds another one, or other files.
        """
        now = {"setting": self.options.setting, **{k: v for k, v in self.shared.items() if k != "attacks"}}
        start_folder(self.output, now)
        if UNLEARN_SETTINGS[self.options.setting].tiny_resnet:
            for seed in (*self.seeds, self.options.tuning_seed):
                write_tiny_resnet(self.output / "model" / f"seed{seed}", seed, num_labels=10)


def plan(options: InstanceStudyOptions) -> InstanceStudy:
    """Check the options before anything is written.

    Raises:
        ConfigError: an option is unknown, missing or out of its range.
    """
    o = options
    shared = setting_options(o.setting, o.data_dir) | INSTANCE_OPTIONS
    seeds = reported_seeds(o.seeds, o.tuning_seed)
    if o.workers < 1:
        raise ConfigError(f"--workers {o.workers} must be at least 1.")
    parse_attacks(o.attacks)
    sizes = tuple(sorted(numbers(o.sizes, "sizes", int)))
    if len(set(sizes)) < len(sizes) or sizes[0] < 1 or sizes[-1] > o.drawn:
        raise ConfigError(f"--sizes {o.sizes!r} must be different numbers of 1 to --drawn {o.drawn} images.")
    shared |= {"forget": f"random={o.drawn}", "attacks": o.attacks, "use_cpu": o.use_cpu}
    output = Path(o.output_dir or f"outputs/instances/{o.setting}")
    tuned = sizes[::2] if o.tuned_sizes is None else tuple(sorted(set(numbers(o.tuned_sizes, "tuned_sizes", int))))
    if not tuned or not set(tuned) <= set(sizes):
        raise ConfigError(f"--tuned_sizes {o.tuned_sizes!r} must be some of --sizes {o.sizes}.")
    study = InstanceStudy(o, output, shared, seeds, sizes, tuned, (), (), (), ())
    texts = _listed(o.variants)
    if not texts or len(set(texts)) < len(texts):
        raise ConfigError(f"--variants {o.variants!r} must name different variants: {', '.join(VARIANTS)}.")
    variants = tuple(_variant(text, study) for text in texts)
    serving = _among(o, "continual_variants", o.continual_variants, "variants")
    together = o.cumulative_variants
    if together is None:
        together = ",".join(text for text in serving if text == OURS)
    cumulative = _among(o, "cumulative_variants", together, "continual_variants")
    sequence = _sequence(o, sizes) if serving else ()
    alone, both = (tuple(variants[texts.index(text)] for text in chosen) for chosen in (serving, cumulative))
    return InstanceStudy(o, output, shared, seeds, sizes, tuned, sequence, variants, alone, both)


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _among(o: InstanceStudyOptions, name: str, text: str, others: str) -> list[str]:
    """What an option lists, all of which another one must list too."""
    chosen, allowed = _listed(text), _listed(getattr(o, others))
    unknown = [one for one in chosen if one not in allowed]
    if unknown:
        raise ConfigError(f"--{name}: {', '.join(unknown)} must be among --{others} {getattr(o, others)}.")
    return chosen


def _variant(text: str, study: InstanceStudy) -> Method:
    """The variant with its strengths; a learning rate among its own options is not tuned."""
    if text.split(":")[0] not in VARIANTS_BY_NAME:
        raise ConfigError(f"Unknown variant {text!r}; it must begin with one of: {', '.join(VARIANTS_BY_NAME)}.")
    choice = instancewise(text, study.search)
    choice.config(output_dir="", use_cpu=True, per_device_train_batch_size=study.shared["unlearn_batch_size"])
    if text.split(":")[0] == OURS:
        rates = COLLAGE_RATES
    else:
        rates = RESNET_RATES if UNLEARN_SETTINGS[study.options.setting].tiny_resnet else RATES
    return Method.of(text, rates, choice.options.get(rates.option))


def _sequence(o: InstanceStudyOptions, sizes: tuple[int, ...]) -> tuple[int, ...]:
    count, _, size = o.continual.partition("x")
    if not (count.isdecimal() and size.isdecimal() and int(count) > 1):
        raise ConfigError(f"--continual {o.continual!r} must be COUNTxSIZE with two requests or more, such as 5x16.")
    if int(size) not in sizes:
        raise ConfigError(f"--continual {o.continual}: {size} must be one of --sizes {o.sizes}.")
    if int(count) * int(size) > o.drawn:
        raise ConfigError(f"--continual {o.continual} needs more images than --drawn {o.drawn}.")
    return (int(size),) * int(count)


def study_instances(options: InstanceStudyOptions, told: Callable[[str], None] = print) -> list[Requests]:
    """Do what is left of the study and write `table.md`, `results.json`, `instances.png` and `instances.svg`.

    Args:
        options: see `InstanceStudyOptions`.
        told: called with every line of progress.

    Raises:
        DTLError: an option, the output folder, the data or the model cannot be used; finished cells stay.
    """
    study = plan(options)
    study.start()
    workers, tuning_seed = options.workers, options.tuning_seed
    told("Part 1 of 4: train one model a seed.")
    run_cells(study.trained(), workers, told)
    told("Part 2 of 4: the adversarial examples that variants share, and what the models before answer.")
    wanted = [
        study.adversaries(seed, size, variant)
        for seed in (tuning_seed, *study.seeds)
        for size in (study.tuned if seed == tuning_seed else study.sizes)
        for variant in study.variants
    ]
    made = {cell.path: cell for cell in wanted if cell is not None}
    by_seed = zip(*(study.undisposed(sizes) for sizes in study.requests), strict=True)
    run_cells([*made.values(), *(cell for own in by_seed for cell in own)], workers, told)
    told("Part 3 of 4: the learning rates of the variants.")
    tuning = [c for size in study.tuned for v in study.variants for c in study.tuning(size, v).values()]
    run_cells(tuning, workers, told)
    at_tuned = {(size, v): choose(study.tried(size, v)) for size in study.tuned for v in study.variants}
    chosen = {(size, v): at_tuned[study.nearest(size), v] for size in study.sizes for v in study.variants}
    told("Part 4 of 4: the variants, on every seed.")
    by_seed = zip(*(o for sizes in study.requests for o in _unlearned(study, sizes, chosen).values()), strict=True)
    run_cells([cell for own in by_seed for cell in own], workers, told)
    found = [_requests(study, sizes, chosen) for sizes in study.requests]
    if not any(one.rows for one in found):
        raise DivergedError("No variant finished at any learning rate, so there is nothing to compare.")
    values = results(study, found, study.trained()[1].result())
    plot_instances(found, study.output / "instances", UNLEARN_SETTINGS[options.setting].title)
    write_atomically(study.output / "table.md", markdown(values, found))
    write_atomically(study.output / "results.json", json.dumps(values, indent=1, ensure_ascii=False) + "\n")
    told(f"Tables, results and picture: {study.output}")
    return found


def choose(tried: Mapping[float, Mapping[str, float] | None]) -> float | None:
    """Choose the strength with the best validation accuracy among those that forget everything.

    Where none does, the one that forgets most; of equals the first.

    Args:
        tried: accuracy on `forget` and `validation` images by strength; None where the training diverged.

    Returns:
        The strength; None when all diverged.

    Example:
        >>> choose({0.1: {"forget": 0.2, "validation": 0.9}, 1.0: {"forget": 0.0, "validation": 0.7}})
        1.0
    """
    finite = {strength: found for strength, found in tried.items() if found is not None}
    return max(finite, key=lambda s: (-finite[s]["forget"], finite[s]["validation"]), default=None)


Chosen = Mapping[tuple[int, Method], float | None]
Way = tuple[Method, Kind]


def _ways(study: InstanceStudy, sizes: tuple[int, ...]) -> list[Way]:
    """The variants, and how each serves these requests."""
    if len(sizes) == 1:
        return [(variant, "single") for variant in study.variants]
    alone: list[Way] = [(variant, "continual") for variant in study.continual]
    return alone + [(variant, "cumulative") for variant in study.cumulative]


def _unlearned(study: InstanceStudy, sizes: tuple[int, ...], chosen: Chosen) -> dict[Way, list[InstanceCell]]:
    """The cells of each variant that tuning found a strength for."""
    strengths = {way: chosen[sizes[0], way[0]] for way in _ways(study, sizes)}
    return {way: study.unlearned(sizes, way[0], s, way[1]) for way, s in strengths.items() if s is not None}


def _requests(study: InstanceStudy, sizes: tuple[int, ...], chosen: Chosen) -> Requests:
    before = [cell.result() for cell in study.undisposed(sizes)]
    cells, single, rows = _unlearned(study, sizes, chosen), len(sizes) == 1, []
    for (variant, kind), own in cells.items():
        made = [study.adversaries(seed, sizes[0], variant) if single else None for seed in study.seeds]
        seconds = [None if cell is None else cell.result()["cpu"] for cell in made]
        tried = study.tried(sizes[0], variant) if single and sizes[0] in study.tuned else {}
        name = own[0].variant + (TOGETHER if kind == "cumulative" else "")
        rows.append(row_of(name, [cell.result() for cell in own], before, seconds, tried))
    missing = [variant.text for variant, kind in _ways(study, sizes) if (variant, kind) not in cells]
    failed = dict.fromkeys(missing, "the training diverged at every learning rate")
    return Requests(sizes, Numbers(**numbers_of("undisposed", before)), tuple(rows), failed)
