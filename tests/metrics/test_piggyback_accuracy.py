"""The metric against the audit that it wraps and against sums by hand, and its refusals."""

import copy
import json
from dataclasses import asdict, replace

import datasets
import evaluate
import numpy as np
import pytest
import torch
from audit_toys import QUICK, resnet, split, task, vit
from PIL import Image

import hf_dtl.metrics
from hf_dtl.audit import leakage, no_model, run_audit, scratch_model, scratch_models
from hf_dtl.audit.suites import SUITES
from hf_dtl.data import ImageTensors, embedded_processor
from hf_dtl.errors import ConfigError, DataError, ModelError

ATTACKS = ("linear_probe", "full")
CONFIG = replace(QUICK, attacks=ATTACKS, seeds=(0, 1, 2, 3, 4))
OPTIONS = {
    name: getattr(CONFIG, name)
    for name in ("attacks", "budgets", "seeds", "linear_probe_learning_rates", "full_learning_rates",
                 "linear_probe_steps", "full_passes", "full_min_steps")
} | {"progress": False}  # fmt: skip
FAST = OPTIONS | {"attacks": "linear_probe", "budgets": 2, "seeds": 0}
TASK = replace(task(noise=2.0), name="attacked task")


@pytest.fixture(scope="module")
def metric():
    return evaluate.load(hf_dtl.metrics.path("piggyback_accuracy"))


def splits(task):
    return {f"{name}_dataset": getattr(task, name) for name in ("train", "validation", "test")}


@pytest.fixture(scope="module")
def undisposed():
    """A model that knows the toy task, so that it is relearned better than random weights."""
    model, images = vit(), split(200, seed=9, noise=2.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        model(pixel_values=images.pixel_values, labels=images.labels).loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def audited(undisposed):
    models = {
        "scrubbed": vit(seed=5),
        "undisposed": undisposed,
        "scratch": scratch_models(vit(seed=5), len(CONFIG.seeds)),
    }
    return run_audit(models, {"task": TASK}, CONFIG, progress=False)


# Of a finished attack ---------------------------------------------------------------------------------------------


def test_predictions_give_accuracy(metric):
    generator = np.random.default_rng(0)
    predictions, references = generator.integers(0, 4, (2, 1000))
    expected = {"piggyback_accuracy": sum(p == r for p, r in zip(predictions, references, strict=True)) / 1000}
    for kind in (list, np.array, torch.tensor):
        assert metric.compute(predictions=kind(predictions), references=kind(references)) == expected
    for part in range(0, 1000, 300):
        metric.add_batch(predictions=predictions[part : part + 300], references=references[part : part + 300])
    assert metric.compute() == expected
    for prediction, reference in ((1, 1), (0, 2)):
        metric.add(prediction=prediction, reference=reference)
    assert metric.compute() == {"piggyback_accuracy": 0.5}
    assert evaluate.combine([metric]).compute(predictions=[0, 1], references=[0, 0]) == {"piggyback_accuracy": 0.5}


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"predictions": [0.7, 1.0], "references": [0, 1]}, DataError, "predictions must be integers, got float64"),
        ({"predictions": [0, 1], "references": ["0", "1"]}, DataError, "references must be integers"),
        ({"predictions": [True, False], "references": [1, 0]}, DataError, "integers, got bool"),
        ({"predictions": [[0, 1]], "references": [0]}, DataError, r"shape \(1, 2\)"),
        ({"predictions": [[0], [0, 1]], "references": [0, 1]}, DataError, "one class number an image"),
        ({"predictions": [], "references": []}, DataError, "one class number an image"),
        ({"predictions": [0, 1], "references": [0]}, DataError, "2 predictions but 1 references"),
        ({"predictions": [0, -1], "references": [0, 1]}, DataError, "has -1"),
        ({"predictions": [0]}, ConfigError, "references are missing"),
        ({}, ConfigError, "or model="),
        ({"predictions": [0], "references": [0], "budgets": (1,)}, ConfigError, "budgets: these are for the attack"),
        ({"train_dataset": "mnist[0,1]"}, ConfigError, "Give model= too"),
        ({"predictions": [0], "references": [0], "model": "x"}, ConfigError, "not both"),
    ],
)
def test_wrong_values_are_refused_and_leave_nothing_behind(metric, values, error, message):
    with pytest.raises(error, match=message):
        metric.compute(**values)
    assert metric.compute(predictions=[1], references=[1]) == {"piggyback_accuracy": 1.0}


