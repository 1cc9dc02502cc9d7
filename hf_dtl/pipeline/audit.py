"""The audit of given models: load, check everything, attack, report."""

import copy
import re
from collections.abc import Sequence
from dataclasses import asdict, fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import BaseImageProcessor, PreTrainedModel

from hf_dtl.audit import (
    LeakageReport,
    PiggybackRecord,
    markdown_table,
    no_model,
    plot_comparison,
    run_audit,
    scratch_model,
    scratch_models,
)
from hf_dtl.audit.classifiers import check_finite
from hf_dtl.audit.report import machine
from hf_dtl.audit.text_table import AXIS_TITLES
from hf_dtl.data import check_forward
from hf_dtl.data.processors import channels_of
from hf_dtl.errors import ConfigError, ModelError, OutputError
from hf_dtl.hub import weights_sha256
from hf_dtl.hub.staging import REPORT
from hf_dtl.models.adapters import base_of
from hf_dtl.models.classifiers import locate_classifiers
from hf_dtl.models.heads import MultiHeadClassifier
from hf_dtl.models.loading import check_same_processors, load_classifier, processor_of, quiet
from hf_dtl.models.published_heads import with_head_labels
from hf_dtl.pipeline.audit_options import AuditOptions
from hf_dtl.pipeline.commands import command
from hf_dtl.pipeline.job import STORE
from hf_dtl.pipeline.options import FEW_PARAMETERS, as_given, public_name
from hf_dtl.pipeline.stages import Run, fresh_folder, made_from, replace_folder, write_atomically
from hf_dtl.processes import one_core_each, together
from hf_dtl.scenarios.part import Part
from hf_dtl.scenarios.scenario import Measurements
from hf_dtl.scenarios.whole_task import WholeTask
from hf_dtl.trainers.training import fine_tune


