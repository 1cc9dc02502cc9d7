"""The leakage report: what was measured, as a file that is checked when it is read."""

import json
import os
import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from io import StringIO
from pathlib import Path
from typing import Any, get_args

import torch
import transformers
from rich.console import Console
from rich.text import Text

from hf_dtl.audit import report_fields as kinds
from hf_dtl.audit.axis_leakage import AxisLeakage, Ratio, leakage, plain_ratio
from hf_dtl.audit.estimate import CONFIDENCE
from hf_dtl.audit.flags import Flag, flags
from hf_dtl.audit.report_fields import device_name, without_folders
from hf_dtl.audit.store import Axis, ModelName, PiggybackRecord
from hf_dtl.audit.suites import CUSTOM, SUITES, check_complete
from hf_dtl.audit.tables import table
from hf_dtl.audit.tasks import TaskScores, check_tasks
from hf_dtl.audit.transfer_bound import TransferBound
from hf_dtl.audit.unlearning import Unlearning, agree
from hf_dtl.audit.verdict import verdict
from hf_dtl.errors import DataError

SCHEMA_VERSION = 4
"""Of a report with a bound; one without is as in 3."""
_COMPUTED = {"schema_version", "leakage", "target_destroyed"}
# Not in every file: those without them are read with their defaults.
_OPTIONAL = {
    "settings", "machine", "chance", "target_margin", "target_destroyed",
    "membership", "unlearning", "weights",
}  # fmt: skip
_SINCE = {2: {"spec", "suite", "tasks"}, 4: {"bound"}}


def library_version() -> str:
    """Version of the installed library, `unknown` when it runs from a folder."""
    try:
        return version("hf_dtl")
    except PackageNotFoundError:
        return "unknown"


