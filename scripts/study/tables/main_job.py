"""The study of the main job in numbers and tables."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hf_dtl.audit import AxisLeakage, PLAccuracy, Ratio, leakage
from hf_dtl.audit.axis_leakage import pl_accuracies
from hf_dtl.audit.text_table import TextTable
from study.engine import records_of
from study.tables import Average, diverged_notes, no_rows, number, over_seeds, page
from study.tuning import ChosenStrength, Method

GOAL_LEAKAGE, GOAL_POINTS = 0.05, 0.5
"""The goal: at most so much leaks over the retrained model, for at most so many points of target accuracy."""
REFERENCES = ("undisposed", "retrained", "scratch")
Result = Mapping[str, Any]


@dataclass(frozen=True)
class Leakage:
    """A leakage over training seeds, and for each seed the reason where it is undefined (None where it is not)."""

    over: Average
    undefined: tuple[str | None, ...]

    @classmethod
    def of(cls, ratios: Sequence[Ratio | None]) -> "Leakage":
        """Sum up the ratios of the seeds, None where the disposal diverged."""
        reasons = tuple("the disposal diverged" if ratio is None else ratio.undefined for ratio in ratios)
        return cls(Average.of(None if ratio is None else ratio.mean for ratio in ratios), reasons)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A model that shows what the methods' numbers mean; what does not apply to it is None.

    Args:
        name: its role.
        target, source: accuracy on test images, in 0..1.
        loss_points: target accuracy of the undisposed model minus its own, in points (hundredths).
        learned: PL accuracy by budget; each seed's is a mean over attack seeds under the strongest attack.
    """

    name: str
    target: Average | None
    source: Average | None
    loss_points: Average | None
    learned: dict[int, Average]


@dataclass(frozen=True, kw_only=True)
class MethodRow(Reference):
    """One method; its name is the method at its strength, as a command line names it.

    Args:
        method: the same without its strength.
        knob: the option that is its strength.
        chosen: its strength, and what tuning saw.
        over_retrained, over_scratch: leakage, by its floor.
        cost: seconds of disposal over those of pre-training, by the clock of the summary.
        attacks: how often an attack was the strongest on a scrubbed model, over seeds and budgets.
        diverged: training seeds on which the disposal diverged; they have no values.
    """

    loss_points: Average
    method: str
    knob: str
    chosen: ChosenStrength
    over_retrained: Leakage
    over_scratch: Leakage
    cost: Average
    attacks: dict[str, int]
    diverged: int

    @property
    def goal(self) -> bool | None:
        """Whether it leaks and costs little enough on the mean; None when that is not known on every seed."""
        leaked, lost = self.over_retrained.over, self.loss_points
        if leaked.mean is None or lost.mean is None or leaked.missing or lost.missing:
            return None
        return leaked.mean <= GOAL_LEAKAGE and lost.mean <= GOAL_POINTS


@dataclass(frozen=True)
class Summary:
    """The study's numbers.

    Args:
        seeds: training seeds, in the order of all values.
        references: undisposed, retrained and scratch.
        rows: the methods, in the order asked for.
        failed: methods without a row, with the reason.
        clock: what the cost counts: `cpu` seconds of the process, or `wall`-clock seconds (with a GPU).
    """

    seeds: tuple[int, ...]
    references: tuple[Reference, ...]
    rows: tuple[MethodRow, ...]
    failed: dict[str, str]
    clock: str

    @property
    def budgets(self) -> tuple[int, ...]:
        """Images a class that the attacker had."""
        return tuple(self.references[0].learned)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self) | {"rows": [{"goal": row.goal, **asdict(row)} for row in self.rows]}


def reference_rows(trained: Sequence[Result], attacked: Sequence[Result]) -> tuple[Reference, ...]:
    """Sum up the references, from the results of the trials that train and that attack them, one a training seed."""
    before = [result["target"]["undisposed"] for result in trained]
    points = [pl_accuracies(records_of(result), "source_subset") for result in attacked]
    references = []
    for name in REFERENCES:
        target, source = ([result[task].get(name) for result in trained] for task in ("target", "source"))
        complete = None not in target
        references.append(
            Reference(
                name=name,
                target=Average.of(target) if complete else None,
                source=Average.of(source) if None not in source else None,
                loss_points=_lost(before, target) if complete else None,
                learned=_learned([[point for point in own if point.model == name] for own in points]),
            )
        )
    return tuple(references)


