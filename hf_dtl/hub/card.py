"""The leakage card: the model card of a scrubbed model, with what an attacker got out of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from hf_dtl.audit.leakage import Ratio
from hf_dtl.audit.report import LeakageReport, without_folders
from hf_dtl.audit.tables import AXIS_TITLES, markdown_table, with_deviation
from hf_dtl.errors import DataError

TEMPLATE = Path(__file__).parent / "templates" / "leakage_card.md.jinja"
TAGS = ("hf_dtl", "unlearning", "disposable-transfer-learning", "image-classification")
TASK_TYPE = "image-classification"

# Upper ends of the leakage (mean + deviation over seeds) that a sentence of the verdict may speak for.
MOST_REMOVED, PART_REMOVED = 0.25, 0.75


def verdict(report: LeakageReport) -> str:
    """Say in plain words what the report shows, reading every number from its less favourable end.

    Args:
        report: the report.

    Returns:
        One or two sentences.
    """
    ratio = report.leakage
    said = [_leakage_sentence(ratio)]
    if report.target_destroyed:
        target = report.target_accuracy
        said.append(
            f"The target task was damaged: its accuracy fell from {target['undisposed']:.3f} to "
            f"{target['scrubbed']:.3f}, so the leakage is no merit."
        )
    retrained = report.leakage_over_retrained
    if ratio.mean is not None and retrained.mean is not None and retrained.mean + (retrained.deviation or 0.0) > 0.1:
        said.append(
            "It is still relearned better than a model trained on the target task alone "
            f"(leakage over that model: {with_deviation(retrained.mean, retrained.deviation)})."
        )
    return " ".join(said)


def _leakage_sentence(ratio: Ratio) -> str:
    if ratio.mean is None:
        return f"The leakage is undefined, so nothing is shown about removal: {ratio.undefined}."
    number = with_deviation(ratio.mean, ratio.deviation)
    highest = ratio.mean + (ratio.deviation or 0.0)
    if ratio.mean > 1:
        return f"This method did not remove the source task: it is relearned at least as well as before ({number})."
    if highest > PART_REMOVED:
        return f"This method did not remove the source task: leakage {number}, where 1 leaks all and 0 nothing."
    if highest > MOST_REMOVED:
        return f"This method removed a part of the source task: leakage {number}, where 1 leaks all and 0 nothing."
    return (
        f"The attacks tried here recovered little of the source task: leakage {number}, where 1 leaks all and 0 "
        "nothing. A stronger attack may recover more."
    )


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
    data = report.settings.get("target_dataset", "target task")
    results = [
        EvalResult(
            task_type=TASK_TYPE,
            dataset_type="target",
            dataset_name=str(data),
            dataset_config="target",
            dataset_split="test",
            metric_type="accuracy",
            metric_name="target accuracy",
            metric_value=round(report.target_accuracy["scrubbed"], 6),
        )
    ]
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
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=list(TAGS),
        base_model=None if local else base_model,
        model_name=f"{report.method}-scrubbed",
        eval_results=_results(report),
    )
    settings = _flat(report.settings)
    command = settings.pop("command", None)
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        method=report.method,
        verdict=verdict(report),
        source=settings.get("source_dataset"),
        target=settings.get("target_dataset"),
        labels=[str(label) for label in labels],
        tables=markdown_table(report),
        plots=[Path(plot).name if Path(plot).is_absolute() else Path(plot).as_posix() for plot in plots],
        settings=settings,
        command=command,
        seed=report.seed,
        attacks=sorted({record.attack for record in report.piggyback}),
        budgets=sorted({record.budget for record in report.piggyback}),
        seeds=len({record.seed for record in report.piggyback}),
        library_version=report.library_version,
        machine=report.machine,
    )