class Audit:
    """Everything is loaded and checked before the output folder is touched.

    Args:
        options: see `AuditOptions`.

    Attributes:
        models: the audited models by role: undisposed, scrubbed, scratch (its first draw), retrained.

    Raises:
        ConfigError, DataError, ModelError, OutputError: bad input, before any attack. With several processes an error
            on one of them is raised on all.
    """

    def __init__(self, options: AuditOptions):
        self.options = options
        # The others wait while the first one measures and writes.
        self.state = PartialState(cpu=options.use_cpu, timeout=timedelta(hours=24))
        together(self._load)
        together(lambda: self._check_resume() if self.state.is_main_process else None)
        self.run = Run(options.output_dir, options.settings(), self.state)
        if options.retrain:
            self.models["retrained"] = self._retrained()
        together(self._prepare)

    # Checks and loading ---------------------------------------------------------------------------------------

    def _load(self) -> None:
        o = self.options
        if o.retrain and o.retrain_batch_size % self.state.num_processes:
            raise ConfigError(
                f"--retrain_batch_size {o.retrain_batch_size} must be a multiple of the "
                f"{self.state.num_processes} processes."
            )
        self.scenario = (Part if o.kind == "part" else WholeTask)(o.spec(), max(o.attacker().budgets))
        self.models: dict[str, Any] = {role: load_classifier(*place) for role, place in o.models.items()}
        size = max(model.num_parameters() for model in self.models.values())
        workers = one_core_each(self.state.device, self.state.num_processes) if size < FEW_PARAMETERS else 1
        self.attacks = o.attacker(size, workers=workers)
        for role, model in self.models.items():
            check_finite(model, f"the {role} model")
        self.architectures = {role: _architecture(model) for role, model in self.models.items()}
        self.models.setdefault("scratch", scratch_model(self.models["undisposed"], o.seed))
        if isinstance(self.scenario, WholeTask):
            self.scenario.read_heads(self.models)
        self.channels = self._same_channels()
        self.processor = self._processor()
        self.scenario.load(self.processor, self.models["undisposed"])
        if isinstance(self.scenario, Part):
            for role in sorted(self.models.keys() & {"scrubbed", "retrained"}):
                self.scenario.check_numbered(self.models[role], role)
        for role, model in self.models.items():
            try:
                for images in self._training_images():
                    check_forward(model, images)
            except ModelError as error:
                raise ModelError(f"The {role} model: {error}") from error
            model.to(self.state.device)
        self.measured = self._measure()
        for role, place in {"base": o.base_model, "twin": o.twin}.items():
            if place is not None:
                self.models[role] = self._floor(role, place).to(self.state.device)

    def _floor(self, role: str, place: str) -> PreTrainedModel:
        """A model that is attacked and never asked, whatever head it has.

        Raises:
            ModelError: they cannot be loaded, or do not take these images.
        """
        model = load_classifier(place, new_head=True)
        try:
            check_forward(model, self._training_images()[0])
        except ModelError as error:
            raise ModelError(f"The {role} model {place} is no floor for these models: {error}") from error
        return model

    def _training_images(self) -> list[Any]:
        if isinstance(self.scenario, Part):
            return [self.scenario.images["retain"]]
        return [images["train"] for images in self.scenario.images.values()]

    def _check_resume(self) -> None:
        folder = Path(self.options.output_dir)
        stored = [folder / STORE, *folder.glob(f"{STORE}.process*")]
        finished = sum(path.read_bytes().count(b"\n") for path in stored if path.is_file())
        if finished and not self.options.resume:
            raise OutputError(
                f"The output folder {folder} holds an audit with {finished} finished attacks. Add --resume to "
                "continue it, or choose another --output_dir."
            )

    def _same_channels(self) -> int:
        channels = {role: channels_of(model.config) for role, model in self.models.items()}
        if len(set(channels.values())) > 1:
            found = ", ".join(f"{role} {count}" for role, count in channels.items())
            raise ModelError(f"The models take images with different numbers of channels: {found}.")
        return channels["scrubbed"]

    def _processor(self) -> BaseImageProcessor:
        o, places = self.options, self.options.models
        if o.processor is not None:
            role = o.processor if o.processor in places else "scrubbed"
            place = places.get(o.processor, (o.processor, "main"))
            places = {role: place}
        found = {role: processor_of(p[0], self.models[role], p[1], size=o.image_size) for role, p in places.items()}
        remedy = "Choose one for all models, for example --processor scrubbed, or --image_size if only sizes differ."
        check_same_processors(found, self.channels, remedy)
        return found.get("undisposed") or next(iter(found.values()))

    def _measure(self) -> Measurements:
        """What the published heads answer; one process measures, the others could only find the same."""
        models = {role: self.models[role] for role in ("undisposed", "scrubbed")}
        if isinstance(self.scenario, Part):
            single = models | {role: self.models[role] for role in self.models.keys() & {"retrained"}}
            return self.scenario.measure(single, self.state.device, membership=self.options.membership)
        return self.scenario.measure(models) if self.state.is_main_process else Measurements()

    def _retrained(self) -> PreTrainedModel:
        """Train the undisposed architecture on the target data alone, under the undisposed head where that fits."""
        assert isinstance(self.scenario, WholeTask) and self.scenario.heads is not None
        o, train = self.options, self.scenario.images["target"]["train"]
        model, rows = scratch_model(self.models["undisposed"], o.seed), self.scenario.heads.target["undisposed"]
        if rows is not None:
            train = with_head_labels(train, rows)
        else:
            split = MultiHeadClassifier(copy.deepcopy(model), task="old")
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(o.seed)
                split.add_head("target", self.scenario.tasks["target"].labels)
            model = split.export("target")
        options: dict[str, Any] = {
            "per_device_train_batch_size": o.retrain_batch_size // self.state.num_processes,
            "num_train_epochs": o.retrain_epochs,
            "learning_rate": o.retrain_learning_rate,
            "seed": o.seed,
            "use_cpu": o.use_cpu,
            "dataloader_pin_memory": self.state.device.type == "cuda",
        }

        def work(folder: Path) -> None:
            trained = fine_tune(model.cpu(), train, folder, "retrained", **options)
            if self.state.is_main_process:
                trained.save_pretrained(folder)
                self.processor.save_pretrained(folder)

        return load_classifier(self.run.stage("retrained", work, made_from(model, train))).to(self.state.device)

    def _prepare(self) -> None:
        """Find the rows of all heads, and the attacked tasks with them."""
        notes = self.measured.notes
        if isinstance(self.scenario, WholeTask):
            self.scenario.read_heads(self.models)
            assert self.scenario.heads is not None
            notes += self.scenario.heads.notes
        other = [role for role, own in self.architectures.items() if own != self.architectures["undisposed"]]
        if other:
            notes.append(
                f"Another architecture than the undisposed model: {', '.join(other)}. The leakage compares both."
            )
        self.attacked = self.scenario.attacked
        if self.options.retain is not None and all(task.retain is None for task in self.attacked.values()):
            notes.append("No attacks on retain images: the heads do not number the target classes alike.")

    # Attacks and report ---------------------------------------------------------------------------------------

    def attack(self, store: Path | None = None) -> list[PiggybackRecord]:
        """Run every attack that is not finished yet, shared among the processes; each of them gets all records."""
        models = {**self.models}
        if self.options.scratch is None:  # a draw of the random weights for each attack seed
            draws = scratch_models(self.models["undisposed"], len(self.attacks.seeds), self.options.seed)
            models["scratch"] = [draw.to(self.state.device) for draw in draws]
        models["no_model"] = no_model(self.attacked["source"])
        return run_audit(models, self.attacked, self.attacks, store=store or self.run.folder / STORE)

    def report(self, records: Sequence[PiggybackRecord]) -> LeakageReport:
        """Put everything that was measured together; what could not be measured is said in the notes."""
        o, scenario, found = self.options, self.scenario, self.measured
        if o.membership and isinstance(scenario, WholeTask):
            found.membership = scenario.infer_membership(self.models, found.notes)
        findings = scenario.findings(found)
        return LeakageReport(
            method=re.sub(r"[^\w.,:=+/-]+", "_", o.method or public_name(o.scrubbed)),  # a name, and no sentence
            seed=o.seed,
            piggyback=tuple(records),
            target_margin=o.target_margin,
            settings=self._settings([*found.notes, *self._left_out(records)]),
            machine=machine(self.state.device) | {"processes": self.state.num_processes},
            weights=self._weights(),
            spec=scenario.public_spec(),
            suite=self.attacks.suite(),
            **findings,
        )

    def _weights(self) -> dict[str, str]:
        """Hashes of the weights of the scrubbed model; nothing where the Hub's client keeps them elsewhere."""
        place, revision = self.options.models["scrubbed"]
        folder = Path(place)
        if not folder.is_dir():
            commit = getattr(self.models["scrubbed"].config, "_commit_hash", None) or revision
            try:
                folder = Path(snapshot_download(place, revision=commit, local_files_only=True))
            except LocalEntryNotFoundError:
                return {}
        return weights_sha256(folder)

    def _left_out(self, records: Sequence[PiggybackRecord]) -> list[str]:
        """Attacks that were asked for and apply to no model."""
        notes = []
        for task in self.attacked.values():
            done = {record.attack for record in records if record.axis == task.axis}
            missing = [attack for attack in self.attacks.attacks if attack not in done]
            if missing:
                notes.append(
                    f"Not run on the {AXIS_TITLES[task.axis]}, for want of a published head with its classes or of "
                    f"retain images: {', '.join(missing)}."
                )
        return notes

    def _settings(self, notes: list[str]) -> dict[str, Any]:
        o = self.options
        commits = {role: getattr(model.config, "_commit_hash", None) for role, model in self.models.items()}
        retain = self.attacked["source"].retain
        architectures = self.architectures["scrubbed"] == self.architectures["undisposed"]
        heads = {int(self.models[role].config.num_labels or 0) for role in ("undisposed", "scrubbed")}
        public, plain = o.public(), {f.name: f.default for f in fields(o)}
        names = {f"{name}_dataset": text for name, text in self.scenario.names.items()}
        given = {name: public[name] for name in ("image_size", "processor", "base_model", "twin")}
        bases = {role: base_of(*place) for role, place in o.models.items()}
        return {
            **{role: public_name(place) for role, (place, _) in o.models.items()},
            **{f"{role}_adapter_of": public_name(base) for role, base in bases.items() if base is not None},
            **names,
            **{name: value for name, value in given.items() if value},
            "retain_images": 0 if retain is None else len(retain.labels),
            # whether the scrubbed model's configuration and the seed are enough to draw the scratch models again
            "scratch_from_scrubbed": o.scratch is None and architectures and len(heads) == 1,
            "command": command("audit", public | names_of(names), plain, self.state.num_processes),
            "commits": {role: commit for role, commit in commits.items() if commit},
            "image_processor": type(self.processor).__name__,
            "images": self.scenario.counts(),
            "audit": asdict(self.attacks),
            "notes": notes,
        }


