"""The study of multi-task unlearning in numbers and tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from hf_dtl.audit import leakage
from hf_dtl.audit.text_table import TextTable
from study.engine import records_of
from study.settings.tasks import BASELINES, OURS, RATES
from study.tables import Average, diverged_notes, mean, no_rows, number, over_seeds, page, tuning_table
from study.tables import relearned as under_the_strongest
from study.tuning import without_option

GOALS = {"full": 0.30, "partial": 0.50}
"""The goal: the mean UIS at least that share below the strongest baseline's."""
SPLITS = ("forget", "retain", "test")
Result = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class StrategyRow:
    """One model in one scope, over training seeds: the one before, the one trained again, or what a method left.

    Args:
        name: undisposed, retrained, or the method at its strength.
        uis: mean over the tasks; lower is better.
        uis_by_task: of each task that it is defined for.
        scores: by task and split, at most 1: accuracy, or for a regression 1 - (mean squared error) / variance.
        mia: AUC of telling forgotten from unseen images by their loss, mean over the forgotten tasks; 0.5 is guessing.
        relearned: score on the forgotten images after relearning from retained ones under the strongest attack, mean
            over the forgotten tasks.
        cpu: seconds of its training; `cost`: of a method, over those of training again.
        leakage: of a method, over the retrained model, by forgotten task.
        tried: of a method, mean UIS in tuning by strength, None where the training diverged.
        diverged: training seeds on which it diverged; they have no values.
    """

    name: str
    uis: Average
    uis_by_task: dict[str, Average]
    scores: dict[str, dict[str, Average]]
    mia: Average
    relearned: Average
    cpu: Average
    cost: Average | None = None
    leakage: dict[str, Average] = field(default_factory=dict)
    tried: dict[float, float | None] = field(default_factory=dict)
    diverged: int = 0

    @property
    def heading(self) -> str:
        """The name as a table shows it: references stand in brackets."""
        return f"({self.name})" if self.cost is None else self.name

    @property
    def strategy(self) -> str:
        """The method without its strength."""
        return without_option(self.name, RATES.option)

    def score(self, tasks: Sequence[str], split: str) -> Average:
        """Mean score of several tasks; without a value for none."""
        own = [self.scores[task][split].values for task in tasks]
        return Average.of(fmean(values) for values in zip(*own, strict=True))


@dataclass(frozen=True, kw_only=True)
class Scope:
    """All methods in one scope.

    Args:
        name: full or partial.
        tasks: of the model.
        forgotten: those that images were forgotten for.
        images: how many were forgotten, and how many are retained for all tasks.
        references: the undisposed model, and the one that was trained again.
        rows: the methods.
        failed: why a method has no row.
    """

    name: str
    tasks: tuple[str, ...]
    forgotten: tuple[str, ...]
    images: dict[str, int]
    references: tuple[StrategyRow, ...]
    rows: tuple[StrategyRow, ...]
    failed: dict[str, str]

    @property
    def title(self) -> str:
        """The scope in words."""
        for_all = "all tasks" if set(self.forgotten) == set(self.tasks) else ", ".join(self.forgotten)
        return f"{self.name}: {self.images['forget']:,} images forgotten for {for_all}"

    @property
    def strongest(self) -> StrategyRow | None:
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


def reference_row(role: str, results: Sequence[Result]) -> StrategyRow:
    """Sum up a reference over training seeds, from the results of the trials of references."""
    costs = [one["cost"] if role == "retrained" else None for one in results]
    return StrategyRow(**_numbers(role, [one[role] for one in results], costs))


def row_of(
    name: str, results: Sequence[Result], references: Sequence[Result], tried: dict[float, float | None]
) -> StrategyRow:
    """Sum up a method.

    Args:
        name: the method at its strength.
        results: the results of each seed's trial.
        references: those of the references, in the same order.
        tried: see `StrategyRow`.
    """
    kept = [n for n, one in enumerate(results) if "diverged" not in one]
    own, old = [results[n] for n in kept], [references[n] for n in kept]
    costs = [one["cost"] for one in own]
    again = [one["cost"] for one in old]
    return StrategyRow(
        **_numbers(name, own, costs),
        leakage={
            task: Average.of(_leaked(one, references, task) for one, references in zip(own, old, strict=True))
            for task in (own[0]["attacks"] if own else ())
        },
        cost=Average.of(c["cpu"] / a["cpu"] if c and a else None for c, a in zip(costs, again, strict=True)),
        tried=tried,
        diverged=len(results) - len(own),
    )


def _numbers(name: str, results: Sequence[Result], costs: Sequence[Mapping[str, float] | None]) -> dict[str, Any]:
    tasks = list(results[0]["scores"]) if results else []
    impacts = [one["uis"] or {"mean": None, "by_task": {}} for one in results]
    scored = list(dict.fromkeys(task for impact in impacts for task in impact["by_task"]))
    return {
        "name": name,
        "uis": Average.of(impact["mean"] for impact in impacts),
        "uis_by_task": {task: Average.of(impact["by_task"].get(task) for impact in impacts) for task in scored},
        "scores": {t: {s: Average.of(one["scores"][t][s] for one in results) for s in SPLITS} for t in tasks},
        "mia": Average.of(mean(list(one["membership"].values())) for one in results),
        "relearned": Average.of(mean(list(relearned(one).values())) for one in results),
        "cpu": Average.of(cost and cost["cpu"] for cost in costs),
    }


