"""The metadata block of a leakage card: what the Hub indexes, and the leakage in numbers."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from hf_dtl.audit.axis_leakage import FLOORS, PLAccuracy, Ratio
from hf_dtl.audit.estimate import CONFIDENCE
from hf_dtl.audit.report import LeakageReport, without_folders
from hf_dtl.audit.tasks import mean_uis
from hf_dtl.audit.text_table import AXIS_TITLES

TASK_TYPE = "image-classification"
ORIGINS = {"mnist": "ylecun/mnist", "fashion_mnist": "zalando-datasets/fashion_mnist"}
"""Where on the Hub the embedded data come from."""
LICENSE = re.compile(r"[\w.+-]{1,40}")
"""As the Hub writes one."""
_NO_PROOF = " (proves nothing: see piggyback accuracy)"


def card_metadata(report: LeakageReport, base_model: str | None = None, license: str | None = None) -> ModelCardData:
    """Give the metadata of a scrubbed model's card. What the report does not say is left out, or null with a reason.

    Args:
        report: the report of the model.
        base_model: Hub id of the model that the work started from; a local folder is left out.
        license: of the published model, as the Hub writes it.
    """
    known = base_model is not None and _is_hub_id(base_model)
    kind = "multi-task" if report.tasks else "disposable-transfer-learning" if report.unlearning is None else None
    return ModelCardData(
        license=license,
        datasets=_datasets(report) or None,
        library_name="transformers",
        pipeline_tag=TASK_TYPE,
        tags=["hf_dtl", "unlearning", *([kind] if kind else []), TASK_TYPE],
        base_model=base_model if known else None,
        base_model_relation="finetune" if known else None,
        unlearning=_unlearning(report),
        model_name=f"{report.method}-scrubbed",
        eval_results=[*_accuracies(report), *_scores(report), *_relearned(report)],
    )


def request(report: LeakageReport) -> str | None:
    """What was to be forgotten, as the user wrote it; None for a whole task, or where the report does not say."""
    if report.unlearning is not None:
        return report.unlearning.request
    return str(report.spec["forget"]) if report.tasks and report.spec else None


def license_of(base_model: str) -> str | None:
    """The licence in the card of a model, in its folder or on the Hub; None where there is none to be had.

    Args:
        base_model: folder, or Hub id.
    """
    card = Path(base_model) / "README.md"
    try:
        found = ModelCard.load(card if card.is_file() else base_model).data.license
    except Exception:  # no card, no network, or one that nobody can read: not worth the loss of a run
        return None
    return found if isinstance(found, str) and LICENSE.fullmatch(found) else None


def _is_hub_id(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return without_folders(name) == name and not Path(name).exists()


def _datasets(report: LeakageReport) -> list[str]:
    """Hub ids of the data of both tasks; a name without an owner may be a local folder's, and is left out."""
    told = [report.settings.get(name) for name in ("source_dataset", "target_dataset", "dataset")]
    names = [re.split(r"[@:\[]", str(text).strip())[0] for text in told if text is not None]
    ids = [ORIGINS.get(name, name) for name in names]
    return [name for name in dict.fromkeys(ids) if "/" in name and _is_hub_id(name)]


def _unlearning(report: LeakageReport) -> dict[str, Any]:
    told: dict[str, Any] = {"method": report.method}
    for key, setting in (("disposed_of", "source_dataset"), ("kept", "target_dataset")):
        if report.settings.get(setting) is not None:
            told[key] = str(report.settings[setting])
    if report.tasks:
        told["disposed_of"] = request(report)
        told["tasks"] = [name for name, task in report.tasks.items() if task.forgotten]
        impact = mean_uis(report.tasks, "scrubbed")
        told["unlearning_impact_score"] = None if impact is None else round(impact, 6)
    told["leakage"] = {
        "floor": report.floor,
        "confidence": CONFIDENCE,
        "word": report.word,
        **_ratio(report.headline),
    }
    told["target_destroyed"] = report.target_destroyed
    if report.target_destroyed is None:
        told["target_not_measured"] = "target accuracy before or after disposal is not known"
    told["suite"] = report.suite_name
    told["attacks"] = list(dict.fromkeys(record.attack for record in report.piggyback))
    told["budgets"] = sorted({record.budget for record in report.piggyback})
    told["attack_seeds"] = sorted({record.seed for record in report.piggyback})
    if report.successive_halving:
        told["successive_halving"] = True
    told |= {"seed": report.seed, "library": "hf_dtl", "library_version": report.library_version}
    return told | ({"weights_sha256": dict(report.weights)} if report.weights else {})


