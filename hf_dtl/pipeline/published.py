"""A published model as a stranger's: files are checked before they are loaded, the report before it is believed."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from PIL import Image

from hf_dtl.audit import AttackConfig, LeakageReport
from hf_dtl.audit.attacks import attack_sets, parse_attacks
from hf_dtl.audit.report import library_version
from hf_dtl.audit.report_fields import LARGEST
from hf_dtl.audit.suites import CUSTOM, IMAGES, find_suite
from hf_dtl.audit.verdict import USUAL_MARGIN
from hf_dtl.errors import ConfigError, DataError, ModelError, PublishError, listing
from hf_dtl.hub.staging import ATTRIBUTES, CARD, DRAWINGS, REPORT, check_published, own_card, published_names
from hf_dtl.hub.verification import LEAST_IMAGES, differing_weights
from hf_dtl.hub.weights import weights_sha256
from hf_dtl.options import numbers
from hf_dtl.pipeline.audit_options import VerifyOptions

MOST = 10_000
"""Steps, images, ranks of an attacker of no suite; and of its values in a list one hundredth."""
_FILES = ["*.json", "*.safetensors", CARD, "plots/*.png", ATTRIBUTES]
_PLACE = re.compile(r"\s*(?:[~/\\.]|[A-Za-z]:[/\\]|file:)|(?:^|[/\\])\.\.(?:[/\\]|$)")


@dataclass(frozen=True)
class Published:
    """A published folder that holds what one may hold.

    Args:
        folder: where it is.
        report: its own.
        wrong: what is not as the report says, as sentences: files that were changed, another card.
        notes: what else is to be known.
        otherwise: what may say something else than the report, as sentences.
    """

    folder: Path
    report: LeakageReport
    wrong: tuple[str, ...]
    notes: tuple[str, ...]
    otherwise: tuple[str, ...]


def read_published(options: VerifyOptions) -> Published:
    """Fetch a published model and check its files as publishing does.

    Raises:
        DataError, ModelError: there is no report or no safetensors file, or something that a published model must
            not hold; nothing was loaded.
    """
    folder, there, notes = _folder(options)
    if (folder / "scrubbed" / REPORT).is_file():
        raise DataError(
            f"There is no {REPORT} of {options.model!r} alone. There is a model in {options.model}/scrubbed."
        )
    if not (folder / REPORT).is_file():
        raise DataError(f"There is no {REPORT} in {options.model!r}, so there is nothing to verify.")
    report = LeakageReport.load(folder / REPORT)
    if not (actual := weights_sha256(folder)):
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl"))
        instead = f"; {', '.join(pickles)} is a pickle, which is never loaded" if pickles else ""
        raise ModelError(f"There are no safetensors weights in {options.model!r}{instead}.")
    try:
        check_published(folder)
    except PublishError as error:
        raise ModelError(f"{options.model!r} is not as a published model must be: {error}") from error
    if unread := [n for n in there if fnmatch(n, DRAWINGS) or (n == ATTRIBUTES and _strange(folder / n))]:
        notes.append(f"Publishing leaves {listing(unread, 3)} behind, and nobody looked at what is in there.")
    wrong, (other_card, otherwise) = differing_weights(report.weights, actual), _card(folder, report, notes)
    return Published(folder, report, (*wrong, *other_card), tuple(notes), tuple(otherwise))


def _strange(attributes: Path) -> bool:
    """Whether a file says more than git's attributes of large files do."""
    lines = attributes.read_bytes().splitlines()
    return not all(
        re.fullmatch(rb"(?:[\w.*?/\[\]-]{1,60}(?: (?:filter|diff|merge)=lfs| -text)+)?", line) for line in lines
    )