def method_row(
    method: Method,
    chosen: ChosenStrength,
    results: Sequence[Result],
    trained: Sequence[Result],
    attacked: Sequence[Result],
) -> MethodRow:
    """Sum up one method.

    Args:
        method: the method.
        chosen: its strength.
        results: the results of its trials, one a training seed.
        trained, attacked: see `reference_rows`; of the same training seeds in the same order.
    """
    audits = [_audit(own, references) for own, references in zip(results, attacked, strict=True)]
    scrubbed = [[p for p in audit.pl_accuracy if p.model == "scrubbed"] if audit else [] for audit in audits]
    target = [result.get("target") for result in results]
    costs = [_ratio(own.get("cost"), t["cost"], t["clock"]) for own, t in zip(results, trained, strict=True)]
    return MethodRow(
        name=method.at(chosen.strength),
        method=method.text,
        knob=method.knob,
        chosen=chosen,
        target=Average.of(target),
        source=Average.of(result.get("source") for result in results),
        loss_points=_lost([result["target"]["undisposed"] for result in trained], target),
        learned=_learned(scrubbed),
        over_retrained=Leakage.of([audit.over("retrained") if audit else None for audit in audits]),
        over_scratch=Leakage.of([audit.over("scratch") if audit else None for audit in audits]),
        cost=Average.of(costs),
        attacks=dict(Counter(point.attack for own in scrubbed for point in own).most_common()),
        diverged=sum("diverged" in result for result in results),
    )


def _audit(scrubbed: Result, references: Result) -> AxisLeakage | None:
    """The audit of one training seed; None without a scrubbed model."""
    own = records_of(scrubbed)
    return leakage([*records_of(references), *own], "source_subset") if own else None


def _learned(points: Sequence[Sequence[PLAccuracy]]) -> dict[int, Average]:
    """PL accuracy by budget, from the points of one model of each training seed."""
    by_seed = [{point.budget: point.mean for point in own} for own in points]
    budgets = sorted({budget for own in by_seed for budget in own})
    return {budget: Average.of(own.get(budget) for own in by_seed) for budget in budgets}


def _lost(before: Sequence[float], after: Sequence[float | None]) -> Average:
    return Average.of(None if a is None else 100 * (b - a) for b, a in zip(before, after, strict=True))


def _ratio(disposal: dict[str, float] | None, pretrain: dict[str, float] | None, clock: str) -> float | None:
    return disposal[clock] / pretrain[clock] if disposal and pretrain else None


def markdown(values: Result, summary: Summary) -> str:
    """Write the study as Markdown: how it was done, the methods side by side, each seed, the tuning, how to repeat it.

    Args:
        values: what `results.json` says.
        summary: the numbers.
    """
    parts = [
        *_introduction(values, summary),
        main_table(summary).markdown(),
        "![Target accuracy lost and leakage of every method](tradeoff.png)",
        "## Each training seed",
        seed_table(summary).markdown(),
        *_undefined(summary),
        "## How the strengths were chosen",
        strengths_table(summary, values["margin"]).markdown(),
    ]
    return page(values, values["title"], parts)


def _introduction(values: Result, summary: Summary) -> list[str]:
    o, images = values["options"], values["images"]
    transforms = "" if o["augmentation"] == "none" else f", under random transforms ({o['augmentation']})"
    parts = [
        f"A model of {values['parameters'] / 1e6:.2f} M parameters learns the source task (`{o['forget']}`, "
        f"{images['source']['train']} images) and is adapted to the target task (`{o['retain']}`, "
        f"{o['retain_images_per_class']} images a class{transforms}). Each method then disposes of the source task in "
        f"{o['steps']} steps, unless its own options say otherwise. An attacker who has the published weights "
        "and a few source images a class relearns the source task: PL (piggyback learning) accuracy.",
        f"Every number is {over_seeds(values)}; in each of them every attack ({o['attacks']}) is run with the attack "
        f"seeds {o['seeds']}, and the strongest one on validation images counts. Every method was tuned with the same "
        f"budget on a seed of its own ({values['tuning_seed']}), see below.",
    ]
    if values["missing_methods"]:
        parts.append(f"This version of the library does not have: {', '.join(values['missing_methods'])}.")
    return parts + no_rows(summary.failed)


def main_table(summary: Summary) -> TextTable:
    """The methods side by side, and the references as rows below them."""
    before, *_ = summary.references
    rows = []
    for row in summary.rows:
        ends = (number(row.cost, 3, counted=True), {True: "✓", False: "–", None: "unknown"}[row.goal])
        leaked = (_leakage(row.over_retrained), _leakage(row.over_scratch))
        rows.append((_marked(row), *leaked, *_shared(row, before, summary.budgets), *ends))
    for reference in summary.references:
        known = reference.target is not None and reference is not before
        cells = _shared(reference, before if known else None, summary.budgets)
        leaked = {"undisposed": ("1", "1"), "retrained": ("0", ""), "scratch": ("", "0")}[reference.name]
        rows.append((f"({reference.name})", *leaked, *cells, "", ""))
    columns = (
        *("method", "leakage over retrained", "leakage over scratch", "target points lost", "target before"),
        *("target after", "source after", *(f"PL at {budget}" for budget in summary.budgets), "cost", "goal"),
    )
    return TextTable("Methods compared", columns, tuple(rows), _notes(summary))


