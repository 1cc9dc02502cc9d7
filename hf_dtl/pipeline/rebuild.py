"""Make a published student again from what is public: weights, images, and the words of the private model."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.trainer_callback import PrinterCallback

from hf_dtl.audit import LeakageReport, scratch_models
from hf_dtl.errors import ConfigError, DataError, DTLError, listing
from hf_dtl.methods.anchored_distillation import AnchoredDistillationTrainer
from hf_dtl.methods.anchored_distillation_config import AnchoredDistillationConfig
from hf_dtl.methods.by_name import own_fields, parse_method
from hf_dtl.methods.transfer_images import TRANSFER, TransferLabels
from hf_dtl.pipeline.audit_options import VerifyOptions
from hf_dtl.scenarios.scenario import Scenario
from hf_dtl.scenarios.whole_task import WholeTask
from hf_dtl.trainers.training import StageProgress

_TRAINING = {
    "learning_rate", "lr_scheduler_type", "warmup_steps", "max_steps", "optim", "weight_decay", "max_grad_norm",
    "adam_beta1", "adam_beta2", "adam_epsilon", "per_device_train_batch_size", "gradient_accumulation_steps", "seed",
}  # fmt: skip
"""Options of transformers that decide the weights; a stranger's report may set no other one."""
_MOST_STEPS = 1_000_000


def rebuild(
    folder: Path, report: LeakageReport, scenario: Scenario, model: PreTrainedModel | None, options: VerifyOptions
) -> tuple[bool, str]:
    """Train the student of a report again by the published words, and compare it with the published weights.

    Args:
        folder: of the published model.
        report: its own.
        scenario: with its images loaded.
        model: the published one; None of several tasks.
        options: where base and transfer images are.

    Returns:
        Whether it is another one, and what to say.

    Raises:
        ConfigError, DataError: the report is of no such method, or something lacks.
    """
    bound = report.bound
    if bound is None or model is None:
        raise ConfigError(
            f"--rebuild is for a model whose report has a bound, as of anchored_distillation; this one is of "
            f"{report.method}. Leave it out."
        )
    if bound.bits is None:
        raise ConfigError(
            f"--rebuild needs the words of the private model, and the channel {bound.channel} keeps none: nothing "
            "bounds what it said. Leave it out."
        )
    if not (folder / TRANSFER).is_file():
        raise DataError(f"--rebuild needs {TRANSFER}, which was not published with {folder.name}.")
    said = TransferLabels.load(folder / TRANSFER)
    base = options.base_model or bound.base
    if (base is None) != (bound.base is None):
        raise ConfigError(f"--base_model {base}: the report says that the student started from random weights.")
    images: Any = scenario.images
    labelled = images["target"]["train"] if isinstance(scenario, WholeTask) else images["retain"]
    (fresh,) = scratch_models(model, 1, report.seed)
    told = report.machine.get("threads")
    with TemporaryDirectory(prefix="hf_dtl_rebuild_") as work, _threads(told if isinstance(told, int) else 1):
        config = _config(report, work, base)
        trainer = AnchoredDistillationTrainer(
            fresh, config, labelled, labelled,
            transfer_dataset=scenario.transfer, labels=said,
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(StageProgress("the model made again"))
        trainer.train()
        own = trainer.export().state_dict()
    there = model.state_dict()
    other = [name for name, value in own.items() if name not in there or not torch.equal(value, there[name].cpu())]
    if not other and own.keys() == there.keys():
        return False, (
            f"Made again from {bound.base or 'random weights'}, {len(said.codes):,} images and the labels, "
            f"the weights are the same bit by bit: at most {bound.to_dict()['bytes']:,} bytes of the private model "
            "are in them, if that start and these images are independent of what was forgotten."
        )
    both = [name for name in other if name in there and there[name].shape == own[name].shape]
    most = max(((own[name] - there[name].cpu()).abs().max().item() for name in both), default=float("nan"))
    return True, (
        f"Made again from base, images and {TRANSFER}, {len(other)} of {len(own)} tensors differ "
        f"({listing(other, 2)}; by up to {most:.1e}): the weights are not what the published labels make, or "
        f"this is another machine or version than the report's (torch {report.machine.get('torch')}, here "
        f"{torch.__version__}; several threads or a GPU do not repeat a training bit by bit)."
    )


def _config(report: LeakageReport, work: str, base: str | None) -> AnchoredDistillationConfig:
    """The student's options, of a stranger's report: only those that decide weights are taken."""
    settings, config = report.settings, AnchoredDistillationConfig
    try:
        choice = parse_method(report.method)
        told = settings["disposal"]
        if choice.config_class is not config or not isinstance(told, Mapping):
            raise ConfigError(f"the method {report.method} is another one")
        known = {*own_fields(config), *_TRAINING}
        if unknown := sorted((told.keys() | choice.options.keys()) - known):
            raise ConfigError(f"the option {unknown[0]} cannot be repeated")
        values = {"per_device_train_batch_size": settings["forget_batch_size"], "seed": report.seed, **told}
        values |= choice.options | {"base_model": base}
        if not 0 < int(values["max_steps"]) <= _MOST_STEPS:
            raise ConfigError(f"max_steps={values['max_steps']} is not in 1..{_MOST_STEPS:,}")
        names = {field.name for field in fields(config)}
        return config(
            output_dir=work, report_to="none", save_strategy="no", logging_steps=100, use_cpu=True,
            dataloader_pin_memory=False, **{name: value for name, value in values.items() if name in names},
        )  # fmt: skip
    except (DTLError, TypeError, ValueError, KeyError) as error:
        raise DataError(f"The student of the report cannot be made again: {error}.") from error


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """So many threads for a while: another number rounds otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(count, 64)))
    try:
        yield
    finally:
        torch.set_num_threads(before)
