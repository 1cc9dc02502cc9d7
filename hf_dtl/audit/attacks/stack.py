"""Many fine-tunings of one network, together by `vmap` where the network allows it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Event

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from hf_dtl.functional import Augmentation, augment

Schedule = Callable[[int, int], float]


@dataclass(frozen=True)
class FineTuning:
    """One fine-tuning of a stack.

    Args:
        start: the trained tensors by their names in the network, at the start.
        images: (images, ...) what the network takes.
        labels: (images,) int64.
        order: positions of the images of every step; as long as the training.
        learning_rate: of AdamW, before the schedule.
        scale: factors by which the trained tensors enter the network, by name, in a shape that fits; none means 1.
        augmentation: of the images of every step, drawn by `seed` and the step.
        seed: of these draws.
    """

    start: dict[str, Tensor]
    images: Tensor
    labels: Tensor
    order: Sequence[Tensor]
    learning_rate: float
    scale: dict[str, Tensor] = field(default_factory=dict)
    augmentation: Augmentation = "none"
    seed: int = 0

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Images and labels of a step."""
        where = self.order[step].to(self.labels.device)
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + step)
        return augment(self.images[where], self.augmentation, generator), self.labels[where]


def batch_order(count: int, batch_size: int, steps: int, seed: int) -> list[Tensor]:
    """Positions of `steps` batches of equal sizes (±1): each pass over the images is a new permutation."""
    generator = torch.Generator().manual_seed(seed)
    order: list[Tensor] = []
    while len(order) < steps:
        order += torch.randperm(count, generator=generator).tensor_split(math.ceil(count / batch_size))
    return order[:steps]


class _FlatLinear(nn.Linear):
    """`nn.Linear` as one matrix product of two dimensions, which `vmap` turns into one batched product.

    From more dimensions `vmap` makes a product that copies the weight for every image.
    """

    def forward(self, input: Tensor) -> Tensor:
        rows = input.reshape(-1, input.shape[-1])
        product = rows @ self.weight.t() if self.bias is None else torch.addmm(self.bias, rows, self.weight.t())
        return product.unflatten(0, input.shape[:-1])


def prepare_for_vmap(network: nn.Module) -> None:
    """Change a network in place, with the same function, so that `vmap` makes few and large products of it."""
    for module in network.modules():
        if type(module) is nn.Linear:
            module.__class__ = _FlatLinear
        # The fused attention of the CPU has no batching rule.
        if isinstance(module, PreTrainedModel) and module.config._attn_implementation == "sdpa":
            module.set_attn_implementation("eager")


class Stopped(Exception):
    """Training was stopped from outside."""


