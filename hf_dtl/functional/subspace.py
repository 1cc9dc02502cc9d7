"""The span of a layer's inputs on retained data: updates outside it leave what the layer does there unchanged.

Source: Gradient Projection Memory (Saha et al., arXiv 2103.09762) and Projected-Gradient Unlearning (Hoang et al.,
arXiv 2312.04095). Their code stores the inputs and takes singular values. Here second moments are streamed, so the
images of a forget request can be subtracted afterwards, and the eigenvalues show what the subtraction could not
account for.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from hf_dtl.functional.collision import Reduce
from hf_dtl.functional.layer_inputs import Layer, input_rows, plain, projectable, rows_of_an_image, same_rows
from hf_dtl.functional.symmetric_solver import eigh

Criterion = Literal["energy", "sigma"]

_FORMAT = "hf_dtl gradient subspace 1"
_LARGEST_PIECE = 2**24  # numbers of unfolded inputs at once, 64 MiB


@dataclass(frozen=True)
class Basis:
    """Orthonormal directions of each layer's inputs that no update may use (or shorter ones, that hold it back).

    Args:
        vectors: by layer, (groups, width, rank); where groups differ in rank, the missing columns are zero.
        ranks: by layer and group.
        negative_mass: by layer, the share of negative eigenvalues in the sum of their sizes, 0..1: what was
            subtracted but was never there, because the two passes differ in images, transforms or weights.
    """

    vectors: dict[str, Tensor]
    ranks: dict[str, list[int]]
    negative_mass: dict[str, float]

    def project(self, layer: str, update: Tensor) -> Tensor:
        """Take the protected directions out of an update.

        Args:
            layer: name of the layer.
            update: shaped like its weight.

        Returns:
            update - (update B) B^T in every group: two thin products.
        """
        vectors = self.vectors[layer].to(update.device, update.dtype)
        rows = update.reshape(len(vectors), -1, vectors.shape[1])
        return (rows - (rows @ vectors) @ vectors.mT).reshape(update.shape)

    def to(self, device: torch.device) -> "Basis":
        """The same on a device."""
        moved = {name: vectors.to(device) for name, vectors in self.vectors.items()}
        return Basis(moved, self.ranks, self.negative_mass)

    def protected_share(self, layer: str, update: Tensor) -> float:
        """|update B| / |update| in 0..1: how much of an update lies in the protected directions."""
        vectors = self.vectors[layer].to(update.device, update.dtype)
        inside = update.reshape(len(vectors), -1, vectors.shape[1]) @ vectors
        return (inside.norm() / update.norm().clamp_min(torch.finfo(update.dtype).tiny)).item()


@dataclass
class GradientSubspace:
    """Uncentred second moments, sum of x x^T, of what enters every linear and convolutional layer.

    Build it with `collect`; `full - forget` is that of the retained images.

    Args:
        moments: float64, by layer: (groups, width, width), or for inputs wider than `max_width` a sketch (groups,
            width, columns): the moments times a fixed random matrix.
        traces: sums of squares of all inputs, (groups,), by layer.
        shared: layers that are fed by the very inputs of another (q, k and v of a transformer), and which.
        images: how many went in.
        seed: of the random matrix.
    """

    moments: dict[str, Tensor]
    traces: dict[str, Tensor]
    shared: dict[str, str]
    images: int
    seed: int = 0
    _spectra: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    @torch.no_grad()
    def collect(
        cls,
        model: nn.Module,
        batches: Iterable[Any],
        *,
        forward: Callable[[Any], Tensor] | None = None,
        max_width: int = 4096,
        columns: int = 1024,
        seed: int = 0,
        reduce: Reduce | None = None,
    ) -> "GradientSubspace":
        """Stream images through a model, in evaluation mode, and keep the moments of every layer's inputs.

        Products are taken in float32 (or wider), 64 MiB of inputs at a time, and summed in float64. A layer that a
        model does not call as a module (the output projection of `nn.MultiheadAttention`), or that has a forward of
        its own (BiT's convolutions, which standardise their weights), has no moments.

        Args:
            model: on any device.
            batches: pixel values (batch, channels, height, width), on any device unless `forward` moves them.
            forward: how to run the model on one batch; default `model(batch.to(its device))`.
            max_width: wider inputs are kept as a sketch of `columns` columns instead of width x width.
            columns: of the sketch, >= 1.
            seed: of the sketch.
            reduce: sum of a tensor over the processes, each of which streams its own images; None for one process.

        Raises:
            ValueError: no images, or inputs that are not finite.
        """
        device = next(model.parameters()).device
        run = forward or (lambda batch: model(batch.to(device)))
        collector, images, training = _Collector(model, max_width, columns, seed), 0, model.training
        model.eval()
        try:
            for batch in batches:
                collector.begin()
                run(batch)
                images += collector.images
        finally:
            collector.remove()
            model.train(training)
        moments, traces, shared = collector.finish()
        if reduce is not None:
            images = int(reduce(torch.tensor([float(images)], dtype=torch.float64, device=device)).item())
            moments = {name: reduce(moment) for name, moment in moments.items()}
            traces = {name: reduce(trace) for name, trace in traces.items()}
        if not images:
            raise ValueError("No images were given to collect the inputs of the layers from.")
        subspace = cls(moments, traces, shared, images, seed)
        subspace.check_finite()
        return subspace

    @property
    def layers(self) -> list[str]:
        """Every layer that has moments, of its own or shared."""
        return [*self.moments, *self.shared]

    def check_finite(self) -> None:
        """Raise ValueError that names the layers whose moments are not finite."""
        bad = [name for name, moment in self.moments.items() if not torch.isfinite(moment).all()]
        if bad:
            raise ValueError(f"Inputs of these layers are not finite: {', '.join(bad)}.")

    def __sub__(self, other: "GradientSubspace") -> "GradientSubspace":
        """The moments of what is left when the images of `other` go.

        Raises:
            ValueError: other layers, widths or sketches, or no image would be left.
        """
        shapes, theirs = ({name: tuple(m.shape) for name, m in s.moments.items()} for s in (self, other))
        if shapes != theirs or self.shared != other.shared or self.seed != other.seed:
            different = sorted(n for n in shapes.keys() | theirs.keys() if shapes.get(n) != theirs.get(n))
            raise ValueError(
                f"The two subspaces are not of one model and one sketch: {', '.join(different) or 'seed'}."
            )
        if other.images >= self.images:
            raise ValueError(f"Cannot subtract {other.images} images from {self.images}: none would be left.")
        return GradientSubspace(
            {name: moment - other.moments[name].to(moment.device) for name, moment in self.moments.items()},
            {name: trace - other.traces[name].to(trace.device) for name, trace in self.traces.items()},
            dict(self.shared),
            self.images - other.images,
            self.seed,
        )

    def spectrum(self, layer: str) -> tuple[Tensor, Tensor]:
        """Eigenvalues (groups, n), descending, and eigenvectors (groups, width, n), of a layer's moments.

        By the symmetric solver, in float64 up to a width of 512 and in float32 above, where it is twice as fast and
        off by 1e-6 of the largest eigenvalue. Of a sketch n is its columns. Computed once.
        """
        name = self.shared.get(layer, layer)
        if name not in self._spectra:
            moment = self.moments[name]
            scale = self.traces[name].abs().amax().clamp_min(torch.finfo(torch.float64).tiny)
            groups, width, n = moment.shape
            if n == width:
                symmetric = (moment + moment.mT) / (2 * scale)
                values, vectors = eigh(symmetric)
            else:
                values, vectors = _from_sketch(moment / scale, _random(name, self.seed, moment))
            self._spectra[name] = (values.flip(-1).double() * scale, vectors.flip(-1))
        return self._spectra[name]

    def basis(
        self,
        criterion: Criterion = "energy",
        threshold: float | Mapping[str, float] = 0.95,
        *,
        dtype: torch.dtype = torch.float32,
    ) -> Basis:
        """The fewest directions of every layer that hold a share of its inputs.

        Args:
            criterion: what is summed up: 'energy' (eigenvalues, that is squares of the inputs' singular values, as in
                GPM) or 'sigma' (singular values, as in the code of PGU; it keeps far more directions). Negative
                eigenvalues count as zero.
            threshold: the share, in (0, 1], for all layers or by layer.
            dtype: of the vectors.

        Raises:
            ValueError: an unknown criterion or layer, a threshold out of range, moments that are not finite, or a
                sketch with fewer columns than the layer needs.
        """
        if criterion not in ("energy", "sigma"):
            raise ValueError(f"criterion={criterion!r} is unknown; use one of: energy, sigma.")
        by_layer = threshold if isinstance(threshold, Mapping) else dict.fromkeys(self.layers, threshold)
        for layer in self.layers:
            if layer not in by_layer or not 0 < by_layer[layer] <= 1:
                raise ValueError(f"threshold of {layer} is {by_layer.get(layer)}; it must be in (0, 1].")
        if unknown := [layer for layer in by_layer if layer not in self.layers]:
            raise ValueError(f"threshold names layers that have no moments: {', '.join(unknown)}.")
        self.check_finite()
        found = Basis({}, {}, {})
        for layer in self.layers:
            values, vectors = self.spectrum(layer)
            ranks = self._ranks(layer, values, criterion, by_layer[layer])
            kept = torch.arange(max(ranks)) < torch.tensor(ranks)[:, None]
            chosen = vectors[:, :, : max(ranks)] * kept[:, None].to(vectors.device)
            found.vectors[layer] = chosen.to(dtype).contiguous()
            found.ranks[layer] = ranks
            size = values.abs().sum().clamp_min(torch.finfo(torch.float64).tiny)
            found.negative_mass[layer] = (-values.clamp_max(0).sum() / size).item()
        return found

    def _ranks(self, layer: str, values: Tensor, criterion: Criterion, share: float) -> list[int]:
        """Directions to keep in each group."""
        name = self.shared.get(layer, layer)
        width, n = self.moments[name].shape[1:]
        values = values.clamp_min(0)
        values = torch.where(values > 1e-7 * values[:, :1], values, 0)  # the products were float32: noise below that
        total = values.sum(-1)
        if n < width:
            total = torch.maximum(total, self.traces[name])
        counted, needed = values, share * total
        if criterion == "sigma":
            # beyond a sketch: singular values of the energy that is left are largest when they are all alike
            beyond = ((total - values.sum(-1)).clamp_min(0) * (width - n)).sqrt()
            counted = values.sqrt()
            needed = share * (counted.sum(-1) + beyond)
        sums = counted.cumsum(-1)
        ranks = (sums < needed[:, None] * (1 - 1e-9)).sum(-1) + (needed > 0)
        if n < width and bool((ranks > n).any()):
            raise ValueError(
                f"{layer} needs more than the {n} directions of its sketch (inputs are {width} wide). Collect with "
                f"more columns or a larger max_width, or lower the threshold ({share:g})."
            )
        return torch.minimum(ranks, (values > 0).sum(-1)).tolist()

    def save(self, path: str | Path, **metadata: str) -> None:
        """Write the moments, in float32, to a safetensors file; an existing one is replaced as a whole.

        Args:
            path: of the file.
            metadata: further texts, such as a fingerprint of the model.
        """
        path = Path(path)
        tensors = {f"moment.{name}": m.float().cpu().contiguous() for name, m in self.moments.items()}
        tensors |= {f"trace.{name}": t.cpu().contiguous() for name, t in self.traces.items()}
        about = {"images": self.images, "seed": self.seed, "shared": self.shared, "metadata": metadata}
        new = path.with_name(f".{path.name}.partial")
        save_file(tensors, new, metadata={"format": _FORMAT, "about": json.dumps(about)})
        new.replace(path)

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> tuple["GradientSubspace", dict[str, str]]:
        """Read what `save` wrote; also its metadata.

        Raises:
            ValueError: the file is not such a file, or its values are not finite.
        """
        try:
            with safe_open(path, "pt", device=str(device)) as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except Exception as error:
            raise ValueError(f"{path} cannot be read as safetensors: {error}") from None
        if about.get("format") != _FORMAT:
            raise ValueError(f"{path} does not hold moments of layer inputs ({_FORMAT}).")
        parts = json.loads(about["about"])
        moments, traces = (
            {name.removeprefix(f"{kind}."): t.double() for name, t in tensors.items() if name.startswith(f"{kind}.")}
            for kind in ("moment", "trace")
        )
        subspace = cls(moments, traces, parts["shared"], parts["images"], parts["seed"])
        subspace.check_finite()
        return subspace, parts["metadata"]


class _Collector:
    """Forward hooks that add up moments; layers in a row that get the very same tensor share them."""

    def __init__(self, model: nn.Module, max_width: int, columns: int, seed: int):
        self.max_width, self.columns, self.seed = max_width, columns, seed
        self.moments: dict[str, Tensor] = {}
        self.traces: dict[str, Tensor] = {}
        self.random: dict[str, Tensor] = {}
        self.candidates: dict[str, str] = {}
        self.calls: dict[str, int] = {}
        self.batches = self.images = 0
        self._last: tuple[str, Layer, Tensor] | None = None
        self._shared: dict[str, str] = {}
        self.handles = [
            layer.register_forward_pre_hook(self._hook(name, layer))
            for name, layer in projectable(model).items()
            if plain(layer)
        ]

    def begin(self) -> None:
        """A new batch."""
        if self.batches == 1:  # the first has shown which layers are called once, and on what
            self._share()
        self.batches += 1
        self.images, self._last = 0, None

    def remove(self) -> None:
        self._last = None
        for handle in self.handles:
            handle.remove()

    def finish(self) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, str]]:
        if self.batches == 1:
            self._share()
        return self.moments, self.traces, self._shared

    def _share(self) -> None:
        for name, owner in self.candidates.items():
            if self.calls[name] == self.calls[owner] == 1:
                self._shared[name] = self._shared.get(owner, owner)
                del self.moments[name], self.traces[name]

    def _hook(self, name: str, layer: Layer):
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            (inputs, *_) = args
            self.images = self.images or len(inputs)  # the first layer sees the images themselves
            if self.batches == 1:
                self.calls[name] = self.calls.get(name, 0) + 1
                if self._last and self._last[2] is inputs and same_rows(self._last[1], layer):
                    self.candidates.setdefault(name, self._last[0])
                self._last = (name, layer, inputs)
            if name not in self._shared:
                self._add(name, layer, inputs)

        return hook

    def _add(self, name: str, layer: Layer, inputs: Tensor) -> None:
        batch = max(1, _LARGEST_PIECE // max(1, rows_of_an_image(layer, inputs)))
        with torch.autocast(inputs.device.type, enabled=False):
            for piece in inputs.split(batch):
                rows = input_rows(layer, piece)
                groups, _, width = rows.shape
                if name not in self.moments:
                    n = width if width <= self.max_width else min(self.columns, width)
                    self.moments[name] = torch.zeros(groups, width, n, dtype=torch.float64, device=rows.device)
                    self.traces[name] = torch.zeros(groups, dtype=torch.float64, device=rows.device)
                    if n < width:
                        self.random[name] = _random(name, self.seed, self.moments[name]).to(rows.dtype)
                right = rows @ self.random[name] if name in self.random else rows
                self.moments[name] += rows.mT @ right
                self.traces[name] += rows.square().sum((1, 2), dtype=torch.float64)


def _random(name: str, seed: int, like: Tensor) -> Tensor:
    """The random matrix of a layer's sketch, (width, columns): the same wherever it is drawn."""
    digest = hashlib.blake2b(f"{seed} {name}".encode(), digest_size=7).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
    width, columns = like.shape[1:]
    return (torch.randn(width, columns, generator=generator, dtype=torch.float64) / columns**0.5).to(like.device)


def _from_sketch(sketch: Tensor, random: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors of C from C R alone: C ~ Q T Q^T with T (Q^T R) = Q^T C R.

    Source: Halko, Martinsson and Tropp, arXiv 0909.4061, section 5.5.
    """
    q, _ = torch.linalg.qr(sketch)
    core = (q.mT @ sketch) @ torch.linalg.pinv(q.mT @ random)
    values, vectors = torch.linalg.eigh((core + core.mT) / 2)
    return values, q @ vectors