def names_of(datasets: dict[str, str]) -> dict[str, str]:
    """The names that are safe to publish in place of those that a user gave."""
    options = {"source_dataset": "forget", "target_dataset": "retain", "novel_dataset": "novel"}
    return {options[name]: text for name, text in datasets.items()}


def audit(scrubbed: str, **options: Any) -> LeakageReport:
    """Attack a published model beside the one before disposal: how much of what was to be forgotten comes back?

    Args:
        scrubbed: Hub id or folder.
        **options: every field of `AuditOptions`: `undisposed`, `retrained`, `base_model`, `forget`, `retain`, `suite`,
            `attacks`, `budgets`, `seeds`, `output_dir`, ...; lists may stand for texts with commas. An audit in an
            `output_dir` that holds finished attacks continues that one.

    Returns:
        The report; it also lies in `output_dir`, with tables and plots.

    Raises:
        ConfigError, DataError, ModelError, OutputError: bad input, before any attack.

    Example:
        >>> report = audit("user/scrubbed", undisposed="user/original", forget="mnist[0-5]",
        ...                retain="mnist[6-9]")  # doctest: +SKIP
        >>> print(report)  # doctest: +SKIP
    """
    return run(AuditOptions(**as_given({"scrubbed": scrubbed, "resume": True, **options}, AuditOptions)))


