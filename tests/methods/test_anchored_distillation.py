import copy
import math

import method_checks
import pytest
import torch
from architectures import CONFIGS
from method_checks import assert_resumes, assert_split_does_not_matter, assert_trains, build, trained
from toy_tasks import OPTIONS, part, source, target, two_headed
from transformers import AutoModelForImageClassification

from hf_dtl.data.images import ImageTensors
from hf_dtl.errors import ConfigError, DataError, ModelError
from hf_dtl.methods.anchored_distillation import AnchoredDistillationTrainer
from hf_dtl.methods.anchored_distillation_config import AnchoredDistillationConfig
from hf_dtl.methods.transfer_images import TRANSFER, TransferLabels

PAIR = (AnchoredDistillationConfig, AnchoredDistillationTrainer)
FEW = dict(views=24, num_chunks=4)


def speaking(name="vit"):
    """A random model whose target head names different classes."""
    model = two_headed(name).eval()
    head = model.heads["target"]
    with torch.no_grad():
        features = model.features(target().pixel_values)
        head.weight.mul_(200)
        head.bias.sub_((features @ head.weight.T).mean(0))
    return model


@pytest.fixture(autouse=True)
def _a_teacher_that_says_something(monkeypatch):
    monkeypatch.setattr(method_checks, "two_headed", speaking)


@pytest.mark.parametrize(
    ("name", "channel"),
    [("vit", "labels"), ("resnet", "labels"), ("vit", "outputs:8"), ("resnet", "outputs"), ("vit", "features:2")],
)
def test_it_trains_resumes_and_does_not_depend_on_the_split(tmp_path, name, channel):
    options = FEW | {"channel": channel}
    assert_trains(PAIR, tmp_path, name, max_steps=2, **options | {"learning_rate": 1e-3})
    assert_split_does_not_matter(PAIR, tmp_path, name, **options | {"learning_rate": 1e-2})
    assert_resumes(PAIR, tmp_path, name, **options | {"learning_rate": 1e-2})


def test_forget_images_and_the_teachers_weights_have_no_part_in_the_student(tmp_path):
    """Another source, and other weights of a teacher that says the same: the same student, bit by bit."""
    one = trained(PAIR, tmp_path / "1", speaking(), max_steps=2, **FEW)
    other = speaking()
    other.backbone.apply(lambda module: [p.data.mul_(1.5) for p in module.parameters(recurse=False)])
    zeros = ImageTensors(torch.zeros_like(source().pixel_values), source().labels)
    args = AnchoredDistillationConfig(output_dir=str(tmp_path / "2"), **OPTIONS | FEW | {"max_steps": 2})
    two = AnchoredDistillationTrainer(other, args, zeros, target(), labels=one.labels)
    two.train()
    state, again = one.export().state_dict(), two.export().state_dict()
    assert all(torch.equal(value, again[name]) for name, value in state.items())


def test_the_student_starts_at_public_weights_under_a_head_that_nobody_trained(tmp_path):
    base = two_headed().export("source")
    base.vit.layernorm.weight.data.fill_(0.7)
    base.save_pretrained(tmp_path / "base")
    teacher = speaking()
    student = build(PAIR, tmp_path, copy.deepcopy(teacher), base_model=str(tmp_path / "base"), **FEW)
    started = student.model.backbone.state_dict()
    assert all(torch.equal(value, started[name]) for name, value in base.state_dict().items() if name in started)
    head, given = (model.heads["target"].weight.detach() for model in (student.model, teacher))
    assert abs(torch.corrcoef(torch.stack([head.flatten(), given.flatten()]))[0, 1]) < 0.4
    assert head.std().item() == pytest.approx(0.02, rel=0.3)


def test_labels_are_made_once_of_the_teacher_and_kept_with_the_model(tmp_path):
    few = part(target(), torch.arange(len(target().labels)) < 20)
    trainer = trained(PAIR, tmp_path / "1", speaking(), max_steps=2, confidence=0.5, **FEW)
    said = trainer.labels
    assert said.rejection and said.channel == "labels" and said.classes == ("6", "7", "8", "9")
    with torch.no_grad():
        shares = speaking()(trainer.transfer.named.pixel_values, task="target").softmax(-1)
    best, wanted = shares.max(-1)
    assert torch.equal(said.codes, torch.where(best < 0.5, 4, wanted))
    trainer.save_model(tmp_path / "model")
    assert TransferLabels.load(tmp_path / "model" / TRANSFER).to_json() == said.to_json()
    found = trainer.bound()
    assert found["bits"] == pytest.approx(24 * math.log2(5)) and found["bytes"] == 7 and found["base"] is None
    rows = part(few, few.labels < 2)  # a class that no labelled image has is never named
    pair = trained(PAIR, tmp_path / "2", speaking(), retain=rows, max_steps=1, **FEW)
    assert pair.labels.classes == ("6", "7") and pair.bound()["bits"] == 24


