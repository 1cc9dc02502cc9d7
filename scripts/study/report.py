"""The study as a table and as a file of results, for somebody who was not there."""

import json
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from hf_dtl.dtl import DTLOptions

from hf_dtl.audit.cells import Cells, with_deviation
from hf_dtl.audit.report import library_version, without_folders
from study.options import Plan, StudyOptions, changed_options
from study.summary import GOAL_LEAKAGE, GOAL_POINTS, Average, Leakage, Row, Summary

SCHEMA_VERSION = 1


def results(plan: Plan, options: StudyOptions, summary: Summary, trained: dict[str, Any]) -> dict[str, Any]:
    """Everything that is known of the study, as JSON values; folders of local paths are cut off.

    Args:
        plan: the study.
        options: as it was asked for.
        summary: its numbers.
        trained: result of a cell of the kind `seed`: what the numbers depend on besides the options.
    """
    shared = DTLOptions(**plan.shared).recorded()
    for name in ("seed", "model_name_or_path"):
        shared.pop(name)
    found = {
        "schema_version": SCHEMA_VERSION,
        "library_version": library_version(),
        "setting": plan.name,
        "title": plan.setting.title,
        "command": command(options),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": trained["machine"],
        "seeds": list(plan.seeds),
        "tuning_seed": plan.tuning_seed,
        "margin": plan.margin,
        "goal": {"leakage_over_retrained": GOAL_LEAKAGE, "loss_points": GOAL_POINTS},
        "model": options.model,
        "parameters": trained["parameters"],
        "images": trained["images"],
        "options": shared,
        "missing_methods": list(plan.unknown),
        "summary": summary.to_dict(),
    }
    return json.loads(json.dumps(without_folders(found)))


def command(options: StudyOptions) -> str:
    """The command that repeats the study, with the options that differ from their defaults."""
    words = ["python", "scripts/reproduce.py", "--setting", options.setting, "--seeds", options.seeds]
    for name, value in changed_options(options).items():
        if name not in ("setting", "seeds", "output_dir"):
            words += [f"--{name}", str(value)]
    return without_folders(shlex.join(words))


def markdown(found: dict[str, Any], summary: Summary) -> str:
    """Write the study as Markdown: how it was done, the methods side by side, each seed, the tuning, how to repeat it.

    Args:
        found: see `results`.
        summary: the numbers.
    """
    parts = [
        f"# {found['title']}",
        _introduction(found, summary),
        main_cells(summary).markdown(),
        "![Target accuracy lost and leakage of every method](tradeoff.png)",
        "## Each training seed",
        seed_cells(summary).markdown(),
        *_undefined(summary),
        "## How the strengths were chosen",
        tuning_cells(summary, found["margin"]).markdown(),
        "## To repeat it",
        f"```bash\n{found['command']}\n```",
        f"Made on {found['date']} with hf_dtl {found['library_version']} on {_machine(found['machine'])}. All options "
        "and values are in `results.json`.",
    ]
    return "\n\n".join(parts) + "\n"


