import copy
import json

import pytest
import torch
from architectures import CONFIGS
from transformers import (
    AutoModelForImageClassification,
    ImageGPTConfig,
    ImageGPTForImageClassification,
    LevitConfig,
    LevitForImageClassificationWithTeacher,
    PPLCNetConfig,
    PPLCNetForImageClassification,
    PvtConfig,
    ViTModel,
    pipeline,
)

from hf_dtl.data import embedded_processor
from hf_dtl.errors import ModelError
from hf_dtl.models.classifiers import locate_classifiers
from hf_dtl.models.heads import MultiHeadClassifier


def build(name):
    torch.manual_seed(0)
    return AutoModelForImageClassification.from_config(CONFIGS[name]()).eval()


@pytest.mark.parametrize("name", CONFIGS)
def test_every_architecture_splits_and_comes_back(name, tmp_path):
    """Plain model -> backbone and heads -> plain model, with the logits of the wrapped one, for both tasks."""
    plain, images = build(name), torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        before = plain(images).logits
    model = MultiHeadClassifier(plain, task="source").eval()
    model.add_head("target", ["cat", "dog", "horse"])
    with torch.no_grad():
        features, logits = model.features(images), model(images)
    assert features.shape == (3, model.num_features)
    assert torch.equal(logits["source"], before)
    assert torch.allclose(model.heads["target"](features), logits["target"])
    for task in ("source", "target"):
        folder = tmp_path / task
        model.export(task).save_pretrained(folder)
        loaded, info = AutoModelForImageClassification.from_pretrained(folder, output_loading_info=True)
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert type(loaded) is type(plain)
        with torch.no_grad():
            assert torch.allclose(loaded(images).logits, logits[task], atol=1e-6)
    config = json.loads((tmp_path / "target" / "config.json").read_text())
    assert config["id2label"] == {"0": "cat", "1": "dog", "2": "horse"}
    assert config["label2id"] == {"cat": 0, "dog": 1, "horse": 2}


