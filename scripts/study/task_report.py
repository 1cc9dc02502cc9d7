"""The study of multi-task unlearning as tables, as a file of results, and as a picture."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

from hf_dtl.audit import PiggybackRecord, leakage
from hf_dtl.audit.cells import Cells
from hf_dtl.audit.plots.look import COLOURS, GUIDE, plain, save, wrapped
from hf_dtl.audit.report import without_folders
from study.settings import without_option
from study.summary import Average
from study.task_cells import relearned
from study.task_settings import BASELINES, OURS, RATES, TASK_SETTINGS
from study.unlearn_report import about, ending, number

SCHEMA_VERSION = 1
GOALS = {"full": 0.30, "partial": 0.50}
"""The goal: the mean UIS at least that share below the strongest baseline's."""
SPLITS = ("forget", "retain", "test")


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """One model in one scope, over training seeds.

    Args:
        name: the method at its strength, original or retrained.
        uis: mean over the tasks; lower is better.
        uis_by_task: of each task that it is defined for.
        scores: by task and split, at most 1: accuracy, or for a regression 1 - (mean squared error) / variance.
        mia: AUC of telling forgotten from unseen images by their loss, mean over the forgotten tasks; 0.5 is guessing.
        relearned: score on the forgotten images after relearning from retained ones under the strongest attack, mean
            over the forgotten tasks.
        leakage: over the retrained model, by forgotten task.
        cpu: seconds of its training.
    """

    name: str
    uis: Average
    uis_by_task: dict[str, Average]
    scores: dict[str, dict[str, Average]]
    mia: Average
    relearned: Average
    leakage: dict[str, Average]
    cpu: Average

    def score(self, tasks: Sequence[str], split: str) -> Average:
        """Mean score of several tasks; without a value for none."""
        own = [self.scores[task][split].values for task in tasks]
        return Average.of(fmean(values) for values in zip(*own, strict=True))


@dataclass(frozen=True, kw_only=True)
class Row(Numbers):
    """One method in one scope.

    Args:
        cost: CPU seconds over those of training again.
        tried: mean UIS in tuning by strength, None where the training diverged.
        diverged: training seeds on which it diverged; they have no values.
    """

    cost: Average
    tried: dict[float, float | None]
    diverged: int

    @property
    def strategy(self) -> str:
        """The method without its strength."""
        return without_option(self.name, RATES.option)


@dataclass(frozen=True, kw_only=True)
class Scope:
    """All methods in one scope.

    Args:
        name: full or partial.
        tasks: of the model.
        forgotten: those that images were forgotten for.
        images: how many were forgotten, and how many are retained for all tasks.
        references: the original model, and the one that was trained again.
        rows: the methods.
        failed: why a method has no row.
    """

    name: str
    tasks: tuple[str, ...]
    forgotten: tuple[str, ...]
    images: dict[str, int]
    references: tuple[Numbers, ...]
    rows: tuple[Row, ...]
    failed: dict[str, str]

    @property
    def strongest(self) -> Row | None:
        """The baseline with the least mean UIS, of those that finished on every seed."""
        known = [
            row for row in self.rows if row.strategy in BASELINES and not row.diverged and row.uis.mean is not None
        ]
        return min(known, key=lambda row: row.uis.mean or 0.0, default=None)

    @property
    def below(self) -> float | None:
        """By which share the UIS of our method is below the strongest baseline's; negative where it is above."""
        own = next((row for row in self.rows if row.strategy == OURS and not row.diverged), None)
        if own is None or self.strongest is None or own.uis.mean is None or not self.strongest.uis.mean:
            return None
        return 1 - own.uis.mean / self.strongest.uis.mean


def reference_row(role: str, before: Sequence[Mapping[str, Any]]) -> Numbers:
    """Sum up the original or the retrained model over training seeds, from the results of the cells of references."""
    costs = [one["cost"] if role == "retrained" else None for one in before]
    return Numbers(**_numbers(role, [one[role] for one in before], before, costs))


def row_of(
    name: str,
    found: Sequence[Mapping[str, Any]],
    before: Sequence[Mapping[str, Any]],
    tried: dict[float, float | None],
) -> Row:
    """Sum up a method.

    Args:
        name: the method at its strength.
        found: the results of each seed's cell.
        before: those of the references, in the same order.
        tried: see `Row`.
    """
    kept = [n for n, one in enumerate(found) if "diverged" not in one]
    own, old = [found[n] for n in kept], [before[n] for n in kept]
    costs = [one["cost"] for one in own]
    again = [one["cost"] for one in old]
    ratios = [c["cpu"] / a["cpu"] if c and a else None for c, a in zip(costs, again, strict=True)]
    numbers = _numbers(name, own, old, costs)
    return Row(**numbers, cost=Average.of(ratios), tried=tried, diverged=len(found) - len(own))


