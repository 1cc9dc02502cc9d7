"""The comparison of unlearning methods in numbers and tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hf_dtl.audit import AxisLeakage, PiggybackRecord, leakage
from hf_dtl.audit.text_table import TextTable
from hf_dtl.audit.unlearning import Unlearning
from hf_dtl.scenarios.scenario import Measurements
from study.engine import records_of
from study.tables import Average, column, mean, no_rows, over_seeds, page, relearned, side_by_side, tuning_table

GOAL_GAP, GOAL_COST = 0.02, 0.05
"""The goal: at most so far from the retrained model on average, in at most that share of retraining's time."""
SPLITS = ("forget", "retain", "test")
Result = Mapping[str, Any]
Costs = Sequence[Mapping[str, float] | None]


@dataclass(frozen=True)
class Outcome:
    """One method on one training seed, beside its references.

    Args:
        unlearning: accuracies and cost.
        leakage: after relearning.
        membership: attacks on every model.
        records: relearning, attack by attack.
    """

    unlearning: Unlearning
    leakage: AxisLeakage
    membership: list[dict[str, Any]]
    records: list[PiggybackRecord]


def outcome(request: str, result: Result, trained: Result, attacked: Result) -> Outcome | None:
    """What a trial of a method came to; None when its training diverged.

    Args:
        request: what was forgotten.
        result: the result of its trial.
        trained, attacked: of the trials that train the references, and attack them, on the same seed.
    """
    if "diverged" in result:
        return None
    both = _measurements(trained) + _measurements(result)
    records = [*records_of(attacked), *records_of(result)]
    leaked = leakage(records)
    assert leaked is not None
    images = {name: trained["images"][name] for name in ("forget", "retain")}
    cost = {"scrubbed": result["cost"], "retrained": trained["cost"]["retrained"]}
    return Outcome(Unlearning(request, images, both.accuracy, cost), leaked, both.membership, records)


def _measurements(result: Result) -> Measurements:
    return Measurements(result["accuracy"], result["membership"], result["notes"])


@dataclass(frozen=True, kw_only=True)
class UnlearningRow:
    """One model on one request, over training seeds: the one before, the one trained again, or what a method left.

    Args:
        name: the model's role, or the method at its strength, as a command line names it.
        accuracy: on forget, retain and test images, in 0..1.
        gap: mean distance of these to the retrained model's.
        mia: AUC of telling forgotten from unseen images by their loss; 0.5 is guessing.
        learned: PL accuracy under the strongest attack, averaged over budgets; `new_head`: of those with a new head.
        leakage: of a method, over the retrained model.
        cpu: seconds of its training; `cost`: of a method, over those of retraining.
        memory: MiB that this took beyond what was there before.
        tried: of a method, average gap in tuning by strength; None where the training diverged.
        diverged: training seeds on which it diverged.
    """

    name: str
    accuracy: dict[str, Average] = column({split: split for split in SPLITS}, 3)
    gap: Average = column("gap, points", 1, 100)
    mia: Average = column("MIA", 3)
    learned: Average = column("PL", 3)
    new_head: Average = column("PL, new head", 3)
    leakage: Average | None = column("leakage", 2)
    cpu: Average = column("CPU s", 1)
    cost: Average | None = column("of retraining", 1, 100, unit=" %")
    memory: Average = column("memory, MiB", 0)
    tried: dict[float, float | None] | None = None
    diverged: int = 0

    @property
    def goal(self) -> bool | None:
        """Whether it comes close enough in little enough time on the mean; None when that is not known."""
        if self.diverged or self.gap.mean is None or self.cost is None or self.cost.mean is None:
            return None
        return self.gap.mean <= GOAL_GAP and self.cost.mean <= GOAL_COST

    @property
    def heading(self) -> str:
        """The name as a table shows it."""
        return f"({self.name})" if self.cost is None else self.name + (" ✓" if self.goal else "")


@dataclass(frozen=True)
class Comparison:
    """All methods on one request."""

    request: str
    images: dict[str, int]
    seeds: tuple[int, ...]
    references: tuple[UnlearningRow, ...]
    rows: tuple[UnlearningRow, ...]
    failed: dict[str, str]


