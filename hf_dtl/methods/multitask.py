"""Multi-task unlearning: forget instances for all tasks of a shared backbone, or for some of them.

Source: Huang, Fang, Chen and Chen, arXiv 2605.19042, of which only the abstract could be read: this is a
**reconstruction**. Interference between tasks is met by a projection of the update, interference between instances by
orthogonalisation against retained gradients.
"""

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hf_dtl.errors import ConfigError
from hf_dtl.functional import GradientSubspace, average_loss, saliency_mask, wrong_labels
from hf_dtl.functional.collision import Loss
from hf_dtl.functional.layer_inputs import projectable
from hf_dtl.functional.orthogonal import orthogonalise, pcgrad
from hf_dtl.functional.pair_losses import pair_forgetting
from hf_dtl.functional.per_sample import per_sample_gradients
from hf_dtl.functional.task_subspace import TaskSubspace, output_subspaces, task_subspace
from hf_dtl.methods.multitask_config import MultiTaskUnlearningConfig
from hf_dtl.methods.noise_then_distil import fresh_model
from hf_dtl.methods.pair_trainer import PairTrainer
from hf_dtl.methods.registry import register_method
from hf_dtl.methods.scrub import ScrubTrainer
from hf_dtl.methods.task_pairs import PairSet
from hf_dtl.methods.task_stopping import PursueUntilUnseen
from hf_dtl.trainers.batch_statistics import BatchStatisticsTrainer
from hf_dtl.trainers.trainer import Disposal

logger = logging.getLogger(__name__)

_OFFSET = 7_368_787