def _numbers(
    name: str,
    found: Sequence[Mapping[str, Any]],
    before: Sequence[Mapping[str, Any]],
    costs: Sequence[Mapping[str, float] | None],
) -> dict[str, Any]:
    tasks = list(found[0]["scores"]) if found else []
    impacts = [one["uis"] or {"mean": None, "by_task": {}} for one in found]
    scored = list(dict.fromkeys(task for impact in impacts for task in impact["by_task"]))
    attacked = list(found[0]["attacks"]) if found else []
    return {
        "name": name,
        "uis": Average.of(impact["mean"] for impact in impacts),
        "uis_by_task": {task: Average.of(impact["by_task"].get(task) for impact in impacts) for task in scored},
        "scores": {t: {s: Average.of(one["scores"][t][s] for one in found) for s in SPLITS} for t in tasks},
        "mia": Average.of(fmean(one["membership"].values()) if one["membership"] else None for one in found),
        "relearned": Average.of(fmean(relearned(one).values()) if one["attacks"] else None for one in found),
        "leakage": {
            task: Average.of(_leaked(one, old, task) for one, old in zip(found, before, strict=True))
            for task in attacked
            if name not in ("original", "retrained")
        },
        "cpu": Average.of(cost and cost["cpu"] for cost in costs),
    }


def _leaked(found: Mapping[str, Any], before: Mapping[str, Any], task: str) -> float | None:
    """Leakage over the retrained model in one task; None where the audit calls it undefined."""
    parts = (found, before["original"], before["retrained"])
    records = [PiggybackRecord.from_dict(entry) for one in parts for entry in one["attacks"][task]]
    ratio = leakage(records, floor="retrained")
    return None if ratio is None else ratio.over_retrained.mean