def machine(device: torch.device) -> dict[str, Any]:
    """What numbers depend on besides the settings; nothing that identifies a machine."""
    return {
        "device": device_name(torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


@dataclass(frozen=True)
class LeakageReport:
    """Everything the audit of one scrubbed model measured; `leakage` follows from the attacks and is not an input.

    Args:
        method: name of the disposal method.
        seed: seed of the run.
        target_accuracy: accuracy on the task to keep, with the keys `undisposed` and `scrubbed`, in 0..1; None where
            it was not measured. Whether the target is destroyed is then not known, and every table says so.
        source_accuracy: the same of the task to forget; None where there is no head to measure it with. Low values
            prove nothing; see `leakage`.
        piggyback: every finished attack.
        settings: what was done (method's options, data set selections, counts of images). Folders of local paths
            are cut off, because the report is published.
        machine: what the numbers depend on (versions, threads); nothing that identifies a machine.
        chance: accuracy of guessing, by name of the attacked data set.
        target_margin: drop of target accuracy above which the target counts as destroyed, in 0..1.
        library_version: version of the library that made the report.
        membership: membership inference against the forget data, one object an attack on a model, such as
            `asdict(MembershipResult)`: `model` and `attack` by their names, of several tasks `task`, and any of its
            other fields; each attack on a model once.
        unlearning: accuracies on the images that were forgotten and kept, where a part of one data set was unlearned;
            `target` is then what is retained of it and `source` what is forgotten.
        weights: SHA-256 of every file of the scrubbed model that was attacked (weights, settings of model and
            processor), by name, as `hf_dtl.hub.weights_sha256` gives it; empty where it is not known.
            `TASK/model.safetensors` where there are several tasks.
        spec: the scenario, flat, so that it can be built again: its `kind` (`task`, `part` or `tasks`), `forget` and
            `retain` as `audit` takes them, `seed`, and what else decides the images. Folders are cut off. Empty
            where it is not known.
        suite: `name` of the suite of attacks and `hash` of all its settings that decide numbers; a name is believed
            only with the hash that it has here, and with every attack that it consists of.
        tasks: where images were forgotten for some tasks of a model of several, what became of each task.
        bound: how much of the model before disposal can be in the scrubbed one, where the method counts it.

    Raises:
        DataError: a value is missing, of the wrong type or out of its range.
    """

    method: str
    seed: int
    target_accuracy: dict[str, float | None]
    source_accuracy: dict[str, float | None]
    piggyback: tuple[PiggybackRecord, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    chance: dict[str, float] = field(default_factory=dict)
    target_margin: float = 0.05
    library_version: str = field(default_factory=library_version)
    membership: list[dict[str, Any]] = field(default_factory=list)
    unlearning: Unlearning | None = None
    weights: dict[str, str] = field(default_factory=dict)
    spec: dict[str, Any] = field(default_factory=dict)
    suite: dict[str, str] = field(default_factory=dict)
    tasks: dict[str, TaskScores] | None = None
    bound: TransferBound | None = None

    def __post_init__(self) -> None:
        model_pair = kinds.each(kinds.optional(kinds.SHARE), keys=("undisposed", "scrubbed"))
        kinds.check_fields(
            self, kinds.REPORT, method=kinds.TEXT, library_version=kinds.TEXT, seed=kinds.integer(),
            target_accuracy=model_pair, source_accuracy=model_pair, target_margin=kinds.SHARE,
            chance=kinds.each(kinds.SHARE), settings=kinds.OBJECT, machine=kinds.OBJECT,
        )  # fmt: skip
        if self.tasks is not None:
            check_tasks(self.tasks)
        # Where only regressions were forgotten, there is nothing that could be attacked.
        if not all(isinstance(r, PiggybackRecord) for r in self.piggyback) or not (self.piggyback or self.tasks):
            raise DataError("A leakage report needs at least one finished attack in `piggyback`.")
        kinds.check_fields(
            self, kinds.REPORT, weights=kinds.weights_of(self.tasks or ()),
            membership=kinds.membership_rows(get_args(ModelName), self.tasks or ()),
            spec=kinds.scenario_spec, suite=kinds.each(kinds.TEXT, keys=("name", "hash") if self.suite else ()),
        )  # fmt: skip
        object.__setattr__(self, "piggyback", tuple(self.piggyback))
        if self.suite_name != CUSTOM:
            check_complete(self.suite, self.piggyback)
        for name in ("settings", "machine", "membership", "spec"):
            object.__setattr__(self, name, without_folders(getattr(self, name)))
        _ = self.axes

    @cached_property
    def axes(self) -> dict[str, AxisLeakage]:
        """Leakage by axis, computed from the attacks."""
        found = {axis: leakage(self.piggyback, axis) for axis in get_args(Axis)}
        return {axis: value for axis, value in found.items() if value is not None}

    def over(self, floor: str) -> Ratio:
        """Leakage on the source subset over one floor, or over the best one."""
        return self.axes["source_subset"].over(floor) if "source_subset" in self.axes else _NOT_ATTACKED

    @property
    def part(self) -> bool:
        """Whether a part of the data, or some of several tasks, was forgotten, and not a task as a whole."""
        return self.unlearning is not None or self.tasks is not None

    @property
    def floor(self) -> str:
        """What leakage 0 means in the headline: at each budget the floor that is best on validation."""
        return self.axes["source_subset"].floor if "source_subset" in self.axes else "retrained"

    @property
    def headline(self) -> Ratio:
        """Leakage over that floor: the one number of verdict, tables, card, pictures and page."""
        return self.axes["source_subset"].headline if "source_subset" in self.axes else _NOT_ATTACKED

    @property
    def suite_name(self) -> str:
        """The suite that attacked; `custom` where none is named."""
        return self.suite.get("name", CUSTOM)

    @property
    def word(self) -> str | None:
        """What is shown: forgotten, leaks, or not shown; None where nothing can be.

        "forgotten" takes a suite that is strong enough to say so.
        """
        word = self.headline.word
        return "not shown" if word == "forgotten" and not self.claims else word

    @property
    def claims(self) -> bool:
        """Whether the suite that attacked may say "forgotten"."""
        return self.suite_name != CUSTOM and SUITES[self.suite_name].claims

    @property
    def attacked_by(self) -> str:
        """How strong the attacker was behind every number, as a sentence."""
        if self.suite_name == CUSTOM:
            return "Attacked by custom, weaker than a practitioner."
        return f"Attacked by {self.suite_name}{'' if self.claims else ', a first look'}."

    @property
    def flags(self) -> tuple[Flag, ...]:
        """What makes the number doubtful, with what to do; docs/flags.md explains each."""
        return flags(self)

    @property
    def verdict(self) -> str:
        """What the report shows, in a few plain sentences; see `hf_dtl.audit.verdict`."""
        return verdict(self)

    def __str__(self) -> str:
        """The verdict and every table, as plain text of 100 columns."""
        console = Console(width=100, file=StringIO(), color_system=None)
        console.print(Text("\n".join([self.verdict, *map(str, self.flags)])))
        for one in table(self):
            console.print("", one)
        return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())  # type: ignore[attr-defined]

    def plot(self, folder: str | Path) -> list[Path]:
        """Draw the report: PL accuracy over budgets and effort, leakage attack by attack, scores of several tasks.

        Args:
            folder: of the pictures `piggyback`, `attacks`, `effort` and `tasks`; made where it is missing.

        Returns:
            The files written, of each a PNG and an SVG.
        """
        from hf_dtl.audit.plots import plot_attacks, plot_effort, plot_piggyback, plot_tasks  # takes a second

        files = [] if self.tasks is None else plot_tasks([self], Path(folder) / "tasks")
        if self.axes:
            files += [*plot_piggyback(self, Path(folder) / "piggyback"), *plot_attacks(self, Path(folder) / "attacks")]
        if any(axis.by_effort for axis in self.axes.values()):
            files += plot_effort(self, Path(folder) / "effort")
        return files

    @property
    def target_destroyed(self) -> bool | None:
        """Whether target accuracy fell by more than the margin: low leakage is then no merit. None: not measured."""
        before, after = self.target_accuracy["undisposed"], self.target_accuracy["scrubbed"]
        return None if before is None or after is None else before - after > self.target_margin

    @property
    def successive_halving(self) -> bool:
        """Whether an attacker of no suite dropped learning rates early; he may then have missed the best one."""
        audit = self.settings.get("audit")
        return self.suite_name == CUSTOM and isinstance(audit, Mapping) and audit.get("successive_halving") is True

    @property
    def seeds(self) -> int:
        """Number of seeds of the attacks."""
        return len({record.seed for record in self.piggyback})

    @property
    def diverged(self) -> dict[tuple[str, str, str], int]:
        """Attacks in which no learning rate gave finite values, counted by axis, attack and model: guessing."""
        return dict(Counter((r.axis, r.attack, r.model) for r in self.piggyback if r.diverged))

    def to_dict(self) -> dict[str, Any]:
        """Give the report as JSON values, in the order of the schema."""
        strongest = None
        if "source_subset" in self.axes:
            attack = self.axes["source_subset"].strongest_attack
            strongest = {"attack": attack.attack, "budget": attack.budget, "accuracy": attack.mean}
        written = asdict(self.headline) | {"word": self.word, "floor": self.floor, "confidence": CONFIDENCE}
        axes = {axis: _written(own, self.claims) for axis, own in self.axes.items()}
        written |= {"strongest_attack": strongest, "axes": axes}

        def own(*names: str) -> dict[str, Any]:
            return {name: getattr(self, name) for name in names}

        found = {
            "schema_version": 3 if self.bound is None else SCHEMA_VERSION,
            **own("library_version", "method", "seed"),
        }
        found |= {**own("target_accuracy", "source_accuracy"), "leakage": written}
        found |= own("target_destroyed", "target_margin", "chance", "spec", "suite", "settings", "machine", "weights")
        found |= own("membership")
        if self.unlearning is not None:
            found["unlearning"] = self.unlearning.to_dict()
        if self.tasks is not None:
            found["tasks"] = {name: asdict(task) for name, task in self.tasks.items()}
        if self.bound is not None:
            found["bound"] = self.bound.to_dict()
        return found | {"piggyback": [asdict(record) for record in self.piggyback]}

    def to_json(self) -> str:
        """Give the report as JSON text.

        Raises:
            DataError: a setting cannot be written as JSON.
        """
        try:
            return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"
        except (TypeError, ValueError) as error:
            raise DataError(f"The report's settings cannot be written as JSON: {error}.") from error

    @classmethod
    def from_json(cls, text: str) -> "LeakageReport":
        """Read a report and check it: schema, types, ranges, and that its leakage follows from its attacks.

        Raises:
            DataError: the text is not such a report; the message says what is wrong.
        """
        try:
            content = kinds.read_json(text)
        except ValueError as error:
            raise DataError(f"The leakage report is not JSON: {error}.") from error
        if not isinstance(content, dict):
            raise DataError("The leakage report must be a JSON object.")
        if (longest := max(map(len, kinds.strings(content)), default=0)) > kinds.MOST_TEXT:
            raise DataError(f"The report has a text of {longest:,} characters; up to {kinds.MOST_TEXT:,} are read.")
        schema: Any = content.get("schema_version")
        if schema not in range(1, SCHEMA_VERSION + 1) or isinstance(schema, bool):
            raise DataError(
                f"The report has schema_version {schema!r}, this library reads up to {SCHEMA_VERSION}. "
                f"Read it with the library version {content.get('library_version')!r}."
            )
        newer = {name for since, names in _SINCE.items() if schema < since for name in names}
        known = {*cls.__dataclass_fields__, *_COMPUTED} - newer
        missing, unknown = known - _OPTIONAL - {"tasks"} - content.keys(), content.keys() - known
        if missing or unknown:
            raise DataError(
                f"The leakage report lacks {', '.join(sorted(missing)) or 'nothing'} and has the unknown keys "
                f"{', '.join(sorted(unknown)) or 'none'}."
            )
        if not isinstance(content["piggyback"], list):
            raise DataError("`piggyback` of a leakage report must be a list.")
        records = tuple(PiggybackRecord.from_dict(entry) for entry in content["piggyback"])
        values = {key: value for key, value in content.items() if key not in {*_COMPUTED, "piggyback"}}
        if "unlearning" in values:
            values["unlearning"] = Unlearning.from_dict(values["unlearning"])
        if "tasks" in values:
            kinds.OBJECT(values["tasks"], "tasks", kinds.REPORT)
            values["tasks"] = {name: TaskScores.from_dict(task) for name, task in values["tasks"].items()}
        if "bound" in values:
            values["bound"] = TransferBound.from_dict(values["bound"])
        report = cls(piggyback=records, **values)
        report._check_claims(content)
        return report

    def _check_claims(self, content: dict[str, Any]) -> None:
        """Compare the numbers written in the file with those that follow from its attacks."""
        claim = content["leakage"]
        kinds.OBJECT(claim, "leakage", kinds.REPORT)
        said = ""
        if content["schema_version"] >= 3:
            said = kinds.difference(claim, self.to_dict()["leakage"])
        elif claim.get("mean") is not None:  # over one floor, which was not the best one
            own = plain_ratio(self.piggyback, "source_subset", "retrained" if self.part else "scratch")
            said = "" if agree(own, claim["mean"]) else f"mean {claim['mean']!r}, not {own!r}"
        if said:
            raise DataError(
                f"The report says leakage {said} as its attacks give. "
                "It was changed by hand or cut; run the audit again."
            )
        if content.get("target_destroyed", self.target_destroyed) is not self.target_destroyed:
            raise DataError("`target_destroyed` of the report does not follow from its target accuracies.")

    def save(self, path: str | Path) -> None:
        """Write the report to `path` in one step: a reader sees the old file or the new one, never a part."""
        path = Path(path)
        text = self.to_json()
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> "LeakageReport":
        """Read and check the report at `path`; see `from_json`.

        Raises:
            DataError: there is no such file, or it is not a report.
        """
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"There is no readable leakage report at {path}: {error}. An audit writes it (hf-dtl audit, "
                "result.audit())."
            ) from error


def _written(axis: AxisLeakage, claims: bool) -> dict[str, Any]:
    """An axis as JSON values; what follows from the attacks without a choice is left out, and no weak suite claims."""
    found = {name: value for name, value in vars(axis).items() if name not in ("floors", "pl_accuracy_by_effort")}
    floors = [{"dataset": d, "budget": b, "floor": floor} for (d, b), floor in axis.floors.items()]
    text = json.dumps(found | {"floors": floors}, default=asdict)
    return json.loads(text if claims else text.replace('"word": "forgotten"', '"word": "not shown"'))


_NOT_ATTACKED = Ratio(None, "the scrubbed model was not attacked on the source subset")
