"""Updates outside a span of layer inputs: what methods share that protect a model's behaviour on some images.

The moments that give the span are collected over all processes, and kept beside the model for later.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm

from hf_dtl.data.images import size_of
from hf_dtl.errors import ConfigError
from hf_dtl.fingerprint import fingerprint
from hf_dtl.functional import Basis, GradientSubspace
from hf_dtl.functional.layer_inputs import projectable
from hf_dtl.functional.subspace import Criterion
from hf_dtl.models.heads import MultiHeadClassifier
from hf_dtl.trainers.option_fields import option, refused
from hf_dtl.trainers.shares import ALONE, Share
from hf_dtl.trainers.trainer import UnlearningTrainer

logger = logging.getLogger(__name__)

LAYER_INPUTS = "layer_inputs.safetensors"
"""File name of moments beside a model."""


@dataclass
class ProtectionOptions:
    """Options that say how much of a span of layer inputs is protected."""

    criterion: Criterion = option(
        "energy", "What the protected directions hold a share of: 'energy' (squares) or 'sigma' (as PGU)."
    )
    threshold: float = option(0.9, "That share, in (0, 1]: larger protects more and forgets less.", above=0, high=1)


class ProjectingTrainer(UnlearningTrainer):
    """A trainer whose `prepare` may call `protect`; then its updates stay outside the span of some layer inputs.

    After every step of the optimizer, whichever it is, the whole change since the given weights is projected:
    momentum, adaptive step sizes and weight decay cannot leak into the protected directions. Biases, normalisation,
    tokens and embeddings stay bit-identical, and so does every layer that cannot be projected (named in the log).
    """

    basis: Basis | None = None

    def protect(self, subspace: GradientSubspace, criterion: Criterion, threshold: float) -> None:
        """Keep every later update outside the main directions of these layer inputs.

        Raises:
            ConfigError: the moments give no basis, see `GradientSubspace.basis`.
        """
        with refused():
            basis = subspace.basis(criterion, threshold)
        self.guard(basis)

    def guard(self, basis: Basis) -> None:
        """Train the weights of those layers alone for which a basis is there."""
        self.basis = basis = basis.to(self.args.device)
        model = self.model
        layers, self._given_layers = projectable(model), projectable(self.teacher)
        self._projected = {name: layers[name] for name in basis.vectors if name in layers}
        others = {f"heads.{task}" for task in model.heads if task != self.retain_task}
        frozen = sorted(set(layers) - set(self._projected) - others)
        if frozen:
            logger.warning("Frozen, because their inputs cannot be seen: %s", ", ".join(frozen))
        worst = max(basis.negative_mass, key=lambda name: basis.negative_mass[name])
        logger.info("Largest share of negative eigenvalues: %.2g (%s)", basis.negative_mass[worst], worst)

    def collect(self, images: Dataset) -> GradientSubspace:
        """Moments of the layer inputs on these images, over all processes.

        Raises:
            ConfigError: the inputs are not finite.
        """
        with refused():
            return collect_subspace(self.model, images, self.retain_task, share=self.share)

    def retained_moments(self, file: str | None) -> GradientSubspace:
        """Moments on the retained images: from a file on all training data, less those of the forget images; or new.

        Raises:
            ConfigError: they do not belong to this model or these images, or are not finite.
        """
        if file is None:
            return self.collect(self.train_dataset.retain)
        wanted = fingerprints(self.model, self.retain_task, self.processing_class)
        full, forget = load_subspace(file, wanted, self.args.device), self.collect(self.train_dataset.forget)
        with refused():
            return full - forget

    def trains(self, name: str, parameter: nn.Parameter) -> bool:
        seen = self.basis is None or any(layer.weight is parameter for layer in self._projected.values())
        return seen and super().trains(name, parameter)

    @torch.no_grad()
    def constrain(self) -> None:
        """Take the protected directions out of the whole change since the given weights."""
        if self.basis is None:
            return
        for name, layer in self._projected.items():
            weight, origin = layer.weight, self._given_layers[name].weight
            if weight.requires_grad:
                weight.copy_(origin + self.basis.project(name, weight - origin))


def collect_subspace(
    model: MultiHeadClassifier, images: Dataset, task: str, *, batch_size: int = 64, share: Share = ALONE
) -> GradientSubspace:
    """Stream a data set once through a model, each process a share of it, and keep the moments of its layers' inputs.

    Args:
        model: on the device to use.
        images: items {"pixel_values"}, transformed as they will be for a later forget request.
        task: whose head takes part.
        batch_size: images at once.
        share: of this process.
    """
    device = next(model.parameters()).device
    mine = range(share.process, size_of(images), share.processes)

    def forward(start: int) -> Tensor:
        batch = torch.stack([images[i]["pixel_values"] for i in mine[start : start + batch_size]])
        return model(batch.to(device), task=task)

    starts = tqdm(range(0, len(mine), batch_size), desc="layer inputs", unit="batch", **share.quiet)
    return GradientSubspace.collect(model, starts, forward=forward, reduce=share.reduce)


def fingerprints(model: MultiHeadClassifier, task: str, processing_class) -> dict[str, str]:
    """What moments belong to: the weights that the task uses, and how images are processed."""
    used = ("backbone.", f"heads.{task}.")
    weights = [part for item in sorted(model.state_dict().items()) if item[0].startswith(used) for part in item]
    processing = {} if processing_class is None else processing_class.to_dict()
    processing = {k: v for k, v in processing.items() if not k.startswith("_")}
    return {"weights": fingerprint(weights), "processing": fingerprint([processing])}


def load_subspace(path: str | Path, model_prints: dict[str, str], device: torch.device) -> GradientSubspace:
    """Read moments that belong to a model.

    Args:
        path: what `GradientSubspace.save` wrote.
        model_prints: `fingerprints` of the model.
        device: where to.

    Raises:
        ConfigError: no such file, not moments, or those of other weights or other image processing.
    """
    if not Path(path).is_file():
        raise ConfigError(f"subspace_file={str(path)!r} does not exist. Make it with `trainer.save_subspace(path)`.")
    with refused("subspace_file cannot be used: "):
        subspace, prints = GradientSubspace.load(path, device)
    for part, remedy in (
        ("weights", "it belongs to another model; collect it anew from the data that this model retains"),
        ("processing", "its images were processed otherwise; use the image processor that it was made with"),
    ):
        if prints.get(part) != model_prints[part]:
            raise ConfigError(f"subspace_file={str(path)!r} does not fit ({part} differ): {remedy}.")
    return subspace