def _machine(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {machine[name]}" for name in ("python", "torch", "transformers"))
    return f"{machine['device']}, {machine['threads']} thread(s) a process, {versions}"


def _introduction(found: dict[str, Any], summary: Summary) -> str:
    options, images = found["options"], found["images"]
    source, target, augmentation = options["source_dataset"], options["target_dataset"], options["augmentation"]
    transforms = "" if augmentation == "none" else f", under random transforms ({augmentation})"
    text = (
        f"A model of {found['parameters'] / 1e6:.2f} M parameters learns the source task (`{source}`, "
        f"{images['source']['train']} images) and is adapted to the target task (`{target}`, "
        f"{options['target_images_per_class']} images a class{transforms}). Each method then disposes of the source "
        f"task in {options['dispose_steps']} steps, unless its own options say otherwise. An attacker who has the "
        "published weights and a few source images a class relearns the source task: PL (piggyback learning) "
        "accuracy.\n\n"
        f"Every number is a mean ± deviation over {len(summary.seeds)} training seeds "
        f"({', '.join(map(str, summary.seeds))}); in each of them every attack ({options['attacks']}) is run with the "
        f"attack seeds {options['audit_seeds']}, and the strongest one on validation images counts. Every method was "
        f"tuned with the same budget on a seed of its own ({found['tuning_seed']}), see below."
    )
    if found["missing_methods"]:
        text += f"\n\nThis version of the library does not have: {', '.join(found['missing_methods'])}."
    for method, reason in summary.failed.items():
        text += f"\n\n`{method}` has no row: {reason}"
    return text


def main_cells(summary: Summary) -> Cells:
    """The methods side by side, and the references as rows below them."""
    before, *_ = summary.references
    rows = []
    for row in summary.rows:
        learned = [_share(row.learned.get(budget)) for budget in summary.budgets]
        leaked = (_leakage(row.over_retrained), _leakage(row.over_scratch))
        rows.append(
            (_marked(row), *leaked, _points(row.loss_points), _share(before.target), _share(row.target),
             _share(row.source), *learned, _cost(row.cost), _goal(row))
        )  # fmt: skip
    for reference in summary.references:
        learned = [_share(reference.learned.get(budget)) for budget in summary.budgets]
        known = (_points(reference.loss_points), _share(before.target), _share(reference.target))
        if reference.target is None or reference is before:
            known = ("", "", _share(reference.target))
        source = _share(reference.source) if reference.source else ""
        leaked = {"undisposed": ("1", "1"), "retrained": ("0", ""), "scratch": ("", "0")}[reference.name]
        rows.append((f"({reference.name})", *leaked, *known, source, *learned, "", ""))
    columns = (
        *("method", "leakage over retrained", "leakage over scratch", "target points lost", "target before"),
        *("target after", "source after", *(f"PL at {budget}" for budget in summary.budgets), "cost", "goal"),
    )
    return Cells("Methods compared", columns, tuple(rows), _notes(summary))


def _notes(summary: Summary) -> tuple[str, ...]:
    seconds = "CPU seconds" if summary.clock == "cpu" else "wall-clock seconds (GPU)"
    notes = [
        "Leakage: (PL of scrubbed − PL of floor) / (PL of undisposed − PL of floor), over all budgets; 1 leaks all, 0 "
        "nothing more than a floor model gives: one retrained on the target task alone, or scratch (random weights). "
        "It is undefined where the undisposed model is relearned no better than the floor beyond noise.",
        "Source after: what the old source head still reads; low values prove nothing. Target points lost: hundredths "
        "of test accuracy.",
        "PL at k: source task relearned from k images a class. "
        f"Cost: {seconds} of disposal over those of pre-training.",
        f"Goal ✓: leakage over retrained of at most {GOAL_LEAKAGE:g} for at most {GOAL_POINTS:g} points, on the mean.",
    ]
    if any(row.chosen.kept is False for row in summary.rows):
        notes.append(
            "† No strength kept the target within the margin in tuning; the one that kept most of it was taken."
        )
    if any(row.chosen.kept is None for row in summary.rows):
        notes.append("‡ The strength was given, not tuned.")
    if any(row.diverged for row in summary.rows):
        lost = ", ".join(f"{row.name} on {row.diverged} seed(s)" for row in summary.rows if row.diverged)
        notes.append(f"Diverged, so without values: {lost}.")
    if any(
        a.missing and a.mean is not None for r in summary.rows for a in (r.over_retrained.over, r.over_scratch.over)
    ):
        notes.append("(n of m): the mean is over the n seeds that have a value.")
    if any(row.cost.missing for row in summary.rows):
        notes.append("A cost is not known where an interruption cut the stage in two.")
    return tuple(notes)


def seed_cells(summary: Summary) -> Cells:
    """Leakage over the retrained model and lost points of every seed."""
    columns = ("method", *(f"leakage, seed {seed}" for seed in summary.seeds))
    columns += tuple(f"points lost, seed {seed}" for seed in summary.seeds)
    rows = [
        (
            row.name,
            *("undefined" if value is None else f"{value:.3f}" for value in row.over_retrained.over.values),
            *("–" if value is None else f"{value:+.2f}" for value in row.loss_points.values),
        )
        for row in summary.rows
    ]
    return Cells("Each seed", columns, tuple(rows), ("Leakage over the retrained model.",))


def _undefined(summary: Summary) -> list[str]:
    """A list of the reasons, each with the methods that share it."""
    methods: dict[str, list[str]] = {}
    for row in summary.rows:
        for floor, found in (("retrained", row.over_retrained), ("scratch", row.over_scratch)):
            for seed, reason in zip(summary.seeds, found.undefined, strict=True):
                if reason is not None:
                    text = f"- Seed {seed}, leakage over {floor} is undefined: {reason}."
                    methods.setdefault(text, []).append(row.name)
    lines = [
        text + ("" if len(names) == len(summary.rows) else f" ({', '.join(names)})") for text, names in methods.items()
    ]
    return ["\n".join(lines)] if lines else []


def tuning_cells(summary: Summary, margin: float) -> Cells:
    """Validation accuracy of the target at every strength, the chosen one in bold."""
    most = max((len(row.chosen.tried) for row in summary.rows), default=0)
    rows = []
    for row in summary.rows:
        tried = [
            _chosen(
                f"{strength:g}: {'diverged' if value is None else f'{value:.3f}'}", strength == row.chosen.strength
            )
            for strength, value in row.chosen.tried.items()
        ]
        before = "not tuned" if row.chosen.before is None else f"{row.chosen.before:.3f}"
        name = _marked(row).replace(row.name, row.method)
        rows.append((name, row.knob, before, *tried, *[""] * (most - len(tried))))
    columns = ("method", "strength", "before", *(f"try {number}" for number in range(1, most + 1)))
    note = (
        "Accuracy on the target's validation images, on the tuning seed. The rule, the same for every method: the "
        f"largest strength that loses at most {margin:g} there, or else the one that keeps most. Neither test images "
        "nor leakage are looked at."
    )
    return Cells("Tuning", columns, tuple(rows), (note,))


def _chosen(text: str, chosen: bool) -> str:
    return f"**{text}**" if chosen else text


def _marked(row: Row) -> str:
    return row.name + {True: "", False: " †", None: " ‡"}[row.chosen.kept]


def _goal(row: Row) -> str:
    return {True: "✓", False: "–", None: "unknown"}[row.goal]


def _share(average: Average | None) -> str:
    return "–" if average is None or average.mean is None else with_deviation(average.mean, average.deviation)


def _counted(text: str, average: Average) -> str:
    """The text, with the number of seeds behind it when that is not all of them."""
    seeds: Sequence[float | None] = average.values
    return f"{text} ({len(seeds) - average.missing} of {len(seeds)})" if average.missing else text


def _leakage(found: Leakage) -> str:
    average = found.over
    return "undefined" if average.mean is None else _counted(with_deviation(average.mean, average.deviation), average)


def _points(average: Average | None) -> str:
    if average is None or average.mean is None:
        return "–"
    noise = "" if average.deviation is None else f" ± {average.deviation:.2f}"
    return _counted(f"{average.mean:+.2f}{noise}", average)


def _cost(average: Average) -> str:
    return "–" if average.mean is None else _counted(with_deviation(average.mean, average.deviation), average)
