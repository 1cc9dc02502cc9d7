"""Published numbers against those of an attack that was run again."""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean, stdev

from hf_dtl.audit import AttackConfig, AttackedTask, LeakageReport, PiggybackRecord
from hf_dtl.audit.axis_leakage import Ratio
from hf_dtl.audit.text_table import AXIS_TITLES, TextTable, number, with_deviation, with_interval
from hf_dtl.errors import DataError

RULE = (
    "A number holds when it is at most max(2 deviations over the seeds of this run, noise of the images) from the "
    "published one; the noise of n images is 2·√(p(1 − p)/n), at least one image. So that this is not spent "
    "everywhere at once, means over all runs, the gap and the leakage may differ only as far as another machine's "
    "rounding goes: one answer in ten of every run, by chance."
)
FLIPS = 0.1
"""Share of a model's answers that another machine may give otherwise; which, is chance."""
LEAST_IMAGES = 50
"""Validation and test images below which numbers are not told apart."""

UNMEASURED = ("costs", "method and its settings, command, notes and machine")
"""What of a report is claimed even where everything that it measured was measured again."""

Curve = Sequence[tuple[int, float, float]]
Place = tuple[str, str, str, str, int]
"""Model, data set, axis, attack and budget."""


@dataclass(frozen=True)
class Number:
    """A published number and the same one of this run.

    Args:
        what: `PL accuracy`, `validation accuracy` (by which the strongest attack is chosen), their `mean` over all
            runs, `leakage`, `gap`, or what models answer without an attack, such as `target accuracy`.
        model, dataset, axis, attack, budget: what was measured; empty and 0 where it is not of one attack.
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

    def excess(self) -> float:
        """How far the difference is above what is allowed, both being there."""
        return abs((self.published or 0.0) - (self.found or 0.0)) - self.allowed

    @property
    def holds(self) -> bool:
        """Whether both are there and agree."""
        if self.published is None or self.found is None:
            return False
        return self.excess() <= 1e-9


@dataclass(frozen=True)
class Verification:
    """What a verification found.

    Args:
        method, floor: of the report; what leakage 0 means.
        wrong: what is not as the report says, one sentence each: files that were changed, other names.
        numbers: every number that was compared.
        published, found: leakage of the report, and the one that follows from this run's attacks and the models that
            are not at hand; None where not every attack was run.
        less: why the report cannot hold, however its numbers agree: it says less than a suite does.
        otherwise: what this run's own numbers say in words where the report says something else, see `said_otherwise`.
        claimed: what nobody checked: the report may say there what it likes.
        trusted: models that decide the leakage and are not at hand.
        notes: what else is to be known, as sentences.
    """

    method: str
    floor: str
    wrong: tuple[str, ...]
    numbers: tuple[Number, ...]
    published: Ratio
    found: Ratio | None
    less: tuple[str, ...] = ()
    otherwise: tuple[str, ...] = ()
    claimed: tuple[str, ...] = ()
    trusted: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether everything that was compared is as in the report."""
        return not self.wrong and all(n.holds for n in self.numbers)

    @property
    def holds(self) -> bool:
        """Whether that was also enough to compare, and says the same in words."""
        return self.agrees and not self.less and not self.otherwise and bool(self.numbers)

    def table(self) -> TextTable:
        """PL and target accuracies as a table; validation accuracies only where they do not hold."""
        rows, notes = [], [RULE]
        several = len({n.dataset for n in self.numbers}) > len({n.axis for n in self.numbers})
        for n in self.numbers:
            validation = n.what.startswith("validation")
            if n.holds and (validation or n.what.startswith("mean") or n.what.endswith(("draw", "steps"))):
                continue
            what = n.what
            if n.axis and not n.attack:
                what = f"{AXIS_TITLES[n.axis]}{f', {n.dataset}' if several else ''}: {n.what}"
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
        said = [*self.wrong, *self.less, *self.otherwise, *self.notes]
        if self.claimed:
            said.append(f"Claimed, not checked: {', '.join(self.claimed)}.")
        if self.found is not None:
            both = f"{with_interval(self.published)} published, {with_interval(self.found)} here"
            said.append(f"Leakage over {self.floor}: {both}.")
        agree = f"all {len(self.numbers)} numbers that were compared agree"
        if not self.agrees:
            differ = [f"{len(self.wrong)} of the statements above"] * bool(self.wrong)
            bad = sum(not n.holds for n in self.numbers)
            differ += [f"{bad} of {len(self.numbers)} numbers"] * bool(bad)
            return [*said, f"The report DOES NOT HOLD: {' and '.join(differ)} differ."]
        if not self.holds:
            why = "it says less than a suite of attacks does" if self.less else "they do not say the same in words"
            return [*said, f"The report is NOT VERIFIED: {agree}, but {why}."]
        run = "PL accuracy" if self.found is not None else "PL accuracy of what was run"
        if self.trusted:
            who = " and ".join(self.trusted)
            return [
                *said,
                f"{run} HOLDS, leakage claimed: {agree}. The leakage is as right as what the publisher says of "
                f"{who}; give {'them' if len(self.trusted) > 1 else 'it'} to check it too.",
            ]
        if {*self.claimed} - {*UNMEASURED} or self.found is None:
            run = "Leakage" if self.found is not None else run
            return [*said, f"{run} HOLDS, the rest claimed: {agree}; nobody measured here what is claimed."]
        return [*said, f"The report HOLDS: {agree}, the leakage among them."]

    def to_json(self) -> str:
        """Give it as JSON text."""
        entries = [asdict(n) | {"holds": n.holds} for n in self.numbers]
        content = {**asdict(self), "holds": self.holds, "rule": RULE, "numbers": entries}
        return json.dumps(content, indent=2, allow_nan=False) + "\n"


