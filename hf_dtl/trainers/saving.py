"""What a trainer leaves behind: the model that users load, apart from checkpoints, which are private."""

import json
import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Module
from transformers import BaseImageProcessor, PreTrainedModel, Trainer

from hf_dtl.errors import ConfigError
from hf_dtl.fingerprint import fingerprint
from hf_dtl.processes import together

if TYPE_CHECKING:
    from hf_dtl.audit import LeakageReport


REQUEST = "request.json"
"""In a checkpoint: what it is for."""


def write_whole(tensors: dict[str, Tensor], path: Path, **metadata: str) -> None:
    """Write a safetensors file, and its folder; an interruption leaves what was there before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.partial")
    save_file(tensors, new, metadata or None)
    new.replace(path)


class SavingTrainer(Trainer):
    """A `transformers.Trainer` of a `MultiHeadClassifier`, whose `save_model` keeps every head."""

    @staticmethod
    def refuse_unused(kwargs: dict[str, Any], *names: str) -> None:
        """Refuse arguments of `transformers.Trainer` that would change nothing, always those of loss and model."""
        given = [name for name in (*names, "compute_loss_func", "model_init") if kwargs.get(name) is not None]
        if given:
            raise ConfigError(
                f"{', '.join(given)}: the trainer has its own, so what you give would not be used. Leave it out; "
                "images are transformed by dataset.with_transform."
            )

    def write(self, folder: str | os.PathLike) -> None:
        """Write backbone and every head, as `MultiHeadClassifier.load` reads them."""
        self.accelerator.unwrap_model(self.model).save(folder)

    def save_model(self, output_dir: str | os.PathLike | None = None, _internal_call: bool = False) -> None:
        """Write the model and its processor. (The checkpoints hold all that was trained: keep them private.)"""
        folder = str(output_dir or self.args.output_dir)
        if _internal_call:
            super().save_model(folder, _internal_call=True)
        elif self.args.should_save:
            self.write(folder)
            if self.processing_class is not None:
                self.processing_class.save_pretrained(folder)


class PublishingTrainer(SavingTrainer):
    """A trainer whose result is a plain Hub model of one task, published with its leakage report."""

    retain_task: str
    train_dataset: Any
    teacher: Any

    @cached_property
    def _request(self) -> dict[str, str]:
        """What a checkpoint is for, so that no other request goes on from it."""
        streams, given = self.train_dataset, self.teacher.parameters()
        found = {"method": type(self).__name__, "model": fingerprint(weight.detach() for weight in given)}
        for name, images in (("forget", streams.forget), ("retain", streams.retain)):
            labels = getattr(images, "labels", None)
            found[name] = fingerprint([len(images), *([labels] if isinstance(labels, Tensor) else [])])
        return found

    def _save_checkpoint(self, model: Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
            (folder / REQUEST).write_text(json.dumps(self._request), encoding="utf-8")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Module | None = None) -> None:
        """Refuse the checkpoint of another request (ConfigError): resuming would end what that one began."""
        file = Path(resume_from_checkpoint) / REQUEST
        if file.is_file():
            told, own = json.loads(file.read_text(encoding="utf-8")), self._request
            if other := [name for name in own if told.get(name) != own[name]]:
                raise ConfigError(
                    f"{resume_from_checkpoint} is of another request ({', '.join(other)} differs). Give each request "
                    "an output_dir of its own, or train() without resume_from_checkpoint."
                )
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def export(self) -> PreTrainedModel:
        """A plain Hub model of the retained task: no other head, no trainer state."""
        return self.accelerator.unwrap_model(self.model).export(self.retain_task)

    def write(self, folder: str | os.PathLike) -> None:
        """Write the exported model."""
        self.export().save_pretrained(folder)

    def push_to_hub(  # type: ignore[override]  # uploads are not ours to queue, and need the report
        self, commit_message: str = "End of training", *, report: "LeakageReport | None" = None, **options: Any
    ):
        """Publish the exported model with its leakage card, on the first process; see `publish_model`.

        Args:
            commit_message: first line of the commit.
            report: of an audit of the model that `export()` gives, saved; the card is made from it.
            **options: `base_model`, `token`, `revision` and `private`, which is the default; else the config's.
        """
        from hf_dtl.hub.publish import publish_model  # it reads the audit, which no method needs

        args, processor = self.args, self.processing_class
        if report is None or not isinstance(processor, BaseImageProcessor):
            raise ConfigError(
                "push_to_hub needs a processing_class and the leakage report: a scrubbed model without evidence is a "
                "claim. Audit what save_model(folder) writes, then call push_to_hub(report=...)."
            )
        model, repo_id = self.export(), args.hub_model_id or Path(str(args.output_dir)).resolve().name
        given: dict[str, Any] = {
            "token": args.hub_token,
            "revision": args.hub_revision,
            "private": args.hub_private_repo is not False,
        }
        given |= {"commit_message": commit_message, **options}
        first = self.is_world_process_zero()
        return together(lambda: publish_model(model, processor, report, repo_id, **given) if first else None)

    def _refuse_upload(self, *args: Any, **kwargs: Any) -> None:
        raise ConfigError(
            "push_to_hub=True and create_model_card upload checkpoints with the forgotten task's head, and a card "
            "without the attacks. Audit what save_model(folder) writes, then call push_to_hub(report=...)."
        )

    init_hf_repo = _push_from_checkpoint = create_model_card = _refuse_upload