def run(options: AuditOptions, store: Path | None = None) -> LeakageReport:
    """The same from options.

    Args:
        options: see `AuditOptions`.
        store: file of finished attacks that audits of several models share, so that references are attacked once;
            default: one in the output folder.
    """
    quiet()
    job = Audit(options)
    records = job.attack(store)

    def finish() -> None:
        if job.state.is_main_process:
            _write(job.report(records), job.run.folder)

    together(finish)
    return LeakageReport.load(job.run.folder / REPORT)


def _write(report: LeakageReport, folder: Path) -> None:
    """Write plots, tables and report, each in one step, the report last: where it stands, the others are complete."""
    plots = fresh_folder(folder / "plots")
    report.plot(plots)
    plot_comparison([report], plots / "comparison")
    replace_folder(plots, folder / "plots")
    notes = "".join(f"\n- {note}" for note in (*map(str, report.flags), *report.settings["notes"]))
    write_atomically(folder / "tables.md", markdown_table(report) + (f"\nNotes:\n{notes}\n" if notes else ""))
    report.save(folder / REPORT)


def _architecture(model: PreTrainedModel) -> tuple[str, dict[str, torch.Size]]:
    """Class and shapes of the weights, the head apart."""
    heads = tuple(f"{path}." for path in locate_classifiers(model))
    shapes = {name: p.shape for name, p in model.named_parameters() if not name.startswith(heads)}
    return type(model).__name__, shapes
