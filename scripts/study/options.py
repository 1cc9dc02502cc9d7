"""Options of the study, and what they come to: a main job for each seed and methods with strengths to choose from."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from hf_dtl.dtl import DTLOptions

from hf_dtl.audit.attacks import parse_attacks as attack_names
from hf_dtl.errors import ConfigError
from hf_dtl.methods.by_name import parse_method
from hf_dtl.methods.registry import method_names
from hf_dtl.options import numbers, option
from study.folder import start_folder
from study.settings import (
    FORGET_WEIGHT,
    KNOBS,
    SETTINGS,
    Knob,
    Setting,
    without_option,
    write_tiny_resnet,
)


@dataclass
class StudyOptions:
    """Options of the study."""

    setting: str = option("mnist_vit", f"Tasks and model: {', '.join(SETTINGS)}.")
    output_dir: str | None = option(None, "Folder of the study, continued there; default: outputs/study/SETTING.")
    seeds: str = option("1,2,3", "Training seeds that are reported, separated by commas.")
    tuning_seed: int = option(1000, "Training seed of a run of its own, on which each method's strength is chosen.")
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
        None, "Other options of the main job, as a JSON object: '{\"dispose_steps\": 600}'; they come last."
    )
    workers: int = option(2, "Processes side by side, each with one thread.")
    use_cpu: bool = option(False, "Train and attack on the CPU even if there is a GPU.")


@dataclass(frozen=True)
class Method:
    """A method with options of its own, and the strengths that tuning chooses from, ascending; one is no choice."""

    text: str
    knob: str
    strengths: tuple[float, ...]

    @classmethod
    def of(cls, text: str, knob: Knob, given: Any) -> "Method":
        """The method that a command line names; a strength among its own options (`given`) is not tuned."""
        strengths = knob.values if given is None else (float(given),)
        return cls(without_option(text, knob.option), knob.option, strengths)

    def at(self, strength: float) -> str:
        """The method at one strength, as a command line names it."""
        return f"{self.text}:{self.knob}={strength:g}"


@dataclass(frozen=True)
class Plan:
    """A checked study.

    Args:
        setting: what is compared on what.
        output: its folder.
        shared: options of the main job that all seeds share.
        seeds: the reported training seeds.
        tuning_seed, margin: see `StudyOptions`.
        methods: what is compared.
        unknown: methods of the setting that this library does not have.
        workers: processes side by side.
    """

    name: str
    setting: Setting
    output: Path
    shared: dict[str, Any]
    seeds: tuple[int, ...]
    tuning_seed: int
    margin: float
    methods: tuple[Method, ...]
    unknown: tuple[str, ...]
    workers: int

    def job(self, seed: int) -> DTLOptions:
        """Options of the main job of one training seed."""
        own = {"output_dir": str(self.output / "seeds" / str(seed)), "seed": seed}
        if self.setting.tiny_resnet:
            own["model_name_or_path"] = str(self.output / "model" / f"seed{seed}")
        return DTLOptions(**self.shared | own)

    def start(self) -> None:
        """Make the folder, or check that it holds an earlier part of this study.

        Raises:
            OutputError: it holds another study, or files that are not a study's.
        """
        free = {"attacks", "budgets", "audit_seeds", "attack_learning_rates", "successive_halving"}
        free |= {"use_cpu", "save_steps"}
        now = {"setting": self.name, **{name: value for name, value in self.shared.items() if name not in free}}
        start_folder(self.output, now)
        if self.setting.tiny_resnet:
            for seed in (*self.seeds, self.tuning_seed):
                write_tiny_resnet(self.output / "model" / f"seed{seed}", seed)


def plan(options: StudyOptions) -> Plan:
    """Check the options before anything is written.

    Raises:
        ConfigError: an option is unknown, missing or out of its range.
    """
    o = options
    if o.setting not in SETTINGS:
        raise ConfigError(f"Unknown --setting {o.setting!r}; there are: {', '.join(SETTINGS)}.")
    setting = SETTINGS[o.setting]
    for name in setting.needs:
        if getattr(o, name) is None and not (name == "model" and setting.tiny_resnet):
            raise ConfigError(f"--setting {o.setting} needs --{name}; see --help.")
    seeds = numbers(o.seeds, "seeds", int)
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ConfigError(f"--seeds {o.seeds!r} must be different numbers from 0 on.")
    if o.tuning_seed in seeds or o.tuning_seed < 0:
        raise ConfigError(
            f"--tuning_seed {o.tuning_seed} must be from 0 on and none of the reported --seeds {o.seeds}."
        )
    if not 0 <= o.margin <= 1:
        raise ConfigError(f"--margin {o.margin} must be in 0..1 (0.01 is one point of accuracy).")
    if o.workers < 1:
        raise ConfigError(f"--workers {o.workers} must be at least 1.")
    shared = _shared(o, setting)
    attack_names(shared["attacks"])
    names, unknown = setting.methods, tuple[str, ...]()
    if o.methods is None:
        unknown = tuple(text for text in names if text.split(":")[0] not in method_names())
        names = tuple(text for text in names if text not in unknown)
    else:
        names = tuple(part.strip() for part in o.methods.split(",") if part.strip())
    if not names or len(set(names)) < len(names):
        raise ConfigError(
            f"--methods {o.methods!r} must name one or several different methods: {', '.join(method_names())}."
        )
    methods = tuple(_method(text, shared) for text in names)
    output = Path(o.output_dir or f"outputs/study/{o.setting}")
    return Plan(o.setting, setting, output, shared, seeds, o.tuning_seed, o.margin, methods, unknown, o.workers)


def _shared(o: StudyOptions, setting: Setting) -> dict[str, Any]:
    places = {"data": o.data_dir or "", "model": o.model or ""}
    shared = {k: v.format(**places) if isinstance(v, str) else v for k, v in setting.options.items()}
    given = {name: getattr(o, name) for name in ("attacks", "budgets", "audit_seeds")}
    shared |= {name: value for name, value in given.items() if value is not None}
    return shared | {"use_cpu": o.use_cpu} | _overrides(o.override)


def _overrides(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError as error:
        raise ConfigError(f"--override {text!r} is not JSON ({error}); write '{{\"dispose_steps\": 600}}'.") from None
    if not isinstance(found, dict):
        raise ConfigError(f"--override {text!r} must be a JSON object, such as '{{\"dispose_steps\": 600}}'.")
    defaults = {f.name: f.default for f in fields(DTLOptions) if f.name not in ("output_dir", "seed", "methods")}
    for name, value in found.items():
        if name not in defaults:
            raise ConfigError(f"--override has the unknown option {name!r}; there are: {', '.join(defaults)}.")
        default = defaults[name]
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if default is None or (type(default) in (int, float) and number) or type(value) is type(default):
            continue
        raise ConfigError(f"--override {name}={value!r} must be of the type {type(default).__name__}.")
    return found


def _method(text: str, shared: Mapping[str, Any]) -> Method:
    """The method with its strengths; a strength among its own options is not tuned."""
    choice = parse_method(text)
    knob: Knob = KNOBS.get(choice.name, FORGET_WEIGHT)
    method = Method.of(text, knob, choice.options.get(knob.option))
    batch = shared.get("dispose_batch_size", DTLOptions().dispose_batch_size)
    for strength in method.strengths:
        parse_method(method.at(strength)).config(output_dir="", use_cpu=True, per_device_train_batch_size=batch)
    return method


def changed_options(options: StudyOptions) -> dict[str, Any]:
    """Every option that differs from its default, for the command that repeats the study."""
    defaults = asdict(StudyOptions())
    return {name: value for name, value in asdict(options).items() if value != defaults[name]}
