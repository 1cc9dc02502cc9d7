"""The trainer that all unlearning methods share: L_retain + forget_weight * L_forget on two streams."""

import copy
import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import datasets
import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel, Trainer
from transformers.trainer_utils import seed_worker

from hf_dtl.data import load_images
from hf_dtl.errors import ConfigError, DivergedError, ModelError
from hf_dtl.functional import augment, average_loss, distillation
from hf_dtl.functional.collision import Loss
from hf_dtl.models.heads import MultiHeadClassifier
from hf_dtl.processes import together
from hf_dtl.trainers.config import UnlearningConfig
from hf_dtl.trainers.request import Request
from hf_dtl.trainers.streams import CellSampler, PairedStreams

if TYPE_CHECKING:
    from hf_dtl.audit import LeakageReport

logger = logging.getLogger(__name__)


class Disposal(NamedTuple):
    """What a method's disposal step gives: a value, gradients over all processes, and scalars to log."""

    value: Tensor
    gradients: list[Tensor]
    metrics: dict[str, Tensor]


class UnlearningTrainer(Trainer):
    """A `transformers.Trainer` that disposes of one task while a frozen copy of the model guards another.

    A method is a subclass that gives one of these: `forget_loss` of logits, `chunk_loss` of images where it looks at
    more than logits, `disposal` where it does not minimise the mean of the chunks' losses, `shown` where not every
    step looks at both streams, `prepare` where it changes the weights before the first step, `direct` where it
    corrects the gradients before each, and `constrain` where it corrects the weights after each.

    Args:
        model: a `MultiHeadClassifier` with the heads `args.forget_task` and `args.retain_task`, or a plain Hub
            classifier, whose one head then serves both.
        args: the method's config.
        forget_dataset: what to forget: items {"pixel_values", "labels"}, or a `datasets.Dataset` with an `image` and a
            `label` column (then `processing_class` is needed).
        retain_dataset: what to keep, likewise.
        processing_class: the model's image processor; saved with the exported model.
        eval_dataset: retained task's data for `evaluate()`, as items {"pixel_values", "labels"}.
        **kwargs: passed on to `transformers.Trainer` (callbacks, optimizers, ...).

    Raises:
        ConfigError: options that contradict each other or the environment.
        ModelError: the model lacks a task.
        DivergedError: a loss or gradient became non-finite during `train()`.
    """

    config_class: ClassVar[type[UnlearningConfig]] = UnlearningConfig
    loss_is_scaled_for_ga = False
    needs_double_backward = False

    def __init__(
        self,
        model: MultiHeadClassifier | PreTrainedModel,
        args: UnlearningConfig,
        forget_dataset: Dataset,
        retain_dataset: Dataset,
        *,
        processing_class=None,
        eval_dataset: Dataset | None = None,
        **kwargs: Any,
    ):
        self.forget_task, self.retain_task = args.forget_task, args.retain_task
        if isinstance(model, PreTrainedModel):
            model = MultiHeadClassifier(model, task=self.retain_task)
            self.forget_task = self.retain_task
        self._check(model, args)
        forget, retain = (items_of(d, model, processing_class) for d in (forget_dataset, retain_dataset))
        args._n_gpu = min(args.n_gpu, 1)  # several GPUs in one process would be DataParallel: use accelerate launch
        super().__init__(
            model=model,
            args=args,
            train_dataset=args.streams(forget, retain),
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            **kwargs,
        )
        self.teacher = copy.deepcopy(self.model).requires_grad_(False).eval()
        self.prepare()
        if self.needs_double_backward:
            self.model.use_eager_attention()
        self._freeze_unused()
        self._pending: list[dict[str, Any]] = []
        self._source_losses: dict[int, Tensor] = {}
        self._metrics: dict[str, list[Tensor]] = defaultdict(list)

    @classmethod
    def request_arguments(cls, request: Request, args: UnlearningConfig) -> dict[str, Any]:
        """What the constructor takes besides, for a request and the method's options."""
        return {}

    def save_artifacts(self, folder: Path) -> None:
        """Write what the next request may need of this one, after training."""

    # What a method defines ------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Change the weights of `self.model` before the first step; a resumed run loads its checkpoint over it."""

    def forget_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of one chunk of forget images; random draws in it come from the chunk's own seed."""
        return F.cross_entropy(logits.float(), labels)

    def chunk_loss(self, pixel_values: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of one chunk, and the forgotten task's logits, which are only logged."""
        logits = self.model(pixel_values, task=self.forget_task)
        return self.forget_loss(logits, labels), logits

    def disposal(self, losses: Sequence[Loss], parameters: Sequence[Tensor]) -> Disposal:
        """Value and gradients of the disposal loss over the chunks of every process."""
        value, gradients = average_loss(losses, parameters, reduce=self.reduce)
        return Disposal(value, gradients, {})

    def shown(self) -> tuple[bool, bool]:
        """Whether the present optimizer step looks at retain images, and whether at forget images."""
        return True, bool(self.args.forget_weight)  # without it, a method only changes the weights beforehand

    def direct(self) -> None:
        """Correct the gradients of `self.model` before every step of the optimizer, whichever it is."""

    def constrain(self) -> None:
        """Correct the weights of `self.model` after every step of the optimizer, whichever it is."""

    # Checks ---------------------------------------------------------------------------------------------------

    def _check(self, model: MultiHeadClassifier, args: UnlearningConfig) -> None:
        for task in (self.forget_task, self.retain_task):
            if task not in model.heads:
                raise ModelError(f"The model has no task {task!r}; its tasks are: {', '.join(model.heads)}.")
        if self.forget_task == self.retain_task and args.retain_inputs != "target":
            raise ConfigError(
                f"retain_inputs={args.retain_inputs!r} would distil the forgotten images into the only head. "
                "Use retain_inputs='target' for a model with one head."
            )

    def _freeze_unused(self) -> None:
        """Freeze what gets no gradient from the retained task (other heads, mask tokens): DDP waits for every one."""
        model: MultiHeadClassifier = self.model
        for name, head in model.heads.items():
            head.requires_grad_(name == self.retain_task)
        image = self.train_dataset.retain[0]["pixel_values"].unsqueeze(0).to(self.args.device)
        names, parameters = zip(*((n, p) for n, p in model.named_parameters() if p.requires_grad), strict=True)
        model.eval()
        loss = model(image, task=self.retain_task).float().logsumexp(-1).sum()
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        unused = [(n, p) for n, p, g in zip(names, parameters, gradients, strict=True) if g is None]
        for _, parameter in unused:
            parameter.requires_grad_(False)
        if unused:
            logger.info("Frozen, because the task does not use them: %s", ", ".join(n for n, _ in unused))

    # Data -----------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader:
        """Cells in the order of `PairedStreams`, a process's share of each step."""
        streams: PairedStreams = self.train_dataset
        loader = DataLoader(
            streams,
            batch_size=self.args.cells_per_batch,
            sampler=CellSampler(streams, lambda: self.state.global_step // streams.steps_per_epoch),
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            worker_init_fn=partial(
                seed_worker, num_workers=self.args.dataloader_num_workers, rank=self.args.process_index
            ),
        )
        return self.accelerator.prepare(loader)

    # One step -------------------------------------------------------------------------------------------------

    @property
    def reduce(self):
        """Sum of a tensor over all processes, None for one process."""
        return sum_over_processes if self.args.world_size > 1 else None

    @property
    def quiet(self) -> dict[str, bool]:
        """Arguments of a progress bar: none where the environment decides (TQDM_DISABLE)."""
        return {"disable": True} if self.args.disable_tqdm or self.args.process_index else {}

    def loaded(self, images: Dataset, rows: Iterable[int]) -> tuple[Tensor, Tensor]:
        """Some images of a data set and their labels on the device, for a pass besides the training."""
        items = [images[row] for row in rows]
        pixels = torch.stack([item["pixel_values"] for item in items]).to(self.args.device)
        return pixels, torch.tensor([int(item["labels"]) for item in items], device=self.args.device)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch=None) -> Tensor:
        """Retention on every micro-batch; disposal once an optimizer step, over all its micro-batches' chunks."""
        self._train_mode(model)
        inputs = self._prepare_inputs(inputs)
        retains, disposes = self.shown()
        total = torch.zeros((), device=self.args.device)
        if retains:
            loss = self.retention(model, inputs) / self.current_gradient_accumulation_steps
            self.accelerator.backward(loss)
            total = loss.detach()
            if not disposes:
                self._stop_if_not_finite({"retention loss": self.reduce(total.clone()) if self.reduce else total})
        if disposes:
            self._pending.append({"cell": inputs["cell"], **inputs["forget"]})
            if self.accelerator.sync_gradients:
                total = total + self.args.forget_weight * self._dispose()
        return total

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """The optimizer of `transformers.Trainer`, or the given one, between `direct` and `constrain` at each step."""
        optimizer = super().create_optimizer(*args, **kwargs)
        stepped = getattr(optimizer, "optimizer", optimizer)  # a second train() finds it wrapped by accelerate
        if not getattr(stepped, "_is_constrained", False):
            stepped.register_step_pre_hook(lambda *_: self.direct())
            stepped.register_step_post_hook(lambda *_: self.constrain())
            stepped._is_constrained = True
        return optimizer

    def _train_mode(self, model: nn.Module) -> None:
        model.train()
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()  # two passes over each chunk must not move, nor depend on, the running statistics

    def retention(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        """Distillation from the frozen model on the retained head, and cross-entropy, each where it has a weight."""
        args = self.args
        distils = args.distillation_weight > 0
        images = [inputs["forget"]["pixel_values"].flatten(0, 1)] if distils and args.retain_inputs != "target" else []
        if args.retain_inputs != "source" or args.target_ce_weight:
            images.insert(0, self._augmented(inputs["retain"]["pixel_values"], inputs["cell"]))
        sizes = [len(batch) for batch in images]
        batch = torch.cat(images)
        logits = model(batch, task=self.retain_task).split(sizes)
        terms = []
        if distils:
            with torch.no_grad():
                teacher = self.teacher(batch, task=self.retain_task).split(sizes)
            distilled = [distillation(s, t, args.temperature) for s, t in zip(logits, teacher, strict=True)]
            if args.retain_inputs == "source":
                distilled = distilled[-1:]
            loss = torch.stack(distilled).mean()
            self._metrics["retain_loss"].append(loss.detach())
            terms.append(args.distillation_weight * loss)
        if args.target_ce_weight:
            cross_entropy = F.cross_entropy(logits[0].float(), inputs["retain"]["labels"].flatten())
            self._metrics["target_cross_entropy"].append(cross_entropy.detach())
            if not distils:
                self._metrics["retain_loss"].append(cross_entropy.detach())
            terms.append(args.target_ce_weight * cross_entropy)
        return sum(terms[1:], terms[0])

    def _augmented(self, images: Tensor, cells: Tensor) -> Tensor:
        """Retain images (cells, chunk, C, H, W) as one batch, each cell transformed by draws from its own seed."""
        args = self.args
        transformed = []
        for batch, cell in zip(images, cells.tolist(), strict=True):
            generator = torch.Generator().manual_seed((args.seed * 1_000_003 + cell) ^ 0x5EED)
            transformed.append(augment(batch, args.retain_augmentation, generator))
        return torch.cat(transformed)

    def _chunk_loss(self, pixel_values: Tensor, labels: Tensor, cell: int) -> Tensor:
        """Forget loss of one chunk, with random layers and targets that depend on the seed and the chunk alone."""
        with torch.random.fork_rng(devices=[pixel_values.device] if pixel_values.is_cuda else []):
            torch.manual_seed(self.args.seed * 1_000_003 + cell)
            loss, logits = self.chunk_loss(pixel_values, labels)
            # a method may evaluate a chunk several times, also at shifted weights: the first is the loss to show
            self._source_losses.setdefault(cell, F.cross_entropy(logits.detach().float(), labels))
            return loss

    def _dispose(self) -> Tensor:
        """Add the bounded, weighted disposal gradient to the retention gradient."""
        losses: list[Loss] = [
            partial(self._chunk_loss, x, y, int(cell))
            for batch in self._pending
            for x, y, cell in zip(batch["pixel_values"], batch["labels"], batch["cell"], strict=True)
        ]
        self._pending.clear()
        self._source_losses.clear()
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        value, gradients, metrics = self.disposal(losses, parameters)
        norm = torch.nn.utils.get_total_norm(gradients)
        scale = self.args.forget_weight
        if self.args.max_forget_grad_norm > 0:
            scale = scale * (self.args.max_forget_grad_norm / norm.clamp_min(1e-12)).clamp_max(1.0)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                update = gradient * scale
                parameter.grad = update if parameter.grad is None else parameter.grad.add_(update)
        total = torch.nn.utils.get_total_norm([p.grad for p in parameters])
        self._stop_if_not_finite({"disposal value": value, "disposal gradient": norm, "gradient": total})
        metrics = {"disposal_value": value, "disposal_grad_norm": norm, **metrics}
        metrics["source_loss"] = torch.stack(list(self._source_losses.values())).mean()
        for name, metric in metrics.items():
            self._metrics[name].append(metric.detach())
        return value.detach()

    def _stop_if_not_finite(self, quantities: dict[str, Tensor]) -> None:
        """Every quantity is the same on all processes, so all of them stop together."""
        bad = [name for name, value in quantities.items() if not torch.isfinite(value)]
        if bad:
            raise DivergedError(
                f"Step {self.state.global_step + 1}: the {' and the '.join(bad)} became non-finite; nothing of this "
                f"step was kept. Lower learning_rate ({self.args.learning_rate:g}), forget_weight "
                f"({self.args.forget_weight:g}) or max_forget_grad_norm ({self.args.max_forget_grad_norm:g}; 0 means "
                "unbounded)."
            )

    # What Trainer calls ---------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means, over steps and processes, of what was measured since the last log."""
        if "loss" in logs and self._metrics:
            means = torch.stack([torch.stack(v).float().nanmean() for v in self._metrics.values()])
            means = self.accelerator.reduce(means, reduction="mean")
            logs |= {name: mean for name, mean in zip(self._metrics, means.tolist(), strict=True) if mean == mean}
            self._metrics.clear()
        super().log(logs, start_time)

    def compute_loss(self, model, inputs, return_outputs: bool = False, num_items_in_batch=None):
        """Cross-entropy of the retained task; only evaluation calls it."""
        logits = model(inputs["pixel_values"], task=self.retain_task)
        loss = F.cross_entropy(logits.float(), inputs["labels"])
        return (loss, {"logits": logits}) if return_outputs else loss

    def export(self) -> PreTrainedModel:
        """A plain Hub model of the retained task: no other head, no trainer state."""
        return self.accelerator.unwrap_model(self.model).export(self.retain_task)

    def save_model(self, output_dir: str | os.PathLike | None = None, _internal_call: bool = False) -> None:
        """Write the exported model and its processor. (The checkpoints hold every head: keep them private.)"""
        if _internal_call:
            super().save_model(output_dir, _internal_call=True)
        elif self.args.should_save:
            output_dir = output_dir or self.args.output_dir
            self.export().save_pretrained(output_dir)
            if self.processing_class is not None:
                self.processing_class.save_pretrained(output_dir)

    def push_to_hub(
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
        if report is None or processor is None:
            raise ConfigError(
                "push_to_hub needs a processing_class and the leakage report: a scrubbed model without evidence is a "
                "claim. Audit what save_model(folder) writes, then call push_to_hub(report=...)."
            )
        model, repo_id = self.export(), args.hub_model_id or Path(args.output_dir).resolve().name
        given = {"token": args.hub_token, "revision": args.hub_revision, "private": args.hub_private_repo is not False}
        given |= {"commit_message": commit_message, **options}
        first = self.is_world_process_zero()
        return together(lambda: publish_model(model, processor, report, repo_id, **given) if first else None)

    def _refuse_upload(self, *args: Any, **kwargs: Any) -> None:
        raise ConfigError(
            "push_to_hub=True and create_model_card upload checkpoints with the forgotten task's head, and a card "
            "without the attacks. Audit what save_model(folder) writes, then call push_to_hub(report=...)."
        )

    init_hf_repo = _push_from_checkpoint = create_model_card = _refuse_upload


def items_of(dataset: Dataset, model: MultiHeadClassifier, processing_class) -> Dataset:
    """Decode and process a `datasets.Dataset` of images; leave other data sets as they are."""
    if not isinstance(dataset, datasets.Dataset):
        return dataset
    if processing_class is None:
        raise ConfigError(
            "A `datasets.Dataset` of images needs the model's image processor: give processing_class=..., for example "
            "`AutoImageProcessor.from_pretrained(...)`, or data sets of {'pixel_values', 'labels'} items."
        )
    return load_images(dataset, processing_class, num_channels=getattr(model.backbone.config, "num_channels", 3))


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Sum a tensor over all processes, in place."""
    torch.distributed.all_reduce(tensor)
    return tensor
