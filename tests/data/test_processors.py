"""Processors for models without one, and the check that one image passes through the model."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    CLIPConfig,
    MobileViTImageProcessorPil,
    SiglipConfig,
    ViTConfig,
    ViTForImageClassification,
    pipeline,
)

from hf_dtl.data import (
    ImageTensors,
    check_forward,
    default_processor,
    embedded_processor,
    load_images,
    load_processor,
    load_task,
)
from hf_dtl.data.processors import channels_of
from hf_dtl.errors import ModelError

DINOV2 = Path(__file__).resolve().parents[2].parent / "shared" / "models" / "dinov2-small-focus"
IMAGENET_MEAN, IMAGENET_DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def vit(**options) -> ViTForImageClassification:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return ViTForImageClassification(ViTConfig(image_size=28, patch_size=7, **sizes, **options))


def test_embedded_processor_survives_saving_and_serves_a_pipeline(tmp_path):
    model, processor = vit().eval(), embedded_processor()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert load_processor(tmp_path, model.config).to_dict() == processor.to_dict()
    row = load_task("mnist[0,1]", images_per_class=1).train
    pixels = load_images(row, processor, num_channels=3)[0]["pixel_values"]
    again = AutoImageProcessor.from_pretrained(tmp_path)(row[0]["image"], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(again[0], pixels)
    answer = pipeline("image-classification", model=str(tmp_path))(row[0]["image"])
    with torch.no_grad():
        expected = model(pixel_values=pixels[None]).logits.softmax(-1).max().item()
    assert answer[0]["score"] == pytest.approx(expected, abs=1e-5)


def test_default_processor_follows_the_model():
    processor = default_processor(ViTConfig(image_size=56))
    image = np.random.default_rng(0).integers(0, 256, (56, 56, 3), dtype=np.uint8)
    result = processor(Image.fromarray(image))["pixel_values"][0]
    expected = (image / 255 - IMAGENET_MEAN) / IMAGENET_DEVIATION
    np.testing.assert_allclose(result, expected.transpose(2, 0, 1), atol=1e-5)
    assert default_processor(ViTConfig(), size=(20, 30))(Image.fromarray(image))["pixel_values"][0].shape == (
        3,
        20,
        30,
    )
    grey = default_processor(ViTConfig(image_size=56, num_channels=1))(Image.fromarray(image[..., 0]))
    np.testing.assert_allclose(grey["pixel_values"][0][0], image[..., 0] / 127.5 - 1, atol=1e-5)


def test_a_folder_without_processor_gets_the_default_and_says_so(tmp_path, caplog):
    model = vit()
    model.save_pretrained(tmp_path)
    assert load_processor(str(tmp_path), model.config).image_mean == pytest.approx(IMAGENET_MEAN)
    assert "no image processor file" in caplog.text and "28×28" in caplog.text
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_processor(str(tmp_path), model.config)
    with pytest.raises(ModelError, match="Hub cannot be asked for the image processor of 'nobody/nothing'"):
        load_processor("nobody/nothing", model.config)


@pytest.mark.skipif(not DINOV2.is_dir(), reason="the shared DINOv2 folder is not on this machine")
def test_dinov2_without_processor_file():
    from transformers import AutoConfig

    processor = load_processor(DINOV2, AutoConfig.from_pretrained(DINOV2))
    assert processor.size["height"] == 518 and processor.image_std == pytest.approx(IMAGENET_DEVIATION)


def test_check_forward_passes_and_leaves_every_mode_as_it_was():
    model = vit().train()
    model.vit.eval()
    before = [module.training for module in model.modules()]
    check_forward(model, ImageTensors(torch.zeros(2, 3, 28, 28), torch.tensor([0, 1])))
    assert [module.training for module in model.modules()] == before
    assert all(parameter.grad is None for parameter in model.parameters())


def test_check_forward_explains_a_misfit():
    for shape in ((3, 32, 32), (1, 28, 28)):
        images = ImageTensors(torch.zeros(1, *shape), torch.tensor([0]))
        with pytest.raises(ModelError, match=r"image_size 28, num_channels 3.*--image_size") as error:
            check_forward(vit(), images)
        assert str(shape) in str(error.value)
    broken = vit().train()
    with torch.no_grad():
        broken.classifier.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="not finite"):
        check_forward(broken, ImageTensors(torch.zeros(1, 3, 28, 28), torch.tensor([0])))
    assert broken.training


@pytest.mark.parametrize("kind", [SiglipConfig, CLIPConfig])
def test_the_size_is_read_where_the_images_are_described(kind):
    """CLIP and SigLIP have a configuration of images beside one of texts."""
    config = kind(vision_config={"image_size": 32, "num_channels": 1})
    processor = default_processor(config)
    assert processor.size["height"] == 32 and list(processor.image_mean) == [0.5] and channels_of(config) == 1
    assert channels_of(ViTConfig()) == 3


def test_a_processor_whose_arrays_are_turned_round_is_taken():
    """MobileViT's flips the channels, which numpy does by a view of negative stride."""
    processor = MobileViTImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    task = load_task("mnist[0,1]", images_per_class=10)
    assert load_images(task.train, processor, num_channels=3).pixel_values.shape[1:] == (3, 16, 16)


@pytest.mark.parametrize(
    "broken",
    [{"image_std": [0.0] * 3}, {"image_std": [-0.5] * 3}, {"image_std": [1e-9] * 3}, {"image_std": [1e9] * 3},
     {"image_std": [float("nan")] * 3}, {"image_mean": [1e30] * 3}, {"rescale_factor": 0.0}, {"rescale_factor": -1.0}],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["ViTImageProcessorPil", "ViTImageProcessor"])
def test_a_processor_that_makes_no_picture_of_a_picture_is_refused(tmp_path, broken, kind):
    written = json.loads(embedded_processor().to_json_string()) | broken | {"image_processor_type": kind}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(written))
    with pytest.raises(ModelError, match="makes no picture: from black to white|cannot process an image"):
        load_processor(tmp_path, ViTConfig())
    sound = written | {"image_mean": [9.0] * 3, "image_std": [0.004] * 3, "rescale_factor": 1 / 255}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(sound))
    assert load_processor(tmp_path, ViTConfig()).rescale_factor == 1 / 255
