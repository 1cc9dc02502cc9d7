"""Models from the Hub's cache and from folders, and the comparison of their processors."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from audit_toys import vit
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file
from toy_tasks import two_headed
from transformers import (
    CLIPImageProcessorPil,
    ConvNextImageProcessorPil,
    EfficientNetImageProcessorPil,
    MobileViTImageProcessorPil,
)

from hf_dtl.data import embedded_processor
from hf_dtl.errors import ModelError
from hf_dtl.models.loading import check_same_processors, load_classifier, open_classifier, processor_of, resized

REMEDY = "Choose one for all models."
COMMITS = {"main": "a" * 40, "dev": "d" * 40}


@pytest.fixture
def hub():
    """A Hub model with two revisions, in the cache; the second has other weights and another processor."""
    cache = Path(constants.HF_HUB_CACHE) / "models--someone--thing"
    model = two_headed().export("target")
    for revision, commit in COMMITS.items():
        (cache / "refs").mkdir(parents=True, exist_ok=True)
        (cache / "refs" / revision).write_text(commit)
        model.save_pretrained(cache / "snapshots" / commit)
        embedded_processor(16 if revision == "main" else 32).save_pretrained(cache / "snapshots" / commit)
        with torch.no_grad():
            model.get_parameter("classifier.bias").fill_(7.0)
    yield "someone/thing"
    shutil.rmtree(cache)


def test_weights_and_processor_are_those_of_the_revision(hub):
    for revision, bias, size in (("main", 0.0, 16), ("dev", 7.0, 32)):
        model = load_classifier(hub, revision)
        assert model.dtype == torch.float32 and not model.training
        assert model.get_parameter("classifier.bias").tolist() == [bias] * 4
        assert processor_of(hub, model, revision).size["height"] == size
    with pytest.raises(ModelError, match="'someone/thing' cannot be loaded"):
        load_classifier(hub, "nowhere")
    with pytest.raises(ModelError, match="at the revision 'nowhere'"):
        processor_of(hub, model, "nowhere")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda weights: weights.pop("classifier.weight"), "classifier.weight"),
        (lambda weights: weights.update({"classifier.bias": torch.zeros(5)}), "classifier.bias"),
        (lambda weights: [weights.pop(name) for name in list(weights)], "and 3[0-9] more"),
    ],
)
def test_missing_weights_are_refused_unless_they_are_a_head_to_be_replaced(change, named, tmp_path):
    two_headed().export("target").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    change(weights)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=named):
        load_classifier(tmp_path)
    if named.startswith("classifier"):
        load_classifier(tmp_path, new_head=True)
    else:
        with pytest.raises(ModelError, match="lack"):
            load_classifier(tmp_path, new_head=True)


def test_processors_are_compared_by_what_they_make_of_an_image():
    one, other = embedded_processor(16), embedded_processor(16)
    other.do_resize, other.image_std = True, [0.5, 0.5, 0.5]  # spelled differently, but the same
    check_same_processors({"undisposed": one, "scrubbed": other}, num_channels=3, remedy=REMEDY)
    other.do_rescale = False
    with pytest.raises(ModelError, match=r"do_rescale True \(undisposed\), False \(scrubbed\).* Choose one for all"):
        check_same_processors({"undisposed": one, "scrubbed": other}, num_channels=3, remedy=REMEDY)
    with pytest.raises(ModelError, match="height.: 16.*height.: 20"):
        check_same_processors({"undisposed": one, "scrubbed": embedded_processor(20)}, num_channels=3, remedy=REMEDY)
    cropping = ConvNextImageProcessorPil(image_mean=[0.5] * 3, image_std=[0.5] * 3, size={"shortest_edge": 16})
    with pytest.raises(ModelError, match="crop_pct"):
        check_same_processors({"undisposed": one, "scrubbed": cropping}, num_channels=3, remedy=REMEDY)


PROCESSORS = [
    embedded_processor(16),
    ConvNextImageProcessorPil(size={"shortest_edge": 32}, crop_pct=0.5, resample=0),
    CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size={"height": 32, "width": 32}),
    CLIPImageProcessorPil(size={"shortest_edge": 48}, do_center_crop=False),
    MobileViTImageProcessorPil(size={"shortest_edge": 48}, crop_size={"height": 32, "width": 32}),
    EfficientNetImageProcessorPil(size={"height": 32, "width": 32}, include_top=True, rescale_offset=True),
]


@pytest.mark.parametrize("processor", PROCESSORS, ids=lambda p: type(p).__name__)
def test_resized_changes_the_size_alone(processor):
    """A plain picture keeps its values: mean, deviation, rescaling and the order of channels. The margin is cut off
    in the same proportion, and everything else is as it was."""
    processor.image_mean, processor.image_std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    result = resized(processor, two_headed().backbone, 24)
    picture = Image.new("RGB", (60, 40), (200, 100, 50))
    before, after = (np.asarray(p([picture])["pixel_values"][0]) for p in (processor, result))
    assert after.shape == (3, 24, 24) and type(result) is type(processor)
    np.testing.assert_allclose(after.mean((1, 2)), before.mean((1, 2)), atol=1e-2)
    one, other = (json.loads(p.to_json_string()) for p in (processor, result))
    assert {k for k in one if one[k] != other[k]} <= {"size", "crop_size", "do_center_crop"}
    assert resized(result, two_headed().backbone, 24).to_dict() == result.to_dict()


def test_a_crop_is_resized_with_what_it_is_cut_from():
    result = resized(PROCESSORS[2], two_headed().backbone, 16).to_dict()
    assert result["size"] == {"shortest_edge": 24} and result["crop_size"] == {"height": 16, "width": 16}


def test_weights_of_another_folder_are_never_taken(tmp_path):
    torch.manual_seed(0)
    model = vit()
    model.save_pretrained(tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    names = load_classifier(tmp_path / "model").state_dict()
    weights.rename(tmp_path / "elsewhere.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "../elsewhere.safetensors")}
    (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="outside the folder"):
        load_classifier(tmp_path / "model")


def test_a_processors_code_is_never_run(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *question: "y")
    vit().save_pretrained(tmp_path)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'RAN')!r}, 'w')\nclass P: pass\n")
    own = {"image_processor_type": "P", "auto_map": {"AutoImageProcessor": "evil.P"}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(own))
    with pytest.raises(ModelError, match="image processor"):
        processor_of(tmp_path, vit())
    assert not (tmp_path / "RAN").exists()


def test_a_model_is_the_one_that_everybody_loads(tmp_path):
    """Its settings may name a precision in which it is another one."""
    model = vit()
    with torch.no_grad():
        model.classifier.weight.fill_(1e-9)
    model.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"dtype": "float16"}))
    found = load_classifier(tmp_path)
    assert found.dtype == torch.float32 and not found.classifier.weight.any()


def test_a_processor_that_enlarges_without_end_is_refused_before_it_does(tmp_path):
    ConvNextImageProcessorPil(size={"shortest_edge": 32}, crop_pct=1e-4).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="enlarges pictures until crop_pct 0.0001 of a side"):
        processor_of(tmp_path, vit())


@pytest.mark.parametrize(
    ("asked", "told"),
    [({"model_args": {"checkpoint_path": "/etc/x"}}, "weights of another place .checkpoint_path"),
     ({"architecture": "hf-hub:ann/private"}, "none of timm's own"), ({"architecture": "local-dir:/x"}, "timm's own")],
)  # fmt: skip
def test_timm_is_asked_for_no_weights_of_another_place(asked, told, tmp_path):
    with pytest.raises(ModelError, match=told):
        open_classifier(tmp_path, config=SimpleNamespace(**asked))
