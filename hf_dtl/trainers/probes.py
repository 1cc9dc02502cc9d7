"""Probes that read a backbone at every depth, re-drawn now and again, so that it cannot win against one stale head."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_dtl.data.images import size_of
from hf_dtl.functional.collision import Reduce
from hf_dtl.trainers.chunks import Chunk
from hf_dtl.trainers.config import UnlearningConfig
from hf_dtl.trainers.option_fields import option
from hf_dtl.trainers.trainer import UnlearningTrainer


def read(hidden_states: Sequence[Tensor], features: Tensor) -> list[Tensor]:
    """Reduce every depth of a backbone to vectors, and add the features.

    Args:
        hidden_states: one tensor a depth: (batch, tokens, width), of which the first token (the class token, where
            there is one) and the mean of the others are read; or (batch, channels, height, width), of which the
            spatial mean is read.
        features: (batch, features).

    Returns:
        Readings (batch, width) in float32, in the order of the depths; the features come last.
    """
    readings = []
    for state in hidden_states:
        if state.ndim == 4:
            readings.append(state.mean((2, 3), dtype=torch.float32))
            continue
        readings.append(state[:, 0].float())
        if state.shape[1] > 1:
            readings.append(state[:, 1:].mean(1, dtype=torch.float32))
    return [*readings, features.float()]


class Probes(nn.Module):
    """One small classifier a reading: normalisation of each vector, a hidden layer, GELU, a linear layer.

    Weights and the moments of their AdamW are buffers, never parameters: a trainer does not train them, and a model
    that owns the probes saves them in its checkpoints, from which they go on exactly. Probes of one width are computed
    together.

    Args:
        widths: widths of the readings, each >= 1.
        classes: outputs of every probe, >= 1.
        hidden: width of the hidden layer; 0 for linear probes.
        learning_rate: of AdamW, > 0.

    Example:
        >>> probes = Probes([8, 8, 16], classes=3)
        >>> probes.reset(seed=0)
        >>> probes([torch.ones(5, 8), torch.ones(5, 8), torch.ones(5, 16)]).shape
        torch.Size([3, 5, 3])
    """

    def __init__(self, widths: Sequence[int], classes: int, *, hidden: int = 64, learning_rate: float = 3e-3):
        super().__init__()
        self.learning_rate = learning_rate
        self.groups = {width: [i for i, w in enumerate(widths) if w == width] for width in dict.fromkeys(widths)}
        self.layers = {
            width: [(len(group), i, o) for i, o in pairwise([width, hidden, classes] if hidden else [width, classes])]
            for width, group in self.groups.items()
        }
        self.shapes = [s for layers in self.layers.values() for n, i, o in layers for s in ((n, i, o), (n, 1, o))]
        self.weights: Tensor
        self.moment: Tensor
        self.square: Tensor
        self.updates: Tensor
        for name in ("weights", "moment", "square"):
            self.register_buffer(name, torch.zeros(sum(map(math.prod, self.shapes))))
        self.register_buffer("updates", torch.zeros(()))

    @torch.no_grad()
    def reset(self, seed: int) -> None:
        """Draw new weights (normal of variance 1 / inputs, no bias) and forget the moments."""
        generator = torch.Generator().manual_seed(seed)
        drawn = [
            torch.randn(shape, generator=generator) / math.sqrt(shape[1]) if k % 2 == 0 else torch.zeros(shape)
            for k, shape in enumerate(self.shapes)
        ]
        self.weights.copy_(torch.cat([w.flatten() for w in drawn]))
        for state in (self.moment, self.square, self.updates):
            state.zero_()

    def forward(self, readings: Sequence[Tensor], weights: Tensor | None = None) -> Tensor:
        """Compute the logits of every probe.

        Args:
            readings: (batch, width) each, as many and as wide as `widths`.
            weights: other weights than the probes' own, shaped like them.

        Returns:
            (readings, batch, classes).
        """
        flat = (self.weights if weights is None else weights).split([math.prod(s) for s in self.shapes])
        parts = (part.view(shape) for part, shape in zip(flat, self.shapes, strict=True))
        logits: dict[int, Tensor] = {}
        with torch.autocast(self.weights.device.type, enabled=False):
            for width, group in self.groups.items():
                x = F.layer_norm(torch.stack([readings[i] for i in group]), (width,))
                for layer in range(len(self.layers[width])):
                    weight = next(parts)
                    x = torch.baddbmm(next(parts), F.gelu(x) if layer else x, weight)
                logits |= zip(group, x, strict=True)
        return torch.stack([logits[i] for i in range(len(logits))])

    def update(self, readings: Sequence[Tensor], labels: Tensor, reduce: Reduce | None = None) -> None:
        """Take one step of AdamW on the cross-entropies of all probes.

        Args:
            readings: (batch, width) each.
            labels: (batch,).
            reduce: sum of a flat tensor over the processes; None for a single process. Each gives a batch of one size.
        """
        weights = self.weights.clone().requires_grad_()
        logits = self(readings, weights)
        loss = F.cross_entropy(logits.flatten(0, 1), labels.repeat(len(logits)), reduction="sum") / len(labels)
        (gradient,) = torch.autograd.grad(loss, weights)
        if reduce is not None:
            total = reduce(torch.cat([gradient, gradient.new_ones(1)]))
            gradient = total[:-1] / total[-1]
        with torch.no_grad():
            self.updates += 1
            self.moment.lerp_(gradient, 0.1)
            self.square.lerp_(gradient**2, 0.001)
            deviation = (self.square / (1 - 0.999**self.updates)).sqrt_().add_(1e-8)
            self.weights.mul_(1 - 0.01 * self.learning_rate)
            self.weights.addcdiv_(self.moment / (1 - 0.9**self.updates), deviation, value=-self.learning_rate)

    def fit(self, readings: Sequence[Tensor], labels: Tensor, *, steps: int, seed: int, batch_size: int = 64) -> None:
        """Train on stored readings, `steps` times on a batch drawn by `seed`."""
        generator = torch.Generator().manual_seed(seed)
        for _ in range(steps):
            chosen = torch.randperm(len(labels), generator=generator)[:batch_size].to(labels.device)
            self.update([reading[chosen] for reading in readings], labels[chosen])


@dataclass
class ProbeConfig(UnlearningConfig):
    """What methods that work against probes add to `UnlearningConfig`.

    Parameters that control the probes:
        depths, refresh_every, probe_images, probe_steps, probe_updates, probe_hidden, probe_learning_rate.
    """

    depths: Literal["all", "final"] = option(
        "all", "What probes read: 'all' depths of the backbone, or the 'final' features."
    )
    refresh_every: int = option(40, "Steps after which the probes are drawn anew and fitted again, >= 1.", low=1)
    probe_images: int = option(512, "Forget images, drawn anew, that they are fitted to, >= 1.", low=1)
    probe_steps: int = option(100, "AdamW steps of that fit, 64 images each, >= 0. 0 leaves them random.", low=0)
    probe_updates: int = option(2, "Further steps after each step of the model, on its forget images, >= 0.", low=0)
    probe_hidden: int = option(64, "Width of the probes' hidden layer; 0: linear probes.", low=0)
    probe_learning_rate: float = option(3e-3, "Learning rate of the probes' AdamW, > 0.", above=0)


class ProbedTrainer(UnlearningTrainer):
    """A trainer whose disposal works against probes; a method is a subclass that gives `probe_loss`.

    Every `refresh_every` steps all processes draw the probes anew and fit them to the present backbone, on the same
    images. After each disposal the probes take `probe_updates` steps on the chunks that the disposal has seen, so the
    next one meets them on images they were not just trained on. The probes belong to the model that is trained (and
    to its checkpoints), not to what it exports.
    """

    args: ProbeConfig

    @property
    def probes(self) -> Probes:
        """Those of the model that is trained."""
        probes = self.model.probes
        assert isinstance(probes, Probes)
        return probes

    @property
    def probed(self) -> bool:
        """Whether the options ask for probes."""
        return True

    def probe_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of one chunk, of the probes' logits (readings, batch, classes) and labels (batch,)."""
        raise NotImplementedError

    def prepare(self) -> None:
        self._seen: list[tuple[list[Tensor], Tensor]] = []
        if not self.probed:
            return
        args = self.args
        image, _ = self.load_rows(self.train_dataset.retain, [0])
        self.model.eval()
        with torch.no_grad():
            widths = [reading.shape[1] for reading in self.read(image)]
        classes, rate = self.model.heads[self.forget_task].out_features, args.probe_learning_rate
        self.model.probes = Probes(widths, classes, hidden=args.probe_hidden, learning_rate=rate).to(args.device)

    def read(self, pixel_values: Tensor) -> list[Tensor]:
        """What the probes read of images (batch, channels, height, width); the features come last."""
        with self.accelerator.autocast():
            if self.args.depths == "final":
                return read([], self.model.features(pixel_values))
            return read(*self.model.hidden_states(pixel_values))

    def chunk_loss(self, chunk: Chunk) -> tuple[Tensor, Tensor]:
        if not self.probed:
            return super().chunk_loss(chunk)
        readings = self.read(chunk.pixel_values)
        # a method may evaluate a chunk again, also at shifted weights: the first time is the one to keep
        if len(self._seen) < self.args.num_chunks // self.args.world_size:
            self._seen.append(([reading.detach() for reading in readings], chunk.labels))
        with torch.no_grad():
            source_logits = self.model.heads[self.forget_task](readings[-1])
        return self.probe_loss(self.probes(readings), chunk.labels), source_logits

    def refresh_probes(self) -> None:
        """Draw new probes and fit them to the present weights: a function of these, the seed and the step alone."""
        args, probes, forget = self.args, self.probes, self.train_dataset.forget
        seed = (args.seed * 1_000_003 + self.state.global_step) ^ 0x9B0BE
        probes.reset(seed)
        if not args.probe_steps:
            return
        chosen = torch.randperm(size_of(forget), generator=torch.Generator().manual_seed(seed))[: args.probe_images]
        readings, labels = [], []
        with torch.random.fork_rng(devices=[args.device] if args.device.type == "cuda" else []), torch.no_grad():
            torch.manual_seed(seed)
            for part in chosen.split(64):
                pixels, found = self.load_rows(forget, part.tolist())
                readings.append(self.read(pixels))
                labels.append(found)
        stored = [torch.cat(column) for column in zip(*readings, strict=True)]
        probes.fit(stored, torch.cat(labels), steps=args.probe_steps, seed=seed)
        if self.reduce:  # kernels that are not deterministic must not let the processes drift apart
            for state in (probes.weights, probes.moment, probes.square):
                state.copy_(self.share.summed(state.clone()) / args.world_size)

    def before_disposal(self) -> None:
        self._seen.clear()
        if self.probed and self.state.global_step % self.args.refresh_every == 0:
            self.refresh_probes()

    def after_disposal(self) -> None:
        if not self._seen:
            return
        readings, labels = zip(*self._seen, strict=True)
        seen, named = [torch.cat(column) for column in zip(*readings, strict=True)], torch.cat(labels)
        with torch.no_grad():
            self.record("probe_accuracy", (self.probes(seen).argmax(-1) == named).float().mean())
        for _ in range(self.args.probe_updates):
            self.probes.update(seen, named, self.reduce)
