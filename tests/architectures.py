"""Tiny configurations of the architectures that the library is checked on."""

from transformers import (
    BeitConfig,
    ConvNextConfig,
    DeiTConfig,
    Dinov2Config,
    MobileNetV2Config,
    ResNetConfig,
    SwinConfig,
    ViTConfig,
)

_TRANSFORMER = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 16,
    "patch_size": 8,
}
# DeiT's hidden size equals its number of labels on purpose: a search by size would pick the wrong module.
CONFIGS = {
    "vit": lambda: ViTConfig(**_TRANSFORMER, num_labels=6),
    "deit": lambda: DeiTConfig(**_TRANSFORMER, num_labels=16, architectures=["DeiTForImageClassification"]),
    "dinov2": lambda: Dinov2Config(**_TRANSFORMER, mlp_ratio=2, num_labels=6),
    "swin": lambda: SwinConfig(
        embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=2, image_size=16, patch_size=4, num_labels=6
    ),
    "beit": lambda: BeitConfig(**_TRANSFORMER, num_labels=6),
    "convnext": lambda: ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, image_size=16, num_labels=6),
    "resnet": lambda: ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=6
    ),
    "mobilenet_v2": lambda: MobileNetV2Config(image_size=16, depth_multiplier=0.25, num_labels=6),
}
