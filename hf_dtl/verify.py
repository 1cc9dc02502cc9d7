"""Verify a published model: are these the weights that its report speaks of, and do the attacks give its numbers?"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from accelerate import PartialState
from huggingface_hub import snapshot_download
from transformers import PreTrainedModel

from hf_dtl.audit import AttackConfig, LeakageReport, PiggybackRecord, accuracy, leakage, run_audit, scratch_models
from hf_dtl.audit.attacks import attack_sets, parse_attacks
from hf_dtl.audit.axis_leakage import Ratio
from hf_dtl.audit.cells import AXIS_TITLES, Cells, with_deviation, with_interval
from hf_dtl.audit_job import FEW_PARAMETERS, STORE
from hf_dtl.audit_results import REPORT
from hf_dtl.errors import ConfigError, DataError, ModelError
from hf_dtl.hub import weights_sha256
from hf_dtl.models.loading import load_classifier
from hf_dtl.options import numbers, option
from hf_dtl.pipeline.stages import write_atomically
from hf_dtl.processes import one_core_each
from hf_dtl.verify_tasks import Given, Rebuilt, rebuild

RESULT = "verification.json"
RULE = (
    "A number holds when it is at most max(2 deviations over the seeds of this run, noise of the images) from the "
    "published one; the noise of n images is 2·√(p(1 − p)/n), at least one image."
)


@dataclass
class VerifyOptions:
    """Options of a verification.

    Parameters that control the model:
        verify, revision.
    Parameters that control the data:
        source_dataset, target_dataset, novel_dataset, forget.
    Parameters that control the attacks and the run:
        attacks, budgets, output_dir, use_cpu.
    """

    verify: str = option(help="The published model: Hub id, or folder with weights and leakage_report.json.")
    revision: str = option("main", "Revision of a model on the Hub.")
    source_dataset: str | None = option(
        None, "Attacked data, where the report names a folder that is elsewhere here: NAME[:SPLIT][CLASS,CLASS,...]."
    )
    target_dataset: str | None = option(None, "The same of the data that were kept.")
    novel_dataset: str | None = option(None, "The same of the novel task.")
    forget: str | None = option(None, "File of the images to forget, where the report names one.")
    attacks: str | None = option(None, "Of the report's attacks only these, separated by commas; default: all.")
    budgets: str | None = option(None, "Of its budgets only these, separated by commas; default: all.")
    output_dir: str = option("outputs/verify", "Folder of the result and of finished attacks, which are not repeated.")
    use_cpu: bool = option(False, "Attack on the CPU even if there is a GPU.")


@dataclass(frozen=True)
class Number:
    """A published number and the same one of this run.

    Args:
        what: `PL accuracy`, `validation accuracy` (by which the strongest attack is chosen) or `target accuracy`.
        model, axis, attack, budget: what was measured; empty and 0 for target accuracy.
        published: mean over seeds; None where the report has no such number for every seed.
        found: the same of this run; None where the attack cannot be run on this model.
        deviation: over the seeds of this run; None for one.
        allowed: largest difference that holds.
    """

    what: str
    model: str
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
        method: of the report.
        weights: what is wrong with the files of weights, one sentence a file.
        numbers: every number that was compared.
        published, found: leakage of the report, and the one that follows from this run's attacks and the models that
            are not published; None where not every attack was run.
        notes: what was not verified, as sentences.
    """

    method: str
    weights: tuple[str, ...]
    numbers: tuple[Number, ...]
    published: Ratio
    found: Ratio | None
    notes: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether weights and numbers are those of the report."""
        return not self.weights and all(number.holds for number in self.numbers)

    def cells(self) -> Cells:
        """PL and target accuracies as a table; validation accuracies only where they do not hold."""
        rows = []
        for number in self.numbers:
            if number.holds and number.what.startswith("validation"):
                continue
            what = number.what if not number.attack else f"{AXIS_TITLES[number.axis]}: {number.attack}"
            what += " (validation)" if number.what.startswith("validation") else ""
            row = (
                "–" if number.published is None else f"{number.published:.3f}",
                "–" if number.found is None else with_deviation(number.found, number.deviation),
                f"{number.allowed:.3f}",
                "yes" if number.holds else "NO",
            )
            rows.append((what, number.model, str(number.budget or ""), *row))
        columns = ("number", "model", "images/class", "published", "here", "allowed", "holds")
        missing = [n for n in self.numbers if n.published is None or n.found is None]
        notes = (
            RULE,
            *(["–: not in the report for every seed, or not to be had from this model."] if missing else []),
        )
        return Cells(f"Verification of {self.method}", columns, tuple(rows), notes)

    def sentences(self) -> list[str]:
        """What was found, in words; the verdict last."""
        said = [*self.weights, *self.notes]
        if self.found is not None:
            said.append(f"Leakage: {with_interval(self.published)} published, {with_interval(self.found)} here.")
        wrong = sum(not number.holds for number in self.numbers)
        if self.holds:
            said.append(f"The report HOLDS: all {len(self.numbers)} numbers that were compared agree.")
        else:
            weights = f"weights of {len(self.weights)} file{'s' if len(self.weights) > 1 else ''}"
            differ = [weights] * bool(self.weights) + [f"{wrong} of {len(self.numbers)} numbers"] * bool(wrong)
            said.append(f"The report DOES NOT HOLD: {' and '.join(differ)} differ.")
        return said

    def to_json(self) -> str:
        """Give it as JSON text."""
        entries = [asdict(number) | {"holds": number.holds} for number in self.numbers]
        content = {**asdict(self), "holds": self.holds, "rule": RULE, "numbers": entries}
        return json.dumps(content, indent=2, allow_nan=False) + "\n"


def verify(options: VerifyOptions) -> Verification:
    """Compare a published model with its report, and write the result to the output folder.

    Hashes first; then the report's attacks on the published model, and on random weights where its configuration is
    enough to draw them again. `RULE` says when a number holds. Finished attacks are kept, and every process must call
    this.

    Args:
        options: see `VerifyOptions`.

    Raises:
        DataError, ModelError, ConfigError, OutputError: there is no report, no safetensors file, or something that the
            attacks need; before any attack.
    """
    folder, report, config, narrowed = _read(options)
    weights = tuple(differing_weights(report.weights, weights_sha256(folder)))
    given = Given(**{f.name: getattr(options, f.name) for f in fields(Given)})
    rebuilt = rebuild(report, folder, given, options.output_dir, options.use_cpu)
    axes = {axis: task for axis, task in rebuilt.axes.items() if axis in report.axes}
    scrubbed = load_classifier(folder).to(rebuilt.device)  # type: ignore[arg-type]
    models: dict[str, PreTrainedModel | Sequence[PreTrainedModel]] = {"scrubbed": scrubbed}
    if rebuilt.scratch and any(record.model == "scratch" for record in report.piggyback):
        models["scratch"] = scratch_models(scrubbed, len(config.seeds), report.seed)
    small = scrubbed.num_parameters() < FEW_PARAMETERS
    config = replace(config, workers=one_core_each(rebuilt.device, 1) if small else 1)
    records = run_audit(models, axes, config, store=rebuilt.folder / STORE)

    compared = [*_compared(report, records, rebuilt, config, set(models)), *_target(report, scrubbed, rebuilt)]
    found = None if narrowed else _leakage(report, records)
    notes = tuple(_notes(report, set(models), axes))
    result = Verification(report.method, weights, tuple(compared), report.headline, found, notes)
    if PartialState().is_main_process:
        write_atomically(rebuilt.folder / RESULT, result.to_json())
    return result


# What is published --------------------------------------------------------------------------------------------


def _read(options: VerifyOptions) -> tuple[Path, LeakageReport, AttackConfig, bool]:
    folder = _folder(options)
    if not (folder / REPORT).is_file():
        inside = f" There is a model in {options.verify}/scrubbed." if (folder / "scrubbed" / REPORT).is_file() else ""
        raise DataError(f"There is no {REPORT} in {options.verify!r}, so there is nothing to verify.{inside}")
    report = LeakageReport.load(folder / REPORT)
    if not weights_sha256(folder):
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl"))
        instead = f"; {', '.join(pickles)} is a pickle, which is never loaded" if pickles else ""
        raise ModelError(f"There are no safetensors weights in {options.verify!r}{instead}.")
    return folder, report, *_config(report, options)


def _folder(options: VerifyOptions) -> Path:
    """The folder of the published model: as given, or what the Hub has of it, without folders inside."""
    folder = Path(options.verify).expanduser()
    if folder.is_dir():
        return folder
    try:
        found = snapshot_download(
            options.verify,
            revision=options.revision,
            allow_patterns=["*.json", "*.safetensors"],
            ignore_patterns=["*/*"],
        )
    except Exception as error:  # whatever the Hub's client raises
        raise ModelError(
            f"{options.verify!r} is no folder here, and cannot be read from the Hub: {error}\nGive a folder or a Hub "
            "id; the Hub needs a network and HF_HUB_OFFLINE unset."
        ) from error
    return Path(found)


def differing_weights(told: dict[str, str], there: dict[str, str]) -> Iterable[str]:
    """Name every file of weights that is not the one of the report.

    Args:
        told: SHA-256 by file name, from the report; empty where it names none.
        there: the same of the published folder.

    Returns:
        One sentence a file.
    """
    for name in sorted(told.keys() | there.keys() if told else ()):
        if name not in there:
            yield f"{name} is missing: the report speaks of a file with the hash {told[name][:12]}…."
        elif name not in told:
            yield f"{name} is not in the report; its hash is {there[name][:12]}…."
        elif told[name] != there[name]:
            yield f"{name} was changed: its hash is {there[name][:12]}…, in the report {told[name][:12]}…."


def _config(report: LeakageReport, options: VerifyOptions) -> tuple[AttackConfig, bool]:
    """The attacker of the report, and whether the options leave some of its attacks out."""
    own = report.settings.get("audit")
    if not isinstance(own, dict):
        raise DataError("The report's settings have no `audit`, so it is not known how the attacks were run.")
    try:
        config = AttackConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in own.items()})
        # What has a result was run, also where the settings were cut.
        attacks = dict.fromkeys((*config.attacks, *(record.attack for record in report.piggyback)))
        budgets = dict.fromkeys((*config.budgets, *(record.budget for record in report.piggyback)))
        config = replace(config, attacks=tuple(attacks), budgets=tuple(budgets))
    except (TypeError, ConfigError) as error:
        raise DataError(f"The attacker's settings in the report cannot be used: {error}") from error
    attacks, budgets = config.attacks, config.budgets
    if options.attacks is not None:
        chosen = _among("attacks", parse_attacks(options.attacks), attacks, sets=options.attacks)
        config = replace(config, attacks=chosen)
    if options.budgets is not None:
        chosen = _among("budgets", numbers(options.budgets, "budgets", int), budgets)
        config = replace(config, budgets=chosen)
    return config, (config.attacks, config.budgets) != (attacks, budgets)


def _among(name: str, wanted: Sequence[Any], there: Sequence[Any], sets: str = "") -> tuple[Any, ...]:
    """Those of the report's values that are wanted; of a named set of attacks the report may lack some."""
    named_sets = {attack for word in sets.split(",") for attack in attack_sets().get(word.strip(), ())}
    unknown = [value for value in wanted if value not in there and value not in named_sets]
    chosen = tuple(value for value in there if value in wanted)
    if unknown or not chosen:
        missing = ", ".join(map(str, unknown or wanted))
        raise ConfigError(f"--{name}: {missing} is not in the report, which has {', '.join(map(str, there))}.")
    return chosen