def differing_weights(reported: dict[str, str], actual: dict[str, str]) -> Iterable[str]:
    """Name every audited file that is not the one of the report.

    Args:
        reported: SHA-256 by file name, from the report.
        actual: the same of the published folder.

    Returns:
        One sentence a file.
    """
    if not reported:
        yield "The report does not name the files that it speaks of (`weights` is empty): it may be another model's."
        return
    for name in sorted(reported.keys() | actual.keys()):
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
            found.append(_averaged(what, place, before if complete else [], now, len(split.labels)))
            if complete and ran:  # the mean may be right where draws were moved against each other
                far = max(both, key=lambda seed: abs(getattr(told[seed], name) - getattr(ran[seed], name)))
                one, other = (getattr(runs[far], name) for runs in (told, ran))
                room = 2 * max(noise(other, len(split.labels)), 2 * rounding(len(split.labels), 1))
                found.append(Number(f"{what} of one draw", *place, one, other, None, room))
        if complete and ran:
            pairs = [(told[seed].curve, ran[seed].curve) for seed in both]
            found += _by_effort(place, pairs, (len(task.validation.labels), len(task.test.labels)))
    return found


def _averaged(what: str, place: Place, before: Sequence[float], now: Sequence[float], images: int) -> Number:
    """Means over draws, of the report and of this run, each None where it has none."""
    deviation = stdev(now) if len(now) > 1 else None
    allowed = max(2 * (deviation or 0.0), noise(fmean(now), images)) if now else 0.0
    published, reached = (fmean(values) if values else None for values in (before, now))
    return Number(what, *place, published, reached, deviation, allowed)


def _by_effort(place: Place, pairs: Sequence[tuple[Curve, Curve]], images: tuple[int, int]) -> Iterator[Number]:
    """Accuracies after fewer steps, from which the word follows too: of each kind the one that differs most."""
    if any([effort for effort, *_ in told] != [effort for effort, *_ in ran] for told, ran in pairs):
        yield Number("PL accuracy after fewer steps", *place, None, None, None, 0.0)
        return
    for column, what in ((1, "validation accuracy"), (2, "PL accuracy")):
        reached = defaultdict[int, list[tuple[float, float]]](list)
        for told, ran in pairs:
            for one, other in zip(told, ran, strict=True):
                reached[one[0]].append((one[column], other[column]))
        found = []
        for effort, both in reached.items():
            before, now = ([pair[side] for pair in both] for side in (0, 1))
            found.append(_averaged(f"{what} after {effort} steps", place, before, now, images[column - 1]))
        yield from sorted(found, key=Number.excess)[-1:]


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