# Of a model -------------------------------------------------------------------------------------------------------


def test_equals_the_audit(metric, audited):
    own = [record for record in audited if record.model == "scrubbed"]
    result = metric.compute(model=vit(seed=5), **splits(TASK), **OPTIONS)
    assert result["attacks"] == [asdict(record) for record in own]
    chosen = {}
    for budget in CONFIG.budgets:
        runs = {a: [r for r in own if (r.attack, r.budget) == (a, budget)] for a in ATTACKS}
        best = max(ATTACKS, key=lambda attack: sum(r.validation_accuracy for r in runs[attack]))  # noqa: B023
        chosen[budget] = [r.accuracy for r in runs[best]]
        point = result["per_budget"][budget]
        assert (point["attack"], point["values"]) == (best, chosen[budget])
        assert point["mean"] == pytest.approx(np.mean(chosen[budget]))
        assert point["deviation"] == pytest.approx(np.std(chosen[budget], ddof=1))
    seeds = np.mean(list(chosen.values()), axis=0)
    assert result["piggyback_accuracy"] == pytest.approx(seeds.mean())
    assert result["deviation"] == pytest.approx(seeds.std(ddof=1))
    assert result["slc_auc"] == pytest.approx(seeds.mean())  # of two budgets the area is the mean
    assert result["chance"] == pytest.approx(1 / 3)
    assert result["references"] == {} and "leakage" not in result


def test_leakage_over_references(metric, undisposed, audited, tmp_path):
    given = {"undisposed": undisposed, **splits(TASK), **OPTIONS, "store": tmp_path / "attacks.jsonl"}
    result = metric.compute(model=vit(seed=5), **given)
    known = leakage([*audited, *run_audit({"no_model": no_model(TASK)}, {"task": TASK}, CONFIG, progress=False)])
    assert result["leakage"] == asdict(known.headline)
    assert result["leakage"]["gate"] == "weights do not matter", "pixels are enough for the toy task"
    assert result["leakage_over"] == {floor: asdict(ratio) for floor, ratio in known.by_floor.items()}
    assert set(result["leakage_over"]) == {"no_model", "scratch"}
    assert result["suite"]["name"] == "custom" and result["leakage"]["word"] is None
    ceiling, floor = (result["references"][name]["piggyback_accuracy"] for name in ("undisposed", "scratch"))
    assert result["leakage_over"]["scratch"]["gap"] == pytest.approx(ceiling - floor)

    copied = metric.compute(
        model=copy.deepcopy(undisposed),
        scratch=scratch_model(undisposed),
        retrained=scratch_model(undisposed),
        **given,
    )
    assert copied["leakage_over"]["scratch"]["mean"] == pytest.approx(1)
    assert copied["leakage_over"]["retrained"] == copied["leakage_over"]["scratch"]
    json.loads(json.dumps(copied))

    same = metric.compute(model=vit(seed=5), **{**given, "undisposed": scratch_model(vit(seed=5))})
    assert same["leakage"]["mean"] is None and same["leakage"]["gate"] != "defined"
    without = metric.compute(model=vit(seed=5), **given, scratch=False)
    assert set(without["references"]) == {"undisposed", "no_model"} == {"undisposed", *without["leakage_over"]}


