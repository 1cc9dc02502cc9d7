"""What the audit of two given models leaves: the report, its tables, and plots."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from hf_dtl.audit import (
    LeakageReport,
    PiggybackRecord,
    markdown_table,
    plot_attacks,
    plot_comparison,
    plot_piggyback,
)
from hf_dtl.audit.cells import AXIS_TITLES
from hf_dtl.audit.membership import MembershipResult, membership_inference
from hf_dtl.audit.report import machine
from hf_dtl.audit_job import AuditJob
from hf_dtl.audit_options import public_name
from hf_dtl.errors import DataError
from hf_dtl.hub import weights_sha256
from hf_dtl.models.published_heads import numbered
from hf_dtl.pipeline.stages import fresh_folder, replace_folder, write_atomically

REPORT = "leakage_report.json"


def leakage_report(job: AuditJob, records: Sequence[PiggybackRecord]) -> LeakageReport:
    """Put everything that was measured into the report; what could not be measured is said in its notes."""
    o, device = job.options, job.state.device
    notes = [*job.heads.notes, *_left_out(job, records)]
    return LeakageReport(
        method=o.method or public_name(o.scrubbed),
        seed=o.seed,
        target_accuracy=job.accuracies["target"],
        source_accuracy=job.accuracies["source"],
        piggyback=tuple(records),
        membership=[asdict(result) for result in _membership(job, notes)],
        target_margin=o.target_margin,
        settings=_settings(job, notes),
        machine=machine(device) | {"processes": job.state.num_processes},
        chance={task.name: 1 / len(task.labels) for task in job.attacked.values()},
        weights=_weights(job),
    )


def _weights(job: AuditJob) -> dict[str, str]:
    """Hashes of the weights of the scrubbed model; nothing where the Hub's client keeps them elsewhere."""
    place, revision = job.options.models["scrubbed"]
    folder = Path(place)
    if not folder.is_dir():
        commit = getattr(job.models["scrubbed"].config, "_commit_hash", None) or revision
        try:
            folder = Path(snapshot_download(place, revision=commit, local_files_only=True))
        except LocalEntryNotFoundError:
            return {}
    return weights_sha256(folder)


def _left_out(job: AuditJob, records: Sequence[PiggybackRecord]) -> list[str]:
    """Attacks that were asked for and apply to no model."""
    notes = []
    for task in job.attacked.values():
        done = {record.attack for record in records if record.axis == task.axis}
        missing = [attack for attack in job.attacks.attacks if attack not in done]
        if missing:
            notes.append(
                f"Not run on the {AXIS_TITLES[task.axis]}, for want of a published head with its classes or of retain "
                f"images: {', '.join(missing)}."
            )
    return notes


def _membership(job: AuditJob, notes: list[str]) -> list[MembershipResult]:
    """Tell the source train split from the source test split by the answers of the published heads."""
    if not job.options.membership:
        return []
    rows = {role: job.heads.source[role] for role in ("undisposed", "scrubbed", "retrained") if role in job.models}
    if rows["undisposed"] is None or rows["scrubbed"] is None:
        notes.append("Membership inference: left out, the published heads do not have the source classes.")
        return []
    results = []
    for role, own in rows.items():
        target = job.heads.target[role]
        if own is None:
            continue
        source = {split: numbered(images, own) for split, images in job.images["source"].items()}
        retain = {}
        if target is not None:
            images = job.images["target"]
            retain = {"retain": numbered(images["train"], target), "retain_held_out": numbered(images["test"], target)}
        try:
            results += membership_inference(job.models[role], source["train"], source["test"], **retain, name=role)
        except DataError as error:
            notes.append(f"Membership inference: left out. {error}")
            return []
    return results


def _settings(job: AuditJob, notes: list[str]) -> dict[str, Any]:
    o = job.options
    settings: dict[str, Any] = {role: public_name(place) for role, (place, _) in o.models.items()}
    commits = {role: getattr(model.config, "_commit_hash", None) for role, model in job.models.items()}
    settings |= {f"{name}_dataset": task.name for name, task in job.tasks.items()}
    settings |= {name: value for name, value in o.attacked_images().items() if value}
    retain = job.attacked["source"].retain
    return settings | {
        "retain_images": 0 if retain is None else len(retain.labels),
        "scratch_from_scrubbed": job.scratch_from_scrubbed,
        "command": _command(job),
        "commits": {role: commit for role, commit in commits.items() if commit},
        "image_processor": type(job.processor).__name__,
        "images": {name: {split: len(i) for split, i in task.items()} for name, task in job.images.items()},
        "audit": asdict(job.attacks),
        "notes": notes,
    }


def _command(job: AuditJob) -> str:
    """The command that repeats the audit, with the options that differ from their defaults."""
    processes = job.state.num_processes
    words = ["python"] if processes == 1 else ["accelerate", "launch", "--num_processes", str(processes)]
    words.append("scripts/audit.py")
    for name, value in job.options.public().items():
        words += [f"--{name}", shlex.quote(str(value))]
    return " ".join(words)


def write_outputs(report: LeakageReport, folder: Path) -> None:
    """Write plots, tables and report, each in one step, the report last: where it stands, the others are complete."""
    plots = fresh_folder(folder / "plots")
    plot_piggyback(report, plots / "piggyback")
    plot_attacks(report, plots / "attacks")
    plot_comparison([report], plots / "comparison")
    replace_folder(plots, folder / "plots")
    notes = "".join(f"\n- {note}" for note in report.settings["notes"])
    write_atomically(folder / "tables.md", markdown_table(report) + (f"\nNotes:\n{notes}\n" if notes else ""))
    report.save(folder / REPORT)
