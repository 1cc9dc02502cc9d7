"""Forget, audit, write: one run for whatever is forgotten."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hf_dtl.audit import LeakageReport
from hf_dtl.audit.report import machine, without_folders
from hf_dtl.audit.suites import CUSTOM
from hf_dtl.errors import ConfigError
from hf_dtl.hub.staging import REPORT
from hf_dtl.hub.weights import weights_sha256
from hf_dtl.methods.by_name import MethodChoice
from hf_dtl.models.adapters import base_of
from hf_dtl.models.loading import quiet
from hf_dtl.pipeline.forget_options import ForgetOptions
from hf_dtl.pipeline.job import Job
from hf_dtl.pipeline.options import ANY_SUITE, ATTACKER, Options, as_given
from hf_dtl.pipeline.outputs import Scrubbed, write_outputs
from hf_dtl.pipeline.part_job import PartJob
from hf_dtl.pipeline.some_tasks_job import SomeTasksJob
from hf_dtl.pipeline.transfer import bound_of
from hf_dtl.pipeline.whole_task_job import WholeTaskJob
from hf_dtl.processes import together
from hf_dtl.scenarios.scenario import Measurements

JOBS: Mapping[str, type[Job]] = {"task": WholeTaskJob, "part": PartJob, "tasks": SomeTasksJob}


@dataclass
class ForgetResult:
    """What forgetting left: the scrubbed models, ready to be audited and published.

    Args:
        job: the run, with its images, models and folder.
        models: scrubbed models by the method that made them.
    """

    job: Job
    models: dict[str, Any]

    @property
    def folder(self) -> Path:
        """The output folder: `scrubbed/`, `undisposed/` and, once audited, report, card, plots and tables."""
        return self.job.run.folder

    @property
    def model(self) -> Any:
        """The scrubbed model of the first method; of several tasks with all its heads."""
        return next(iter(self.models.values()))

    def audit(self, **options: Any) -> LeakageReport:
        """Attack every scrubbed model beside its references, write the output folder, and give the first report.

        Args:
            **options: of the audit: suite, attacks, budgets, seeds, ... as `hf_dtl.audit` takes them.

        Raises:
            ConfigError: an option that is none of the audit's.
        """
        return self.audit_all(**options)[0]

    def audit_all(self, **options: Any) -> list[LeakageReport]:
        """The same, with one report a method."""
        if options:
            self._change(options)
        job = self.job
        references = {"undisposed": job.undisposed, **job.references()}
        before = job.measure(references)
        results = [
            Scrubbed(choice, model, audit_one(job, choice, model, references, before))
            for choice, model in zip(job.choices, self.models.values(), strict=True)
        ]
        main = job.state.is_main_process
        written = together(lambda: write_outputs(job, results, references) if main else None)
        return written or [result.report for result in results]

    def _change(self, options: dict[str, Any]) -> None:
        """Take other options of the audit than those that the run was started with."""
        given = as_given(options, ForgetOptions)
        wrong = options.keys() - Options.FREE | options.keys() & {"output_dir", "use_cpu"}
        if wrong:
            raise ConfigError(f"{', '.join(sorted(wrong))}: no option of the audit of a run; give it to forget(...).")
        if "suite" in given:
            given = ANY_SUITE | given
        elif given.keys() & set(ATTACKER) and self.job.options.suite != CUSTOM:
            given["suite"] = CUSTOM
        self.job.options = replace(self.job.options, **given)
        self.job.__dict__.pop("attacks", None)
        self.job.scenario.most_budget = max(self.job.attacks.budgets)
        self.job.scenario.__dict__.pop("attacked", None)

    def push_to_hub(self, repo_id: str, *, report: LeakageReport | None = None, **options: Any) -> Any:
        """Publish the output folder of the first method with its report; see `hf_dtl.hub.publish.publish`.

        Raises:
            PublishError: the report is not the one that stands in the folder, the model was changed since the audit,
                or the folder would leak something.
        """
        from hf_dtl.errors import PublishError
        from hf_dtl.hub.publish import publish
        from hf_dtl.hub.verification import differing_weights

        if report is None:
            raise PublishError(
                "push_to_hub needs the report: a scrubbed model without evidence is a claim. "
                "result.push_to_hub(repo_id, report=result.audit(...))"
            )
        written = LeakageReport.load(self.folder / REPORT)
        if replace(report, weights=written.weights).to_dict() != written.to_dict():
            raise PublishError(f"The report is not that of {self.folder.name}: give what result.audit(...) returned.")

        def checked() -> Any:
            with TemporaryDirectory(prefix="hf_dtl_model_") as now:
                self.job.save(self.model, Path(now))
                if changed := [*differing_weights(written.weights, weights_sha256(now))]:
                    raise PublishError(
                        f"The model in memory is not the one that was audited, and what {self.folder.name} holds "
                        f"would be published: {changed[0]} Audit what you changed, result.audit(...), or take the "
                        "change back."
                    )
            return publish(self.folder, repo_id, **options)

        return together(lambda: checked() if self.job.state.is_main_process else None)


def forget(model: str | None = None, **options: Any) -> ForgetResult:
    """Make a classifier forget what it is told to; `result.audit(...)` then proves by attack how much is left.

    Args:
        model: Hub id or folder; None trains the small built-in ViT first.
        **options: every field of `ForgetOptions`: `forget`, `retain`, `method`, `output_dir`, ...; lists may stand
            for texts with commas. The run continues what an interrupted one left in `output_dir`.

    Returns:
        The scrubbed models, which also lie in `output_dir`.

    Raises:
        ConfigError, DataError, ModelError, OutputError: bad input, before any training.

    Example:
        >>> result = forget("user/classifier", forget="photos[cat,dog]", retain="photos[car,ship]",
        ...                 method="scrub")  # doctest: +SKIP
        >>> print(result.audit(budgets=[5, 20]))  # doctest: +SKIP
    """
    return run(ForgetOptions(**as_given({"model": model, **options}, ForgetOptions)))


def run(options: ForgetOptions) -> ForgetResult:
    """The same from options."""
    return scrubbed_by(open_job(options))


def open_job(options: ForgetOptions) -> Job:
    """Load and check everything that a run needs, before anything is done."""
    quiet()
    return JOBS[options.kind](options)


def scrubbed_by(job: Job) -> ForgetResult:
    """Prepare the model of a job and scrub it by every method."""
    job.prepare()
    return ForgetResult(job, {choice.text: job.unlearn(choice) for choice in job.choices})


def audit_one(
    job: Job, choice: MethodChoice, scrubbed: Any, references: Mapping[str, Any], before: Measurements
) -> LeakageReport:
    """Measure one scrubbed model, and attack it and its references; attacks that are finished are not repeated.

    Every process runs its share of the attacks, so all must call this, and all get the report.

    Args:
        job: the run.
        choice: the method.
        scrubbed: its result.
        references: by role, the undisposed model among them.
        before: what they answer, which all methods share.
    """
    o, scenario = job.options, job.scenario
    found = before + job.measure({"scrubbed": scrubbed})
    twin = job.twin(scrubbed)
    if twin is not None:
        references = {**references, "twin": twin.model}
        found.notes.append(twin.note)
    records = job.attack({"undisposed": references["undisposed"], "scrubbed": scrubbed, **references})
    cost = {"scrubbed": job.cost(job.disposal_stage(choice)), "retrained": job.cost("retrained")}
    findings = scenario.findings(found, cost)
    settings = o.recorded() | {f"{name}_dataset": text for name, text in scenario.names.items()}
    settings |= {
        "command": job.command(choice),
        "audit": asdict(job.attacks),
        "disposal": job.settings_of(choice),
        "images": scenario.counts(),
        "notes": list(dict.fromkeys(found.notes)),
    }
    base = base_of(o.model, o.revision) if o.model is not None else None
    if base is not None:
        settings["adapter_of"] = without_folders(base)
    return LeakageReport(
        method=without_folders(choice.text),
        seed=o.seed,
        piggyback=tuple(records),
        settings=settings,
        machine=machine(job.state.device),
        spec=scenario.public_spec(),
        suite=job.attacks.suite(),
        bound=bound_of(job, choice),
        **findings,
    )
