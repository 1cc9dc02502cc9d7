"""Cells of the study: each is done once, its result is a file, and a finished one is never repeated."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import transformers
from transformers import AutoModelForImageClassification, PreTrainedModel

from hf_dtl.audit import PiggybackRecord, accuracy, run_audit, scratch_models
from hf_dtl.audit.report import machine
from hf_dtl.dtl import DTLJob, DTLOptions
from hf_dtl.errors import DivergedError
from hf_dtl.methods.by_name import parse_method
from hf_dtl.models.heads import MultiHeadClassifier
from hf_dtl.pipeline.stages import write_atomically

Kind = Literal["tuning seed", "seed", "tuning", "references", "method"]
"""tuning seed: pre-train and adapt. seed: the same, and the retrained reference. tuning: one strength of a method on
the tuning seed, measured on validation images alone. references: the attacks on the references of a seed. method:
one method on a reported seed, measured on test images and attacked."""

_AUDIT = ("attacks", "budgets", "audit_seeds", "attack_learning_rates", "successive_halving")


@dataclass(frozen=True)
class Cell:
    """One piece of the study.

    Args:
        kind: see `Kind`.
        options: of the main job of its training seed.
        method: a method at one strength, as a command line names it; for the kinds tuning and method.
    """

    kind: Kind
    options: DTLOptions
    method: str = ""

    @property
    def title(self) -> str:
        """The cell for a line of progress."""
        place = f"{self.kind} {self.options.seed}" if "seed" in self.kind else f"{self.kind}, seed {self.options.seed}"
        return f"{place}: {self.method}" if self.method else place

    @property
    def files(self) -> dict[str, Path]:
        """The parts of the result; the cell is finished when all are there."""
        o = self.options
        folder = Path(o.output_dir) / "results"
        trained: list[Any] = [o.settings(), o.max_eval_images, self.kind in ("tuning seed", "tuning")]
        if self.method:
            trained += [o.disposal(), self.method]
        attacked = [*trained, [getattr(o, name) for name in _AUDIT]]
        name = self.method.split(":")[0] or "references"
        disposal = folder / f"{name}-{short_hash(trained)}.json"
        attacks = folder / f"{name}-attacks-{short_hash(attacked)}.json"
        if self.kind in ("tuning seed", "seed"):
            return {"seed": folder / f"seed-{short_hash(trained)}.json"}
        if self.kind == "tuning":
            return {"disposal": folder / f"{name}-tuning-{short_hash(trained)}.json"}
        return {"attacks": attacks} if self.kind == "references" else {"disposal": disposal, "attacks": attacks}

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return all(path.exists() for path in self.files.values())

    def result(self) -> dict[str, Any]:
        """The parts of a finished cell."""
        return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in self.files.items()}

    def load(self) -> DTLJob:
        """The main job of the cell's seed; the last two are kept, because cells of a seed follow each other."""
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        return _load_job(json.dumps(asdict(self.options)))

    def do(self, job: DTLJob) -> None:
        """Do what is left of the cell."""
        files = self.files
        if "seed" in files:
            keep(files["seed"], lambda: _prepare(job, tuning=self.kind == "tuning seed"))
        if "disposal" in files:
            keep(files["disposal"], lambda: _dispose(job, self.method, tuning=self.kind == "tuning"))
        if "attacks" in files:
            keep(files["attacks"], lambda: _attack(job, self))

    def records(self) -> list[PiggybackRecord]:
        """The attacks of a finished cell; none on a model that diverged."""
        return [PiggybackRecord.from_dict(entry) for entry in self.result()["attacks"]]


def short_hash(parts: list[Any]) -> str:
    """A name for JSON values."""
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=6).hexdigest()


@lru_cache(maxsize=2)
def _load_job(options: str) -> DTLJob:
    return DTLJob(DTLOptions(**json.loads(options)))


def keep(path: Path, work: Callable[[], Any]) -> None:
    """Write what `work` gives, as JSON, unless the file is there."""
    if not path.exists():
        result = work()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(result, indent=1) + "\n")


def _prepare(job: DTLJob, *, tuning: bool) -> dict[str, Any]:
    """Pre-train and adapt; for a reported seed also retrain, and measure the models on test images."""
    undisposed, heads = job.adapt(job.pretrain())
    result: dict[str, Any] = {"pretrain": job.cost("pretrain"), "machine": machine(job.state.device)}
    result["images"] = {name: {split: len(i) for split, i in task.items()} for name, task in job.images.items()}
    # on a GPU the processor's seconds say little
    result["clock"] = "cpu" if job.state.device.type == "cpu" else "wall"
    result["parameters"] = undisposed.num_parameters()
    if tuning:
        return result | {"validation": {"undisposed": _accuracy(job, undisposed, "target", "validation")}}
    retrained = job.references(undisposed)["retrained"]
    assert isinstance(retrained, PreTrainedModel)
    return result | {
        "target": {
            "undisposed": _accuracy(job, undisposed, "target", "test"),
            "retrained": _accuracy(job, retrained, "target", "test"),
        },
        "source": {"undisposed": _accuracy(job, heads.export("source"), "source", "test")},
    }


def _dispose(job: DTLJob, method: str, *, tuning: bool) -> dict[str, Any]:
    """Train a scrubbed model and measure it, in tuning on validation images of the target alone."""
    choice = parse_method(method)
    heads = MultiHeadClassifier.load(_stage(job, "source_head"))
    try:
        scrubbed = job.dispose(choice, heads)
    except DivergedError as error:
        return {"diverged": str(error)}
    cost = job.cost(job.disposal_stage(choice))
    if tuning:
        return {"validation": _accuracy(job, scrubbed, "target", "validation"), "cost": cost}
    target = _accuracy(job, scrubbed, "target", "test")
    # read out with the head that was fitted on the undisposed model and frozen in the disposal
    heads.backbone.load_state_dict(MultiHeadClassifier(scrubbed, task="own").backbone.state_dict())
    source = _accuracy(job, heads.export("source"), "source", "test")
    return {"target": target, "source": source, "cost": cost}


def _attack(job: DTLJob, cell: Cell) -> list[dict[str, Any]]:
    """The attacks on the references, or on one scrubbed model; a store for each cell keeps every finished one."""
    undisposed = _model(job, "adapt")
    models: dict[str, Any]
    if cell.kind == "references":
        scratch = scratch_models(undisposed, len(job.attacks.seeds), seed=cell.options.seed)
        models = {"undisposed": undisposed, "scratch": scratch, "retrained": _model(job, "retrained")}
    else:
        if "diverged" in json.loads(cell.files["disposal"].read_text(encoding="utf-8")):
            return []
        models = {"scrubbed": _model(job, job.disposal_stage(parse_method(cell.method)))}
    disposal = cell.files.get("disposal")
    store = job.run.folder / "attacks" / f"{disposal.stem if disposal else 'references'}.jsonl"
    axes = {"source": job.axes["source"]}
    records = run_audit(models, axes, job.attacks, store=store, progress=False, device=job.state.device)
    return [asdict(record) for record in records]


def _stage(job: DTLJob, name: str) -> Path:
    return job.run.folder / "stages" / name


def _model(job: DTLJob, stage: str) -> PreTrainedModel:
    return AutoModelForImageClassification.from_pretrained(_stage(job, stage), use_safetensors=True).eval()


def _accuracy(job: DTLJob, model: PreTrainedModel, task: str, split: str) -> float:
    device: Any = job.state.device
    return accuracy(model.to(device), job.images[task][split])