def relearned(result: Result) -> dict[str, float]:
    """Score on forgotten images after relearning under the strongest attack, by task, from a trial's numbers."""
    best = {task: under_the_strongest(records_of({"attacks": entries})) for task, entries in result["attacks"].items()}
    return {task: value for task, value in best.items() if value is not None}


def _leaked(result: Result, references: Result, task: str) -> float | None:
    """Leakage over the retrained model in one task; None where the audit calls it undefined."""
    parts = (result, references["undisposed"], references["retrained"])
    ratio = leakage([r for one in parts for r in records_of({"attacks": one["attacks"][task]})])
    return None if ratio is None else ratio.over("retrained").mean


def markdown(values: Result, scopes: Sequence[Scope]) -> str:
    """Write the study as Markdown, from what `results.json` says and the numbers."""
    o, images = values["options"], values["images"]
    parts = [
        f"A model of {values['parameters'] / 1e6:.2f} M parameters with one head a task is trained for "
        f"{o['train_epochs']:g} passes over {images['forget'] + images['retain']:,} images, and again from other "
        "random weights without what is to be forgotten (*retrained*). Each strategy then unlearns in at most "
        f"{o['steps']} steps of {o['forget_batch_size']} forgotten and as many retained images, forgetting a task "
        "only while its images are named better than held-out ones were (`forget_until=unseen`; fine_tune never "
        f"does). Every number is {over_seeds(values)}. The learning rate of every method was chosen of three on a "
        f"seed of its own ({values['tuning_seed']}), by the mean UIS on forgotten and validation images; parts of our "
        "method take the rate of the whole.",
        "*UIS*, Unlearning Impact Score, mean over the tasks: 0 is ideal, forgotten images being answered as unseen "
        "ones were, with test scores and untouched tasks as they were. *forget*, *test*: mean score of the forgotten "
        "tasks; *untouched*: the same images in the other tasks. *MIA*: AUC of telling forgotten from unseen images "
        f"by their loss. *Relearned*: score on forgotten images after relearning the task from {o['budgets']} "
        f"retained images a class, under the strongest of {o['attacks']} on validation images (attack seeds "
        f"{o['seeds']}). *Leakage*: of that, over the retrained model, mean over tasks and seeds where it is defined.",
        "![UIS of every method](impact.png)",
    ]
    for one in scopes:
        tables = (table(one), _by_task(one), _tuning(one))
        parts += [f"## {one.title}", *(table.markdown() for table in tables), *no_rows(one.failed)]
    return page(values, f"Forgetting images of several tasks: {values['title']}", parts)


def table(scope: Scope) -> TextTable:
    """The methods side by side, and the references as rows below them."""
    untouched = [task for task in scope.tasks if task not in scope.forgotten]
    rows = []
    for row in (*scope.rows, *scope.references):
        own = [row.score(scope.forgotten, split) for split in ("forget", "test")]
        own += [row.score(untouched, split) for split in ("forget", "test")] if untouched else []
        known = mean([a.mean for a in row.leakage.values() if a.mean is not None])
        leaked = "" if row.cost is None else "–" if known is None else f"{known:.2f}"
        scores = (number(a, 3) for a in (*own, row.mia, row.relearned))
        rows.append((row.heading, number(row.uis, 4), *scores, leaked, number(row.cpu, 1), number(row.cost, 1, 100)))
    between = ("forget, untouched", "test, untouched") if untouched else ()
    columns = (
        *("method", "UIS", "forget", "test", *between),
        *("MIA", "relearned", "leakage", "CPU s", "of retraining, %"),
    )
    return TextTable(scope.title, columns, tuple(rows), (*_goal(scope), *diverged_notes(scope.rows)))


def _goal(scope: Scope) -> list[str]:
    """How our method compares with the strongest baseline, where both are there."""
    if scope.below is None or scope.strongest is None:
        return []
    side = f"{100 * abs(scope.below):.0f} % {'below' if scope.below >= 0 else 'above'}"
    met = "met" if scope.below >= GOALS[scope.name] else "not met"
    return [
        f"The UIS of {OURS} is {side} that of the strongest baseline, {scope.strongest.name} (goal: "
        f"{100 * GOALS[scope.name]:.0f} % below, {met})."
    ]


def _by_task(scope: Scope) -> TextTable:
    columns = ("UIS of each task", *(f"{task} *" if task in scope.forgotten else task for task in scope.tasks))
    rows = []
    for row in (*scope.rows, *scope.references):
        own = (row.uis_by_task.get(task) for task in scope.tasks)
        rows.append((row.heading, *(number(a, 3) or "–" for a in own)))
    return TextTable("By task", columns, tuple(rows), ("* forgotten.",))


def _tuning(scope: Scope) -> TextTable:
    tried = [
        ((row.name,), {s: None if uis is None else f"{uis:.4f}" for s, uis in row.tried.items()}) for row in scope.rows
    ]
    return tuning_table(tried, ("chosen", "mean UIS on the tuning seed, by learning rate"))
