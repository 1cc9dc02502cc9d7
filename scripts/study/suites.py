"""Which attacks a suite needs: every attack on six development models, judged on validation images alone."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

import hf_dtl
from hf_dtl.audit import AttackedTask, run_audit
from hf_dtl.audit.axis_leakage import pl_accuracies
from hf_dtl.audit.suites import SUITES
from hf_dtl.data import ImageTensors
from hf_dtl.options import numbers, option
from hf_dtl.pipeline.stages import write_atomically

TASKS = {"vit": "glyphs[A,B,D,E,G,H]", "resnet": "glyphs[sans,mono,serif,stix]"}
"""What each architecture learns and forgets: a small ViT does not learn families of fonts."""
METHODS = "representation_erasure,gradient_collision:max_steps=100"


@dataclass(kw_only=True)
class SuiteOptions:
    """Options of the choice of a suite."""

    budgets: str = option("5,20", "Images a class.")
    draws: str = option("100", "Seeds of the draws of images; no suite has these.")
    seed: int = option(7, "Seed of the models' training; no other study has it.")
    output_dir: str = option("outputs/suites", "Folder of the models, the attacks and the table; continued.")


def choose_suite(options: SuiteOptions) -> dict[str, Any]:
    """Attack the development models with every suite, and write `choice.json`, anew after each model.

    Returns:
        The machine-readable result: `models`, by name, budget and suite the attack that validation chose, and the
        accuracy that it was chosen by and the one that it reached.
    """
    folder, found = Path(options.output_dir), {}
    result = {"options": {n: v for n, v in asdict(options).items() if n != "output_dir"}, "models": found}
    for name, model, task in development_models(options):
        own: dict[str, dict[str, tuple[str, float | None, float]]] = {}
        for suite in reversed(SUITES.values()):  # what the largest did stands in the store for the others
            config = replace(
                suite.config(model.num_parameters()), budgets=numbers(options.budgets, "budgets", int),
                seeds=numbers(options.draws, "draws", int),
            )  # fmt: skip
            records = run_audit({"scrubbed": model}, {"source": task}, config, store=folder / "attacks.jsonl")
            for point in pl_accuracies(records, "source_subset"):
                own.setdefault(str(point.budget), {})[suite.name] = point.attack, point.validation_accuracy, point.mean
        found[name] = own
        write_atomically(folder / "choice.json", json.dumps(result, indent=1) + "\n")
    return result


def development_models(options: SuiteOptions) -> Iterator[tuple[str, PreTrainedModel, AttackedTask]]:
    """Before disposal, and scrubbed by a method that leaks and by one that holds better; a ViT and a ResNet."""
    folder = Path(options.output_dir)
    for architecture, forget in TASKS.items():
        result = hf_dtl.forget(
            architecture=architecture, forget=forget, novel="none", method=METHODS, reference="none",
            seed=options.seed, output_dir=str(folder / architecture),
        )  # fmt: skip
        task = halved(result.job.scenario.attacked["source"])
        models = {"undisposed": result.job.undisposed, **result.models}
        for name, model in models.items():
            yield f"{architecture}, {name.partition(':')[0]}", model, task


def halved(task: AttackedTask) -> AttackedTask:
    """The same with every other validation image in place of the test images, so that those stay unseen."""
    images = task.validation
    chosen, judged = (ImageTensors(images.pixel_values[i::2], images.labels[i::2]) for i in (0, 1))
    return replace(task, validation=chosen, test=judged)
