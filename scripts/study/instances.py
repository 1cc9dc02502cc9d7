"""The study of instance-wise unlearning: single images of a model are misnamed, in requests of several sizes."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from hf_dtl.errors import ConfigError, DivergedError
from hf_dtl.options import numbers, option
from study.engine import DIVERGED, Log, RunOptions, Study, by_seed, read_names
from study.instance_trials import InstanceTrial, instancewise
from study.plots import plot_instances
from study.settings import options_of
from study.settings.instances import (
    ADVERSARIES_A_STEP,
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
from study.settings.unlearning import SETTINGS
from study.tables.instances import TOGETHER, Requests, VariantRow, markdown, numbers_of, row_of
from study.tuning import Method


@dataclass
class InstanceStudyOptions(RunOptions):
    """Options of the study."""

    setting: str = option("fashion_vit", f"Data and model: {', '.join(SETTINGS)}.")
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

    @property
    def search(self) -> str:
        """Options of the adversarial examples, as a command line names them."""
        return ":".join(f"{name}={getattr(self, name)}" for name in SEARCH)


Way = tuple[Method, str]
"""A variant, and how it serves requests: a kind of trial."""


@dataclass(frozen=True)
class InstanceStudy(Study):
    """The study; its methods are the variants.

    Args:
        sizes: images of single requests, ascending.
        tuned: those of them that learning rates are chosen at.
        sequence: images of each of the requests that follow each other.
        continual: which variants serve requests one after another.
        cumulative: which of these also serve each together with all earlier ones.
    """

    sizes: tuple[int, ...] = ()
    tuned: tuple[int, ...] = ()
    sequence: tuple[int, ...] = ()
    continual: tuple[Method, ...] = ()
    cumulative: tuple[Method, ...] = ()

    script: ClassVar = "study_instances"
    outputs: ClassVar = "instances"
    picture: ClassVar = "instances"
    markdown: ClassVar = staticmethod(markdown)
    plot: ClassVar = staticmethod(plot_instances)
    settings: ClassVar = SETTINGS
    trial: ClassVar = InstanceTrial
    parts: ClassVar = (
        "train one model a seed",
        "the adversarial examples that variants share, and what the models before answer",
        "the learning rates of the variants",
        "the variants, on every seed",
    )

    @property
    def requests(self) -> list[tuple[int, ...]]:
        """All requests, single ones first."""
        return [*((size,) for size in self.sizes), *([self.sequence] if self.continual else [])]

    def _trial(self, kind: str, seed: int, sizes: tuple[int, ...] = (), variant: str = "") -> InstanceTrial:
        several = f"{len(sizes)} x " if len(sizes) > 1 else ""
        place = f"k = {several}{sizes[0]}" if sizes else ""
        search = self.options.search if variant else ""
        return InstanceTrial(kind, self.job(seed), variant, place, requests=sizes, search=search)

    def training_trials(self) -> list[InstanceTrial]:
        return [self._trial("seed", seed) for seed in (self.options.tuning_seed, *self.seeds)]

    def undisposed(self, sizes: tuple[int, ...]) -> list[InstanceTrial]:
        """What the models before answer, on every seed."""
        return [self._trial("undisposed", seed, sizes) for seed in self.seeds]

    def adversaries(self, seed: int, size: int, variant: Method) -> InstanceTrial | None:
        """The trial that makes a variant's adversarial examples; None when it has none."""
        _, *own = variant.text.split(":")
        if not instancewise(variant.text, self.options.search).config(output_dir="", use_cpu=True).adversarial:
            return None
        sharing = ":".join(["adversarial", *(part for part in own if part.split("=")[0] in SEARCH)])
        return self._trial("adversaries", seed, (size,), sharing)

    def tuning(self, method: Method, place: Any = "") -> dict[float, InstanceTrial]:
        """Every strength of a variant on the tuning seed; `place` is the size of a request."""
        return {s: self._trial("tuning", self.options.tuning_seed, (place,), method.at(s)) for s in method.strengths}

    def tuning_results(self, method: Method, size: int) -> dict[float, dict[str, float] | None]:
        """Accuracy on forget and validation images of the tuning seed at every strength; None where it diverged."""
        return {strength: trial.result().get("accuracy") for strength, trial in self.tuning(method, size).items()}

    def nearest(self, size: int) -> int:
        """The size whose learning rates a request takes: the nearest by their ratio, of two the larger."""
        return min(reversed(self.tuned), key=lambda tuned: max(tuned / size, size / tuned))

    def strength(self, method: Method, place: Any) -> float | None:
        return choose(self.tuning_results(method, self.nearest(place)))

    def ways(self, sizes: tuple[int, ...]) -> list[Way]:
        """The variants, and how each serves these requests."""
        if len(sizes) == 1:
            return [(variant, "single") for variant in self.methods]
        return [*((v, "continual") for v in self.continual), *((v, "cumulative") for v in self.cumulative)]

    def seed_trials(self, sizes: tuple[int, ...], variant: Method, strength: float, kind: str) -> list[InstanceTrial]:
        """A variant on the reported seeds."""
        return [self._trial(kind, seed, sizes, variant.at(strength)) for seed in self.seeds]

    def variant_trials(self, sizes: tuple[int, ...]) -> dict[Way, list[InstanceTrial]]:
        """The trials of each variant that tuning found a strength for."""
        chosen = {way: self.strength(way[0], sizes[0]) for way in self.ways(sizes)}
        return {way: self.seed_trials(sizes, way[0], s, way[1]) for way, s in chosen.items() if s is not None}

    def trials(self, part: int) -> Sequence[InstanceTrial]:
        if part == 0:
            return self.training_trials()
        if part == 1:
            wanted = [
                self.adversaries(seed, size, variant)
                for seed in (self.options.tuning_seed, *self.seeds)
                for size in (self.tuned if seed == self.options.tuning_seed else self.sizes)
                for variant in self.methods
            ]
            shared = {trial.path: trial for trial in wanted if trial is not None}
            return [*shared.values(), *by_seed(self.undisposed(sizes) for sizes in self.requests)]
        if part == 2:
            return [c for size in self.tuned for v in self.methods for c in self.tuning(v, size).values()]
        return by_seed(own for sizes in self.requests for own in self.variant_trials(sizes).values())

    def summary(self) -> list[Requests]:
        requests = [self._requests(sizes) for sizes in self.requests]
        if not any(one.rows for one in requests):
            raise DivergedError("No variant finished at any learning rate, so there is nothing to compare.")
        return requests

    def _requests(self, sizes: tuple[int, ...]) -> Requests:
        undisposed = [trial.result() for trial in self.undisposed(sizes)]
        trials, single, rows = self.variant_trials(sizes), len(sizes) == 1, []
        for (variant, kind), own in trials.items():
            shared = [self.adversaries(seed, sizes[0], variant) if single else None for seed in self.seeds]
            seconds = [None if trial is None else trial.result()["cpu"] for trial in shared]
            tried = self.tuning_results(variant, sizes[0]) if single and sizes[0] in self.tuned else {}
            name = own[0].method + (TOGETHER if kind == "cumulative" else "")
            rows.append(row_of(name, [trial.result() for trial in own], undisposed, seconds, tried))
        failed = {variant.text: DIVERGED for variant, kind in self.ways(sizes) if (variant, kind) not in trials}
        return Requests(sizes, VariantRow(**numbers_of("undisposed", undisposed)), tuple(rows), failed)

    def values(self, requests: list[Requests]) -> dict[str, Any]:
        return {
            "tuned_sizes": self.tuned,
            "adversaries": {name: getattr(self.options, name) for name in SEARCH},
            "adversaries_a_step": ADVERSARIES_A_STEP,
            "requests": [asdict(one) for one in requests],
        }