@register_method("multitask")
class MultiTaskUnlearningTrainer(BatchStatisticsTrainer, PairTrainer):
    """Forget (image, task) pairs of a model with one head a task, and keep all others.

    In partial mode an image to forget stays among what is retained for its other tasks. How is `args.strategy`:

        interference_aware: bounded forgetting; its gradient is turned away from the retained ones
            (`orthogonalisation`), and the whole change since the given weights stays in the forgotten tasks' output
            directions and out of the untouched tasks' (`task_projection`), whatever the optimizer
        retrain: nothing; all weights are drawn anew        fine_tune: nothing
        neg_grad_plus: minus the loss                       pcgrad: the same, with gradient surgery between tasks
        orthograd: the same, orthogonal to the gradient of every retain image of the step
        scrub: steps away from the original outputs alternate with steps of retention
        salun: one wrong label a pair, and only the weights that are salient for the pairs to forget may change

    Heads of tasks that no image is forgotten for stay bit-identical, except that retrain draws all anew. With
    `task_projection`, everything but linear and convolutional layers does too. Batch normalisation keeps its running
    statistics, except that retrain trains it as in `BatchStatisticsTrainer`.

    Args:
        model: its heads are the tasks.
        args: the options.
        dataset: all training images, items {"pixel_values", "labels": {task: value}}: see `task_pairs.read_labels`.
        forget: which pairs of them to forget: `full_task(rows)`, `partial_task(rows, tasks)`, a boolean table (images,
            tasks) in the order of the model's heads, or boolean columns by task.
        processing_class: the model's image processor; saved with the model.
        eval_dataset: held-out images, likewise, for the loss that `evaluate()` gives and for `forget_until`.
        **kwargs: passed on to `transformers.Trainer`.

    Raises:
        ConfigError: options that contradict each other or the environment.
        DataError: labels or pairs that cannot be used; see `task_pairs`.
        ModelError: the model has no heads by task, or one that does not fit its labels.
        DivergedError: a loss or gradient became non-finite during `train()`.
    """

    config_class = MultiTaskUnlearningConfig

    args: MultiTaskUnlearningConfig
    subspace: TaskSubspace | None
    """Directions of the layers' outputs that updates may use, with `task_projection`."""

    def __init__(self, *args: Any, **kwargs: Any):
        self._retained: list[tuple[int, Tensor, Tensor, dict[str, Tensor]]] = []
        super().__init__(*args, **kwargs)
        if self.args.strategy == "salun":
            self.wrong = self._wrong_labels()
            self.mask = saliency_mask(self._forget_gradient(), self.args.saliency)
        if self.args.turns and self.args.retain_gradients == "per_sample":
            self._try_per_sample()
        if self.args.forget_until == "unseen":
            self.add_callback(PursueUntilUnseen(self, self.args.check_every))

    # Before the first step ------------------------------------------------------------------------------------

    def prepare(self) -> None:
        self._norms, self._statistics, self.subspace = [], [], None
        if self.args.strategy == "retrain":
            super().prepare()
            self._draw_anew()
        if self.args.projects:
            self.subspace = self._task_subspace().to(self.args.device)

    def _draw_anew(self) -> None:
        """Draw the backbone and every head by the seed, as a new model and `add_head` would."""
        named = next((task for task in self.tasks if self.scales[task] is None), self.tasks[0])
        self.model.backbone.load_state_dict(fresh_model(self.model, named, self.args.seed).backbone.state_dict())
        generator = torch.Generator().manual_seed(self.args.seed + _OFFSET)
        with torch.no_grad():
            for head in self.model.heads.values():
                weight = torch.empty(head.weight.shape)
                head.weight.copy_(nn.init.trunc_normal_(weight, std=0.02, generator=generator))
                head.bias.zero_()

    def _task_subspace(self) -> TaskSubspace:
        args, streams = self.args, self.train_dataset
        untouched = [task for task in self.tasks if task not in self.forgotten]
        try:
            found = self._output_subspaces(streams.forget, self.forgotten)
            kept = self._output_subspaces(streams.retain, untouched) if untouched else {}
            subspace = task_subspace(
                list(found.values()), list(kept.values()), criterion=args.criterion,
                forgotten_share=args.forgotten_share, untouched_share=args.untouched_share,
            )  # fmt: skip
        except ValueError as error:
            raise ConfigError(str(error)) from None
        backbone = {name: v.shape[-1] for name, v in subspace.vectors.items() if not name.startswith("heads.")}
        if not any(backbone.values()):
            raise ConfigError(
                f"untouched_share={args.untouched_share} protects every direction of the backbone in which "
                f"{', '.join(self.forgotten)} could be forgotten. Lower it, or set task_projection=False."
            )
        logger.info("Output directions left to the update, by layer: %s", backbone)
        return subspace

    def _output_subspaces(self, pairs: PairSet, tasks: Sequence[str]) -> dict[str, GradientSubspace]:
        args = self.args
        drawn = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(args.seed))[: args.subspace_images]

        def losses(batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
            outputs = self.model(batch[0].requires_grad_())
            return {task: self._losses(task, outputs, batch[1]).sum() for task in tasks}

        self.model.eval()
        batches = self.batches(pairs, f"gradients of {', '.join(tasks)}", drawn.tolist())
        return output_subspaces(self.model, batches, losses, tasks, reduce=self.reduce)

    def _freeze_unused(self) -> None:
        super()._freeze_unused()
        self._projected: dict[int, str] = {}  # layer of each parameter that is projected
        if self.subspace is not None:
            for name, layer in projectable(self.model).items():
                self._projected |= {id(p): name for p in layer.parameters(recurse=False) if p.requires_grad}
            for parameter in self.model.parameters():
                parameter.requires_grad_(id(parameter) in self._projected)

    def _try_per_sample(self) -> None:
        """Take the gradient of one image, so that a model whose operations have no rule for it is refused now."""
        item = self.train_dataset.retain[0]
        images, labels = (item[key][None].to(self.args.device) for key in ("pixel_values", "labels"))
        try:
            self._image_gradients([mine for mine, _ in self._trained], images, labels, self._taught(images))
        except (RuntimeError, NotImplementedError) as error:
            raise ConfigError(
                f"torch.func cannot take this model's gradients image by image ({str(error).splitlines()[0]}). Use "
                "retain_gradients='mini_batch'."
            ) from error

    # SalUn ----------------------------------------------------------------------------------------------------

    def _wrong_labels(self) -> Tensor:
        """One wrong label for every pair to forget: another class, or the value of some image that is retained."""
        generator = torch.Generator().manual_seed(self.args.seed + _OFFSET)
        wrong = self.train_dataset.forget.labels.clone()
        for task in self.forgotten:
            column = self._column(task, wrong)
            known = ~column.isnan()
            if self.scales[task] is None:
                try:
                    drawn = wrong_labels(column[known].long(), self.model.heads[task].out_features, generator)
                except ValueError as error:
                    raise ConfigError(f"Task {task!r}: {error} Use another strategy.") from None
            else:
                kept = self._column(task, self.train_dataset.retain.labels)
                kept = kept[~kept.isnan()]
                if not len(kept):
                    raise ConfigError(
                        f"Task {task!r} keeps no image whose value could be a wrong one; use another strategy."
                    )
                drawn = kept[torch.randint(len(kept), (int(known.sum()),), generator=generator)]
            column[known] = drawn.float()  # a view of the table
        return wrong

    def _forget_gradient(self) -> list[Tensor]:
        """A multiple of the gradient of all pairs to forget with their true labels, over all processes."""
        self.model.eval()

        def loss(images: Tensor, labels: Tensor) -> Tensor:
            outputs = self.model(images)
            return torch.stack([self._losses(task, outputs, labels).sum() for task in self.forgotten]).sum()

        losses = (partial(loss, *batch) for batch in self.batches(self.train_dataset.forget, "saliency"))
        return average_loss(losses, [mine for mine, _ in self._trained], reduce=self.reduce).gradients

    # One step -------------------------------------------------------------------------------------------------

    def shown(self) -> tuple[bool, bool]:
        retains, forgets = ScrubTrainer.shown(self) if self.args.strategy == "scrub" else super().shown()
        return retains or not self.pursued, forgets and bool(self.pursued)

    def forgetting(self, images: Tensor, outputs: dict[str, Tensor], labels: Tensor, cell: int) -> dict[str, Tensor]:
        args, tasks = self.args, self.pursued
        if args.strategy == "interference_aware":
            options = {"delta": args.delta, "entropy_weight": args.entropy_weight}
            return {t: pair_forgetting(outputs[t], self._column(t, labels), self.scales[t], **options) for t in tasks}
        if args.strategy == "salun":
            step, chunk = divmod(cell, self.train_dataset.num_chunks)
            wrong = self.wrong[self.train_dataset.forget_indices(step)[chunk]].to(labels.device)
            return {t: self._losses(t, outputs, wrong) for t in tasks}
        if args.strategy == "scrub":
            with torch.no_grad():
                original = self.teacher(images)
            return {t: -self._distance(t, outputs, original, labels) for t in tasks}
        return {t: -self._losses(t, outputs, labels) for t in tasks}

    def seen(self, cells: Tensor, images: Tensor, labels: Tensor, taught: dict[str, Tensor]) -> None:
        if self.pursued and (self.args.turns or self.args.strategy == "pcgrad"):
            size = len(images) // len(cells)
            for i, cell in enumerate(cells.tolist()):
                part = slice(i * size, (i + 1) * size)
                self._retained.append((cell, images[part], labels[part], {t: v[part] for t, v in taught.items()}))

    def disposal(self, losses: Sequence[Loss], parameters: Sequence[Tensor]) -> Disposal:
        if self.args.strategy == "pcgrad":
            return self._surgery(losses, parameters)
        value, gradients = average_loss(losses, parameters, reduce=self.reduce)
        if self.args.turns is None:
            return Disposal(value, gradients, {})
        retain, forget = self._retain_rows(parameters), self._flat(parameters, [g[None] for g in gradients])[0]
        self._stop_if_not_finite({"retained gradients": retain.abs().sum(), "forget gradient": forget.abs().sum()})
        turned = orthogonalise(forget, retain, self.args.turns)
        left = turned.norm() / forget.norm().clamp_min(torch.finfo(forget.dtype).tiny)
        return Disposal(value, self._parts(parameters, turned), {"forget_gradient_left": left})

    def _surgery(self, losses: Sequence[Loss], parameters: Sequence[Tensor]) -> Disposal:
        """PCGrad between the retention of every task and the forgetting of every task that is to forget."""
        rows, values = [], []
        for task in self.tasks:
            retained = [partial(self._retained_loss, *kept[1:], task) for kept in self._retained]
            _, gradients = average_loss(retained, parameters, reduce=self.reduce)
            rows.append(self._flat(parameters, [g[None] for g in gradients])[0])
        self._retained.clear()
        retention = torch.stack(rows).sum(0)
        pursued = self.pursued
        for task in pursued:
            self.pursued = (task,)
            value, gradients = average_loss(losses, parameters, reduce=self.reduce)
            values.append(value)
            rows.append(self.args.forget_weight * self._flat(parameters, [g[None] for g in gradients])[0])
        self.pursued = pursued
        generator = torch.Generator().manual_seed(self.args.seed * 1_000_003 + self.state.global_step)
        # the step adds the retention's gradient, and this one times forget_weight
        rest = (pcgrad(torch.stack(rows), generator).sum(0) - retention) / self.args.forget_weight
        return Disposal(torch.stack(values).sum(), self._parts(parameters, rest), {})

    @torch.no_grad()
    def constrain(self) -> None:
        """Bring the whole change since the given weights back into what it may be."""
        for i, (mine, given) in enumerate(self._trained):
            if self.subspace is not None:
                mine.copy_(given + self.subspace.project(self._projected[id(mine)], mine - given))
            elif self.args.strategy == "salun":
                mine.copy_(torch.where(self.mask[i], mine, given))

    # Gradients ------------------------------------------------------------------------------------------------

    def _retain_rows(self, parameters: Sequence[Tensor]) -> Tensor:
        """Retained gradients of a step over all processes, (retain images or chunks, weights), without dropout."""
        streams, each = self.train_dataset, 1
        if self.args.retain_gradients == "per_sample":
            each = streams.retain_chunk_size
        rows = parameters[0].new_zeros(streams.num_chunks * each, sum(p.numel() for p in parameters))
        self.model.eval()
        for cell, images, labels, taught in self._retained:
            if self.args.retain_gradients == "per_sample":
                gradients = self._image_gradients(parameters, images, labels, taught)
            else:
                loss = self._retained_loss(images, labels, taught, None)
                gradients = [g[None] for g in torch.autograd.grad(loss, parameters, materialize_grads=True)]
            place = cell % streams.num_chunks * each
            rows[place : place + each] = self._flat(parameters, gradients)
        self._retained.clear()
        self._train_mode(self.model)
        return self.reduce(rows) if self.reduce else rows

    def _retained_loss(
        self, images: Tensor, labels: Tensor, taught: dict[str, Tensor], only: str | None = None
    ) -> Tensor:
        return self._retention(self.model(images), labels, taught, only)

    def _image_gradients(
        self, parameters: Sequence[Tensor], images: Tensor, labels: Tensor, taught: dict[str, Tensor]
    ) -> list[Tensor]:
        names = [name for name, parameter in self.model.named_parameters() if parameter.requires_grad]

        def loss(weights: list[Tensor], image: Tensor, own: Tensor, theirs: dict[str, Tensor]) -> Tensor:
            outputs = functional_call(self.model, dict(zip(names, weights, strict=True)), (image[None],))
            return self._retention(outputs, own[None], {task: v[None] for task, v in theirs.items()})

        return per_sample_gradients(loss, parameters, images, labels, taught)

    def _flat(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
        """Gradients (n, *shape) of every parameter as rows (n, weights), projected where updates are."""
        if self.subspace is not None:
            gradients = [
                self.subspace.project(self._projected[id(p)], g, batch_dims=1)
                for p, g in zip(parameters, gradients, strict=True)
            ]
        return torch.cat([g.flatten(1) for g in gradients], 1)

    def _parts(self, parameters: Sequence[Tensor], row: Tensor) -> list[Tensor]:
        parts = row.split([p.numel() for p in parameters])
        return [part.view_as(p) for part, p in zip(parts, parameters, strict=True)]