def results(
    options: Any, shared: Mapping[str, Any], found: Sequence[Scope], trained: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything that is known of the study, as JSON values; folders of local paths are cut off.

    Args:
        options: see `TaskStudyOptions`.
        shared: options of `UnlearnOptions` that all cells share.
        found: the numbers.
        trained: result of a cell that trains.
    """
    values = {
        "schema_version": SCHEMA_VERSION,
        **about(options, "study_tasks", TASK_SETTINGS[options.setting].title, trained),
        "seeds": [int(seed) for seed in options.seeds.split(",")],
        "goal": GOALS,
        "options": dict(shared),
        "train_images": trained["images"]["train"],
        "scopes": [
            {**asdict(one), "strongest": one.strongest and one.strongest.name, "below": one.below} for one in found
        ],
    }
    return json.loads(json.dumps(without_folders(values)))


def markdown(values: Mapping[str, Any], found: Sequence[Scope]) -> str:
    """Write the study as Markdown.

    Args:
        values: see `results`.
        found: the numbers.
    """
    o, seeds = values["options"], values["seeds"]
    parts = [
        f"# Forgetting images of several tasks: {values['title']}",
        f"A model of {values['parameters'] / 1e6:.2f} M parameters with one head a task is trained for "
        f"{o['train_epochs']:g} passes over {values['train_images']:,} images, and again from other random weights "
        "without what is to be forgotten (*retrained*). Each strategy then unlearns in at most "
        f"{o['unlearn_steps']} steps of {o['unlearn_batch_size']} forgotten and as many retained images, forgetting a "
        "task only while its images are named better than held-out ones were (`forget_until=unseen`; fine_tune never "
        f"does). Every number is a mean ± deviation over {len(seeds)} training seeds "
        f"({', '.join(map(str, seeds))}). The learning rate of every method was chosen of three on a seed of its own "
        f"({values['tuning_seed']}), by the mean UIS on forgotten and validation images; parts of our method take the "
        "rate of the whole.",
        "*UIS*, Unlearning Impact Score, mean over the tasks: 0 is ideal, forgotten images being answered as unseen "
        "ones were, with test scores and untouched tasks as they were. *forget*, *test*: mean score of the forgotten "
        "tasks; *untouched*: the same images in the other tasks. *MIA*: AUC of telling forgotten from unseen images "
        f"by their loss. *Relearned*: score on forgotten images after relearning the task from {o['budgets']} "
        f"retained images a class, under the strongest of {o['attacks']} (attack seeds {o['audit_seeds']}). "
        "*Leakage*: of that, over the retrained model, mean over tasks and seeds where it is defined.",
        "![UIS of every method](impact.png)",
    ]
    for one in found:
        parts += [f"## {_heading(one)}", cells(one).markdown(), _by_task(one).markdown(), _tuning(one).markdown()]
        parts += [f"`{method}` has no row: {reason}." for method, reason in one.failed.items()]
    parts += ending(values)
    return "\n\n".join(parts) + "\n"


def _heading(found: Scope) -> str:
    for_all = "all tasks" if set(found.forgotten) == set(found.tasks) else ", ".join(found.forgotten)
    return f"{found.name}: {found.images['forget']:,} images forgotten for {for_all}"


def cells(found: Scope) -> Cells:
    """The methods side by side, and the references as rows below them."""
    untouched = [task for task in found.tasks if task not in found.forgotten]
    rows = []
    for row in (*found.rows, *found.references):
        method = isinstance(row, Row)
        own = [row.score(found.forgotten, split) for split in ("forget", "test")]
        own += [row.score(untouched, split) for split in ("forget", "test")] if untouched else []
        known = [a.mean for a in row.leakage.values() if a.mean is not None]
        leaked = f"{fmean(known):.2f}" if known else "–"
        rows.append(
            (
                row.name if method else f"({row.name})", number(row.uis, 4), *(number(a, 3) for a in own),
                number(row.mia, 3), number(row.relearned, 3), leaked if method else "", number(row.cpu, 1),
                number(row.cost, 1, 100) if isinstance(row, Row) else "",
            )
        )  # fmt: skip
    between = ("forget, untouched", "test, untouched") if untouched else ()
    columns = (
        *("method", "UIS", "forget", "test", *between),
        *("MIA", "relearned", "leakage", "CPU s", "of retraining, %"),
    )
    return Cells(_heading(found), columns, tuple(rows), tuple(_notes(found)))


def _notes(found: Scope) -> list[str]:
    notes = []
    if found.below is not None and found.strongest is not None:
        side = f"{100 * abs(found.below):.0f} % {'below' if found.below >= 0 else 'above'}"
        met = "met" if found.below >= GOALS[found.name] else "not met"
        notes.append(
            f"The UIS of {OURS} is {side} that of the strongest baseline, {found.strongest.name} (goal: "
            f"{100 * GOALS[found.name]:.0f} % below, {met})."
        )
    diverged = [f"{row.name} on {row.diverged} seed(s)" for row in found.rows if row.diverged]
    if diverged:
        notes.append(f"Diverged, so without values there: {', '.join(diverged)}.")
    return notes


def _by_task(found: Scope) -> Cells:
    columns = ("UIS of each task", *(f"{task} *" if task in found.forgotten else task for task in found.tasks))
    rows = []
    for row in (*found.rows, *found.references):
        own = (row.uis_by_task.get(task) for task in found.tasks)
        name = row.name if isinstance(row, Row) else f"({row.name})"
        rows.append((name, *("–" if a is None else number(a, 3) for a in own)))
    return Cells("By task", columns, tuple(rows), ("* forgotten.",))


def _tuning(found: Scope) -> Cells:
    rows = []
    for row in found.rows:
        tried = ", ".join(f"{s:g}: {'diverged' if uis is None else f'{uis:.4f}'}" for s, uis in row.tried.items())
        if tried:
            rows.append((row.name, tried))
    return Cells("Tuning", ("chosen", "mean UIS on the tuning seed, by learning rate"), tuple(rows))


def plot_impact(found: Sequence[Scope], path: str | Path, title: str) -> list[Path]:
    """Draw the UIS of every method, one panel a scope: a mark a training seed, and a bar to their mean.

    Args:
        found: the numbers.
        path: of the picture without its ending; `.png` and `.svg` are added.
        title: of the picture.

    Returns:
        The files.
    """
    names = list(dict.fromkeys(row.strategy for one in found for row in one.rows))
    count = len(names) + 2
    figure = Figure(figsize=(3.4 + 3.6 * len(found), 1.6 + 0.46 * count), layout="constrained")
    figure.suptitle(wrapped(title, 30 + 30 * len(found)), fontsize=12)
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for panel, one in zip(panels, found, strict=True):
        plain(panel)
        panel.grid(color="0.93", linewidth=0.8, axis="x")
        shown = {row.strategy: row for row in one.rows} | {f"({row.name})": row for row in one.references}
        for place, name in enumerate((*names, "(retrained)", "(original)")):
            if name not in shown or shown[name].uis.mean is None:
                continue
            colour = GUIDE if name.startswith("(") else COLOURS[0 if name.startswith(OURS) else 1]
            values = [value for value in shown[name].uis.values if value is not None]
            panel.barh(place, shown[name].uis.mean, height=0.62, color=colour, alpha=0.85 if name == OURS else 0.4)
            panel.plot(values, [place] * len(values), color=colour, marker="o", markersize=4, linestyle="none")
        panel.set_title(wrapped(_heading(one), 44), fontsize=10)
        panel.set_xlabel("UIS, mean over tasks (0 is ideal)")
        panel.set_xlim(left=0)
    panels[0].set_yticks(range(count), [*(wrapped(n, 38) for n in names), "(retrained)", "(original)"], fontsize=9)
    panels[0].invert_yaxis()
    return save(figure, path, title)
