"""Batch normalisation for methods that change the weights so much that the model's running statistics are void."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hf_dtl.data.images import size_of
from hf_dtl.errors import ConfigError
from hf_dtl.trainers.config import UnlearningConfig
from hf_dtl.trainers.trainer import UnlearningTrainer


@dataclass
class BatchStatisticsConfig(UnlearningConfig):
    """Options of `BatchStatisticsTrainer`: those of `UnlearningConfig`."""

    ddp_broadcast_buffers: bool | None = False  # running statistics are the same on every process


class BatchStatisticsTrainer(UnlearningTrainer):
    """An `UnlearningTrainer` whose retention normalises every chunk by its own statistics, as ordinary training does.

    The running statistics, which the exported model uses, follow the mean over all chunks of an optimizer step. A
    chunk is the same for any number of processes or accumulation steps, and so is the result ("ghost batch
    normalisation", arXiv 1705.08741). At the end they are set to those of the retain images as they are: training sees
    transformed ones, which have others. Models without batch normalisation are trained as by the base class.

    Raises:
        ConfigError: the model has batch normalisation and a chunk has one image, or activations are checkpointed.
    """

    def prepare(self) -> None:
        norms = [m for m in self.model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
        self._norms: list[_BatchNorm] = norms
        self._statistics: list[list[Tensor]] = [[] for _ in norms]
        if not norms:
            return
        args = self.args
        if min(args.chunk_size, args.retain_chunk_size) < 2:
            raise ConfigError(
                f"This model has batch normalisation, which needs at least 2 images a chunk (16 are better): got "
                f"{args.chunk_size} forget and {args.retain_chunk_size} retain images. {args.larger_chunks}"
            )
        if args.activation_checkpointing:
            raise ConfigError(
                "activation_checkpointing would compute batch normalisation again with other statistics; leave it off "
                "for this method and model."
            )

    def retention(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        if not self._norms:
            return super().retention(model, inputs)
        losses = []
        with self._batch_statistics():
            for i in range(len(inputs["chunk"])):
                one: dict[str, Any] = {"chunk": inputs["chunk"][i : i + 1]}
                for kind in ("forget", "retain"):
                    one[kind] = {name: value[i : i + 1] for name, value in inputs[kind].items()}
                losses.append(super().retention(model, one))
        if self.accelerator.sync_gradients:
            self._follow()
        return torch.stack(losses).mean()

    def train(self, *args: Any, **kwargs: Any):
        result = super().train(*args, **kwargs)
        if self._norms and size_of(self.train_dataset.retain) > 1:
            self.settle()
        return result

    @torch.no_grad()
    def settle(self) -> None:
        """Set the running statistics to those of at most 1,024 retain images, the same on every process."""
        retain = self.train_dataset.retain
        chosen = torch.randperm(size_of(retain), generator=torch.Generator().manual_seed(self.args.seed))[:1024]
        self.model.eval()
        with self._batch_statistics():
            for part in chosen.tensor_split(-(-len(chosen) // 128)):
                self.model(self.load_rows(retain, part.tolist())[0], task=self.retain_task)
        self._follow(momentum=1.0)

    @contextmanager
    def _batch_statistics(self) -> Iterator[None]:
        """Normalise by the batch and keep its statistics aside; the running ones are neither used nor changed."""
        hooks = [
            norm.register_forward_pre_hook(partial(_record, kept))
            for norm, kept in zip(self._norms, self._statistics, strict=True)
        ]
        for norm in self._norms:
            norm.training, norm.track_running_stats = True, False
        try:
            yield
        finally:
            for norm, hook in zip(self._norms, hooks, strict=True):
                norm.training, norm.track_running_stats = False, True
                hook.remove()

    def _follow(self, momentum: float | None = None) -> None:
        """Move the running statistics toward the mean over all kept ones of all processes; `momentum`: how far."""
        means = [torch.stack(kept).mean(0) for kept in self._statistics]  # (2, channels) each
        flat = self.share.summed(torch.cat([mean.flatten() for mean in means])) / self.args.world_size
        for norm, part in zip(self._norms, flat.split([mean.numel() for mean in means]), strict=True):
            share = momentum or (0.1 if norm.momentum is None else norm.momentum)
            mean, variance = part.view(2, -1)
            assert norm.running_mean is not None and norm.running_var is not None
            norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), share)
            norm.running_var.lerp_(variance.to(norm.running_var.dtype), share)
        for kept in self._statistics:
            kept.clear()


@torch.no_grad()
def _record(statistics: list[Tensor], norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    images = inputs[0].float()
    variance, mean = torch.var_mean(images, dim=[0, *range(2, images.ndim)])
    statistics.append(torch.stack([mean, variance]))
