"""The folder that is published: copies of what is meant to be public, refused where they would leak something."""

import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import ModelCard
from transformers import AutoConfig

from hf_dtl.audit import LeakageReport
from hf_dtl.audit.report_fields import strings
from hf_dtl.data import load_processor
from hf_dtl.errors import DataError, OutputError, PublishError
from hf_dtl.hub.apart import check_apart
from hf_dtl.hub.card import ALTERNATIVE_TEXTS
from hf_dtl.hub.card_check import REPORT, OwnPart, card_of, check_card, check_markup, metadata_of, own_part
from hf_dtl.hub.claims import check_claims, check_licence
from hf_dtl.hub.leaks import check_picture, check_text, leak_of
from hf_dtl.hub.metadata import license_of
from hf_dtl.hub.model_files import check_weights
from hf_dtl.hub.model_settings import MOST_VALUES, check_json, check_labels, check_settings, values
from hf_dtl.hub.source_rows import check_head, classes_of, named_classes
from hf_dtl.hub.weights import CONFIG, INDEX, ONE, PROCESSORS, model_folders, sha256_of, weights_sha256
from hf_dtl.methods.transfer_images import MOST_BYTES, TRANSFER, TransferLabels
from hf_dtl.models.loading import image_size_of

MOST_LETTERS, MOST_RATES = 50_000, 32
"""Of the texts in a report's settings, and different learning rates that its attackers chose."""
CARD, PLOTS = "README.md", "plots/*.png"
_FIVE = "[0-9]" * 5
MODEL = (CONFIG, *PROCESSORS, "model.safetensors", f"model-{_FIVE}-of-{_FIVE}.safetensors", INDEX)
"""What a model's folder may hold; a model of several tasks has one such folder a task."""
LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE")
EVIDENCE = (CARD, REPORT, TRANSFER, *(f"plots/{name}.png" for name in (*ALTERNATIVE_TEXTS, "disposal")), *LICENCES)
# Stands beside what is published and does no harm; it stays behind.
_DOWNLOADED = ("*.metadata", "*.lock", ".gitignore", "CACHEDIR.TAG")
DRAWINGS, ATTRIBUTES = "plots/*.svg", ".gitattributes"
NOT_NEEDED = (DRAWINGS, ATTRIBUTES, *(f".cache/huggingface/{name}" for name in _DOWNLOADED))


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
    chosen = _publishable_files(output)
    for name, path in chosen.items():
        if not fnmatch(name, PLOTS):
            (new / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, new / name)
    _check_complete(new, [*chosen], model_folders(new))
    report = check_published(new)
    _check_report(new, report)
    check_apart(output, report)
    # Pictures are drawn anew: in those of the run somebody may have written, or hidden, something.
    card = (new / CARD).read_text(encoding="utf-8")
    for picture in report.plot(new / "plots"):
        name = f"plots/{picture.name}"
        if picture.suffix != ".png" or (name not in chosen and f"]({name})" not in card):
            picture.unlink()
    _check_picture_of(chosen, new)
    own_card(new, report, license).save(new / CARD)
    report.save(new / REPORT)
    files = sorted(path.relative_to(new).as_posix() for path in new.rglob("*") if path.is_file())
    return tuple(StagedFile(name, (new / name).stat().st_size, sha256_of(new / name)) for name in files)


def check_published(folder: Path) -> LeakageReport:
    """Refuse a published folder that holds anything besides one model, or one a task, and its evidence.

    Publishing and verifying ask the same.

    Args:
        folder: with the files that were chosen, or fetched.

    Returns:
        Its report, whose hashes were not compared.

    Raises:
        PublishError: naming what is there and must not be.
    """
    there = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    files, models = published_names(there, folder), model_folders(folder)
    configs = {model: check_json(folder / model / CONFIG) for model in models if (folder / model / CONFIG).is_file()}
    for model, config in configs.items():
        with _error_context(model):
            check_labels(config)
    for name in files:
        if name.endswith(".json"):
            if name == TRANSFER and (folder / name).stat().st_size > MOST_BYTES:
                raise PublishError(f"{name} is larger than {MOST_BYTES:,} bytes, as no list of labels is. Remove it.")
            with _error_context(Path(name).parent.name):
                check_json(folder / name)
    try:
        report = LeakageReport.load(folder / REPORT)
    except DataError as error:
        raise PublishError(f"{REPORT} is not a valid report: {error}") from error
    heads = [_names_of_head(config) for config in configs.values()]
    named = [list(names.values()) if isinstance(names, dict) else names for names in heads]
    labels = {str(label) for names in named if isinstance(names, list) for label in names} | named_classes(report)
    for name in files:
        with _error_context(Path(name).parent.name):
            if name.endswith(".png"):
                check_picture(folder / name)
            else:
                check_text(name, texts := [*_texts_of(folder / name)], labels)
                if name in LICENCES:
                    check_licence(name, texts[0])
                    if name.endswith(".md"):
                        check_markup(name, texts[0])
    for model in models:
        with _error_context(model):
            if all((folder / model / name).is_file() for name in PROCESSORS):
                raise PublishError(
                    f"There are {' and '.join(PROCESSORS)}: which of the two prepares the images depends on who reads "
                    "them. Remove one, and audit again."
                )
            check_weights(folder / model)
            check_settings(folder / model)
            check_size(folder / model, report)
    if TRANSFER in files:
        _check_transfer(folder / TRANSFER, report, labels)
    _check_tasks(folder, report, models)
    check_head(configs, report)
    check_claims(report, labels)
    return report


