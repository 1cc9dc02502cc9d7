"""Published numbers against those of an attack that was run again."""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev

from hf_dtl.audit import AttackConfig, AttackedTask, LeakageReport, PiggybackRecord, leakage
from hf_dtl.audit.axis_leakage import FLOORS, Ratio
from hf_dtl.audit.text_table import AXIS_TITLES, TextTable, number, with_deviation, with_interval
from hf_dtl.errors import DataError

RULE = (
    "A number holds when it is at most max(2 deviations over the seeds of this run, noise of the images) from the "
    "published one; the noise of n images is 2·√(p(1 − p)/n), at least one image."
)

Place = tuple[str, str, str, str, int]
"""Model, data set, axis, attack and budget."""


@dataclass(frozen=True)
class Number:
    """A published number and the same one of this run.

    Args:
        what: `PL accuracy`, `validation accuracy` (by which the strongest attack is chosen) or `target accuracy`.
        model, dataset, axis, attack, budget: what was measured; empty and 0 for target accuracy.
        published: mean over seeds; None where the report has no such number for every seed.
        found: the same of this run; None where the attack cannot be run on this model.
        deviation: over the seeds of this run; None for one.
        allowed: largest difference that holds.
    """

    what: str
    model: str
    dataset: str
    axis: str
    attack: str
    budget: int
    published: float | None
    found: float | None
    deviation: float | None
    allowed: float

    @property
    def holds(self) -> bool:
        """Whether both are there and agree."""
        if self.published is None or self.found is None:
            return False
        return abs(self.published - self.found) <= self.allowed + 1e-9