# Comparison ---------------------------------------------------------------------------------------------------

Key = tuple[str, str, str, int]


def _compared(
    report: LeakageReport,
    records: Sequence[PiggybackRecord],
    rebuilt: Rebuilt,
    config: AttackConfig,
    models: set[str],
) -> list[Number]:
    """Test and validation accuracy of every attack at every budget, of the report and of this run."""
    chosen = [r for r in report.piggyback if r.attack in config.attacks and r.budget in config.budgets]
    told = _by_attack(r for r in chosen if r.model in models and r.axis in rebuilt.axes)
    here = _by_attack(records)
    found = []
    for key in here | told:
        model, axis, attack, budget = key
        task = rebuilt.axes[axis]
        for what, name, split in (
            ("PL accuracy", "accuracy", task.test),
            ("validation accuracy", "validation_accuracy", task.validation),
        ):
            before = [getattr(r, name) for r in told.get(key, ())]
            now = [getattr(r, name) for r in here.get(key, ())]
            complete = {r.seed for r in told.get(key, ())} == set(config.seeds) and len(before) == len(config.seeds)
            deviation = stdev(now) if len(now) > 1 else None
            found.append(
                Number(
                    *(what, model, axis, attack, budget),
                    fmean(before) if complete else None,
                    fmean(now) if now else None,
                    deviation,
                    max(2 * (deviation or 0.0), noise(fmean(now), len(split.labels))) if now else 0.0,
                )
            )
    return found