def test_a_suite_by_name_is_the_default_and_fixes_the_attacker(metric, undisposed, small_batches):
    images = {name: getattr(TASK, name) for name in ("validation", "test")}
    many = {f"{name}_dataset": part for name, part in {"train": split(25, seed=3), **images}.items()}
    quick = metric.compute(model=undisposed, **many, progress=False)
    suite = SUITES["quick-1"]
    assert quick["suite"] == suite.config(undisposed.num_parameters()).suite()
    assert {record["attack"] for record in quick["attacks"]} == set(suite.attacks)
    assert set(quick["per_budget"]) == set(suite.budgets)
    assert metric.compute(model=undisposed, **many, suite="quick-1", progress=False) == quick
    refused(metric, ConfigError, "suite='quick-1' fixes the attacker: leave out attacks, budgets,", suite="quick-1")
    with pytest.raises(ConfigError, match="no suite 'quick'.*quick-1"):
        metric.compute(model=undisposed, **many, suite="quick")


def as_dataset(images, names=None, label="label"):
    """Images of ImageTensors as a data set of encoded ones."""
    pixels = ((images.pixel_values.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    feature = datasets.ClassLabel(names=names) if names else datasets.Value("int64")
    return datasets.Dataset.from_dict(
        {"picture": [Image.fromarray(p) for p in pixels], label: images.labels.tolist()},
        features=datasets.Features({"picture": datasets.Image(), label: feature}),
    )


def test_data_sets_and_folders_equal_tensors(metric, tmp_path):
    """A folder and data sets of images give what the model and the same pixels as tensors give."""
    model, processor = vit(), embedded_processor(size=8)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    found = {name: as_dataset(images, ["a", "b", "c"]) for name, images in splits(TASK).items()}
    tensors = {
        name: ImageTensors(processor(list(part["picture"]), return_tensors="pt")["pixel_values"],
                           torch.tensor(part["label"]))
        for name, part in found.items()
    }  # fmt: skip
    expected = metric.compute(model=model, **tensors, labels=["a", "b", "c"], **FAST)
    result = metric.compute(model=str(tmp_path / "model"), **found, **FAST)
    assert result == expected
    assert metric.compute(model=model, processor=processor, num_classes=3, **found, **FAST) == expected


def test_a_whole_task_by_name(metric):
    model = vit(num_labels=2)
    result = metric.compute(
        model=model, train_dataset="mnist[0,1]", processor=embedded_processor(size=8), **{**FAST, "budgets": 1}
    )
    assert result["attacks"][0]["dataset"] == "mnist[0,1]" and result["chance"] == 0.5
    assert 0.5 < result["piggyback_accuracy"] <= 1


def test_another_architecture(metric):
    assert metric.compute(model=resnet(), **splits(TASK), **FAST)["piggyback_accuracy"] > 1 / 3


def refused(metric, error, message, **values):
    with pytest.raises(error, match=message):
        metric.compute(**{"model": vit(), **splits(TASK), **FAST, **values})


def test_contradictions_are_refused(metric):
    refused(metric, ConfigError, "train_dataset is missing", train_dataset=None)
    refused(metric, ConfigError, "test_dataset is missing", test_dataset=None)
    refused(metric, ConfigError, "names a whole task", train_dataset="mnist[0,1]")
    refused(metric, ConfigError, "same images", test_dataset=TASK.train)
    refused(metric, ConfigError, "one kind, got Dataset, ImageTensors", train_dataset=as_dataset(TASK.train))
    refused(metric, ConfigError, "one kind, got ImageTensors, ImageTensors, str", test_dataset="mnist[0,1]")
    refused(metric, ConfigError, "Unknown arguments budget", budget=5)
    refused(metric, ConfigError, "Unknown attacks", attacks="guess")
    refused(metric, ConfigError, "num_classes is 4", num_classes=4, labels=["a", "b", "c"])
    refused(metric, ConfigError, "label_column is 'y'", label_column="y")
    refused(metric, DataError, "with 2 classes they must be in 0..1", num_classes=2)
    refused(metric, DataError, "train_dataset is a dict", train_dataset={})
    refused(metric, DataError, "cannot be drawn", budgets=50)
    refused(
        metric, DataError, "3 dimensions|4 dimensions", test_dataset=ImageTensors(torch.zeros(2, 3), torch.ones(2))
    )


def test_models_that_cannot_be_used_are_refused(metric, tmp_path):
    refused(metric, ModelError, "There is no folder", model=str(tmp_path / "nothing"))
    refused(metric, ModelError, "got int", model=3)
    torch.save(vit().state_dict(), tmp_path / "pytorch_model.bin")
    vit().config.save_pretrained(tmp_path)
    refused(metric, ModelError, "safetensors", model=str(tmp_path))


def test_data_sets_that_cannot_be_used_are_refused(metric, tmp_path):
    names = ["a", "b", "c"]
    found = {name: as_dataset(images, names) for name, images in splits(TASK).items()}
    refused(metric, ConfigError, "Which processor", **found)
    processor = {"processor": embedded_processor(size=8)}
    other = found | {"test_dataset": found["test_dataset"].rename_column("label", "class")}
    refused(metric, DataError, "test_dataset has no column 'label'", **other, **processor)
    changed = found | {"test_dataset": found["test_dataset"].with_transform(lambda batch: batch)}
    refused(metric, ConfigError, "test_dataset has a transform", **changed, **processor)
    shared = datasets.concatenate_datasets([found["train_dataset"].select([4]), found["test_dataset"]])
    refused(metric, DataError, "1 of 61 pictures of test_dataset are in train_dataset too: row 0", **processor,
            **found | {"test_dataset": shared})  # fmt: skip
    named = {s: ImageTensors(part.pixel_values, part.labels, tuple(names)) for s, part in splits(TASK).items()}
    given = {**named, "test_dataset": ImageTensors(TASK.test.pixel_values, 2 - TASK.test.labels, tuple(names[::-1]))}
    assert metric.compute(model=vit(), **given, **FAST) == metric.compute(model=vit(), **named, **FAST)
    bee = ImageTensors(TASK.test.pixel_values, TASK.test.labels, ("a", "b", "bee"))
    refused(metric, DataError, "test_dataset has the classes a, b, bee, train_dataset", test_dataset=bee)
    without = {"train_dataset": TASK.train, "test_dataset": TASK.train.subset(range(30)), "validation_dataset": None}
    refused(metric, DataError, "30 of 30 pictures of test_dataset are in train_dataset", **without)
    text = found["test_dataset"].cast_column("label", datasets.Value("string"))
    refused(metric, DataError, "train has a column of ClassLabel, test has a column of string", **processor,
            **found | {"test_dataset": text})  # fmt: skip
    owl = found["test_dataset"].cast_column("label", datasets.ClassLabel(names=["a", "b", "owl"]))
    refused(metric, DataError, "only train has c, only test has owl", **processor, **found | {"test_dataset": owl})
    unlabelled = ImageTensors(TASK.test.pixel_values, torch.where(TASK.test.labels == 2, -1, TASK.test.labels))
    other = found | {"test_dataset": as_dataset(unlabelled, names)}
    refused(metric, DataError, "test_dataset has 20 images without a label", **other, **processor)
    for name, scale in (("one", 0.5), ("other", 0.25)):
        vit().save_pretrained(tmp_path / name)
        similar = embedded_processor(size=8)
        similar.image_std = [scale] * 3
        similar.save_pretrained(tmp_path / name)
    models = {"model": tmp_path / "one", "undisposed": tmp_path / "other"}
    refused(metric, ModelError, "the attacked and the undisposed model differ: .* Give processor=", **found, **models)
    metric.compute(**models, **found, **FAST, **processor)


def test_deviation_needs_two_seeds(metric):
    result = metric.compute(model=vit(), undisposed=vit(seed=1), **splits(TASK), **FAST)
    assert result["deviation"] is None and result["leakage"]["undefined"] == "one seed gives no measure of the noise"
