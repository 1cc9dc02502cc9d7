"""The card of a model of several tasks from which images were unlearned, for all of its tasks or for some."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from hf_dtl.audit.cells import Cells
from hf_dtl.hub.markdown import code, plain, plain_cells
from hf_dtl.hub.metadata import TASK_TYPE

TEMPLATE = Path(__file__).parent / "templates" / "multitask_card.md.jinja"


def multitask_card(report: Mapping[str, Any], method: str, cells: Cells, *, relearned: Mapping[str, Any]) -> ModelCard:
    """Write the card of an unlearned model of several tasks.

    Args:
        report: what `multitask_report.json` holds.
        method: of the model, as the report names it.
        cells: its table.
        relearned: by forgotten task, then by role (scrubbed, undisposed, retrained, scratch): score on the forgotten
            images after an attacker relearned the task; None where it was not attacked.

    Returns:
        The card; `card.save(folder / "README.md")` writes it.
    """
    tasks = report["tasks"]
    forgotten = [task for task, told in tasks.items() if told["forgotten"]]
    models = {entry["model"]: entry for entry in report["models"] if entry.get("method") in (None, method)}
    uis = models["unlearned"]["uis"]
    data = ModelCardData(
        pipeline_tag=TASK_TYPE,
        tags=["hf_dtl", "unlearning", "multi-task", TASK_TYPE],
        unlearning={
            "method": method,
            "disposed_of": report["forget"],
            "tasks": forgotten,
            "unlearning_impact_score": None if uis is None else round(uis["mean"], 6),
            "attacks": list(report["settings"]["audit"]["attacks"]),
            "seed": report["seed"],
            "library": "hf_dtl",
            "library_version": report["library_version"],
        },
    )
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        plain=plain,
        code=code,
        report=report,
        method=method,
        tasks=tasks,
        forgotten=forgotten,
        verdict=verdict(report, models, relearned),
        cells=plain_cells(cells),
    )


def verdict(report: Mapping[str, Any], models: Mapping[str, Any], relearned: Mapping[str, Any]) -> str:
    """Say in plain words what was reached, at the task where it is worst.

    Args:
        report: see `multitask_card`.
        models: its entries by role: original, unlearned, and retrained where there is one.
        relearned: see `multitask_card`.
    """
    scores, before = models["unlearned"]["scores"], models["original"]["scores"]
    forgotten = [task for task, told in report["tasks"].items() if told["forgotten"]]
    worst = max(forgotten, key=lambda task: scores[task]["forget"] - before[task]["test"])
    said = [
        f"On the {report['images']['forget']} images to forget it scores {scores[worst]['forget']:.3f} in the task "
        f"{worst}, where forgetting went worst; before it was {before[worst]['forget']:.3f}, and images never seen "
        f"scored {before[worst]['test']:.3f}."
    ]
    lost = {task: before[task]["test"] - scores[task]["test"] for task in scores}
    most = max(lost, key=lambda task: lost[task])
    if lost[most] > 0:
        said.append(f"Test scores fell by {lost[most]:.3f} at most, in the task {most}.")
    else:
        said.append("No test score fell.")
    said.append(_relearned(relearned))
    if "retrained" not in models:
        said.append("It was not compared with a model that was trained again without what it was to forget.")
    return " ".join(said)


def _relearned(found: Mapping[str, Any]) -> str:
    known = {task: by for task, by in found.items() if by.get("scrubbed") is not None}
    if not known:
        return "No attack tried to relearn what was forgotten, so nothing is shown about removal."

    def advantage(task: str) -> float:
        floor = known[task].get("retrained")
        return known[task]["scrubbed"] - (0.0 if floor is None else floor)

    worst = max(known, key=advantage)
    starts = {
        "scrubbed": "this model",
        "undisposed": "the model before",
        "retrained": "a model trained again without them",
        "scratch": "random weights",
    }
    reached = [
        f"{known[worst][role]:.3f} from {name}" for role, name in starts.items() if known[worst].get(role) is not None
    ]
    return f"An attacker who relearns the task {worst} scores on these images {', '.join(reached)}."