def _folder(options: VerifyOptions) -> tuple[Path, list[str], list[str]]:
    """The published model: its folder, as given or what the Hub has of it, every file that is there, and notes."""
    folder = Path(options.model).expanduser()
    if folder.is_dir():
        return folder, [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*"))], []
    try:
        found = Path(
            snapshot_download(
                options.model, revision=options.revision, allow_patterns=_FILES, ignore_patterns=["*/*/*"]
            )
        )
    except Exception as error:  # whatever the Hub's client raises
        raise ModelError(
            f"{options.model!r} is no folder here, and cannot be read from the Hub: {error}\nGive a folder or a Hub "
            "id; the Hub needs a network and HF_HUB_OFFLINE unset."
        ) from error
    try:  # what was not fetched must not be there either
        there = HfApi().list_repo_files(options.model, revision=found.name)
        published_names(there, Path(options.model))
    except PublishError as error:
        raise ModelError(f"{options.model!r} is not as a published model must be: {error}") from error
    except Exception:  # as above
        return found, [ATTRIBUTES], ["The Hub could not be asked which other files it has of this model."]
    return found, there, []


def _card(folder: Path, report: LeakageReport, notes: list[str]) -> tuple[list[str], list[str]]:
    """What is wrong with the card, and what it says otherwise than this version would, as sentences."""
    if not (folder / CARD).is_file():
        notes.append("There is no card beside the report.")
        return [], []
    try:
        own_card(folder, report)
    except PublishError as error:
        if report.library_version == library_version():
            return [str(error)], []
        return [], [
            f"hf_dtl {report.library_version} wrote the card, it says, and this version makes another one: nothing in "
            "it was checked. Verify with that version, or a copy of the folder without the card."
        ]
    return [], []


def other_pictures(folder: Path, report: LeakageReport) -> list[str]:
    """Pictures of a published folder that are not those that this machine draws of the report."""
    shown = sorted((folder / "plots").glob("*.png"))
    if not shown:
        return []
    with TemporaryDirectory() as drawn:
        report.plot(drawn)
        return [path.name for path in shown if not _same_picture(path, Path(drawn) / path.name)]


def _same_picture(one: Path, other: Path) -> bool:
    if not other.is_file():
        return False
    with Image.open(one) as first, Image.open(other) as second:
        return first.size == second.size and first.convert("RGB").tobytes() == second.convert("RGB").tobytes()


# The attacker -------------------------------------------------------------------------------------------------


def attacker(
    report: LeakageReport, parameters: int, options: VerifyOptions
) -> tuple[AttackConfig, list[str], list[str], bool]:
    """Who attacks here: the report's suite, as this library has it, not as the report tells it.

    Args:
        report: the published one.
        parameters: of the published model.
        options: `attacks` and `budgets` leave some out.

    Returns:
        The attacker; runs of the report that he does not make, and why he is weaker than a suite's, as sentences;
        whether the options leave some attacks out.

    Raises:
        DataError: the settings of an attacker of no suite cannot be used.
        ConfigError: an attack or budget is not in the report.
    """
    less = []
    if report.suite_name != CUSTOM:
        config = find_suite(report.suite_name).config(parameters)
        if config.hash() != report.suite["hash"]:
            less.append(f"Its attacks are those that {report.suite_name} has for networks of another size.")
    else:
        config = _own_attacker(report)
        less.append("It was attacked by a choice of its publisher's (custom): a claim takes standard-1.")
    every, strange = (config.attacks, config.budgets), _strange_runs(report, config)
    if options.attacks is not None:
        chosen = _among("attacks", parse_attacks(options.attacks), config.attacks, sets=options.attacks)
        config = replace(config, attacks=chosen)
    if options.budgets is not None:
        chosen = _among("budgets", numbers(options.budgets, "budgets", int), config.budgets)
        config = replace(config, budgets=chosen)
    return config, strange, less, (config.attacks, config.budgets) != every


def _strange_runs(report: LeakageReport, config: AttackConfig) -> list[str]:
    """Runs of a report that its attacker does not make, so that nobody has them here, as a sentence."""
    found = [
        f"{r.attack} of {r.budget} images a class, draw {r.seed}"
        for r in report.piggyback
        if r.attack not in config.attacks or r.budget not in config.budgets or r.seed not in config.seeds
    ]
    which = listing([*dict.fromkeys(found)], 3)
    told = f"The report has {len(found)} runs that {report.suite_name} does not make: {which}."
    return [told] if found else []


def _own_attacker(report: LeakageReport) -> AttackConfig:
    own = report.settings.get("audit")
    if not isinstance(own, dict):
        raise DataError("The report's settings have no `audit`, so it is not known how the attacks were run.")
    try:
        free = ("workers", "max_stack", "eval_batch_size")
        told: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in own.items() if k not in free}
        config = AttackConfig(**told)
        _check_bounds(config)
        # What has a result was run, also where the settings were cut.
        attacks = dict.fromkeys((*config.attacks, *(record.attack for record in report.piggyback)))
        budgets = dict.fromkeys((*config.budgets, *(record.budget for record in report.piggyback)))
        config = replace(config, attacks=tuple(attacks), budgets=tuple(budgets))
        _check_bounds(config)
    except (TypeError, ValueError) as error:
        raise DataError(f"The attacker's settings in the report cannot be used: {error}") from error
    return config


def _check_bounds(config: AttackConfig) -> None:
    """Refuse settings of a stranger that are of another type, or would take all time and memory."""
    for f in fields(config):
        value: Any = getattr(config, f.name)
        if f.default is None:
            continue
        plain: Any = f.default[0] if isinstance(f.default, tuple) else f.default
        many = value if isinstance(f.default, tuple) else (value,)
        kinds = (int, float) if isinstance(plain, float) else type(plain)
        most = LARGEST if f.name == "seeds" else MOST
        if not isinstance(many, tuple) or len(many) > MOST // 100:
            raise ConfigError(f"`{f.name}` must be a list of at most {MOST // 100} values, got {str(value)[:80]}.")
        for one in many:
            if not isinstance(one, kinds) or isinstance(one, bool) != isinstance(plain, bool):
                raise ConfigError(f"`{f.name}` must be {type(plain).__name__}, got {str(one)[:80]!r}.")
            if not isinstance(one, str) and not one <= most:
                raise ConfigError(f"`{f.name}` must be at most {most}, got {one}.")


