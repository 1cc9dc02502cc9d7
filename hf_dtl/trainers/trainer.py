"""The trainer that all unlearning methods share: L_retain + forget_weight * L_forget on two streams."""

import copy
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from transformers import PreTrainedModel
from transformers.trainer_utils import PredictionOutput, seed_worker

from hf_dtl.data.images import size_of
from hf_dtl.errors import DivergedError
from hf_dtl.functional import augment, average_loss, classification_loss, distillation
from hf_dtl.functional.collision import Loss
from hf_dtl.models.adapters import add_adapters
from hf_dtl.models.heads import MultiHeadClassifier, single_precision
from hf_dtl.trainers.chunks import Chunk, Disposal
from hf_dtl.trainers.config import UnlearningConfig
from hf_dtl.trainers.hooks import Corrections, refuse_uncalled
from hf_dtl.trainers.items import check_order, labelled_items
from hf_dtl.trainers.readiness import check_fits, freeze_unused, with_one_head
from hf_dtl.trainers.request import Request
from hf_dtl.trainers.saving import PublishingTrainer
from hf_dtl.trainers.shares import Share
from hf_dtl.trainers.streams import ChunkSampler, PairedStreams


class UnlearningTrainer(PublishingTrainer):
    """A `transformers.Trainer` that disposes of one task while a frozen copy of the model guards another.

    A method is a subclass that gives one of these: `forget_loss` of outputs, `chunk_loss` of a chunk where it looks at
    more than outputs, `disposal` where it does not minimise the mean of the chunks' losses (with `before_disposal` and
    `after_disposal` around it), `active_streams` where not every step looks at both streams, `prepare` where it
    changes the weights before the first step, `trains` where it trains only some, `adjust_gradients` where it corrects
    the gradients before each step, and `constrain` where it corrects the weights after each.

    A method written in terms of `outputs`, `label_loss` and `distance` serves several tasks too (`pair_trainer`).

    Args:
        model: a `MultiHeadClassifier` with the heads `args.forget_task` and `args.retain_task`, or a plain Hub
            classifier, whose one head then serves both (it is taken off: `export()` gives a whole model).
        args: the method's config.
        forget_dataset: what to forget: items {"pixel_values", "labels"}, or a `datasets.Dataset`: `labelled_items`.
        retain_dataset: what to keep, likewise.
        processing_class: the model's image processor; saved with the exported model.
        eval_dataset: retained task's data for `evaluate()`, likewise.
        **kwargs: of `transformers.Trainer` (callbacks, optimizers, ...).

    Raises:
        ConfigError: options that contradict each other or the environment.
        ModelError: the model lacks a task.
        DivergedError: a loss or gradient became non-finite during `train()`.

    Example:
        args = GradientCollisionConfig(output_dir="scrubbing")
        trainer = GradientCollisionTrainer(model, args, source, target, processing_class=processor)
        trainer.train()
        trainer.save_model("scrubbed")
    """

    config_class: ClassVar[type[UnlearningConfig]] = UnlearningConfig
    loss_is_scaled_for_ga = False
    args: UnlearningConfig
    model: MultiHeadClassifier
    train_dataset: PairedStreams[Dataset]
    eval_dataset: Dataset | None
    trained: list[nn.Parameter]
    initial_weights: list[Tensor]
    """Parameters that are trained, and the same as they were given."""

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
        refuse_uncalled(type(self))
        self.forget_task, self.retain_task = args.forget_task, args.retain_task
        if not isinstance(model, MultiHeadClassifier):
            model = with_one_head(model, args)
            self.forget_task = self.retain_task
        single_precision(model)
        self.refuse_unused(kwargs, "train_dataset", "data_collator")
        self.check_tasks(model, args)
        given = {"forget": (forget_dataset, self.forget_task), "retain": (retain_dataset, self.retain_task)}
        self._data = dict(given)
        given |= {} if eval_dataset is None else {"evaluation": (eval_dataset, self.retain_task)}
        forget, retain, *held_out = labelled_items(given, model, processing_class, trained=args.retains)
        args._n_gpu = min(args.n_gpu, 1)  # several GPUs in one process would be DataParallel: use accelerate launch
        kwargs |= {"train_dataset": args.streams(forget, retain), "processing_class": processing_class}
        super().__init__(model=model, args=args, eval_dataset=held_out[0] if held_out else None, **kwargs)
        self.add_callback(Corrections(self))
        self.teacher = copy.deepcopy(self.model).requires_grad_(False).eval()
        self.prepare()
        if args.lora_rank is not None:
            add_adapters(self.model.backbone, args.lora_rank)
        if self.needs_double_backward():
            self.model.use_eager_attention()
        self._freeze()
        self._pending: list[Chunk] = []
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

    def known_loss(self, outputs: Any, chunk: Chunk) -> Tensor:
        """How well the task is still known, for the log."""
        return self.label_loss(outputs, chunk.labels)

    def needs_double_backward(self) -> bool:
        """Whether the disposal differentiates gradients."""
        return False

    def trains(self, name: str, parameter: nn.Parameter) -> bool:
        """Whether a parameter of the model is trained, if the task uses it; the default is all but other heads."""
        return not name.startswith("heads.") or name.startswith(f"heads.{self.retain_task}.")

    def forget_loss(self, logits: Any, chunk: Chunk) -> Tensor:
        """Loss of one chunk of forget images, of their `outputs`."""
        return self.label_loss(logits, chunk.labels)

    def chunk_loss(self, chunk: Chunk) -> tuple[Tensor, Any]:
        """Loss of one chunk, and the forgotten task's outputs, which are only logged."""
        logits = self.outputs(self.model, chunk.pixel_values)
        return self.forget_loss(logits, chunk), logits

    def outputs(self, model: nn.Module, pixel_values: Tensor) -> Any:
        """What a model says of forget images: logits (images, classes)."""
        return model(pixel_values, task=self.forget_task)

    def label_loss(self, outputs: Any, labels: Tensor, *, mean: bool = True) -> Tensor:
        """How far outputs are from labels, the true ones or others: cross-entropy, its mean or its sum."""
        return classification_loss(outputs, labels, mean=mean, multi_label=self.forget_task in self.model.multi_label)

    def distance(self, outputs: Any, original: Any, chunk: Chunk) -> Tensor:
        """How far outputs are from those of the original model."""
        several = self.forget_task in self.model.multi_label
        return distillation(outputs, original, self.args.temperature, multi_label=several)

    def before_disposal(self) -> None:
        """Get ready for the disposal of a step, on every process."""

    def disposal(self, losses: Sequence[Loss], parameters: Sequence[Tensor]) -> Disposal:
        """Value and gradients of the disposal loss over the chunks of every process."""
        value, gradients = average_loss(losses, parameters, reduce=self.reduce)
        return Disposal(value, gradients, {})

    def after_disposal(self) -> None:
        """Look back at the disposal of a step, on every process."""

    def active_streams(self) -> tuple[bool, bool]:
        """Whether the present optimizer step looks at retain images, and whether at forget images."""
        return True, bool(self.args.forget_weight)  # without it, a method only changes the weights beforehand

    def adjust_gradients(self) -> None:
        """Correct the gradients of `self.model` before every step of the optimizer, whichever it is."""

    def constrain(self) -> None:
        """Correct the weights of `self.model` after every step of the optimizer, whichever it is."""

    def check_tasks(self, model: MultiHeadClassifier, args: UnlearningConfig) -> None:
        """Refuse a model that lacks a task, or whose retained task is the forgotten one (ModelError, ConfigError)."""
        for task in (self.forget_task, self.retain_task):
            model.check_task(task)
        check_fits(model.backbone, args, self.config_class, one_head=self.forget_task == self.retain_task)

    def _freeze(self) -> None:
        """Freeze what the method does not train, and what the retained task does not use: DDP waits for every one."""
        freeze_unused(
            self.model, self.train_dataset.retain, lambda x: self.model(x, task=self.retain_task).logsumexp(-1)
        )
        for name, parameter in self.model.named_parameters():
            free = parameter.requires_grad or name.startswith("heads.")
            parameter.requires_grad_(free and self.trains(name, parameter))
        given, trained = dict(self.teacher.named_parameters()), self.model.named_parameters()
        own = {name: parameter for name, parameter in trained if parameter.requires_grad}
        self.trained = list(own.values())
        self.initial_weights = [given[n] if n in given else p.detach().clone() for n, p in own.items()]  # adapters

    def get_train_dataloader(self) -> DataLoader:
        """Chunks in the order of `PairedStreams`, a process's share of each step."""
        args, streams = self.args, self.train_dataset
        given = ("num_workers", "pin_memory", "persistent_workers", "prefetch_factor")
        loader = DataLoader(
            streams,
            batch_size=args.chunks_per_batch,
            sampler=ChunkSampler(streams, lambda: self.state.global_step // streams.steps_per_epoch),
            **{name: getattr(args, f"dataloader_{name}") for name in given},
            worker_init_fn=partial(seed_worker, num_workers=args.dataloader_num_workers, rank=args.process_index),
        )
        return self.accelerator.prepare(loader)

    # One step -------------------------------------------------------------------------------------------------

    @property
    def share(self) -> Share:
        """This process's of a pass over data besides the training."""
        return Share(self.args.process_index, self.args.world_size, not self.args.disable_tqdm)

    @property
    def reduce(self):
        """Sum of a tensor over all processes, None for one process."""
        return self.share.reduce

    def load_rows(self, images: Dataset, rows: Iterable[int]) -> tuple[Tensor, Tensor]:
        """Some images of a data set and their labels on the device, for a pass besides the training."""
        items = [images[row] for row in rows]
        pixels = torch.stack([item["pixel_values"] for item in items]).to(self.args.device)
        return pixels, torch.stack([torch.as_tensor(item["labels"]) for item in items]).to(self.args.device)

    def batches(
        self, images: Dataset, what: str, rows: Sequence[int] | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Images of a data set and their labels on the device, this process's share, in a pass besides the training.

        Args:
            images: which data set.
            what: the pass is called in its progress bar.
            rows: which of them; None for all.
        """
        args, count = self.args, size_of(images)
        mine = (range(count) if rows is None else rows)[args.process_index :: args.world_size]
        for start in tqdm(range(0, len(mine), 64), desc=what, unit="batch", **self.share.quiet):
            yield self.load_rows(images, mine[start : start + 64])

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch=None) -> Tensor:
        """Retention on every micro-batch; disposal once an optimizer step, over all its micro-batches' chunks."""
        self.train_mode(model)
        inputs = self._prepare_inputs(inputs)
        retains, disposes = self.active_streams()
        total = torch.zeros((), device=self.args.device)
        if retains:
            loss = self.retention(model, inputs) / self.current_gradient_accumulation_steps
            self.accelerator.backward(loss)
            total = loss.detach()
            if not disposes:
                self.stop_if_not_finite({"retention loss": self.share.summed(total.clone())})
        if disposes:
            parts = [inputs["forget"][k] for k in ("pixel_values", "labels", "rows")] + [inputs["chunk"].tolist()]
            self._pending += map(self.chunk, *parts)
            if self.accelerator.sync_gradients:
                total = total + self.args.forget_weight * self._dispose()
        return total

    def train_mode(self, model: nn.Module) -> None:
        """Training mode, but for batch normalisation."""
        model.train()
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()  # two passes over each chunk must not move, nor depend on, the running statistics

    def retention(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        """Distillation from the frozen model on the retained head, and cross-entropy, each where it has a weight."""
        args, several = self.args, self.retain_task in self.model.multi_label
        distils = args.distillation_weight > 0
        images = [inputs["forget"]["pixel_values"].flatten(0, 1)] if distils and args.retain_inputs != "target" else []
        if args.retain_inputs != "source" or args.target_ce_weight:
            images.insert(0, self.augment_retained(inputs["retain"]["pixel_values"], inputs["chunk"]))
        sizes = [len(batch) for batch in images]
        batch = torch.cat(images)
        logits = model(batch, task=self.retain_task).split(sizes)
        terms = []
        if distils:
            with torch.no_grad():
                teacher = self.teacher(batch, task=self.retain_task).split(sizes)
            loss_of = partial(distillation, temperature=args.temperature, multi_label=several)
            distilled = list(map(loss_of, logits, teacher))
            if args.retain_inputs == "source":
                distilled = distilled[-1:]
            loss = torch.stack(distilled).mean()
            self.record("retain_loss", loss)
            terms.append(args.distillation_weight * loss)
        if args.target_ce_weight:
            cross_entropy = classification_loss(logits[0], inputs["retain"]["labels"].flatten(), multi_label=several)
            self.record("target_cross_entropy", cross_entropy)
            if not distils:
                self.record("retain_loss", cross_entropy)
            terms.append(args.target_ce_weight * cross_entropy)
        return sum(terms[1:], terms[0])

    def augment_retained(self, images: Tensor, chunks: Tensor) -> Tensor:
        """Retain images (chunks, size, C, H, W) as one batch, each chunk transformed by draws from its own seed."""
        seeds = [(self.args.seed * 1_000_003 + number) ^ 0x5EED for number in chunks.tolist()]
        draws = [torch.Generator().manual_seed(seed) for seed in seeds]
        return torch.cat([augment(x, self.args.retain_augmentation, d) for x, d in zip(images, draws, strict=True)])

    def chunk(self, pixel_values: Tensor, labels: Tensor, rows: Tensor, number: int) -> Chunk:
        """The forget images of a chunk, with their seed."""
        return Chunk(pixel_values, labels, rows, self.args.seed * 1_000_003 + number)

    def _seeded_loss(self, chunk: Chunk) -> Tensor:
        """Forget loss of one chunk, with random layers and targets that depend on the seed and the chunk alone."""
        with torch.random.fork_rng(devices=[chunk.pixel_values.device] if chunk.pixel_values.is_cuda else []):
            torch.manual_seed(chunk.seed)
            loss, logits = self.chunk_loss(chunk)
        if chunk.seed not in self._source_losses:
            # a method may evaluate a chunk several times, also at shifted weights: the first is the loss to show
            with torch.no_grad():
                self._source_losses[chunk.seed] = self.known_loss(logits, chunk)
        return loss

    def _dispose(self) -> Tensor:
        """Add the bounded, weighted disposal gradient to the retention gradient."""
        self.before_disposal()
        losses: list[Loss] = [partial(self._seeded_loss, chunk) for chunk in self._pending]
        self._pending.clear()
        self._source_losses.clear()
        value, gradients, metrics = self.disposal(losses, self.trained)
        norm = torch.nn.utils.get_total_norm(gradients)
        scale: float | Tensor = self.args.forget_weight
        if self.args.max_forget_grad_norm > 0:
            scale = scale * (self.args.max_forget_grad_norm / norm.clamp_min(1e-12)).clamp_max(1.0)
        with torch.no_grad():
            for parameter, gradient in zip(self.trained, gradients, strict=True):
                update = gradient * scale
                parameter.grad = update if parameter.grad is None else parameter.grad.add_(update)
        total = torch.nn.utils.get_total_norm([p.grad for p in self.trained if p.grad is not None])
        self.stop_if_not_finite({"disposal value": value, "disposal gradient": norm, "gradient": total})
        metrics = {"disposal_value": value, "disposal_grad_norm": norm, **metrics}
        metrics["source_loss"] = torch.stack(list(self._source_losses.values())).mean()
        for name, metric in metrics.items():
            self.record(name, metric)
        self.after_disposal()
        return value.detach()

    def stop_if_not_finite(self, quantities: dict[str, Tensor]) -> None:
        """Refuse to go on from what is not finite; every quantity is the same on all processes, so all of them stop.

        Raises:
            DivergedError: one is not finite.
        """
        bad = [name for name, value in quantities.items() if not torch.isfinite(value)]
        if bad:
            raise DivergedError(
                f"Step {self.state.global_step + 1}: the {' and the '.join(bad)} became non-finite; nothing of this "
                f"step was kept. Lower learning_rate ({self.args.learning_rate:g}), forget_weight "
                f"({self.args.forget_weight:g}) or max_forget_grad_norm ({self.args.max_forget_grad_norm:g}; 0 means "
                "unbounded)."
            )

    # What Trainer calls ---------------------------------------------------------------------------------------

    def record(self, name: str, value: Tensor | float) -> None:
        """Tell the log of a number: it shows the mean over steps and processes since it last did."""
        self._metrics[name].append(torch.as_tensor(value, device=self.args.device).detach())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means, over steps and processes, of what was measured since the last log."""
        if "loss" in logs and self._metrics:
            means = torch.stack([torch.stack(v).float().nanmean() for v in self._metrics.values()])
            means = self.accelerator.reduce(means, reduction="mean")
            logs |= {name: mean for name, mean in zip(self._metrics, means.tolist(), strict=True) if mean == mean}
            self._metrics.clear()
        super().log(logs, start_time)

    def evaluate(self, eval_dataset=None, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As `transformers.Trainer` does, on images of the retained task in any form that the constructor takes."""
        return super().evaluate(self._held_out(eval_dataset, "evaluation"), *args, **kwargs)

    def predict(self, test_dataset, *args: Any, **kwargs: Any) -> PredictionOutput:
        """As `transformers.Trainer` does, likewise."""
        return super().predict(self._held_out(test_dataset, "test"), *args, **kwargs)

    def _held_out(self, data: Any, name: str) -> Any:
        given = {} if data is None else {name: (data, self.retain_task)}
        found = next(iter(labelled_items(given, self.teacher, self.processing_class)), None)
        check_order(self._data | given, self.teacher)
        return found

    def compute_loss(self, model, inputs, return_outputs: bool = False, num_items_in_batch=None):
        """Cross-entropy of the retained task; only evaluation calls it."""
        logits = model(inputs["pixel_values"], task=self.retain_task)
        loss = classification_loss(logits, inputs["labels"], multi_label=self.retain_task in self.model.multi_label)
        return (loss, {"logits": logits}) if return_outputs else loss
