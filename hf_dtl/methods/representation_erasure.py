"""Representation erasure, this project's own method: no probe of any depth of the backbone may generalise.

Three parts. The weights are moved halfway to a random initialisation, which removes what later steps would have
to find (`noise_then_distil`). The frozen model and the labels teach the target again, on transformed
target images. And at every depth a probe is fitted to half of each chunk of source images in closed form; how well it
names the other half is driven down (`hf_dtl.functional.probe_generalisation`), so that there is no stale head to win
against.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_dtl.errors import ConfigError
from hf_dtl.functional import probe_generalisation
from hf_dtl.methods.noise_then_distil import NoiseThenDistilTrainer, StartOptions
from hf_dtl.methods.registry import register_method
from hf_dtl.trainers import BatchStatisticsConfig, Chunk, Chunking, option
from hf_dtl.trainers.probes import read


@dataclass
class RepresentationErasureConfig(StartOptions, BatchStatisticsConfig):
    """Options of representation erasure.

    Parameters that control the method:
        alpha, ridge, and from `UnlearningConfig` forget_weight, num_chunks and chunking. A chunk is what one probe is
        fitted to and tried on, so it needs several images of every class: few chunks, drawn at random.
    """

    least_classes: ClassVar[int] = 2

    ridge: float = option(0.1, "Regularisation of the probes, relative to the readings' mean square, > 0.", above=0)
    forget_weight: float = 2.0
    num_chunks: int = 1
    chunking: Chunking = "random"

    def __post_init__(self):
        super().__post_init__()
        if self.chunk_size < 8:
            raise ConfigError(
                f"A chunk of {self.chunk_size} images is too small to fit a probe to; it needs at least 8. "
                f"{self.larger_chunks}"
            )


@register_method("representation_erasure")
class RepresentationErasureTrainer(NoiseThenDistilTrainer):
    """Minimise L_retain + forget_weight * mean over depths of how well a fresh probe names the source classes."""

    config_class = RepresentationErasureConfig
    args: RepresentationErasureConfig

    def chunk_loss(self, chunk: Chunk) -> tuple[Tensor, Tensor]:
        hidden_states, features = self.model.hidden_states(chunk.pixel_values)
        head = self.model.heads[self.forget_task]
        with torch.autocast(features.device.type, enabled=False):
            readings = read(hidden_states, features)
            told = probe_generalisation(readings, chunk.labels, head.out_features, ridge=self.args.ridge)
            return told.mean(), head(features.detach().float())
