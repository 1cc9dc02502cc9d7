"""Which directions of a layer's outputs a task's loss depends on, and updates that leave other tasks' alone.

A shared backbone has the same activations for all tasks, so tasks are told apart on the output side. For y = W x an
update changes task u's loss by <dL_u/dy, dW x>, which is zero to first order for EVERY input x where the columns of dW
are orthogonal to the output gradients dL_u/dy. It is a **reconstruction** of the task-aware gradient projection of
arXiv 2605.19042, of which only the abstract could be read.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hf_dtl.functional.collision import Reduce
from hf_dtl.functional.layer_inputs import Layer, projectable
from hf_dtl.functional.orthogonal import span
from hf_dtl.functional.subspace import Criterion, GradientSubspace

_LEAST_SINE = 1e-3  # a direction of the forgotten tasks is none of its own where the others' leave less of it


def output_rows(layer: Layer, gradient: Tensor) -> Tensor:
    """Arrange the gradient of a loss with respect to a layer's outputs as rows.

    Args:
        layer: an `nn.Linear` or `nn.Conv2d`.
        gradient: (..., out_features), or (batch, channels, height, width).

    Returns:
        (groups, rows, outputs / groups) in float32 or float64; groups is 1 for an `nn.Linear`.
    """
    if gradient.dtype in (torch.float16, torch.bfloat16):
        gradient = gradient.float()
    if isinstance(layer, nn.Linear):
        return gradient.reshape(1, -1, layer.out_features)
    return gradient.unflatten(1, (layer.groups, -1)).permute(1, 0, 3, 4, 2).flatten(1, 3)


def output_moments(
    model: nn.Module,
    batches: Iterable[Any],
    losses: Callable[[Any], Mapping[str, Tensor]],
    tasks: Sequence[str],
    *,
    reduce: Reduce | None = None,
) -> dict[str, GradientSubspace]:
    """Stream images through a model and keep, task by task, the second moments of every layer's output gradients.

    Args:
        model: in evaluation mode; its parameters may be frozen. One forward pass a batch, one backward pass a task.
        batches: of any kind.
        losses: runs the model on a batch and gives every task's loss, a SUM over images, or 0 * its outputs where the
            batch has none for it. The layers' outputs must require gradients: let the images do so.
        tasks: their names.
        reduce: sum of a tensor over the processes, each of which streams its own batches; None for one process.

    Returns:
        By task: the moments (groups, outputs / groups, outputs / groups) of every linear and convolutional layer, zero
        where the task's loss does not depend on the layer. `images` counts batches.

    Raises:
        ValueError: no batch, or gradients that are not finite.
    """
    layers = projectable(model)
    found: list[tuple[str, Tensor]] = []

    def keep(name: str) -> Callable:
        def hook(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
            found.append((name, output))
            return output.clone()  # what comes next may change it in place

        return hook

    device = next(model.parameters()).device
    sums = {task: {name: _nothing(layer) for name, layer in layers.items()} for task in tasks}
    count = torch.zeros((), dtype=torch.float64, device=device)
    handles = [layer.register_forward_hook(keep(name)) for name, layer in layers.items()]
    try:
        for batch in batches:
            found.clear()
            by_task = losses(batch)
            for task, totals in sums.items():
                outputs = [output for _, output in found]
                gradients = torch.autograd.grad(by_task[task], outputs, retain_graph=True, allow_unused=True)
                for (name, _), gradient in zip(found, gradients, strict=True):
                    if gradient is not None:
                        rows = output_rows(layers[name], gradient)
                        totals[name] += rows.mT @ rows
            count += 1
    finally:
        for handle in handles:
            handle.remove()
    if reduce is not None:
        count = reduce(count)
        sums = {task: {name: reduce(total) for name, total in totals.items()} for task, totals in sums.items()}
    if not count:
        raise ValueError("No images were given to collect the gradients of the tasks from.")
    subspaces = {}
    for task, totals in sums.items():
        traces = {name: total.diagonal(dim1=-2, dim2=-1).sum(-1) for name, total in totals.items()}
        subspaces[task] = GradientSubspace(totals, traces, {}, int(count))
        subspaces[task].check_finite()
    return subspaces


def _nothing(layer: Layer) -> Tensor:
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    width = len(layer.weight) // groups
    return torch.zeros(groups, width, width, dtype=torch.float64, device=layer.weight.device)


@dataclass(frozen=True)
class TaskSubspace:
    """Orthonormal directions of each layer's outputs in which an update may go.

    Args:
        vectors: by layer, (groups, outputs / groups, rank); where groups differ in rank, the missing columns are zero.
    """

    vectors: dict[str, Tensor]

    def project(self, layer: str, update: Tensor, batch_dims: int = 0) -> Tensor:
        """Keep of an update what goes in these directions: B B^T dW in every group.

        Args:
            layer: name of the layer.
            update: shaped like its weight or its bias, behind `batch_dims` batch dimensions.
            batch_dims: >= 0.
        """
        vectors = self.vectors[layer].to(update.device, update.dtype)
        rows = update.reshape(*update.shape[:batch_dims], *vectors.shape[:2], -1)
        return (vectors @ (vectors.mT @ rows)).reshape(update.shape)

    def to(self, device: torch.device) -> "TaskSubspace":
        """The same on a device."""
        return TaskSubspace({name: vectors.to(device) for name, vectors in self.vectors.items()})


def task_subspace(
    forgotten: Sequence[GradientSubspace],
    untouched: Sequence[GradientSubspace],
    *,
    criterion: Criterion = "energy",
    forgotten_share: float = 0.99,
    untouched_share: float = 0.9,
) -> TaskSubspace:
    """Find the directions of the forgotten tasks' output gradients that the untouched tasks leave to them.

    Every task has directions of its own, so that one with small gradients is protected as well as one with large.
    With U orthonormal for those of the untouched tasks together and F for the forgotten ones', they are the span of
    (I - U U^T) F: orthogonal to U, and none where F lies in U.

    Args:
        forgotten: output gradients of each task that is forgotten, of the images to forget; at least one.
        untouched: of each task that must not change, of its own images; may be empty.
        criterion: as for `GradientSubspace.basis`.
        forgotten_share: share of each forgotten task's gradients in its directions, in (0, 1].
        untouched_share: the same of the untouched tasks: larger protects more and leaves less.

    Raises:
        ValueError: as `GradientSubspace.basis`.
    """

    def directions(subspaces: Sequence[GradientSubspace], share: float) -> dict[str, Tensor]:
        bases = [subspace.basis(criterion, share, dtype=torch.float64) for subspace in subspaces]
        layers = forgotten[0].layers
        return {name: span(torch.cat([basis.vectors[name] for basis in bases], -1)) for name in layers if bases}

    wanted = directions(forgotten, forgotten_share)
    protected = directions(untouched, untouched_share)
    vectors = {}
    for name, own in wanted.items():
        if name in protected:
            own = span(own - protected[name] @ (protected[name].mT @ own), _LEAST_SINE)
        vectors[name] = own.float().contiguous()
    return TaskSubspace(vectors)