def _among(name: str, requested: Sequence[Any], available: Sequence[Any], sets: str = "") -> tuple[Any, ...]:
    """Those of the report's values that are wanted; of a named set of attacks the report may lack some."""
    words = [word.strip() for word in sets.split(",")]
    named_sets = {attack for word in words for attack in attack_sets().get(word, ())}
    unknown = [value for value in requested if value not in available and value not in named_sets]
    chosen = tuple(value for value in available if value in requested)
    if unknown or not chosen:
        missing = ", ".join(map(str, unknown or requested))
        raise ConfigError(f"--{name}: {missing} is not in the report, which has {', '.join(map(str, available))}.")
    return chosen


def weaker_images(report: LeakageReport, judged: Mapping[str, int]) -> list[str]:
    """Why the images of a report are too few to tell, as sentences.

    Args:
        report: the published one.
        judged: validation and test images by name, of every attacked task.
    """
    cap, less = (report.spec or {}).get("max_eval_images"), []
    if isinstance(cap, int) and cap < IMAGES:
        less.append(f"It cuts the images that judge the attacks to {cap}: at least {IMAGES} are wanted, or all.")
    few = [f"{count} {name}" for name, count in judged.items() if count < LEAST_IMAGES]
    if few:
        less.append(
            f"Too few images judge the attacks to tell numbers apart: {', '.join(few)}; {LEAST_IMAGES} are wanted."
        )
    if not isinstance(report.settings.get("images"), dict):
        less.append("It does not say how many images there were (`images` in its settings).")
    if report.target_margin > USUAL_MARGIN:
        less.append(
            f"It calls a target task destroyed only when its accuracy fell by {report.target_margin:.2f}; "
            f"{USUAL_MARGIN:.2f} is usual."
        )
    return less


# The scenario's description -----------------------------------------------------------------------------------


def public_base(report: LeakageReport) -> str | None:
    """Hub id of the public weights that a report attacks as the floor `base`; None where it names none."""
    for name in ("base_model", "model"):
        told = report.settings.get(name)
        if isinstance(told, str) and any(r.model == "base" for r in report.piggyback) and not Path(told).exists():
            try:
                validate_repo_id(told)
            except HFValidationError:
                continue
            return told
    return None


def check_places(values: Mapping[str, Any]) -> None:
    """Refuse a stranger's data that lie outside the folder where this is run.

    Raises:
        DataError: an absolute path, one of a home, or one with `..`.
    """
    for name in ("forget", "retain", "novel", "transfer_dataset"):
        if isinstance(text := values.get(name), str) and _PLACE.search(text.partition("[")[0]):
            raise DataError(
                f"The report names {text!r} as its data to {name}: a report's folders are not opened. Give your own "
                f"with --{name}."
            )


def spec_of(report: LeakageReport) -> dict[str, Any]:
    """The spec of a report; of schema 1 it follows from the settings of the job that wrote it."""
    if report.spec:
        return report.spec
    s = report.settings
    images = {name: s.get(name) for name in ("image_column", "max_eval_images")} | {"seed": s.get("seed", 0)}
    if report.unlearning is not None:
        own = {"forget": s.get("forget"), "retain": s.get("dataset")}
        own |= {"retain_label_column": s.get("label_column"), "retain_images_per_class": s.get("images_per_class")}
        return {"kind": "part", **_set(images | own)}
    names = {"forget": "source", "retain": "target", "novel": "novel"}
    own = {new: s.get(f"{old}_dataset") for new, old in names.items()}
    own |= {f"{new}_label_column": s.get(f"{old}_label_column") for new, old in names.items()}
    if "scrubbed" not in s:
        own |= {f"{new}_images_per_class": s.get(f"{names[new]}_images_per_class") for new in ("forget", "retain")}
        return {"kind": "task", **_set(images | own)}
    most = max(s["audit"]["budgets"])
    pool = s.get("max_train_images_per_class") or min(max(400, 4 * most), 20 * most)
    retain_pool = None if s.get("retrain") and not s.get("max_train_images_per_class") else pool
    return {"kind": "task", **_set(images | own | {"seed": 0, "pool": pool, "retain_pool": retain_pool})}


def _set(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def check_counts(settings: Mapping[str, Any], images: Mapping[str, Any]) -> None:
    """Refuse data that are not as many as the report's: other images give other numbers."""
    told, here = _counts(settings.get("images") or {}), _counts(images)
    both = sorted(told.keys() & here)
    other = [f"{name} {told[name]} there, {here[name]} here" for name in both if told[name] != here[name]]
    if other:
        raise DataError(
            f"The report's attacks had other numbers of images: {'; '.join(other)}. Give the same data, with "
            "--forget, --retain or --novel where they are in another place."
        )


def _counts(images: Mapping[str, Any]) -> dict[str, int]:
    """Number of images by name, or by name and split."""
    flat: dict[str, int] = {}
    for name, part in images.items():
        splits = {f"{name} {split}": own for split, own in part.items()} if isinstance(part, Mapping) else {name: part}
        flat |= splits
    return flat