class Stack:
    """Fine-tunings of equal length and batch sizes, trained in step with AdamW, each with its own learning rate.

    No fine-tuning sees another one: the loss is a sum over them, and the gradient's norm is bounded for each alone.
    With `together` the networks are one `vmap` over the stacked tensors, else they run one after another; the numbers
    are the same but for rounding.

    Args:
        network: the network; its own values of the trained tensors are not used.
        members: the fine-tunings. All must have the same tensors, number of steps, and batch sizes.
        schedule: factor on the learning rate from (step, steps).
        weight_decay: decoupled weight decay.
        max_gradient_norm: bound on the norm of each one's gradient; None for no bound.
        together: use `vmap`.
        stop: when it is set, `advance` raises `Stopped` at its next step.
    """

    def __init__(
        self,
        network: nn.Module,
        members: Sequence[FineTuning],
        *,
        schedule: Schedule,
        weight_decay: float,
        max_gradient_norm: float | None,
        together: bool,
        stop: Event | None = None,
    ):
        self.stop = stop
        self.network, self.members, self.schedule = network, list(members), schedule
        self.weight_decay, self.max_gradient_norm, self.together = weight_decay, max_gradient_norm, together
        self.step, self.steps = 0, len(members[0].order)
        self.finite = [True] * len(members)
        first = members[0].start
        self._shapes = {name: value.shape for name, value in first.items()}
        self._sizes = [value.numel() for value in first.values()]
        self._flat = torch.stack([torch.cat([m.start[n].reshape(-1) for n in first]) for m in members])
        self._scale = [
            torch.stack([torch.ones_like(first[n]) * m.scale.get(n, 1.0) for m in members])
            if any(n in m.scale for m in members)
            else None
            for n in self._shapes
        ]
        self._new_optimizer()

    def _new_optimizer(self) -> None:
        self._parameters = [nn.Parameter(row) for row in self._flat.unbind()]
        groups = [{"params": [p], "lr": m.learning_rate} for p, m in zip(self._parameters, self.members, strict=True)]
        self._optimizer = torch.optim.AdamW(groups, weight_decay=self.weight_decay, fused=True)

    def _tensors(self) -> list[Tensor]:
        parts = self._flat.split(self._sizes, dim=1)
        return [part.view(-1, *shape) for part, shape in zip(parts, self._shapes.values(), strict=True)]

    def _losses(self, tensors: list[Tensor], images: Tensor, labels: Tensor) -> Tensor:
        entering = [t if s is None else t * s for t, s in zip(tensors, self._scale, strict=True)]

        def loss(weights: list[Tensor], images: Tensor, labels: Tensor) -> Tensor:
            return cross_entropy(
                functional_call(self.network, dict(zip(self._shapes, weights, strict=True)), images), labels
            )

        if self.together:
            return vmap(loss)(entering, images, labels)
        return torch.stack([loss([t[i] for t in entering], images[i], labels[i]) for i in range(len(labels))])

    def _batch(self, step: int) -> tuple[Tensor, Tensor]:
        batches: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}  # shared by the learning rates of one attack
        own = [(id(member.images), id(member.order), member.seed) for member in self.members]
        for key, member in zip(own, self.members, strict=True):
            if key not in batches:
                batches[key] = member.batch(step)
        images, labels = zip(*(batches[key] for key in own), strict=True)
        return torch.stack(images), torch.stack(labels)

    def gradients(self, step: int = 0) -> tuple[Tensor, Tensor]:
        """Losses (members,) on the batches of `step` with the present tensors, and gradients (members, values)."""
        tensors = [t.detach().requires_grad_() for t in self._tensors()]
        losses = self._losses(tensors, *self._batch(step))
        gradients = torch.autograd.grad(losses.sum(), tensors, materialize_grads=True)
        return losses.detach(), torch.cat([g.reshape(len(losses), -1) for g in gradients], dim=1)

    def advance(self, until: int | None = None) -> None:
        """Train up to step `until` (default: to the end). One that gets a loss that is not finite is marked."""
        for step in range(self.step, min(until or self.steps, self.steps)):
            if self.stop is not None and self.stop.is_set():
                raise Stopped
            losses, flat = self.gradients(step)
            self.finite = [a and b for a, b in zip(self.finite, torch.isfinite(losses).tolist(), strict=True)]
            if not any(self.finite):
                break
            if self.max_gradient_norm is not None:
                flat *= (self.max_gradient_norm / (flat.norm(dim=1, keepdim=True) + 1e-6)).clamp(max=1.0)
            factor = self.schedule(step, self.steps)
            for group, member in zip(self._optimizer.param_groups, self.members, strict=True):
                group["lr"] = member.learning_rate * factor
            for parameter, gradient in zip(self._parameters, flat, strict=True):
                parameter.grad = gradient
            self._optimizer.step()
            self.step = step + 1

    def keep(self, positions: Sequence[int]) -> None:
        """Go on with some members only, in the given order."""
        states = [self._optimizer.state[self._parameters[i]] for i in positions]
        self.members = [self.members[i] for i in positions]
        self.finite = [self.finite[i] for i in positions]
        self._flat = self._flat[list(positions)]
        self._scale = [None if s is None else s[list(positions)] for s in self._scale]
        self._new_optimizer()
        for parameter, state in zip(self._parameters, states, strict=True):
            self._optimizer.state[parameter] = state

    @torch.no_grad()
    def result(self, member: int) -> dict[str, Tensor]:
        """The trained tensors of one member as they enter the network."""
        return {
            name: (tensor[member] if scale is None else tensor[member] * scale[member]).clone()
            for name, tensor, scale in zip(self._shapes, self._tensors(), self._scale, strict=True)
        }


def agree(alone: Stack, together: Stack) -> bool:
    """Whether two stacks of the same fine-tunings have the same losses, and the same gradients.

    Losses alone say little: an operation may have a batching rule forward and a wrong one, or none, backward.
    """
    (loss, gradient), (other_loss, other) = alone.gradients(), together.gradients()
    if not torch.allclose(loss, other_loss, rtol=1e-4, atol=1e-5, equal_nan=True):
        return False
    return bool(((gradient - other).norm(dim=1) <= 1e-3 * gradient.norm(dim=1)).all()) or not loss.isfinite().all()
