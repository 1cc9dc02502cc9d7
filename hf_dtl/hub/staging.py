"""The folder that is published: copies of what is meant to be public, refused where they would leak something."""

import math
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import ModelCard, ModelCardData

from hf_dtl.audit import LeakageReport
from hf_dtl.errors import DataError, OutputError, PublishError
from hf_dtl.hub.card import leakage_card, licence_line
from hf_dtl.hub.leaks import INDEX, check_json, check_labels, check_text, check_weights, leak_of, texts_of
from hf_dtl.hub.metadata import card_metadata, license_of
from hf_dtl.hub.weights import ONE, model_folders, sha256_of, weights_sha256

CONFIG, REPORT, CARD, PLOTS = "config.json", "leakage_report.json", "README.md", "plots/*.png"
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
MODEL = (CONFIG, *PROCESSORS, "model.safetensors", "model-?????-of-?????.safetensors", INDEX)
"""What a model's folder may hold; a model of several tasks has one such folder a task."""
EVIDENCE = (CARD, REPORT, PLOTS)
# Stands beside what is published and does no harm; it stays behind.
NOT_NEEDED = ("plots/*.svg",)
_REWRITE = "Write the card anew from the report: `hf_dtl.hub.staging.add_evidence(folder, report)`."
_PICTURE = re.compile(r"\]\((plots/[^)\s]+)\)")


class StagedFile(NamedTuple):
    """One file of the staged folder: its path there, its size in bytes, and its SHA-256."""

    name: str
    size: int
    sha256: str


