"""Forgetting that asks the retained gradients of a step first: turned away from them, or by surgery between tasks."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from hf_dtl.errors import ConfigError
from hf_dtl.functional import average_loss
from hf_dtl.functional.collision import Loss
from hf_dtl.functional.orthogonal import orthogonalise, pcgrad
from hf_dtl.functional.per_sample import per_sample_gradients
from hf_dtl.methods.pair_trainer import Outputs, PairTrainer
from hf_dtl.trainers import Disposal


class RetainedGradientsTrainer(PairTrainer):
    """A trainer of pairs whose forget gradient is turned away from the gradients of what is retained.

    How is `args.turns`; whether of every image or every chunk, `args.retain_gradients`.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        self._retained: list[tuple[int, Tensor, Tensor, Outputs]] = []
        super().__init__(*args, **kwargs)
        if self.args.turns and self.args.retain_gradients == "per_sample":
            self._try_per_sample()

    def observe_retained(self, chunks: Tensor, images: Tensor, labels: Tensor, taught: Outputs) -> None:
        if not self.pursued:
            return
        size = len(images) // len(chunks)
        for i, chunk in enumerate(chunks.tolist()):
            part = slice(i * size, (i + 1) * size)
            self._retained.append((chunk, images[part], labels[part], {t: v[part] for t, v in taught.items()}))

    def disposal(self, losses: Sequence[Loss], parameters: Sequence[Tensor]) -> Disposal:
        value, gradients = average_loss(losses, parameters, reduce=self.reduce)
        if self.args.turns is None:
            self._retained.clear()
            return Disposal(value, gradients, {})
        retain, forget = self._retain_rows(parameters), self.row(parameters, gradients)
        self.stop_if_not_finite({"retained gradients": retain.abs().sum(), "forget gradient": forget.abs().sum()})
        turned = orthogonalise(forget, retain, self.args.turns)
        left = turned.norm() / forget.norm().clamp_min(torch.finfo(forget.dtype).tiny)
        return Disposal(value, self.parts(parameters, turned), {"forget_gradient_left": left})

    def _retain_rows(self, parameters: Sequence[Tensor]) -> Tensor:
        """Retained gradients of a step over all processes, (retain images or chunks, weights), without dropout."""
        streams, per_sample = self.train_dataset, self.args.retain_gradients == "per_sample"
        each = streams.retain_chunk_size if per_sample else 1
        rows = parameters[0].new_zeros(streams.num_chunks * each, sum(p.numel() for p in parameters))
        self.model.eval()
        for chunk, images, labels, taught in self._retained:
            if per_sample:
                gradients = self._image_gradients(parameters, images, labels, taught)
            else:
                loss = self.retention_loss(self.model(images), labels, taught)
                gradients = [g[None] for g in torch.autograd.grad(loss, parameters, materialize_grads=True)]
            place = chunk % streams.num_chunks * each
            rows[place : place + each] = self.rows(parameters, gradients)
        self._retained.clear()
        self.train_mode(self.model)
        return self.share.summed(rows)

    def _image_gradients(
        self, parameters: Sequence[Tensor], images: Tensor, labels: Tensor, taught: Outputs
    ) -> list[Tensor]:
        names = [name for name, parameter in self.model.named_parameters() if parameter.requires_grad]

        def loss(weights: list[Tensor], image: Tensor, label: Tensor, teacher: Outputs) -> Tensor:
            outputs = functional_call(self.model, dict(zip(names, weights, strict=True)), (image[None],))
            return self.retention_loss(outputs, label[None], {task: v[None] for task, v in teacher.items()})

        return per_sample_gradients(loss, parameters, images, labels, taught)

    def _try_per_sample(self) -> None:
        """Take the gradient of one image, so that a model whose operations have no rule for it is refused now."""
        item = self.train_dataset.retain[0]
        images, labels = (item[key][None].to(self.args.device) for key in ("pixel_values", "labels"))
        try:
            self._image_gradients(self.trained, images, labels, self.teacher_outputs(images))
        except (RuntimeError, NotImplementedError) as error:
            raise ConfigError(
                f"torch.func cannot take this model's gradients image by image ({str(error).splitlines()[0]}). Use "
                "retain_gradients='mini_batch'."
            ) from error

    def projected(self, parameter: Tensor, gradients: Tensor) -> Tensor:
        """Gradients (n, *shape) of a parameter as the step will have them: as they are, unless it is projected."""
        return gradients

    def rows(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
        """Gradients (n, *shape) of every parameter as rows (n, weights), projected where updates are."""
        return torch.cat([self.projected(p, g).flatten(1) for p, g in zip(parameters, gradients, strict=True)], 1)

    def row(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
        """The same of gradients (*shape), (weights,)."""
        return self.rows(parameters, [g[None] for g in gradients])[0]

    def parts(self, parameters: Sequence[Tensor], row: Tensor) -> list[Tensor]:
        """The opposite of `row`."""
        parts = row.split([p.numel() for p in parameters])
        return [part.view_as(p) for part, p in zip(parts, parameters, strict=True)]


class GradientSurgeryTrainer(RetainedGradientsTrainer):
    """PCGrad between the retention of every task and the forgetting of every task that is to forget."""

    def disposal(self, losses: Sequence[Loss], parameters: Sequence[Tensor]) -> Disposal:
        rows, values = [], []
        for task in self.tasks:
            retained = [partial(self._task_retention, *kept[1:], task) for kept in self._retained]
            _, gradients = average_loss(retained, parameters, reduce=self.reduce)
            rows.append(self.row(parameters, gradients))
        self._retained.clear()
        retention = torch.stack(rows).sum(0)
        pursued, weight = self.pursued, self.args.forget_weight
        assert weight is not None
        for task in pursued:
            self.pursued = (task,)
            value, gradients = average_loss(losses, parameters, reduce=self.reduce)
            values.append(value)
            rows.append(weight * self.row(parameters, gradients))
        self.pursued = pursued
        generator = torch.Generator().manual_seed(self.args.seed * 1_000_003 + self.state.global_step)
        # the step adds the retention's gradient, and this one times forget_weight
        rest = (pcgrad(torch.stack(rows), generator).sum(0) - retention) / weight
        return Disposal(torch.stack(values).sum(), self.parts(parameters, rest), {})

    def _task_retention(self, images: Tensor, labels: Tensor, taught: Outputs, task: str) -> Tensor:
        return self.retention_loss(self.model(images), labels, taught, task)