@dataclass(frozen=True)
class Verification:
    """What a verification found.

    Args:
        method, floor: of the report; what leakage 0 means.
        weights: what is wrong with the files of weights, one sentence a file.
        numbers: every number that was compared.
        published, found: leakage of the report, and the one that follows from this run's attacks and the models that
            are not published; None where not every attack was run.
        notes: what was not verified, as sentences.
    """

    method: str
    floor: str
    weights: tuple[str, ...]
    numbers: tuple[Number, ...]
    published: Ratio
    found: Ratio | None
    notes: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether weights and numbers are those of the report."""
        return not self.weights and all(n.holds for n in self.numbers)

    def table(self) -> TextTable:
        """PL and target accuracies as a table; validation accuracies only where they do not hold."""
        rows, notes = [], [RULE]
        several = len({n.dataset for n in self.numbers}) > len({n.axis for n in self.numbers})
        for n in self.numbers:
            validation = n.what.startswith("validation")
            if n.holds and validation:
                continue
            what = n.what
            if n.attack:
                what = f"{AXIS_TITLES[n.axis]}{f', {n.dataset}' if several else ''}: {n.attack}"
                what += " (validation)" if validation else ""
            here = number(None) if n.found is None else with_deviation(n.found, n.deviation)
            reported = (number(n.published), here, number(n.allowed), "yes" if n.holds else "NO")
            rows.append((what, n.model, str(n.budget or ""), *reported))
        columns = ("number", "model", "images/class", "published", "here", "allowed", "holds")
        if any(n.published is None or n.found is None for n in self.numbers):
            notes.append("–: not in the report for every seed, or not to be had from this model.")
        return TextTable(f"Verification of {self.method}", columns, tuple(rows), tuple(notes))

    def sentences(self) -> list[str]:
        """What was found, in words; the verdict last."""
        said = [*self.weights, *self.notes]
        if self.found is not None:
            both = f"{with_interval(self.published)} published, {with_interval(self.found)} here"
            said.append(f"Leakage over {self.floor}: {both}.")
        wrong = sum(not n.holds for n in self.numbers)
        if self.holds:
            return [*said, f"The report HOLDS: all {len(self.numbers)} numbers that were compared agree."]
        weights = f"weights of {len(self.weights)} file{'s' if len(self.weights) > 1 else ''}"
        differ = [weights] * bool(self.weights) + [f"{wrong} of {len(self.numbers)} numbers"] * bool(wrong)
        return [*said, f"The report DOES NOT HOLD: {' and '.join(differ)} differ."]

    def to_json(self) -> str:
        """Give it as JSON text."""
        entries = [asdict(n) | {"holds": n.holds} for n in self.numbers]
        content = {**asdict(self), "holds": self.holds, "rule": RULE, "numbers": entries}
        return json.dumps(content, indent=2, allow_nan=False) + "\n"


def differing_weights(reported: dict[str, str], actual: dict[str, str]) -> Iterable[str]:
    """Name every file of weights that is not the one of the report.

    Args:
        reported: SHA-256 by file name, from the report; empty where it names none.
        actual: the same of the published folder.

    Returns:
        One sentence a file.
    """
    for name in sorted(reported.keys() | actual.keys() if reported else ()):
        if name not in actual:
            yield f"{name} is missing: the report speaks of a file with the hash {reported[name][:12]}…."
        elif name not in reported:
            yield f"{name} is not in the report; its hash is {actual[name][:12]}…."
        elif reported[name] != actual[name]:
            yield f"{name} was changed: its hash is {actual[name][:12]}…, in the report {reported[name][:12]}…."


def compare_numbers(
    report: LeakageReport,
    records: Sequence[PiggybackRecord],
    attacked: Mapping[str, AttackedTask],
    config: AttackConfig,
    models: set[str],
) -> list[Number]:
    """Test and validation accuracy of every attack at every budget, of the report and of this run.

    Args:
        report: the published one.
        records: of this run.
        attacked: the tasks of this run, by the name of their data set.
        config: what the attacker of this run might do.
        models: roles that were attacked.
    """
    chosen = [r for r in report.piggyback if r.attack in config.attacks and r.budget in config.budgets]
    reported = _by_attack(r for r in chosen if r.model in models and r.dataset in attacked)
    here = _by_attack(records)
    needed, found = set(config.seeds[: config.trial_seeds] if config.finalists else config.seeds), []
    for place in here | reported:
        told, ran = ({r.seed: r for r in runs[place]} for runs in (reported, here))
        complete, task = needed <= told.keys(), attacked[place[1]]
        both = told.keys() & ran.keys() if complete and ran else told.keys() | ran.keys()
        for what, name, split in (
            ("PL accuracy", "accuracy", task.test),
            ("validation accuracy", "validation_accuracy", task.validation),
        ):
            before, now = ([getattr(runs[seed], name) for seed in both & runs.keys()] for runs in (told, ran))
            deviation = stdev(now) if len(now) > 1 else None
            allowed = max(2 * (deviation or 0.0), noise(fmean(now), len(split.labels))) if now else 0.0
            published, reached = fmean(before) if complete else None, fmean(now) if now else None
            found.append(Number(what, *place, published, reached, deviation, allowed))
    return found


def _by_attack(records: Iterable[PiggybackRecord]) -> defaultdict[Place, list[PiggybackRecord]]:
    groups = defaultdict[Place, list[PiggybackRecord]](list)
    for r in records:
        groups[r.model, r.dataset, r.axis, r.attack, r.budget].append(r)
    return groups


def noise(share: float, images: int) -> float:
    """Two standard errors of a share of so many images, at least one image.

    Example:
        >>> noise(0.5, 100), noise(1.0, 100)
        (0.1, 0.01)
    """
    return max(2 * math.sqrt(share * (1 - share) / images), 1 / images)


def target_number(published: float | None, measured: float | None, images: int) -> list[Number]:
    """Target accuracy of the report and of this run, where both are known."""
    if published is None or measured is None:
        return []
    return [Number("target accuracy", "scrubbed", "", "", "", 0, published, measured, None, noise(measured, images))]


def leakage_again(report: LeakageReport, records: Sequence[PiggybackRecord]) -> Ratio | None:
    """Leakage of this run's attacks, the models that are not published being those of the report."""
    again = {record.model for record in records}
    kept = [record for record in report.piggyback if record.model not in again and record.axis == "source_subset"]
    try:
        found = leakage([*records, *kept], "source_subset")
    except DataError:  # other seeds than the report's
        return None
    return None if found is None else found.headline


def not_verified(report: LeakageReport, models: set[str], datasets: Iterable[str]) -> list[str]:
    """What of the report was not attacked again, as sentences."""
    notes = []
    if not report.weights:
        notes.append("The report does not name the weights that it speaks of, so their hashes say nothing.")
    reported = {record.model for record in report.piggyback} - models
    taken = [role for role in ("undisposed", *FLOORS) if role in reported]
    if taken:
        notes.append(f"Not published, so taken from the report and not verified: {', '.join(taken)}.")
    known = set(datasets)
    left = dict.fromkeys(r.dataset for r in report.piggyback if r.dataset not in known)
    if left:
        notes.append(f"Not attacked here: {', '.join(left)}.")
    return notes