def stage(output: str | Path, new: str | Path, license: str | None = None) -> tuple[StagedFile, ...]:
    """Copy what is to be published to an empty folder, and check the copies.

    Published are the model and its processor (of several tasks, a folder with both for each), the leakage card, the
    report and the plots. What a run keeps besides them (other models, checkpoints, finished attacks) is not looked at.
    In the model's own folder, however, nothing else may stand: a leak there is refused and not skipped, because
    somebody meant to publish it.

    Args:
        output: output folder of a run (`scrubbed/` in it is published, with the report and the plots beside it where
            it has none of its own), or a model's folder.
        new: the empty folder to fill. After an error it holds a part.
        license: what the copy of the card is to name, as the Hub writes it; default: what it names.

    Returns:
        The staged files by name.

    Raises:
        PublishError: a file is missing, does not belong to the others, or would leak something; the message names it.
        OutputError: `new` is not empty.

    Example:
        >>> stage("outputs/demo", "outputs/to_publish")  # doctest: +SKIP
    """
    output, new = Path(output), Path(new)
    new.mkdir(parents=True, exist_ok=True)
    if any(new.iterdir()):
        raise OutputError(f"The folder {new} is not empty. Choose another one.")
    for name, path in _publishable_files(output).items():
        (new / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(path, new / name)
    files = sorted(path.relative_to(new).as_posix() for path in new.rglob("*") if path.is_file())
    models = model_folders(new)
    _check_complete(new, files, models)
    for name in files:
        with _error_context(Path(name).parent.name):
            if name.endswith(".json"):
                check_json(new / name)
            check_text(name, texts_of(new / name))
    for model in models:
        with _error_context(model):
            check_weights(new / model)
            check_labels(check_json(new / model / CONFIG))
    report = _report(new)
    if license:
        _name_license(new / CARD, license)
    _check_tasks(new, report, models)
    _check_card(new, report, files)
    return tuple(StagedFile(name, (new / name).stat().st_size, sha256_of(new / name)) for name in files)


def add_evidence(
    folder: str | Path, report: LeakageReport, *, base_model: str | None = None, license: str | None = None
) -> None:
    """Write report, plots and leakage card into the folder of a saved model, so that it can be published.

    Args:
        folder: what `trainer.save_model(folder)` or `save_pretrained` wrote.
        report: of an audit of these weights.
        base_model: Hub id or folder of the model that the work started from; the card names a Hub id alone.
        license: as the Hub writes it (`apache-2.0`); default: what the base model's card says.
    """
    folder = Path(folder)
    license = license or (license_of(base_model) if base_model else None)
    configs = {model: check_json(folder / model / CONFIG) for model in model_folders(folder)}
    labels = {model: config.get("id2label") or config["label_names"] for model, config in configs.items()}
    plots = folder / "plots"
    plots.mkdir(exist_ok=True)
    shown = [f"plots/{picture.name}" for picture in report.plot(plots) if picture.suffix == ".png"]
    card = leakage_card(
        report, base_model=base_model, model_labels=labels.get(ONE, labels), plots=shown, license=license
    )
    card.save(folder / CARD)
    report.save(folder / REPORT)


def _name_license(path: Path, license: str) -> None:
    card = _card(path)
    old, card.data["license"] = licence_line(card.data.get("license")), license
    card.text = card.text.replace(old, licence_line(license))
    card.save(path)


def _publishable_files(output: Path) -> dict[str, Path]:
    model = output / "scrubbed" if (output / "scrubbed").is_dir() else output
    if not model.is_dir():
        raise PublishError(f"There is no folder {output}. Give the output folder of a run, or a model's folder.")
    models, chosen = model_folders(model), dict[str, Path]()
    for path in sorted(model.rglob("*")):  # links are not followed
        if path.is_dir() and not path.is_symlink():
            continue
        name = path.relative_to(model).as_posix()
        _check_inside(path, output)
        if any(fnmatch(name, pattern) for pattern in NOT_NEEDED):
            continue
        leak = leak_of(name)
        if leak is not None:
            raise PublishError(f"{path} is {leak.what}. {leak.remedy}.")
        folder = path.parent.relative_to(model).as_posix()
        own = folder in models and any(fnmatch(path.name, pattern) for pattern in MODEL)
        if not own and (name.count("/") > 1 or not any(fnmatch(name, pattern) for pattern in EVIDENCE)):
            head = ", and may be a head of the forgotten task" if path.suffix == ".safetensors" else ""
            raise PublishError(
                f"{path} is not part of a published model{head}. Move it out of the folder; published are "
                f"{', '.join((*MODEL, *EVIDENCE))}."
            )
        chosen[name] = path
    if REPORT not in chosen and (output / REPORT).exists():
        chosen[REPORT] = _check_inside(output / REPORT, output)
    if not any(fnmatch(name, PLOTS) for name in chosen):
        chosen |= {f"plots/{path.name}": _check_inside(path, output) for path in sorted(output.glob(PLOTS))}
    return chosen


def _check_inside(path: Path, output: Path) -> Path:
    """Refuse links to other folders: what stands there was not made to be published."""
    if not path.resolve().is_relative_to(output.resolve()):
        raise PublishError(
            f"{path} is a link out of the folder, to {path.resolve()}. Put the file itself there if it is meant."
        )
    if not path.is_file():
        raise PublishError(f"{path} is not a file. Remove it from the model's folder.")
    return path


@contextmanager
def _error_context(model: str) -> Iterator[None]:
    """Say of which task's folder an error speaks."""
    try:
        yield
    except PublishError as error:
        if model in (ONE, "", "plots"):
            raise
        raise PublishError(f"{model}: {error}") from error


def _check_complete(new: Path, files: list[str], models: tuple[str, ...]) -> None:
    remedies = {
        (CONFIG,): "Save the model with `save_pretrained`, or give the folder that holds it",
        PROCESSORS: "Without it nobody can prepare an image as the model needs it: save the image processor there",
        (REPORT,): "A scrubbed model without its evidence is a claim: audit it first (hf-dtl audit)",
        (CARD,): "Write the leakage card with `hf_dtl.hub.staging.add_evidence(folder, report)`",
    }
    for names, remedy in remedies.items():
        for model in models if names[0] in MODEL else (ONE,):
            wanted = [(Path(model) / name).as_posix() for name in names]
            # timm's configuration says itself how images are prepared
            by_config = names == PROCESSORS and "pretrained_cfg" in check_json(new / model / CONFIG)
            if not by_config and not set(wanted) & set(files):
                raise PublishError(f"{' or '.join(wanted)} is missing. {remedy}.")


def _check_tasks(new: Path, report: LeakageReport, models: tuple[str, ...]) -> None:
    """Refuse other tasks than those of the report, and a head of another kind than the report says."""
    tasks = report.tasks or {}
    if set(models) != (set(tasks) or {ONE}):
        told = f"the tasks {', '.join(sorted(tasks))}" if tasks else "one model"
        there = "one model" if models == (ONE,) else f"models in the folders {', '.join(models)}"
        raise PublishError(
            f"{REPORT} speaks of {told}, not of {there}. Publish each task of the report as a model in a folder "
            "of its name, and no other one: a further head may be one of a forgotten task."
        )
    for name, task in tasks.items():
        config = check_json(new / name / CONFIG)
        regression = config.get("problem_type") == "regression" and len(config.get("id2label") or ()) == 1
        if regression != (task.kind == "regression"):
            raise PublishError(
                f"{name}: its head is not that of a task of the kind {task.kind!r}, as {REPORT} calls it. Export this "
                "task (`MultiHeadClassifier.export`), save and audit it."
            )


def _report(new: Path) -> LeakageReport:
    try:
        report, present = LeakageReport.load(new / REPORT), weights_sha256(new)
    except DataError as error:
        raise PublishError(f"{REPORT} is not a valid report: {error}") from error
    audited = report.weights
    if not audited:
        raise PublishError(
            f"{REPORT} does not say which weights it speaks of (`weights` is empty). Audit these weights again: "
            "reports of this version record their hash."
        )
    if audited != present:
        other = sorted({name for name, _ in audited.items() ^ present.items()})
        raise PublishError(
            f"{REPORT} does not belong to these weights: {', '.join(other)} is not the file that was audited. Publish "
            "the audited model, or audit this one."
        )
    return report


def _card(path: Path) -> ModelCard:
    try:
        return ModelCard(path.read_text(encoding="utf-8"))
    except Exception as error:  # whatever broken YAML raises
        raise PublishError(f"The metadata of {CARD} cannot be read: {error}") from error


def _check_card(new: Path, report: LeakageReport, files: list[str]) -> None:
    """Refuse a card whose metadata say otherwise than the report; more metadata, and other words, are the user's."""
    card = _card(new / CARD).data
    expected = ModelCard(f"---\n{card_metadata(report)}\n---\n").data  # as YAML gives it back
    assert isinstance(card, ModelCardData) and isinstance(expected, ModelCardData)
    said = {(r.unique_identifier, r.metric_type, r.metric_name): r.metric_value for r in card.eval_results or []}
    for result in expected.eval_results or []:
        value = said.get((result.unique_identifier, result.metric_type, result.metric_name))
        if not isinstance(value, (int, float)) or not math.isclose(value, result.metric_value, abs_tol=1e-6):
            raise PublishError(
                f"{CARD} gives {value} as {result.metric_name} on {result.dataset_name}, but {REPORT} "
                f"{result.metric_value}. {_REWRITE}"
            )
    if card.get("unlearning") != expected.get("unlearning"):
        raise PublishError(f"`unlearning` in the metadata of {CARD} is not what {REPORT} says. {_REWRITE}")
    text = (new / CARD).read_text(encoding="utf-8")
    missing = [picture for picture in _PICTURE.findall(text) if picture not in files]
    if missing:
        raise PublishError(f"{CARD} shows {', '.join(missing)}, which is missing. {_REWRITE}")
