"""Cells of the comparison of unlearning methods: one request on one training seed, its references, and each method."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedModel

from hf_dtl.audit import AxisLeakage, PiggybackRecord, leakage
from hf_dtl.audit.report import machine
from hf_dtl.audit.unlearning import Unlearning
from hf_dtl.errors import DivergedError
from hf_dtl.job import load_stage
from hf_dtl.methods.by_name import parse_method
from hf_dtl.unlearn import UnlearnJob
from hf_dtl.unlearn_options import UnlearnOptions
from hf_dtl.unlearn_results import MEASURED_ON, Measured, attack, measure
from study.cells import keep, short_hash
from study.job_cell import JobCell

Kind = Literal["tuning seed", "seed", "references", "tuning", "method"]
"""tuning seed, seed: train and retrain, and measure both models. references: the attacks on them. tuning: one strength
of a method on the tuning seed. method: one method on a reported seed, measured and attacked. In tuning no test image
is looked at, and nothing is attacked."""

TUNED_ON = ("forget", "retain", "validation")


@dataclass(frozen=True)
class UnlearnCell(JobCell):
    """One piece of the comparison.

    Args:
        kind: see `Kind`.
        options: of the job of its request and training seed.
        method: a method at one strength, as a command line names it; for the kinds tuning and method.
    """

    kind: Kind
    options: UnlearnOptions
    method: str = ""

    @property
    def title(self) -> str:
        """The cell for a line of progress."""
        place = f"{self.kind} {self.options.seed}" if "seed" in self.kind else f"{self.kind}, seed {self.options.seed}"
        return f"{self.options.forget}, {place}" + (f": {self.method}" if self.method else "")

    @property
    def path(self) -> Path:
        """The file of the result; the cell is finished when it is there."""
        parts = [self.kind, self.options.recorded(), self.method]
        name = self.method.split(":")[0] or self.kind.replace(" ", "-")
        return Path(self.options.output_dir) / "results" / f"{name}-{short_hash(parts)}.json"

    def do(self, job: UnlearnJob) -> None:
        """Do the cell unless it is finished."""
        work = {"references": _attack_references, "tuning": _unlearn, "method": _unlearn}.get(self.kind, _prepare)
        keep(self.path, lambda: work(self, job))


def _prepare(cell: UnlearnCell, job: UnlearnJob) -> dict[str, Any]:
    undisposed = job.train()
    job.collect_layer_inputs(undisposed)  # here, because cells of one job run side by side
    retrained = job.references(undisposed)["retrained"]
    assert isinstance(retrained, PreTrainedModel)
    tuning = cell.kind == "tuning seed"
    models = {"undisposed": undisposed, "retrained": retrained}
    found = measure(job, models, TUNED_ON if tuning else MEASURED_ON, membership=not tuning)
    costs = {stage: job.cost(stage) for stage in ("train", "retrained")}
    images = {name: len(images) for name, images in job.images.items()}
    return {
        **asdict(found),
        "cost": costs,
        "images": images,
        "machine": machine(job.state.device),
        "parameters": undisposed.num_parameters(),
    }


def _undisposed(job: UnlearnJob) -> PreTrainedModel:
    return load_stage(job.run.folder / "stages" / "train")


def _attack_references(cell: UnlearnCell, job: UnlearnJob) -> list[dict[str, Any]]:
    undisposed = _undisposed(job)
    models = {"undisposed": undisposed, **job.references(undisposed)}
    return [asdict(record) for record in attack(job, models, "attacks-references", progress=False)]


def _unlearn(cell: UnlearnCell, job: UnlearnJob) -> dict[str, Any]:
    choice = parse_method(cell.method)
    try:
        scrubbed = job.unlearn(choice, _undisposed(job))
    except DivergedError as error:
        return {"diverged": str(error)}
    if cell.kind == "tuning":
        return asdict(measure(job, {"scrubbed": scrubbed}, TUNED_ON, membership=False))
    records = attack(job, {"scrubbed": scrubbed}, f"attacks-{cell.path.stem}", progress=False)
    found = measure(job, {"scrubbed": scrubbed}, MEASURED_ON)
    return {**asdict(found), "attacks": [asdict(r) for r in records], "cost": job.cost(job.disposal_stage(choice))}


@dataclass(frozen=True)
class Outcome:
    """One method on one training seed, beside its references.

    Args:
        unlearning: accuracies and cost.
        leakage: after relearning.
        membership: attacks on every model.
    """

    unlearning: Unlearning
    leakage: AxisLeakage
    membership: list[dict[str, Any]]


def outcome(cell: UnlearnCell, seed: UnlearnCell, references: UnlearnCell) -> Outcome | None:
    """What a finished cell of the kind method came to; None when its training diverged.

    Args:
        cell: the method's.
        seed, references: of the same request and training seed.
    """
    own, before = cell.result(), seed.result()
    if "diverged" in own:
        return None
    found = _measured(before) + _measured(own)
    records = [PiggybackRecord.from_dict(entry) for entry in (*references.result(), *own["attacks"])]
    leaked = leakage(records, floor="retrained")
    assert leaked is not None
    images = {name: before["images"][name] for name in ("forget", "retain")}
    cost = {"scrubbed": own["cost"], "retrained": before["cost"]["retrained"]}
    return Outcome(Unlearning(cell.options.forget, images, found.accuracy, cost), leaked, found.membership)


def _measured(result: dict[str, Any]) -> Measured:
    return Measured(result["accuracy"], result["membership"], result["notes"])