def _shared(row: Reference, before: Reference | None, budgets: Sequence[int]) -> tuple[str, ...]:
    """What methods and references have; without a model before there is nothing to compare with."""
    lost = (
        ("", "") if before is None else (number(row.loss_points, 2, sign="+", counted=True), number(before.target, 3))
    )
    target = number(row.target, 3) or "–"
    return (*lost, target, number(row.source, 3), *(number(row.learned.get(b), 3) or "–" for b in budgets))


def _notes(summary: Summary) -> tuple[str, ...]:
    seconds, rows = "CPU seconds" if summary.clock == "cpu" else "wall-clock seconds (GPU)", summary.rows
    notes = [
        "Leakage: (PL of scrubbed − PL of floor) / (PL of undisposed − PL of floor), over all budgets; 1 leaks all, 0 "
        "nothing more than a floor model gives: one retrained on the target task alone, or scratch (random weights). "
        "It is undefined where the gap between the undisposed model and the floor is not shown to be at least .10.",
        "Source after: what the old source head still reads; low values prove nothing. Target points lost: hundredths "
        "of test accuracy.",
        "PL at k: source task relearned from k images a class. "
        f"Cost: {seconds} of disposal over those of pre-training.",
        f"Goal ✓: leakage over retrained of at most {GOAL_LEAKAGE:g} for at most {GOAL_POINTS:g} points, on the mean.",
    ]
    if any(row.chosen.kept is False for row in rows):
        notes.append(
            "† No strength kept the target within the margin in tuning; the one that kept most of it was taken."
        )
    if any(row.chosen.kept is None for row in rows):
        notes.append("‡ The strength was given, not tuned.")
    notes += diverged_notes(rows)
    if any(a.missing and a.mean is not None for r in rows for a in (r.over_retrained.over, r.over_scratch.over)):
        notes.append("(n of m): the mean is over the n seeds that have a value.")
    if any(row.cost.missing for row in rows):
        notes.append("A cost is not known where an interruption cut the stage in two.")
    return tuple(notes)


def seed_table(summary: Summary) -> TextTable:
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
    return TextTable("Each seed", columns, tuple(rows), ("Leakage over the retrained model.",))


def _undefined(summary: Summary) -> list[str]:
    """A list of the reasons, each with the methods that share it."""
    methods: dict[str, list[str]] = {}
    for row in summary.rows:
        for floor, over in (("retrained", row.over_retrained), ("scratch", row.over_scratch)):
            for seed, reason in zip(summary.seeds, over.undefined, strict=True):
                if reason is not None:
                    text = f"- Seed {seed}, leakage over {floor} is undefined: {reason}."
                    methods.setdefault(text, []).append(row.name)
    lines = [
        text + ("" if len(names) == len(summary.rows) else f" ({', '.join(names)})") for text, names in methods.items()
    ]
    return ["\n".join(lines)] if lines else []


def strengths_table(summary: Summary, margin: float) -> TextTable:
    """Validation accuracy of the target at every strength, the chosen one in bold."""
    most = max((len(row.chosen.tried) for row in summary.rows), default=0)
    rows = []
    for row in summary.rows:
        tried = []
        for strength, value in row.chosen.tried.items():
            text = f"{strength:g}: {'diverged' if value is None else f'{value:.3f}'}"
            tried.append(f"**{text}**" if strength == row.chosen.strength else text)
        before = "not tuned" if row.chosen.before is None else f"{row.chosen.before:.3f}"
        name = _marked(row).replace(row.name, row.method)
        rows.append((name, row.knob, before, *tried, *[""] * (most - len(tried))))
    columns = ("method", "strength", "before", *(f"try {number}" for number in range(1, most + 1)))
    note = (
        "Accuracy on the target's validation images, on the tuning seed. The rule, the same for every method: the "
        f"largest strength that loses at most {margin:g} there, or else the one that keeps most. Neither test images "
        "nor leakage are looked at."
    )
    return TextTable("Tuning", columns, tuple(rows), (note,))


def _marked(row: MethodRow) -> str:
    return row.name + {True: "", False: " †", None: " ‡"}[row.chosen.kept]


def _leakage(leakage: Leakage) -> str:
    return "undefined" if leakage.over.mean is None else number(leakage.over, 3, counted=True)
