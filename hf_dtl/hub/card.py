"""The leakage card: the model card of a scrubbed model, with what an attacker got out of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from hf_dtl.audit.report import LeakageReport, without_folders
from hf_dtl.audit.tables import AXIS_TITLES, halving_note, markdown_table, with_interval
from hf_dtl.errors import DataError

TEMPLATE = Path(__file__).parent / "templates" / "leakage_card.md.jinja"
TAGS = ("hf_dtl", "unlearning", "disposable-transfer-learning", "image-classification")
TASK_TYPE = "image-classification"

# Upper ends of the leakage (of interval and mean + deviation, the worse) that a sentence of the verdict speaks for.
MOST_REMOVED, PART_REMOVED = 0.25, 0.75
ALTERNATIVE_TEXTS = {
    "piggyback": "PL accuracy over budgets: undisposed, scrubbed, scratch and retrained model",
    "attacks": "Leakage attack by attack, with bootstrap intervals",
    "comparison": "Target accuracy against leakage, one point a method",
}


def verdict(report: LeakageReport) -> str:
    """Say in plain words what the report shows, reading every number from its less favourable end.

    Args:
        report: the report.

    Returns:
        A few sentences. Where the target task is destroyed they begin with that, and praise nothing.
    """
    ratio, target = report.headline, report.target_accuracy
    if report.target_destroyed:
        said = [
            f"The target task was destroyed: its accuracy fell from {target['undisposed']:.3f} to "
            f"{target['scrubbed']:.3f}, so a low leakage is no merit.",
            _leakage_sentence(report, praise=False),
        ]
    elif report.target_destroyed is None:
        said = [
            _leakage_sentence(report, praise=False),
            "Target accuracy was not measured, so it is not known whether this model still does its task.",
        ]
    else:
        said = [_leakage_sentence(report, praise=True)]
    if report.unlearning is not None:
        return " ".join([*said, _gap_sentence(report)])
    retrained = report.leakage_over_retrained
    if ratio.mean is not None and retrained.mean is not None and retrained.least_favourable > 0.1:
        still = "is still" if retrained.low is not None and retrained.low > 0 else "may still be"
        said.append(
            f"It {still} relearned better than a model trained on the target task alone "
            f"(leakage over that model: {with_interval(retrained)})."
        )
    elif ratio.mean is not None and retrained.gap is None:
        said.append("It was not compared with a model trained on the target task alone.")
    return " ".join(said)


def _gap_sentence(report: LeakageReport) -> str:
    found = report.unlearning
    assert found is not None
    gap = found.average_gap()
    if gap is None:
        return "It was not compared with a model that was trained again without the forgotten images."
    return (
        f"Its accuracies are {100 * gap:.1f} points on average away from a model trained again without these images."
    )


def _leakage_sentence(report: LeakageReport, *, praise: bool) -> str:
    ratio, what = report.headline, "the source task" if report.unlearning is None else report.unlearning.request
    floor = "" if report.unlearning is None else " over a model trained without it"
    if ratio.mean is None:
        return f"The leakage is undefined, so nothing is shown about removal: {ratio.undefined}."
    number = f"leakage{floor} {with_interval(ratio)}, where 1 leaks all and 0 nothing"
    if ratio.mean > 1:
        return f"This method did not remove {what}: it is relearned at least as well as before ({number})."
    if ratio.least_favourable > PART_REMOVED:
        return f"This method did not remove {what}: {number}."
    if not praise:
        return f"The attacks tried here gave the {number}. A stronger attack may recover more."
    if ratio.least_favourable > MOST_REMOVED:
        return f"This method removed a part of {what}: {number}."
    return f"The attacks tried here recovered little of {what}: {number}. A stronger attack may recover more."


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested settings into rows of a table; unset ones are left out."""
    rows: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            rows |= _flat(value, f"{prefix}{name}.")
        elif value is not None:
            rows[prefix + name] = value
    return rows


def _results(report: LeakageReport) -> list[EvalResult]:
    """Write target and PL accuracy as model-index entries; configuration and split keep them apart."""
    data, target = report.settings.get("target_dataset", "target task"), report.target_accuracy["scrubbed"]
    results = []
    if target is not None:
        results.append(
            EvalResult(
                task_type=TASK_TYPE,
                dataset_type="target",
                dataset_name=str(data),
                dataset_config="target",
                dataset_split="test",
                metric_type="accuracy",
                metric_name="target accuracy" + (" (destroyed)" if report.target_destroyed else ""),
                metric_value=round(target, 6),
            )
        )
    for axis, found in report.axes.items():
        for point in found.pl_accuracy:
            if point.model == "scrubbed":
                results.append(
                    EvalResult(
                        task_type=TASK_TYPE,
                        dataset_type=axis,
                        dataset_name=f"{point.dataset} ({AXIS_TITLES[axis]}), {point.budget} images a class",
                        dataset_config=f"{axis}-{point.dataset}-{point.budget}-per-class",
                        dataset_split="piggyback-test",
                        metric_type="accuracy",
                        metric_name="piggyback accuracy (lower is better)",
                        metric_value=round(point.mean, 6),
                    )
                )
    return results


def leakage_card(
    report: LeakageReport,
    *,
    base_model: str | None = None,
    model_labels: Sequence[str] | Mapping[int, str],
    plots: Sequence[str | Path] = (),
) -> ModelCard:
    """Write the model card of a scrubbed model from its leakage report.

    Args:
        report: the report of the model that is published.
        base_model: Hub id of the model that the work started from; a local folder is left out.
        model_labels: the labels of the published model, in order or by position (`config.id2label`).
        plots: pictures, relative to the card (`plots/piggyback.png`); of an absolute path only the name is used.

    Returns:
        The card; `card.save(folder / "README.md")` writes it.

    Raises:
        DataError: there are no labels.

    Example:
        >>> card = leakage_card(report, model_labels=["6", "7"], plots=["plots/piggyback.png"])  # doctest: +SKIP
        >>> card.save("scrubbed/README.md")  # doctest: +SKIP
    """
    labels = list(model_labels.values()) if isinstance(model_labels, Mapping) else list(model_labels)
    if not labels:
        raise DataError("The card needs the labels of the published model, got none.")
    local = base_model is None or without_folders(base_model) != base_model or base_model.count("/") > 1
    pictures = [Path(plot) for plot in plots]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=[tag for tag in TAGS if report.unlearning is None or tag != "disposable-transfer-learning"],
        base_model=None if local else base_model,
        model_name=f"{report.method}-scrubbed",
        eval_results=_results(report),
    )
    settings = _flat(report.settings)
    command, notes = settings.pop("command", None), settings.pop("notes", [])
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        method=report.method,
        verdict=verdict(report),
        source=settings.get("source_dataset"),
        target=settings.get("target_dataset"),
        labels=[str(label) for label in labels],
        tables=markdown_table(report),
        plots=[(ALTERNATIVE_TEXTS.get(p.stem, p.stem), p.name if p.is_absolute() else p.as_posix()) for p in pictures],
        settings=settings,
        command=command,
        seed=report.seed,
        attacks=list(dict.fromkeys(record.attack for record in report.piggyback)),
        budgets=sorted({record.budget for record in report.piggyback}),
        seeds=report.seeds,
        halving=halving_note([report]),
        notes=[notes] if isinstance(notes, str) else notes,
        destroyed=report.target_destroyed,
        unlearning=report.unlearning,
        floor=report.floor,
        reconstruction="collision" in report.method,
        library_version=report.library_version,
        machine=report.machine,
    )