def check_size(folder: Path, report: LeakageReport) -> None:
    """Refuse a report of images of another size than the published processor makes: there the model is another one."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    size, made = report.settings.get("image_size"), image_size_of(load_processor(folder, config), config)
    if size and (size, size) != made:
        raise PublishError(
            f"{REPORT} speaks of attacks with images of {size} pixels, and the processor beside the model makes "
            f"{made}. Audit it as it is published, without --image_size."
        )


def _check_transfer(file: Path, report: LeakageReport, labels: Collection[str]) -> None:
    """Refuse words of the private model besides those that the report's bound counts."""
    try:
        said, bound = TransferLabels.load(file), report.bound
    except DataError as error:
        raise PublishError(f"{error} Publish the file that the training wrote, or none.") from error
    told = (said.channel, len(said.codes), len(said.classes), said.rejection)
    counted = bound and (bound.channel, bound.images, bound.classes, bound.rejection)
    if told != counted or not {*said.classes} <= {*labels}:
        raise PublishError(
            f"{file.name} holds {said.channel} of {told[1]} images and {told[2]} classes, which is not what {REPORT} "
            "counts in its bound, of the head's classes. Publish the file that belongs to these weights, or none."
        )
    size = sum(weights.stat().st_size for weights in file.parent.rglob("*.safetensors"))
    if (told_bytes := report.bound.to_dict()["bytes"] or 0) >= size:  # type: ignore[union-attr]
        raise PublishError(
            f"{file.name} holds up to {told_bytes:,} bytes, and the weights {size:,}: a whole model could be in it. "
            "Leave the file out, or let the model say less: of fewer images, or in another channel."
        )


def _names_of_head(config: dict[str, Any]) -> Any:
    """Names of the classes as a configuration has them, by row or in a list; timm's calls them otherwise."""
    return config.get("id2label") or config.get("label_names")


def own_card(folder: Path, report: LeakageReport, license: str | None = None) -> ModelCard:
    """The card that follows from a report, with what of the folder's card is its publisher's.

    Raises:
        PublishError: the folder's card says anything else.
    """
    text = (folder / CARD).read_text(encoding="utf-8")
    labels = {model: _names_of_head(check_json(folder / model / CONFIG)) for model in model_folders(folder)}
    plots = [f"plots/{path.name}" for path in folder.glob(PLOTS) if f"](plots/{path.name})" in text]
    parts = report, labels.get(ONE, labels), plots, own_part(text)
    check_card(text, str(card := card_of(*parts)))
    return card_of(*parts, license) if license else card


def add_evidence(
    folder: str | Path, report: LeakageReport, *, base_model: str | None = None, license: str | None = None
) -> None:
    """Write report, plots and leakage card into the folder of a saved model, so that it can be published.

    Of a card that is there the publisher's own words and metadata are kept.

    Args:
        folder: what `trainer.save_model(folder)` or `save_pretrained` wrote.
        report: of an audit of these weights.
        base_model: Hub id or folder of the model that the work started from; the card names a Hub id alone.
        license: as the Hub writes it (`apache-2.0`); default: what the base model's card says.
    """
    folder = Path(folder)
    labels = {model: _names_of_head(check_json(folder / model / CONFIG)) for model in model_folders(folder)}
    plots = folder / "plots"
    plots.mkdir(exist_ok=True)
    shown = [f"plots/{picture.name}" for picture in report.plot(plots) if picture.suffix == ".png"]
    own = own_part((folder / CARD).read_text(encoding="utf-8")) if (folder / CARD).is_file() else OwnPart({}, "")
    if base_model:
        own.metadata["base_model"] = base_model
        license = license or own.metadata.get("license") or license_of(base_model)
    card_of(report, labels.get(ONE, labels), shown, own, license).save(folder / CARD)
    report.save(folder / REPORT)


