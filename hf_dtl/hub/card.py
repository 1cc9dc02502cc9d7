"""The leakage card: the model card of a scrubbed model, with what an attacker got out of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from huggingface_hub import ModelCard

from hf_dtl.audit.report import LeakageReport
from hf_dtl.audit.tables import halving_note, report_tables
from hf_dtl.errors import DataError
from hf_dtl.hub.markdown import code, plain, plain_table
from hf_dtl.hub.metadata import card_metadata, request

TEMPLATE = Path(__file__).parent / "templates" / "leakage_card.md.jinja"

ALTERNATIVE_TEXTS = {
    "piggyback": "PL accuracy over budgets: the undisposed and the scrubbed model, and the floors",
    "attacks": "Leakage attack by attack, with bounds",
    "effort": "PL accuracy over training steps of the attacker",
    "comparison": "Target accuracy against leakage, one point a method",
    "tasks": "Every task's score on forgotten, retained and test images",
}
VERSIONS = ("torch", "transformers", "python")
# What this library had to make up from abstracts, by a part of the method's name.
RECONSTRUCTIONS = {
    "collision": "The gradient-collision loss of this library is a reconstruction from the paper's abstract and "
    "second-hand summaries; the numbers do not compare with published ones.",
    "multitask": "The method is a reconstruction of arXiv 2605.19042 from its abstract; its numbers do not compare "
    "with published ones.",
}

OWN = ("license", "license_name", "license_link", "language", "base_model", "base_model_relation", "authors")
"""Metadata that are the publisher's; everything else in a card follows from its report."""
MARKER = "*From here to the end: words of the publisher, which no audit made or checked.*"

Labels = Sequence[str] | Mapping[int, str]
"""In order, or by position as `config.id2label` has them."""


LICENCE = "- Licence: "


def quoted(words: str) -> str:
    """A publisher's words as a quotation, so that nothing in them looks like a part of the card."""
    return "\n".join(f"> {line}".rstrip() for line in words.splitlines())


def licence_line(license: str | None) -> str:
    """What the card says of its licence."""
    return LICENCE + (plain(license) if license else "none was given. Ask the publisher before use.")


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested settings into rows of a table; unset ones are left out."""
    rows: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            rows |= _flat(value, f"{prefix}{name}.")
        elif isinstance(value, (list, tuple)):
            rows[prefix + name] = ", ".join(map(str, value))
        elif value is not None:
            rows[prefix + name] = value
    return rows


def _labels(report: LeakageReport, given: Any) -> dict[str, list[str]]:
    """Labels by task, in order; of a model of one task under no name."""
    labels = {}
    for task, names in (given if report.tasks else {"": given}).items():
        labels[task] = list(names.values() if isinstance(names, Mapping) else names)
    if not all(labels.values()) or set(labels) != set(report.tasks or [""]):
        tasks = f" for each of its tasks {', '.join(report.tasks)}" if report.tasks else ""
        raise DataError(f"The card needs the labels of the published model{tasks}, got {given!r}.")
    return labels


def leakage_card(
    report: LeakageReport,
    *,
    base_model: str | None = None,
    model_labels: Labels | Mapping[str, Labels],
    plots: Sequence[str | Path] = (),
    license: str | None = None,
    own: Mapping[str, Any] | None = None,
    words: str = "",
) -> ModelCard:
    """Write the model card of a scrubbed model from its leakage report.

    Args:
        report: the report of the model that is published.
        base_model: Hub id of the model that the work started from; a local folder is left out.
        model_labels: the labels of the published model, in order or by position (`config.id2label`); of several
            tasks, these by task.
        plots: pictures, relative to the card (`plots/piggyback.png`); of an absolute path only the name is used.
        license: of the model, as the Hub writes it (`apache-2.0`); the card says where none was given.
        own: the publisher's own metadata, of `OWN`.
        words: the publisher's own, at the end of the card.

    Returns:
        The card; `card.save(folder / "README.md")` writes it.

    Raises:
        DataError: there are no labels, or not of the report's tasks.

    Example:
        >>> card = leakage_card(report, model_labels=["6", "7"], plots=["plots/piggyback.png"])  # doctest: +SKIP
        >>> card.save("scrubbed/README.md")  # doctest: +SKIP
    """
    labels = _labels(report, model_labels)
    pictures = [Path(plot.name if plot.is_absolute() else plot) for plot in map(Path, plots)]
    order = [*ALTERNATIVE_TEXTS]
    pictures.sort(key=lambda p: (order.index(p.stem) if p.stem in order else len(order), p.name))
    settings = dict(report.settings)
    command, notes = settings.pop("command", None), settings.pop("notes", [])
    first, *others = map(plain_table, report_tables(report))
    metadata = card_metadata(report, base_model, license)
    for key in sorted(own or {}):
        metadata[key] = (own or {})[key]
    return ModelCard.from_template(
        metadata,
        template_path=str(TEMPLATE),
        plain=plain,
        code=code,
        licence=licence_line(license),
        report=report,
        request=request(report),
        source=settings.get("source_dataset"),
        target=settings.get("target_dataset"),
        labels=labels,
        marker=MARKER,
        words=quoted(words),
        first=first,
        others=others,
        plots=[(plain(ALTERNATIVE_TEXTS.get(p.stem, p.stem)), quote(p.as_posix())) for p in pictures],
        settings=_flat(settings),
        command=command,
        **{name: metadata["unlearning"][name] for name in ("attacks", "budgets", "attack_seeds")},
        halving=halving_note([report]),
        notes=[notes] if isinstance(notes, str) else notes,
        reconstructions=[said for name, said in RECONSTRUCTIONS.items() if name in report.method],
        versions={"hf_dtl": report.library_version, **{name: report.machine.get(name) for name in VERSIONS}},
        machine={name: value for name, value in report.machine.items() if name not in VERSIONS},
    )
