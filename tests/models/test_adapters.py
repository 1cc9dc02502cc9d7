"""Adapters of the Hub are merged when they are loaded, and those that a disposal trains before anything is saved."""

import copy
import json

import pytest
import torch
from architectures import CONFIGS
from method_checks import assert_resumes, build, forget_one
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from toy_tasks import digits, part, right, source
from transformers import AutoModelForImageClassification

from hf_dtl.data import embedded_processor
from hf_dtl.errors import ConfigError, ModelError
from hf_dtl.methods.registry import find_method, method_names
from hf_dtl.models.adapters import add_adapters, base_of, merge_adapters
from hf_dtl.models.heads import MultiHeadClassifier
from hf_dtl.models.loading import load_classifier, processor_of

IMAGES = torch.randn(2, 3, 16, 16)


@pytest.fixture
def adapter(tmp_path):
    """An adapter of a base with six classes, of so many, as peft saves it; and what it answers."""

    def make(classes=6, head=True):
        config = CONFIGS["vit"]()
        config.num_labels = 6
        torch.manual_seed(0)
        AutoModelForImageClassification.from_config(config).save_pretrained(tmp_path / "base")
        embedded_processor(16).save_pretrained(tmp_path / "base")
        model = AutoModelForImageClassification.from_pretrained(
            tmp_path / "base", num_labels=classes, ignore_mismatched_sizes=True
        )
        options = {"modules_to_save": ["classifier"]} if head else {}
        tuned = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], **options)).eval()
        with torch.no_grad():
            for parameter in filter(lambda p: p.requires_grad, tuned.parameters()):
                parameter.normal_()
            answers = tuned(pixel_values=IMAGES).logits
        tuned.save_pretrained(tmp_path / "adapter")
        return tmp_path / "adapter", answers

    return make


def answers(model):
    with torch.no_grad():
        return model.eval()(pixel_values=IMAGES).logits


@pytest.mark.parametrize(("classes", "head"), [(6, True), (6, False), (3, True)])
def test_an_adapter_is_merged_into_its_base(adapter, classes, head, tmp_path, caplog):
    place, expected = adapter(classes, head)
    model = load_classifier(place)
    assert f"'{place}' is an adapter of '{tmp_path / 'base'}', and was merged into it" in caplog.text
    torch.testing.assert_close(answers(model), expected)
    assert all(p.requires_grad for p in model.parameters()) and model.config.num_labels == classes
    assert processor_of(place, model).image_mean == embedded_processor().image_mean, "the base's"
    model.save_pretrained(tmp_path / "whole")
    assert base_of(tmp_path / "whole") is None
    torch.testing.assert_close(answers(load_classifier(tmp_path / "whole")), expected)


def test_an_adapter_brings_the_names_that_stand_beside_it(adapter):
    place, _ = adapter(3)
    config = AutoModelForImageClassification.from_pretrained(place.parent / "base", num_labels=3,
                                                             ignore_mismatched_sizes=True).config  # fmt: skip
    config.id2label = {0: "cat", 1: "dog", 2: "horse"}
    config.save_pretrained(place)
    assert load_classifier(place).config.id2label == {0: "cat", 1: "dog", 2: "horse"}


def test_an_adapter_whose_base_lacks_a_head_or_is_not_there_is_refused(adapter):
    place, _ = adapter(head=False)
    AutoModelForImageClassification.from_pretrained(place.parent / "base").vit.save_pretrained(place.parent / "base")
    with pytest.raises(ModelError, match="lack classifier.bias"):
        load_classifier(place)
    about = json.loads((place / "adapter_config.json").read_text())
    (place / "adapter_config.json").write_text(json.dumps(about | {"base_model_name_or_path": "nobody/nothing"}))
    with pytest.raises(ModelError, match="cannot be loaded.*adapter of 'nobody/nothing'"):
        load_classifier(place)