def method_row(name: str, outcomes: Sequence[Outcome | None], tried: dict[float, float | None]) -> UnlearningRow:
    """Sum up the outcomes of a method's training seeds, None where it diverged."""
    kept = [one for one in outcomes if one is not None]
    return UnlearningRow(
        name=name,
        **_numbers("scrubbed", kept, [one.unlearning.cost["scrubbed"] for one in kept]),
        leakage=Average.of(one.leakage.over("retrained").mean for one in kept),
        cost=Average.of(one.unlearning.relative_cost for one in kept),
        tried=tried,
        diverged=len(outcomes) - len(kept),
    )


def reference_row(name: str, outcomes: Sequence[Outcome], costs: Costs) -> UnlearningRow:
    """Sum up a reference over training seeds, from the outcomes of any method and the costs of its own training."""
    return UnlearningRow(name=name, **_numbers(name, outcomes, costs))


def _numbers(model: str, outcomes: Sequence[Outcome], costs: Costs) -> dict[str, Any]:
    return {
        "accuracy": {s: Average.of(one.unlearning.accuracy[s][model] for one in outcomes) for s in SPLITS},
        "gap": Average.of(one.unlearning.average_gap(model) for one in outcomes),
        "mia": Average.of(_mia(one, model) for one in outcomes),
        "learned": Average.of(mean([p.mean for p in one.leakage.pl_accuracy if p.model == model]) for one in outcomes),
        "new_head": Average.of(_new_head(one, model) for one in outcomes),
        "cpu": Average.of(cost and cost["cpu"] for cost in costs),
        "memory": Average.of(cost and cost.get("peak_mib") for cost in costs),
    }


def _mia(outcomes: Outcome, model: str) -> float | None:
    auc = [row["auc"] for row in outcomes.membership if (row["model"], row["attack"]) == (model, "loss")]
    return auc[-1] if auc else None


def _new_head(outcomes: Outcome, model: str) -> float | None:
    return relearned(r for r in outcomes.records if r.model == model and not r.attack.endswith("_published"))


def markdown(values: Result, comparisons: Sequence[Comparison]) -> str:
    """Write the comparison as Markdown, from what `results.json` says and the numbers."""
    o = values["options"]
    parts = [
        f"A model of {values['parameters'] / 1e6:.2f} M parameters is trained for {o['train_epochs']:g} passes, and "
        "again from other random weights without what is to be forgotten (*retrained*). Each method then unlearns in "
        f"at most {o['steps']} steps. Every number is {over_seeds(values)}. The strength of every method was chosen "
        f"on a seed of its own ({values['tuning_seed']}), by the average gap on forget, retain and validation images. "
        "*Gap*: mean distance of forget, retain and test accuracy to the retrained model's, in points. *MIA*: AUC of "
        "telling forgotten from unseen images by their loss; the retrained model's is the goal. *PL*: accuracy after "
        f"relearning from {o['budgets']} images a class (attacks {o['attacks']}, attack seeds {o['seeds']}), under "
        "the strongest one on validation images and under the strongest with a new head. *Leakage* is over the "
        "retrained model: 1 leaks all, 0 nothing.",
        "![Gap to the retrained model and leakage of every method](gap.png)",
    ]
    for one in comparisons:
        counts = f"{one.images['forget']:,} images forgotten, {one.images['retain']:,} retained"
        parts += [f"## {one.request}", f"{counts}.", table(one).markdown(), _tuning(one).markdown()]
        parts += no_rows(one.failed)
    return page(values, f"Unlearning: {values['title']}", parts)


def table(comparison: Comparison) -> TextTable:
    """The methods side by side, and the references as rows below them."""
    notes = [
        f"✓: gap at most {100 * GOAL_GAP:g} points in at most {100 * GOAL_COST:g} % of retraining's CPU time.",
        "Memory: beyond what was there before; on a CPU memory that was freed earlier is used again.",
    ]
    missing = {row.name: row.leakage.missing for row in comparison.rows if row.leakage is not None}
    undefined = ", ".join(f"{name} on {seeds}" for name, seeds in missing.items() if seeds)
    if undefined:
        notes.append(
            "Leakage undefined, because the gap between the undisposed model and the retrained one is not shown to be "
            f"at least .10 (number of seeds; the mean is over the others): {undefined}."
        )
    return side_by_side(f"Forget {comparison.request}", (*comparison.rows, *comparison.references), notes)


def _tuning(comparison: Comparison) -> TextTable:
    tried = [
        ((row.name,), {s: None if gap is None else f"{100 * gap:.1f}" for s, gap in (row.tried or {}).items()})
        for row in comparison.rows
    ]
    return tuning_table(tried, ("chosen", "average gap in points on the tuning seed, by strength"))
