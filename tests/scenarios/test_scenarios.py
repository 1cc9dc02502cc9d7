"""Scenarios as data: built again from their spec, and turned to validation images for tuning."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageClassification, ViTConfig

from hf_dtl.data import embedded_processor, load_task, sources
from hf_dtl.errors import ConfigError, DataError, ModelError
from hf_dtl.pipeline.verify import SCENARIOS
from hf_dtl.scenarios.scenario import Measurements
from hf_dtl.scenarios.spec import ScenarioSpec, is_request
from hf_dtl.trainers import with_task_heads

SPECS = {
    "task": ScenarioSpec(kind="task", forget="mnist[0,1]", retain="mnist[6,7]", novel="fashion_mnist[0,1]",
                         forget_images_per_class=12, retain_images_per_class=6, max_eval_images=30, seed=1),
    "glyphs": ScenarioSpec(kind="task", forget="glyphs[A,B]", retain="glyphs[Q,R]", novel="glyphs",
                           novel_label_column="family", retain_images_per_class=6, max_eval_images=30),
    "class": ScenarioSpec(kind="part", forget="class=1", retain="mnist[0,1,2]", retain_images_per_class=12,
                          max_eval_images=30),
    "rows": ScenarioSpec(kind="part", forget="random=50%", retain="mnist[0,1,2]", retain_images_per_class=12,
                         max_eval_images=30),
    "tasks": ScenarioSpec(kind="tasks", forget="random=20%", retain="glyphs", task_columns="case,weight",
                          forget_tasks="case", images=60, max_eval_images=30),
}  # fmt: skip


@pytest.fixture(autouse=True)
def few_glyphs(monkeypatch):
    monkeypatch.setattr(sources, "RENDERED_IMAGES", {"train": 200, "validation": 100, "test": 100})


def model(scenario):
    config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=14,
                       patch_size=7, num_labels=len(scenario.labels))  # fmt: skip
    config.id2label = dict(enumerate(scenario.labels))
    config.label2id = {label: row for row, label in config.id2label.items()}
    plain = AutoModelForImageClassification.from_config(config)
    return with_task_heads(plain, scenario.tasks) if scenario.kind == "tasks" else plain


def loaded(spec):
    scenario = SCENARIOS[spec.kind](spec, 2)
    scenario.load(embedded_processor(14), model(scenario))
    return scenario


def same(one, other):
    return all(
        torch.equal(getattr(one, split).pixel_values, getattr(other, split).pixel_values)
        for split in ("train", "validation", "test")
    )


@pytest.mark.parametrize("name", SPECS)
def test_the_spec_of_a_report_gives_the_same_images_again(name):
    scenario = loaded(SPECS[name])
    told = json.loads(json.dumps(scenario.public_spec()))
    assert {"kind", "forget", "retain", "seed"} <= told.keys() and all(
        isinstance(value, (str, int, type(None))) for value in told.values()
    )
    again = loaded(ScenarioSpec.from_dict(told))
    assert again.counts() == scenario.counts() and again.attacked.keys() == scenario.attacked.keys()
    assert all(same(task, again.attacked[key]) for key, task in scenario.attacked.items())


def test_two_columns_of_the_same_images_are_two_tasks_under_names_that_differ():
    spec = ScenarioSpec.from_dict(
        SPECS["glyphs"].to_dict()
        | {"forget": "glyphs", "forget_label_column": "case"}
        | {"retain": "glyphs[bold,regular]", "retain_label_column": "weight"}
    )
    scenario = loaded(spec)
    labels = {key: task.labels for key, task in scenario.attacked.items()}
    assert labels == {"source": ("upper", "lower"), "novel": ("sans", "mono", "serif", "stix")}
    assert [task.name for task in scenario.attacked.values()] == ["glyphs by case", "glyphs by family"]
    assert scenario.names == {"source": "glyphs", "target": "glyphs[bold,regular]", "novel": "glyphs"}
    case, family = (task.test for task in scenario.attacked.values())
    assert torch.equal(case.pixel_values, family.pixel_values) and not torch.equal(case.labels, family.labels)
    told = scenario.findings(
        Measurements({task: {"undisposed": 1.0, "scrubbed": 0.5} for task in ("target", "source")})
    )["chance"]
    assert told == {"glyphs by case": 1 / 2, "glyphs by family": 1 / 4}
    assert load_task("glyphs", label_column="case").labels == scenario.labels


@pytest.mark.parametrize("name", ["task", "glyphs", "class", "tasks"])
def test_tuning_takes_validation_images_in_the_place_of_test(name):
    scenario = loaded(SPECS[name])
    tuning = scenario.with_test("validation")
    assert tuning.spec.test == "validation" and scenario.spec.test == "test"
    for key, task in scenario.attacked.items():
        other = tuning.attacked[key]
        assert torch.equal(other.train.pixel_values, task.train.pixel_values)
        if name != "tasks":  # there the forgotten images themselves are the judges
            assert torch.equal(other.test.pixel_values, task.validation.pixel_values)
            assert not torch.equal(other.test.pixel_values[:5], task.test.pixel_values[:5])
    if name == "tasks":
        assert torch.equal(tuning.split("test").labels["case"], scenario.images["validation"].labels["case"])
    if name == "class":
        assert len(tuning._split("forgotten_test")) == len(scenario.images["forgotten_validation"])


def test_copies_under_classes_to_forget_and_to_keep_are_told(tmp_path, caplog):
    """In one folder as in two; of one data set under two columns the same images are meant."""
    draw = np.random.default_rng(0)
    for name in ("cat", "ox", "dog", "emu"):
        for split in ("train", "test"):
            (folder := tmp_path / split / name).mkdir(parents=True)
            for i in range(8):
                Image.fromarray(draw.integers(0, 256, (14, 14, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    for i in range(3):
        shutil.copy(tmp_path / "train" / "cat" / f"{i}.png", tmp_path / "train" / "dog" / f"copy{i}.png")
    loaded(ScenarioSpec(kind="task", forget=f"{tmp_path}[cat,ox]", retain=f"{tmp_path}[dog,emu]"))
    assert f"3 pictures of {tmp_path.name}[cat,ox] are in {tmp_path.name}[dog,emu] too" in caplog.text
    caplog.clear()
    loaded(replace(SPECS["glyphs"], retain="glyphs[upper,lower]"))
    assert "are in" not in caplog.text


def test_a_list_of_all_images_of_a_class_is_answered_with_the_class(tmp_path):
    whole = load_task("mnist[0,1,2]", images_per_class=12)
    rows = whole.train_rows[[label == 1 for label in whole.train["label"]]]
    (tmp_path / "rows.txt").write_text("\n".join(map(str, rows)))
    spec = ScenarioSpec(
        kind="part", forget=str(tmp_path / "rows.txt"), retain="mnist[0,1,2]", retain_images_per_class=12
    )
    with pytest.raises(DataError, match="rows.txt takes all training images of the class 1: .* --forget class=1, or"):
        loaded(spec)


def test_what_a_text_asks_for(tmp_path):
    rows = tmp_path / "rows.txt"
    rows.write_text("1\n")
    assert is_request("class=3") and is_request("person=ann") and is_request(str(rows))
    assert not is_request("mnist[0-5]") and not is_request("./a=b/photos[cat]") and not is_request("user/photos")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"forget": "x"}, "no usable `spec`"),
        ({"kind": "other", "forget": "x"}, "no usable `spec`"),
        ({"kind": "task", "forget": "x", "seed": "1"}, "`seed` in the spec of the report cannot be '1'"),
        ({"kind": "task", "forget": "x", "pool": -1}, "`pool` in the spec of the report cannot be -1"),
        ({"kind": "task", "forget": ["x"]}, "`forget` in the spec of the report"),
    ],
)
def test_a_spec_of_a_stranger_is_checked(content, message):
    with pytest.raises(DataError, match=message):
        ScenarioSpec.from_dict(content)
    with pytest.raises(ConfigError, match="name that with --retain"):
        ScenarioSpec(kind="part", forget="class=1")


def test_values_given_here_stand_in_for_those_of_the_report():
    spec = ScenarioSpec.from_dict(
        {"kind": "task", "forget": "photos[a]", "other": 1}, forget="/x/photos[a]", retain=None
    )
    assert spec.forget == "/x/photos[a]" and spec.retain is None
    assert SimpleNamespace(**spec.to_dict()).kind == "task"


def test_a_head_that_has_the_classes_in_other_rows(caplog):
    scenario = loaded(SPECS["class"])
    other = model(scenario)
    other.config.id2label = dict(enumerate(("2", "0", "1")))
    scenario.check_numbered(model(scenario), "retrained")
    with pytest.raises(ModelError, match="the retrained model has its classes in the order 2, 0, 1, .* 0, 1, 2. Give"):
        scenario.check_numbered(other, "retrained")
    torch.nn.init.zeros_(other.classifier.weight)
    other.classifier.bias.data = torch.tensor([0.0, 9.0, 0.0])  # always the forgotten class
    scenario.measure({"undisposed": other}, torch.device("cpu"), membership=False)
    assert not caplog.text, "a head with names is known by them"
    other.config.id2label = dict(enumerate(("LABEL_0", "LABEL_1", "LABEL_2")))
    scenario.measure({"undisposed": other}, torch.device("cpu"), membership=False)
    assert "is right on 0.000 of the images to keep, guessing on 0.333: its head has no names" in caplog.text