def _ratio(ratio: Ratio) -> dict[str, Any]:
    if ratio.mean is None:
        return {"mean": None, "undefined": ratio.undefined}
    told: dict[str, Any] = dict.fromkeys(("mean", "low", "high"))
    told |= _rounded(**{name: getattr(ratio, name) for name in told})
    if ratio.low is None or ratio.high is None:
        told["unbounded"] = "the draws give no bound where low or high is null"
    return told


def _result(
    kind: str, name: str, split: str, metric: str, value: float, arguments: dict[str, Any], **more: Any
) -> EvalResult:
    """One entry of the model index; kind, configuration and split keep entries apart, or the Hub would merge them."""
    entry = dict[str, Any](dataset_type=kind, dataset_name=name, dataset_config=kind, dataset_split=split)
    entry |= {"metric_type": "accuracy", "metric_name": metric, "metric_value": round(value, 6)}
    return EvalResult(task_type=TASK_TYPE, **{**entry, "metric_args": arguments or None, **more})


def _accuracies(report: LeakageReport) -> Iterator[EvalResult]:
    whole = not report.part
    destroyed = " (destroyed)" if report.target_destroyed else ""
    old_head = "of the old head" if whole else "on the forgotten images"
    rows = (
        ("target", report.target_accuracy, "test", f"target accuracy{destroyed}"),
        ("source", report.source_accuracy, "test" if whole else "forget", f"source accuracy {old_head}{_NO_PROOF}"),
    )
    for role, found, split, metric in rows:
        name = str(report.settings.get(f"{role}_dataset", f"{role} task"))
        if found["scrubbed"] is not None:
            yield _result(role, name, split, metric, found["scrubbed"], _rounded(before_disposal=found["undisposed"]))


def _scores(report: LeakageReport) -> Iterator[EvalResult]:
    for name, task in (report.tasks or {}).items():
        kind = "accuracy" if task.kind == "classes" else "r_squared"
        for split in ("test", "forget"):
            metric = f"{split} score" + (_NO_PROOF if split == "forget" and task.forgotten else "")
            found = task.scores[split]
            before = _rounded(before_disposal=found["undisposed"])
            yield _result(f"task-{name}", name, split, metric, found["scrubbed"], before, metric_type=kind)


def _relearned(report: LeakageReport) -> Iterator[EvalResult]:
    for axis, found in report.axes.items():
        metric = "piggyback accuracy" + (" (lower is better)" if axis == "source_subset" else "")
        means = {(p.dataset, p.budget, p.model): p.mean for p in found.pl_accuracy}
        for point in (point for point in found.pl_accuracy if point.model == "scrubbed"):
            place = (point.dataset, point.budget)
            others = {role: means.get((*place, role)) for role in ("undisposed", *FLOORS)}
            name = f"{point.dataset} ({AXIS_TITLES[axis]}), {point.budget} images a class"
            yield _result(
                axis, name, "piggyback-test", metric, point.mean,
                _attack(report, axis, point) | _rounded(**others),
                dataset_config=f"{axis}-{point.dataset}-{point.budget}-per-class",
                dataset_args={"images_per_class": point.budget},
            )  # fmt: skip


def _attack(report: LeakageReport, axis: str, point: PLAccuracy) -> dict[str, Any]:
    chosen = ("scrubbed", point.dataset, axis, point.attack, point.budget)
    runs = [r for r in report.piggyback if (r.model, r.dataset, r.axis, r.attack, r.budget) == chosen]
    runs = sorted(runs, key=lambda run: run.seed)
    return {
        "suite": report.suite_name,
        "attack": point.attack,
        "seeds": [run.seed for run in runs],
        "learning_rates": [run.learning_rate for run in runs],
        **_rounded(deviation=point.deviation),
    }


def _rounded(**numbers: float | None) -> dict[str, float]:
    return {name: round(value, 6) for name, value in numbers.items() if value is not None}