def _publishable_files(output: Path) -> dict[str, Path]:
    model = output / "scrubbed" if (output / "scrubbed").is_dir() else output
    if not model.is_dir():
        raise PublishError(f"There is no folder {output}. Give the output folder of a run, or a model's folder.")
    there = [path for path in sorted(model.rglob("*")) if path.is_symlink() or not path.is_dir()]
    names = {path.relative_to(model).as_posix(): _check_inside(path, output) for path in there}
    chosen = {name: names[name] for name in published_names(names, model)}
    if REPORT not in chosen and (output / REPORT).exists():
        chosen[REPORT] = _check_inside(output / REPORT, output)
    return chosen


def published_names(names: Iterable[str], where: Path) -> list[str]:
    """Those of a folder's files that are published.

    Args:
        names: of every file, relative.
        where: the folder, for the message.

    Raises:
        PublishError: one must not stand in the folder of a published model.
    """
    names = list(names)
    folders = {Path(name).parent for name in names if Path(name).name == CONFIG and name.count("/") < 2}
    models, chosen = folders or {Path()}, []
    for name in (name for name in names if not any(fnmatch(name, pattern) for pattern in NOT_NEEDED)):
        if not name.isprintable():
            raise PublishError(f"{where} holds a file with a name that steers a terminal: {name!r}. Rename it.")
        leak, path = leak_of(name), Path(name)
        if leak is not None:
            raise PublishError(f"{where / name} is {leak.what}. {leak.remedy}.")
        alone = Path() not in models or path.parent == Path()
        own = alone and path.parent in models and any(fnmatch(path.name, pattern) for pattern in MODEL)
        if not own and name not in EVIDENCE:
            head = ", and may be a head of the forgotten task" if path.suffix == ".safetensors" else ""
            raise PublishError(
                f"{where / name} is not part of a published model{head}. Move it out of the folder; published are "
                f"{', '.join((*MODEL, *EVIDENCE)).replace(_FIVE, '?????')}."
            )
        chosen.append(name)
    return chosen


def _check_inside(path: Path, output: Path) -> Path:
    """Refuse links: what stands elsewhere was not made to be published."""
    if not path.resolve().is_relative_to(output.resolve()):
        raise PublishError(
            f"{path} is a link out of the folder, to {path.resolve()}. Put the file itself there if it is meant."
        )
    if path.is_symlink():
        raise PublishError(f"{path} is a link, to {path.resolve()}. Put the file itself there if it is meant.")
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


def _check_report(new: Path, report: LeakageReport) -> None:
    present, audited = weights_sha256(new), report.weights
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

    for name, chance in report.chance.items():
        classes, listed = 1 / chance if chance else 0.5, len(classes_of(name))
        if abs(classes - round(classes)) > 1e-6 or listed not in (0, round(classes)):
            raise PublishError(f"{REPORT} gives {chance} as chance on {name:.60}, which is no 1/classes. Audit again.")
    if report.target_margin != round(report.target_margin, 6):
        raise PublishError(
            f"{REPORT} has the margin {report.target_margin}, finer than anybody measures: digits of it could be a "
            "text. Audit again with one of at most six decimals (--target_margin)."
        )
    if (count := len({r.learning_rate for r in report.piggyback})) > MOST_RATES:
        raise PublishError(
            f"{REPORT} has {count} learning rates, more than {MOST_RATES}: they could be a head. Audit with fewer."
        )
    parts = [*values([report.settings, report.spec, report.machine])]
    length = sum(len(part) for part in parts if isinstance(part, str))
    if len(parts) > MOST_VALUES or length > MOST_LETTERS:
        raise PublishError(
            f"{REPORT} holds {len(parts)} numbers and texts in its settings, of {length:,} letters, more than "
            f"{MOST_VALUES} of {MOST_LETTERS:,}: they could be a head. Audit again, with fewer notes and classes."
        )


def _check_picture_of(chosen: dict[str, Path], new: Path) -> None:
    """Refuse a run's folder without the pictures that its card shows, as of an interrupted run."""
    missing = [f"plots/{path.name}" for path in sorted(new.glob(PLOTS)) if f"plots/{path.name}" not in chosen]
    if missing and any(fnmatch(name, PLOTS) for name in chosen):
        raise PublishError(f"{CARD} shows {', '.join(missing)}, which is missing. Draw it: `report.plot(folder)`.")


def _texts_of(path: Path) -> Iterator[str]:
    """Every text in a JSON or Markdown file; of weights the names are checked with them."""
    if path.suffix == ".safetensors":
        return
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PublishError(f"{path.name} cannot be read: {error}. Write it anew.") from error
    if path.suffix == ".json":
        yield from strings(check_json(path))
    elif path.name == CARD:
        yield from strings(metadata_of(text))
        yield text.split("\n---\n", 1)[-1]
    else:
        yield text