def choose(accuracies: Mapping[float, Mapping[str, float] | None]) -> float | None:
    """Choose the strength with the best validation accuracy among those that forget everything.

    Where none does, the one that forgets most; of equals the first.

    Args:
        accuracies: accuracy on `forget` and `validation` images by strength; None where the training diverged.

    Returns:
        The strength; None when all diverged.

    Example:
        >>> choose({0.1: {"forget": 0.2, "validation": 0.9}, 1.0: {"forget": 0.0, "validation": 0.7}})
        1.0
    """
    finite = {strength: one for strength, one in accuracies.items() if one is not None}
    return max(finite, key=lambda s: (-finite[s]["forget"], finite[s]["validation"]), default=None)


def study_instances(options: InstanceStudyOptions, log: Log = print) -> list[Requests]:
    """Do what is left of the study, see `Study.run`."""
    return instance_study(options).run(log)


def instance_study(options: InstanceStudyOptions) -> InstanceStudy:
    """Check the options before anything is written.

    Raises:
        ConfigError: an option is unknown, missing or out of its range.
    """
    o = options
    shared = options_of(SETTINGS, o.setting, data_dir=o.data_dir) | INSTANCE_OPTIONS
    shared |= {"forget": f"random={o.drawn}", "attacks": o.attacks, "use_cpu": o.use_cpu}
    sizes = tuple(sorted(numbers(o.sizes, "sizes", int)))
    if len(set(sizes)) < len(sizes) or sizes[0] < 1 or sizes[-1] > o.drawn:
        raise ConfigError(f"--sizes {o.sizes!r} must be different numbers of 1 to --drawn {o.drawn} images.")
    tuned = sizes[::2] if o.tuned_sizes is None else tuple(sorted(set(numbers(o.tuned_sizes, "tuned_sizes", int))))
    if not tuned or not set(tuned) <= set(sizes):
        raise ConfigError(f"--tuned_sizes {o.tuned_sizes!r} must be some of --sizes {o.sizes}.")
    texts = read_names(o.variants, "variants", f"name different variants: {', '.join(VARIANTS)}")
    variants = tuple(_variant(text, o, shared["forget_batch_size"]) for text in texts)
    serving = _among("continual_variants", o.continual_variants, "variants", o.variants)
    together = o.cumulative_variants
    if together is None:
        together = ",".join(text for text in serving if text == OURS)
    cumulative = _among("cumulative_variants", together, "continual_variants", o.continual_variants)
    sequence = _sequence(o, sizes) if serving else ()
    alone, both = (tuple(variants[texts.index(text)] for text in chosen) for chosen in (serving, cumulative))
    return InstanceStudy(
        o, shared, variants, sizes=sizes, tuned=tuned, sequence=sequence, continual=alone, cumulative=both
    )


def _among(name: str, text: str, others: str, allowed: str) -> list[str]:
    """What an option lists, all of which another one must list too."""
    chosen, names = ([part.strip() for part in listed.split(",") if part.strip()] for listed in (text, allowed))
    unknown = [one for one in chosen if one not in names]
    if unknown:
        raise ConfigError(f"--{name}: {', '.join(unknown)} must be among --{others} {allowed}.")
    return chosen


def _variant(text: str, o: InstanceStudyOptions, batch: int) -> Method:
    """The variant with its strengths; a learning rate among its own options is not tuned."""
    name = text.split(":")[0]
    if name not in VARIANTS_BY_NAME:
        raise ConfigError(f"Unknown variant {text!r}; it must begin with one of: {', '.join(VARIANTS_BY_NAME)}.")
    choice = instancewise(text, o.search)
    choice.config(output_dir="", use_cpu=True, per_device_train_batch_size=batch)
    rates = RESNET_RATES if SETTINGS[o.setting].tiny_resnet else RATES
    if name == OURS:
        rates = COLLAGE_RATES
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