def answered(what: str, model: str, published: float | None, measured: float | None, images: int) -> list[Number]:
    """What a model answers without an attack, of the report and of this run, where both are known."""
    if published is None or measured is None:
        return []
    return [Number(what, model, "", "", "", 0, published, measured, None, noise(measured, images))]


def rounding(images: int, runs: int) -> float:
    """Two standard errors of a mean over runs whose answers another machine may give otherwise, see `FLIPS`.

    Example:
        >>> rounding(400, 1)
        0.0316...
    """
    return 2 * math.sqrt(FLIPS / images / runs)


def compare_together(
    report: LeakageReport,
    records: Sequence[PiggybackRecord],
    attacked: Mapping[str, AttackedTask],
    again: Ratio | None,
) -> Iterator[Number]:
    """The mean of every model's runs, and the gap and the leakage, whose tolerance cannot be spent run by run.

    Args:
        report: the published one.
        records: of this run.
        attacked: the tasks of this run, by the name of their data set.
        again: leakage on the source subset, see `report_again`.
    """
    told = {(r.model, r.dataset, r.axis, r.attack, r.budget, r.seed): r for r in report.piggyback}
    groups = defaultdict[tuple[str, str, str], list[tuple[PiggybackRecord, PiggybackRecord]]](list)
    for r in records:
        if (one := told.get((r.model, r.dataset, r.axis, r.attack, r.budget, r.seed))) is not None:
            groups[r.model, r.dataset, r.axis].append((one, r))
    for place, pairs in groups.items():
        task = attacked[place[1]]
        for what, name, split in (
            ("mean PL accuracy", "accuracy", task.test),
            ("mean validation accuracy", "validation_accuracy", task.validation),
        ):
            published, here = (fmean(getattr(pair[i], name) for pair in pairs) for i in (0, 1))
            allowed = max(rounding(len(split.labels), len(pairs)), 1 / len(split.labels) / len(pairs))
            yield Number(what, *place, "", 0, published, here, None, allowed)
    found = report.axes.get("source_subset")
    if again is None or found is None:
        return
    runs = len(found.places) * len({r.seed for r in report.piggyback})
    fewest = min((len(task.test.labels) for task in attacked.values()), default=1)
    mean = math.sqrt(2) * rounding(fewest, runs)
    own, dataset = found.headline, found.datasets[0]
    if own.gap is not None and again.gap is not None:
        yield Number("gap", "undisposed", dataset, "source_subset", "", 0, own.gap, again.gap, None, mean)
    if own.mean is not None or again.mean is not None:
        allowed = mean * (1 + abs(own.mean or 0.0)) / max(own.gap or 0.0, mean)
        yield Number("leakage", "scrubbed", dataset, "source_subset", "", 0, own.mean, again.mean, None, allowed)
    published_width, width = (None if r.low is None or r.high is None else r.high - r.low for r in (own, again))
    if width is not None:
        yield Number(
            "width of the bounds",
            *("scrubbed", dataset, "source_subset", "", 0),
            published_width,
            width,
            None,
            width / 2 + mean,
        )


def report_again(
    report: LeakageReport, records: Sequence[PiggybackRecord], numbers: Sequence[Number]
) -> LeakageReport | None:
    """The report as this run's attacks and answers make it; what is not at hand is as the report says.

    Args:
        report: the published one.
        records: of this run.
        numbers: what models answered here, see `answered`.
    """
    again = {record.model for record in records}
    kept = [record for record in report.piggyback if record.model not in again]
    target = {n.model: n.found for n in numbers if n.what == "target accuracy" and n.model in report.target_accuracy}
    try:
        return replace(report, piggyback=(*records, *kept), target_accuracy=report.target_accuracy | target)
    except DataError:  # other seeds than the report's
        return None


def said_otherwise(report: LeakageReport, again: LeakageReport) -> Iterator[str]:
    """What two reports say differently in words, however near their numbers are."""
    words = ("the word", "the gate", "target destroyed")
    says = [(one.word, one.headline.gate, one.target_destroyed) for one in (report, again)]
    for name, published, here in zip(words, *says, strict=True):
        if published != here:
            yield f"The report says {published!r} for {name}; the numbers of this run say {here!r}."