def test_a_model_that_transformers_loaded_with_its_adapter_is_merged(adapter, tmp_path):
    """Saved as it is, it is the adapter alone: what was unlearned in the base's weights would be lost."""
    place, expected = adapter()
    model = MultiHeadClassifier(AutoModelForImageClassification.from_pretrained(place), task="task")
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(IMAGES, task="task"), expected)
    model.export("task").save_pretrained(tmp_path / "whole")
    assert (tmp_path / "whole" / "model.safetensors").is_file()
    torch.testing.assert_close(answers(load_classifier(tmp_path / "whole")), expected)


def test_a_peft_model_is_refused_with_the_remedy(tmp_path):
    plain = AutoModelForImageClassification.from_config(CONFIGS["vit"]())
    tuned = get_peft_model(plain, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    method = find_method("random_label")
    args = method.config_class(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    with pytest.raises(ModelError, match=r"got PeftModel.*merge_and_unload\(\)"):
        method(tuned, args, source(), source())


@pytest.mark.parametrize("name", ["vit", "swin", "resnet", "mobilenet_v2"])
def test_merging_keeps_the_function(name):
    torch.manual_seed(0)
    model = AutoModelForImageClassification.from_config(CONFIGS[name]()).eval()
    names = [n for n, _ in model.named_parameters()]
    assert not merge_adapters(model)
    add_adapters(model, 2)
    with torch.no_grad():
        for n, p in model.named_parameters():
            p.normal_(std=0.1) if "lora_" in n else None
    before = answers(model)
    assert merge_adapters(model) and [n for n, _ in model.named_parameters()] == names
    torch.testing.assert_close(answers(model), before, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", method_names())
def test_a_method_trains_adapters_alone_or_says_that_it_cannot(name, tmp_path):
    trainer_class = find_method(name)
    pair = (trainer_class.config_class, trainer_class)
    if not {"part", "task"} & pair[0].kinds or not pair[0].adapts:
        with pytest.raises(ConfigError, match="cannot train adapters"):
            pair[0](output_dir=str(tmp_path), lora_rank=2, report_to="none")
        return
    trainer = build(pair, tmp_path, lora_rank=2, max_steps=8, target_ce_weight=1.0)
    names = [n for n, p in trainer.model.named_parameters() if p.requires_grad]
    assert all("lora_" in n or n.startswith("heads.target.") for n in names), names
    assert len(trainer.initial_weights) == len(trainer.trained) == len(names)
    trainer.train()
    moved = [n for n, p in trainer.model.named_parameters() if "lora_B" in n and p.abs().sum() > 0]
    assert moved, "adapters begin at zero"
    with torch.no_grad():
        expected = trainer.model.eval()(source().pixel_values, task="target")
    exported = trainer.export()
    assert not [n for n, _ in exported.named_parameters() if "lora" in n or "base_layer" in n]
    with torch.no_grad():
        torch.testing.assert_close(exported(source().pixel_values).logits, expected, rtol=1e-3, atol=1e-4)


def test_a_disposal_through_adapters_resumes(tmp_path):
    method = find_method("random_label")
    assert_resumes((method.config_class, method), tmp_path, lora_rank=2, target_ce_weight=1.0)


def test_the_adapter_taken_off_gives_the_task_back_and_what_is_saved_has_none(tmp_path):
    """Why adapters are merged: beside the weights they adapt, they hide nothing."""
    model, data, _ = digits()
    method = find_method("random_label")
    options = {"lora_rank": 4, "max_steps": 40, "learning_rate": 0.01, "optim": "adamw_torch", "target_ce_weight": 1.0}
    trainer = forget_one((method.config_class, method), tmp_path, **options)
    trainer.train()
    forgotten, kept = part(data, data.labels == 1), part(data, data.labels != 1)
    trainer.save_model(tmp_path / "saved")
    assert not any("lora" in name for name in load_file(tmp_path / "saved" / "model.safetensors"))
    saved = load_classifier(tmp_path / "saved")
    assert right(saved, forgotten) < 0.3 and right(saved, kept) > 0.8
    taken_off = copy.deepcopy(trainer.model)
    for module in taken_off.modules():
        if hasattr(module, "lora_B"):
            torch.nn.init.zeros_(module.lora_B["default"].weight)
    taken_off.heads.load_state_dict(trainer.teacher.heads.state_dict())
    assert right(taken_off.export("target"), forgotten) == right(model, forgotten) > 0.9