def _by_attack(records: Iterable[PiggybackRecord]) -> dict[Key, list[PiggybackRecord]]:
    groups: dict[Key, list[PiggybackRecord]] = {}
    for r in records:
        groups.setdefault((r.model, r.axis, r.attack, r.budget), []).append(r)
    return groups


def noise(share: float, images: int) -> float:
    """Two standard errors of a share of so many images, at least one image.

    Example:
        >>> noise(0.5, 100), noise(1.0, 100)
        (0.1, 0.01)
    """
    return max(2 * math.sqrt(share * (1 - share) / images), 1 / images)


def _target(report: LeakageReport, scrubbed: PreTrainedModel, rebuilt: Rebuilt) -> list[Number]:
    published, test = report.target_accuracy["scrubbed"], rebuilt.target_test
    if published is None or test is None:
        return []
    found = accuracy(scrubbed, test)
    return [Number("target accuracy", "scrubbed", "", "", 0, published, found, None, noise(found, len(test.labels)))]


def _leakage(report: LeakageReport, records: Sequence[PiggybackRecord]) -> Ratio | None:
    """Leakage of this run's attacks, the models that are not published being those of the report."""
    again = {record.model for record in records}
    kept = [record for record in report.piggyback if record.model not in again and record.axis == "source_subset"]
    names = {record.axis: record.dataset for record in report.piggyback}
    own = [replace(record, dataset=names[record.axis]) for record in records]
    try:
        found = leakage([*own, *kept], "source_subset", report.floor)
    except DataError:  # other seeds than the report's
        return None
    return None if found is None else found.over(report.floor)


def _notes(report: LeakageReport, models: set[str], axes: Iterable[str]) -> list[str]:
    notes = []
    if not report.weights:
        notes.append("The report does not name the weights that it speaks of, so their hashes say nothing.")
    taken = [role for role in ("undisposed", "scratch", "retrained") if role not in models]
    taken = [role for role in taken if any(record.model == role for record in report.piggyback)]
    if taken:
        notes.append(f"Not published, so taken from the report and not verified: {', '.join(taken)}.")
    left = [AXIS_TITLES[axis] for axis in report.axes if axis not in axes]
    if left:
        notes.append(f"Not attacked here: {', '.join(left)}.")
    return notes
