"""Which attacks a suite needs: every attack on six development models, judged on validation images alone."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

import hf_dtl
from hf_dtl.audit import AttackedTask, PiggybackRecord, run_audit
from hf_dtl.audit.attacks import parse_attacks
from hf_dtl.audit.axis_leakage import PLAccuracy, pl_accuracies
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
    attacks: str = option("", "Of full-1 only these, separated by commas; default: all that apply.")
    draws: str = option("100", "Seeds of the draws of images; no suite has these.")
    seed: int = option(7, "Seed of the models' training; no other study has it.")
    output_dir: str = option("outputs/suites", "Folder of the models, the attacks and the table; continued.")


def choose_suite(options: SuiteOptions) -> dict[str, Any]:
    """Attack the development models with all of full-1, and write `choice.json`.

    Returns:
        The machine-readable result: `models`, by name the PL accuracy of every attack at every budget.
    """
    folder, found = Path(options.output_dir), {}
    for name, model, task in development_models(options):
        config = replace(
            SUITES["full-1"].config(model.num_parameters()),
            budgets=numbers(options.budgets, "budgets", int),
            seeds=numbers(options.draws, "draws", int),
            attacks=parse_attacks(options.attacks) if options.attacks else SUITES["full-1"].attacks,
            finalists=0,
        )
        records = run_audit({"scrubbed": model}, {"source": task}, config, store=folder / "attacks.jsonl")
        found[name] = {str(budget): _by_attack(records, budget) for budget in config.budgets}
    result = {"options": {n: v for n, v in asdict(options).items() if n != "output_dir"}, "models": found}
    write_atomically(folder / "choice.json", json.dumps(result, indent=1) + "\n")
    return result


def _by_attack(records: Sequence[PiggybackRecord], budget: int) -> dict[str, list[float]]:
    """Of each attack the accuracy that it was chosen by, and the one that it reached."""
    own = [record for record in records if record.budget == budget]
    points: list[PLAccuracy] = []
    for attack in dict.fromkeys(record.attack for record in own):
        points += pl_accuracies([record for record in own if record.attack == attack], "source_subset")
    return {point.attack: [point.validation_accuracy, point.mean] for point in points}


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


def exceeding(values: dict[str, list[float]], attacks: Sequence[str]) -> float:
    """By how many points all attacks together exceed some of them, each chosen on validation."""
    chosen = {attack: value for attack, value in values.items() if attack in attacks}
    return 100 * (max(values.values())[1] - max(chosen.values())[1])
