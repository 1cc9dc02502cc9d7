"""Tiny configurations of the architectures that the library is checked on."""

from functools import partial

import transformers
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

_VISION = {**_TRANSFORMER, "image_size": 32}
_TINY = {**_VISION, "num_labels": 3}
_TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 40,
}
_SWIN = {
    "embed_dim": 8,
    "depths": [1, 1],
    "num_heads": [2, 2],
    "window_size": 2,
    "image_size": 32,
    "patch_size": 4,
    "num_labels": 3,
}


def _perceiver(architecture, d_model):
    return transformers.PerceiverConfig(
        image_size=32,
        num_latents=4,
        d_latents=16,
        d_model=d_model,
        num_blocks=1,
        num_self_attends_per_block=1,
        num_self_attention_heads=2,
        num_cross_attention_heads=1,
        num_labels=3,
        architectures=[architecture],
    )


def _of_two(config_class):
    config = config_class(vision_config=_VISION, text_config=_TEXT)
    config.num_labels = 3
    return config


EVERY = {
    "BeitForImageClassification": lambda: transformers.BeitConfig(**_TINY),
    "BitForImageClassification": lambda: transformers.BitConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_groups=2, num_labels=3
    ),
    "CLIPForImageClassification": lambda: _of_two(transformers.CLIPConfig),
    "ConvNextForImageClassification": lambda: transformers.ConvNextConfig(
        hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, image_size=32, num_labels=3
    ),
    "ConvNextV2ForImageClassification": lambda: transformers.ConvNextV2Config(
        hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, image_size=32, num_labels=3
    ),
    "CvtForImageClassification": lambda: transformers.CvtConfig(
        embed_dim=[8, 16, 16],
        num_heads=[1, 2, 2],
        depth=[1, 2, 3],
        patch_sizes=[7, 3, 3],
        patch_stride=[4, 2, 2],
        patch_padding=[2, 1, 1],
        mlp_ratio=[2.0] * 3,
        qkv_bias=[True] * 3,
        cls_token=[False, False, True],
        drop_path_rate=[0.0] * 3,
        num_labels=3,
    ),
    "Data2VecVisionForImageClassification": lambda: transformers.Data2VecVisionConfig(
        **_TINY, use_relative_position_bias=True
    ),
    "DeiTForImageClassification": lambda: transformers.DeiTConfig(
        **_TINY, architectures=["DeiTForImageClassification"]
    ),
    "DeiTForImageClassificationWithTeacher": lambda: transformers.DeiTConfig(
        **_TINY, architectures=["DeiTForImageClassificationWithTeacher"]
    ),
    "DinatForImageClassification": lambda: transformers.DinatConfig(
        embed_dim=8, depths=[1, 1], num_heads=[2, 2], num_labels=3
    ),
    "Dinov2ForImageClassification": lambda: transformers.Dinov2Config(**_TINY, mlp_ratio=2),
    "Dinov2WithRegistersForImageClassification": lambda: transformers.Dinov2WithRegistersConfig(**_TINY, mlp_ratio=2),
    "DonutSwinForImageClassification": lambda: transformers.DonutSwinConfig(**_SWIN),
    "EfficientNetForImageClassification": lambda: transformers.EfficientNetConfig(
        image_size=32,
        width_coefficient=0.25,
        depth_coefficient=0.3,
        hidden_dim=320,
        num_labels=3,
        dropout_rate=0.0,
        drop_connect_rate=0.0,
    ),
    "FocalNetForImageClassification": lambda: transformers.FocalNetConfig(
        image_size=32,
        patch_size=4,
        embed_dim=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        focal_levels=[2, 2],
        focal_windows=[3, 3],
        num_labels=3,
    ),
    "HGNetV2ForImageClassification": lambda: transformers.HGNetV2Config(
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        stem_channels=[3, 8, 8],
        stage_in_channels=[8, 16],
        stage_mid_channels=[8, 8],
        stage_out_channels=[16, 16],
        stage_num_blocks=[1, 1],
        stage_downsample=[False, True],
        stage_downsample_strides=[2, 2],
        stage_light_block=[False, True],
        stage_kernel_size=[3, 3],
        stage_numb_of_layers=[2, 2],
        num_labels=3,
    ),
    "HieraForImageClassification": lambda: transformers.HieraConfig(
        embed_dim=8,
        image_size=[32, 32],
        depths=[1, 1],
        num_heads=[1, 2],
        masked_unit_size=[2, 2],
        num_query_pool=1,
        query_stride=[2, 2],
        patch_size=[3, 3],
        patch_stride=[4, 4],
        patch_padding=[1, 1],
        num_labels=3,
    ),
    "IJepaForImageClassification": lambda: transformers.IJepaConfig(**_TINY),
    "ImageGPTForImageClassification": lambda: transformers.ImageGPTConfig(
        vocab_size=20, n_positions=64, n_embd=16, n_layer=2, n_head=2, num_labels=3
    ),
    "LevitForImageClassification": lambda: transformers.LevitConfig(
        image_size=64,
        hidden_sizes=[16, 24, 32],
        num_attention_heads=[2, 2, 2],
        depths=[1, 1, 1],
        key_dim=[4, 4, 4],
        num_labels=3,
        architectures=["LevitForImageClassification"],
    ),
    "LevitForImageClassificationWithTeacher": lambda: transformers.LevitConfig(
        image_size=64,
        hidden_sizes=[16, 24, 32],
        num_attention_heads=[2, 2, 2],
        depths=[1, 1, 1],
        key_dim=[4, 4, 4],
        num_labels=3,
        architectures=["LevitForImageClassificationWithTeacher"],
    ),
    "MetaClip2ForImageClassification": lambda: _of_two(transformers.MetaClip2Config),
    "MobileNetV1ForImageClassification": lambda: transformers.MobileNetV1Config(
        image_size=32, depth_multiplier=0.25, num_labels=3
    ),
    "MobileNetV2ForImageClassification": lambda: transformers.MobileNetV2Config(
        image_size=32, depth_multiplier=0.25, num_labels=3
    ),
    "MobileViTForImageClassification": lambda: transformers.MobileViTConfig(
        image_size=64,
        hidden_sizes=[12, 12, 12],
        neck_hidden_sizes=[8, 8, 8, 8, 8, 8, 16],
        num_attention_heads=2,
        patch_size=2,
        num_labels=3,
    ),
    "MobileViTV2ForImageClassification": lambda: transformers.MobileViTV2Config(
        image_size=64,
        width_multiplier=0.25,
        patch_size=2,
        n_attn_blocks=[1, 1, 1],
        base_attn_unit_dims=[16, 24, 32],
        num_labels=3,
    ),
    **{
        name: partial(_perceiver, name, d_model)
        for name, d_model in {
            "PerceiverForImageClassificationLearned": 16,
            "PerceiverForImageClassificationFourier": 261,
            "PerceiverForImageClassificationConvProcessing": 322,
        }.items()
    },
    "PoolFormerForImageClassification": lambda: transformers.PoolFormerConfig(
        hidden_sizes=[8, 16],
        depths=[1, 1],
        num_encoder_blocks=2,
        patch_sizes=[7, 3],
        strides=[4, 2],
        padding=[2, 1],
        num_labels=3,
    ),
    "PPLCNetForImageClassification": lambda: transformers.PPLCNetConfig(scale=0.25, num_labels=3),
    "PvtForImageClassification": lambda: transformers.PvtConfig(
        id2label=dict(enumerate("abc")),
        image_size=64,
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 2, 2],
        mlp_ratios=[2, 2, 2, 2],
        num_labels=3,
    ),
    "PvtV2ForImageClassification": lambda: transformers.PvtV2Config(
        image_size=64,
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 2, 2],
        mlp_ratios=[2, 2, 2, 2],
        num_labels=3,
    ),
    "RegNetForImageClassification": lambda: transformers.RegNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], groups_width=8, num_labels=3
    ),
    "ResNetForImageClassification": lambda: transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3
    ),
    "SegformerForImageClassification": lambda: transformers.SegformerConfig(
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
        num_labels=3,
    ),
    "ShieldGemma2ForImageClassification": transformers.ShieldGemma2Config,
    "SiglipForImageClassification": lambda: _of_two(transformers.SiglipConfig),
    "Siglip2ForImageClassification": lambda: _of_two(transformers.Siglip2Config),
    "SwiftFormerForImageClassification": lambda: transformers.SwiftFormerConfig(
        image_size=64, depths=[1, 1, 1, 1], embed_dims=[8, 8, 16, 16], num_labels=3, drop_path_rate=0.0
    ),
    "SwinForImageClassification": lambda: transformers.SwinConfig(**_SWIN),
    "Swinv2ForImageClassification": lambda: transformers.Swinv2Config(**_SWIN),
    "TextNetForImageClassification": lambda: transformers.TextNetConfig(
        stem_out_channels=8,
        hidden_sizes=[8, 8, 8, 8, 16],
        conv_layer_kernel_sizes=[[[3, 3]], [[3, 3]], [[3, 3]], [[3, 3]]],
        conv_layer_strides=[[1], [2], [2], [2]],
        num_labels=3,
    ),
    "TimmWrapperForImageClassification": lambda: transformers.TimmWrapperConfig(
        architecture="test_vit", num_labels=3, pretrained_cfg={"input_size": (3, 160, 160)}
    ),
    "ViTForImageClassification": lambda: transformers.ViTConfig(**_TINY),
    "ViTMSNForImageClassification": lambda: transformers.ViTMSNConfig(**_TINY),
}
"""Every class of the image-classification mapping of transformers, tiny."""