def test_from_the_second_round_on_the_student_names_the_images_and_it_resumes_there(tmp_path):
    options = FEW | {"rounds": 2, "confidence": 0.4, "learning_rate": 0.05}
    trainer = trained(PAIR, tmp_path / "1", speaking(), max_steps=4, **options)
    assert trainer.bound()["rounds"] == 1, "the private model speaks once"
    first = torch.cat([trainer._true, trainer.heard(trainer.labels)])
    assert not torch.equal(trainer.targets, first)
    assert_resumes(PAIR, tmp_path / "2", **options)


def base_of_another_kind(folder, kind="resnet", **changes):
    config = copy.deepcopy(CONFIGS[kind]())
    for name, value in changes.items():
        setattr(config, name, value)
    AutoModelForImageClassification.from_config(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"channel": "labels:2"}, ConfigError, "channel='labels:2' is unknown; use labels"),
        ({"channel": "outputs", "confidence": 0.5}, ConfigError, "confidence=0.5 is for what is said once"),
        ({"channel": "features:2", "rounds": 2}, ConfigError, "rounds=2 is for what is said once"),
        ({"channel": "features:999"}, ConfigError, "no more than .* directions. Lower r"),
        ({"views": 0}, ConfigError, "views=0 and no transfer images"),
        ({"confidence": 1.5}, ConfigError, "confidence=1.5"),
        ({"views": 10**7}, ConfigError, "views=10000000 .* lower it"),
        ({"base_model": "KIND"}, ModelError, "is a ResNetForImageClassification .* needs the architecture"),
        ({"base_model": "SIZE"}, ModelError, "another size of images or layers"),
        ({"base_model": "SAME"}, ConfigError, "is the given model itself"),
    ],
)
def test_bad_options(tmp_path, options, error, message):
    teacher = speaking()
    places = {"KIND": lambda: base_of_another_kind(tmp_path / "kind"),
              "SIZE": lambda: base_of_another_kind(tmp_path / "size", "vit", image_size=32)}  # fmt: skip
    if options.get("base_model") == "SAME":
        teacher.export("target").save_pretrained(tmp_path / "same")
        options = {"base_model": str(tmp_path / "same")}
    elif "base_model" in options:
        options = {"base_model": places[options["base_model"]]()}
    with pytest.raises(error, match=message):
        build(PAIR, tmp_path, teacher, **FEW | options)


def test_a_teacher_that_says_nothing_and_images_that_are_none_are_named(tmp_path):
    silent = speaking()
    silent.heads["target"].bias.data[2] = 99.0
    with pytest.raises(DataError, match="calls 100% of the 24 transfer images '8'"):
        build(PAIR, tmp_path, silent, **FEW)
    unsure = speaking()
    for values in unsure.heads["target"].parameters():
        values.data.mul_(1e-3)
    with pytest.raises(DataError, match="confidence=0.9: the given model is that sure of none"):
        build(PAIR, tmp_path, unsure, confidence=0.9, **FEW)
    none, args = part(target(), target().labels < 0), AnchoredDistillationConfig(output_dir=str(tmp_path), **OPTIONS)
    with pytest.raises(DataError, match="There is no transfer image"):
        AnchoredDistillationTrainer(speaking(), args, source(), target(), transfer_dataset=none)
    said = trained(PAIR, tmp_path, speaking(), max_steps=1, **FEW).labels
    with pytest.raises(DataError, match="about 24 other images than these"):
        AnchoredDistillationTrainer(speaking(), args, source(), target(), transfer_dataset=target(), labels=said)
    with pytest.raises(DataError, match="3 of the 9 transfer images are to be forgotten"):
        some = ImageTensors(torch.cat([source().pixel_values[:3], target().pixel_values[:6]]), torch.zeros(9).long())
        AnchoredDistillationTrainer(speaking(), args, source(), target(), transfer_dataset=some)