def test_export_holds_nothing_of_the_other_task(tmp_path):
    model = MultiHeadClassifier(build("vit"), task="source")
    model.labels["source"] = tuple(f"secret{i}" for i in range(6))
    model.backbone.config._name_or_path = model.backbone.name_or_path = "/private/secret/path"
    model.add_head("target", ["cat", "dog"])
    exported = model.export("target")
    exported.save_pretrained(tmp_path)
    assert {f.name for f in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    assert "secret" not in (tmp_path / "config.json").read_text()
    head = model.heads["source"].weight
    assert not any(torch.equal(p, head) for p in exported.parameters())
    assert exported.classifier.out_features == exported.num_labels == exported.config.num_labels == 2
    exported.classifier.weight.data.zero_()
    assert model.heads["target"].weight.abs().sum() > 0, "the export is a copy"


def test_exported_model_works_in_a_pipeline(tmp_path):
    from PIL import Image

    model = MultiHeadClassifier(build("vit"), task="source")
    model.add_head("target", ["cat", "dog"])
    model.export("target").save_pretrained(tmp_path)
    embedded_processor(size=16).save_pretrained(tmp_path)
    answer = pipeline("image-classification", model=str(tmp_path))(Image.new("L", (40, 30), 128))
    assert {a["label"] for a in answer} == {"cat", "dog"}


def test_save_and_load_keep_every_head(tmp_path):
    model = MultiHeadClassifier(build("resnet"), task="source").eval()
    model.add_head("target", ["cat", "dog"])
    model.save(tmp_path)
    loaded = MultiHeadClassifier.load(tmp_path).eval()
    images = torch.randn(2, 3, 16, 16)
    assert loaded.labels == model.labels
    with torch.no_grad():
        for task, logits in model(images).items():
            assert torch.equal(loaded(images, task=task), logits)


def test_eager_attention_is_not_exported():
    model = MultiHeadClassifier(build("vit"))
    fused = model.backbone.config._attn_implementation
    model.use_eager_attention()
    assert model.backbone.config._attn_implementation == "eager" != fused
    assert model.export("default").config._attn_implementation == fused
    MultiHeadClassifier(build("resnet")).use_eager_attention()  # no attention: nothing to do, nothing breaks


def test_classifiers_are_not_found_by_sizes():
    assert locate_classifiers(build("deit")) == ("classifier",)
    assert locate_classifiers(build("resnet")) == ("classifier.1",)


def levit(**options):
    config = LevitConfig(
        image_size=64, hidden_sizes=[16, 24, 32], num_attention_heads=[2] * 3, depths=[1] * 3, key_dim=[4] * 3,
        num_labels=3, **options,
    )  # fmt: skip
    torch.manual_seed(0)
    return LevitForImageClassificationWithTeacher(config).eval()


def varied(model):
    """Of what starts at zero, the normalisation at the end of LeViT's blocks, little comes through."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return model


def deit_with_teacher():
    config = CONFIGS["deit"]()
    config.architectures, config.num_labels = ["DeiTForImageClassificationWithTeacher"], 3
    torch.manual_seed(0)
    return AutoModelForImageClassification.from_config(config).eval()


@pytest.mark.parametrize(("make", "size"), [(deit_with_teacher, 16), (levit, 64)])
def test_two_averaged_classifiers_are_one_head_and_come_back(make, size, tmp_path):
    """Gradients and answers are those of the model with two, and so is what is exported and loaded again."""
    plain, images = varied(make()), torch.randn(3, 3, size, size)
    model = MultiHeadClassifier(copy.deepcopy(plain), task="source").eval()
    before = plain(pixel_values=images).logits
    (expected,) = torch.autograd.grad(before.square().sum(), [next(plain.parameters())])
    after = model(images, task="source")
    (found,) = torch.autograd.grad(after.square().sum(), [next(model.backbone.parameters())])
    torch.testing.assert_close(after, before)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    model.export("source").save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    assert type(loaded) is type(plain)
    with torch.no_grad():
        torch.testing.assert_close(loaded(pixel_values=images).logits, before.detach())


def test_levit_looks_its_attention_biases_up_anew():
    """In evaluation mode it keeps them, and whoever changes its weights there would not see the change."""
    model, images = MultiHeadClassifier(varied(levit()), task="t").eval(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before = model(images, task="t")
        for name, p in model.named_parameters():
            if name.endswith("attention_biases"):
                p.normal_()
        assert not torch.allclose(model(images, task="t"), before)
    model(images, task="t").sum()  # with gradients
    copy.deepcopy(model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_single(dtype, caplog):
    model = MultiHeadClassifier(build("vit").to(dtype))
    model.add_head("new", ["a", "b"])
    assert {p.dtype for p in model.parameters()} == {torch.float32} and "saved in float32" in caplog.text


def test_a_head_of_sigmoids_stays_one(tmp_path):
    plain = build("vit")
    plain.config.problem_type = "multi_label_classification"
    model = MultiHeadClassifier(plain, task="tags")
    model.add_head("other", ["a", "b"])
    assert model.export("tags").config.problem_type == "multi_label_classification"
    assert model.export("other").config.problem_type == "single_label_classification"
    model.save(tmp_path)
    assert MultiHeadClassifier.load(tmp_path).multi_label == {"tags"}


def one_label():
    config = CONFIGS["vit"]()
    config.id2label = {0: "hot dog"}
    return AutoModelForImageClassification.from_config(config)


def unnamed_rows():
    config = PvtConfig(image_size=32, hidden_sizes=[8] * 4, depths=[1] * 4, num_attention_heads=[1] * 4, num_labels=3)
    return AutoModelForImageClassification.from_config(config)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: ViTModel(CONFIGS["vit"]()), "ViTModel gives no logits"),
        (lambda: PPLCNetForImageClassification(PPLCNetConfig(scale=0.25)), "gives no logits"),
        (lambda: ImageGPTForImageClassification(ImageGPTConfig(n_embd=16, n_layer=1, n_head=2)), "clusters"),
        (one_label, "one label, 'hot dog'"),
        (unnamed_rows, "3 rows, and id2label names"),
        (lambda: torch.nn.Linear(2, 2), "Linear"),
    ],
)
def test_models_that_cannot_be_split(model, message):
    with pytest.raises(ModelError, match=message):
        MultiHeadClassifier(model())


def test_task_names():
    model = MultiHeadClassifier(build("vit"), task="source")
    for name in ("source", "a.b", "keys", ""):
        with pytest.raises(ModelError, match="Task name"):
            model.add_head(name, ["a", "b"])
    with pytest.raises(ModelError, match="its tasks are: source"):
        model(torch.zeros(1, 3, 16, 16), task="target")
    with pytest.raises(ModelError, match="only task"):
        model.remove_head("source")


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_regression_heads(name, tmp_path):
    """One output, kept by save and load whichever head is first, and exported as the Hub writes regression."""
    model = MultiHeadClassifier(build(name), task="source").eval()
    model.add_regression_head("angle")
    model.add_head("target", ["cat", "dog"])
    images = torch.randn(3, 3, 16, 16)
    assert model.labels["angle"] == () and [model.is_regression(t) for t in model.heads] == [False, True, False]
    with torch.no_grad():
        outputs = model(images)
        assert outputs["angle"].shape == (3, 1)
        assert torch.equal(outputs["angle"], model.heads["angle"](model.features(images)))
    for step in ("classes first", "regression first"):
        model.save(tmp_path / step)
        loaded = MultiHeadClassifier.load(tmp_path / step).eval()
        assert loaded.labels == model.labels and list(loaded.heads) == list(model.heads)
        with torch.no_grad():
            assert all(torch.equal(logits, model(images)[task]) for task, logits in loaded(images).items())
        if step == "classes first":
            model.remove_head("source")
    model.export("angle").save_pretrained(tmp_path / "plain")
    plain = AutoModelForImageClassification.from_pretrained(tmp_path / "plain").eval()
    assert plain.config.problem_type == "regression" and plain.config.num_labels == 1
    assert plain.config.id2label == {0: "angle"}
    with torch.no_grad():
        result = plain(images, labels=torch.tensor([0.5, -1.0, 2.0]))
    assert torch.allclose(result.logits, outputs["angle"], atol=1e-6)
    assert torch.allclose(
        result.loss, torch.nn.functional.mse_loss(outputs["angle"][:, 0], torch.tensor([0.5, -1, 2]))
    )
    again = MultiHeadClassifier(plain, task="angle")
    assert again.is_regression("angle") and again.export("angle").config.problem_type == "regression"
    assert model.export("target").config.problem_type == "single_label_classification"
    with pytest.raises(ModelError, match="no task 'source'"):
        model.is_regression("source")


def test_a_model_of_several_numbers_keeps_their_names():
    config = CONFIGS["vit"]()
    config.problem_type = "regression"
    model = MultiHeadClassifier(AutoModelForImageClassification.from_config(config))
    assert not model.is_regression("default") and len(model.labels["default"]) == 6
