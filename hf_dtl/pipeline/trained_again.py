"""The undisposed and the retrained model of a report, trained again as its settings say, so that nobody is trusted."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from hf_dtl.audit import LeakageReport
from hf_dtl.errors import ConfigError, DataError
from hf_dtl.pipeline.audit_options import VerifyOptions
from hf_dtl.pipeline.forget import open_job
from hf_dtl.pipeline.forget_options import ForgetOptions
from hf_dtl.pipeline.options import ATTACKER
from hf_dtl.scenarios.spec import ScenarioSpec

MOST_EPOCHS = 1_000
"""Passes over the images of a stranger's report."""
_LOCAL = {"output_dir", "use_cpu", "suite", "max_stack", "method", "retrained", "retrained_revision", *ATTACKER}


def trained_again(report: LeakageReport, spec: ScenarioSpec, options: VerifyOptions) -> dict[str, PreTrainedModel]:
    """Train the models that decide the leakage of a report, as the command that it speaks of did.

    Args:
        report: of `hf-dtl forget` on a whole task or a part, with a model that was trained there or that is public.
        spec: with data that are here.
        options: where to keep the stages; those that are finished are not repeated.

    Returns:
        `undisposed`, and `retrained` where it was trained there.

    Raises:
        DataError: the report does not say how they were trained.
    """
    told, names = report.settings, {f.name for f in fields(ForgetOptions)} - _LOCAL
    model = told.get("model")
    if spec.kind == "tasks" or "train_epochs" not in told or (model is not None and Path(str(model)).exists()):
        raise DataError(
            "--retrain is for reports of `hf-dtl forget` on one task, whose model was trained there or is on the Hub: "
            "this one does not say how its models were made. Give --undisposed and --retrained."
        )
    chosen: dict[str, Any] = {name: value for name, value in told.items() if name in names and name != "images"}
    chosen |= {f.name: getattr(spec, f.name) for f in fields(spec) if f.name in names}
    try:
        for name in ("train_epochs", "adapt_epochs", "retrain_epochs"):
            if not 0 <= float(chosen.get(name) or 0) <= MOST_EPOCHS:
                raise ConfigError(f"`{name}` is {chosen[name]!r}; up to {MOST_EPOCHS} are made here.")
        chosen |= {"novel": spec.novel or "none", "method": report.method.partition("/")[0]}
        folder = str(Path(options.output_dir) / "models")
        job = open_job(ForgetOptions(**chosen, use_cpu=options.use_cpu, output_dir=folder))
    except (TypeError, ValueError) as error:
        raise DataError(f"The settings of the report do not say how its models were trained: {error}") from error
    job.prepare()
    found = {"undisposed": job.undisposed, **job.references()}
    roles = ("undisposed",) if told.get("retrained") else ("undisposed", "retrained")
    return {role: found[role] for role in roles if role in found}
