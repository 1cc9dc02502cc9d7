"""The small models that come with the package: an architecture and random weights, trained where they are used."""

from collections.abc import Sequence

import torch
from transformers import AutoModelForImageClassification, PretrainedConfig, PreTrainedModel, ResNetConfig, ViTConfig

from hf_dtl.errors import ConfigError

ARCHITECTURES = ("vit", "resnet")
"""A ViT of 0.3 M parameters on patches of 7 pixels, or a ResNet of 0.2 M with three blocks."""
PATCH = 7
WIDTHS = (24, 48, 96)


def built_in_model(
    architecture: str, labels: Sequence[str], *, size: int = 28, widths: Sequence[int] = WIDTHS,
    depth: int = 1, seed: int = 0,
) -> PreTrainedModel:  # fmt: skip
    """A small classifier with random weights.

    Args:
        architecture: of the network, see `ARCHITECTURES`.
        labels: names of its classes.
        size: height and width of its images, in pixels.
        widths: of a ResNet, the channels of its stages.
        depth: of a ResNet, the blocks of each stage.
        seed: of the weights.

    Raises:
        ConfigError: there is no such architecture, or the ViT's patches do not fill such images.
    """
    if architecture not in ARCHITECTURES:
        raise ConfigError(f"--architecture {architecture!r} is unknown; use one of: {', '.join(ARCHITECTURES)}.")
    config: PretrainedConfig
    if architecture == "vit":
        if size % PATCH:
            raise ConfigError(
                f"--image_size {size} must be a multiple of the built-in ViT's patch size, {PATCH}; the built-in "
                "ResNet (--architecture resnet) takes any."
            )
        config = ViTConfig(
            hidden_size=96, num_hidden_layers=4, num_attention_heads=4, intermediate_size=192, image_size=size,
            patch_size=PATCH,
        )  # fmt: skip
    else:
        config = ResNetConfig(
            embedding_size=widths[0], hidden_sizes=list(widths), depths=[depth] * len(widths), layer_type="basic"
        )
    config.num_labels = len(labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForImageClassification.from_config(config)
