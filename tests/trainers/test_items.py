"""What a user of the trainers gives as data: labels are rows of the head by name, and faults are told first."""

import datasets
import numpy as np
import pytest
import torch
from architectures import CONFIGS
from PIL import Image
from torch.utils.data import ConcatDataset, Subset
from trainer_toys import NAMES, PROCESSOR, UNNAMED, items, model, table
from transformers import AutoModelForImageClassification

import hf_dtl
from hf_dtl.data import load_images, load_task
from hf_dtl.errors import ConfigError, DataError, ModelError
from hf_dtl.trainers.items import labelled_items
from hf_dtl.trainers.readiness import leaves_one
from hf_dtl.trainers.training import fine_tune


@pytest.mark.parametrize(
    ("data", "head", "rows"),
    [
        (table([0, 1, 2]), NAMES, [0, 1, 2]),
        (table([0, 1, 2]), ("fox", "Cat", "dog"), [1, 2, 0]),
        (table([0, 2, 2]), ("fox", "cat"), [1, 0, 0]),
        (table(["fox", "cat", "dog"], datasets.Value("string")), NAMES, [2, 0, 1]),
        (table([2, 0, 1], datasets.Value("int64")), ("fox", "cat", "dog"), [2, 0, 1]),
        (table([0, 1, 2]), ("LABEL_0", "LABEL_1", "LABEL_2"), [0, 1, 2]),
        (table([0, 1, 2], image="img", label="fine_label"), ("fox", "cat", "dog"), [1, 2, 0]),
        (table([0, 1, 2]).select([2, 0]), NAMES, [2, 0]),
    ],
)
def test_labels_are_rows_of_the_head_by_name(data, head, rows):
    found = items(data, head)
    assert found.labels.tolist() == rows == [int(found[i]["labels"]) for i in range(len(rows))]


def test_data_to_evaluate_on_are_taken_as_those_to_train_on_are(tmp_path):
    args = hf_dtl.FineTuneConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none", disable_tqdm=True)
    train, held_out = table([0, 1, 2]), table([0, 1, 2, 0, 1])
    given = {"processing_class": PROCESSOR, "eval_dataset": held_out}
    trainer = hf_dtl.FineTuneTrainer(model(("fox", "Cat", "dog")).export("own"), args, train, train, **given)
    assert trainer.eval_dataset.labels.tolist() == [1, 2, 0, 1, 2]
    rows = table([1, 2, 0, 1, 2], datasets.Value("int64"))
    assert len({trainer.evaluate(data)["eval_loss"] for data in (None, held_out, rows)}) == 1
    found = [trainer.predict(data) for data in (held_out, rows)]
    assert found[0].metrics["test_loss"] == found[1].metrics["test_loss"] == trainer.evaluate()["eval_loss"]
    assert found[0].label_ids.tolist() == [1, 2, 0, 1, 2]
    with pytest.raises(DataError, match="The evaluation data set has the classes owl"):
        trainer.evaluate(table([0, 1], datasets.ClassLabel(names=["cat", "owl"])))


@pytest.mark.parametrize("kind", ["tables", "loaded", "transformed"])
def test_pictures_to_forget_and_to_retain_are_told(caplog, kind):
    given = {"forget": table([0, 1, 2]).select([2]), "retain": table([0, 1, 2, 0, 1])}
    if kind == "loaded":
        given = {name: load_images(part, PROCESSOR, num_channels=3) for name, part in given.items()}
    if kind == "transformed":
        given = {name: part.with_transform(lambda batch: batch) for name, part in given.items()}
    own = model()
    own.add_head("other", NAMES)
    labelled_items({name: (part, "own") for name, part in given.items()}, own, PROCESSOR)
    told = "The retain data set: 1 of 5 images are also to be forgotten, and training gives them back: row 2"
    assert told in caplog.text
    caplog.clear()
    labelled_items({"forget": (given["forget"], "other"), "retain": (given["retain"], "own")}, own, PROCESSOR)
    assert not caplog.text, "a picture may lose one task and keep another"


def test_names_that_differ_in_case_are_those_of_the_head_and_no_news(caplog):
    found = items(table(["cat", "Cat", "fox"], datasets.Value("string")), ("Cat", "cat", "fox"))
    assert found.labels.tolist() == [1, 0, 2] and not caplog.text


def test_of_two_columns_of_labels_that_differ_the_one_that_is_used_is_told(caplog):
    data = table([0, 1, 2])
    assert items(data.add_column("labels", [0, 1, 2])).labels.tolist() == [0, 1, 2] and not caplog.text
    assert items(data.add_column("labels", [2, 1, None])).labels.tolist() == [0, 1, 2]
    assert "The forget data set has the columns 'label' and 'labels', which differ: 'label' is used." in caplog.text


def test_images_that_map_made_numbers_are_answered_with_what_to_give():
    data = datasets.Dataset.from_dict({"pixel_values": [[[[0.0]]]], "labels": [0]})
    with pytest.raises(DataError, match="no column of images. Images that map.* hf_dtl.data.ImageTensors, or with_tr"):
        items(data)


def test_a_head_without_names_has_the_order_of_the_classes_and_it_is_said(caplog):
    assert items(table([0, 2, 1]), UNNAMED).labels.tolist() == [0, 2, 1]
    assert "rows are taken in the order of the classes (cat, dog, fox). If it has another, set model" in caplog.text
    caplog.clear()
    folders = table([0, 1, 2], datasets.ClassLabel(names=["1", "10", "2"]))  # as folders sort
    assert items(folders, UNNAMED).labels.tolist() == [0, 2, 1] and "(1, 2, 10)" in caplog.text
    caplog.clear()
    counted = table([0, 1, 2], datasets.ClassLabel(names=["2", "0", "1"]))
    assert items(counted, UNNAMED).labels.tolist() == [2, 0, 1] and not caplog.text


def test_the_background_that_data_were_loaded_with_counts(tmp_path):
    for name in NAMES:
        for number in range(6):
            sign = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
            sign.putpixel((number, NAMES.index(name)), (200, 9 * number, NAMES.index(name), 255))
            (tmp_path / name).mkdir(exist_ok=True)
            sign.save(tmp_path / name / f"{number}.png")
    task = load_task(str(tmp_path), background="black")
    dark = items(task.train)
    assert dark.pixel_values.mean() < -0.9, "-1 is black"
    plain = task.train.cast_column("image", datasets.Image())
    assert items(plain).pixel_values.mean() > 0.9
    seen = items(task.train.with_transform(lambda batch: batch))
    torch.testing.assert_close(seen[0]["pixel_values"], dark[0]["pixel_values"])


@pytest.mark.parametrize(
    ("data", "head", "message"),
    [
        (table([0, 1, 2]), ("cat", "owl", "dog"), "has the classes fox, which the model's head does not name"),
        (table(["a", "b"], datasets.Value("string")), ("LABEL_0", "LABEL_1"), "the head has no names"),
        (table([0, None, 1, None]), NAMES, r"2 of 4 images have no label \(null or -1\).*row 1, 3"),
        (table([0, -1, 1], datasets.Value("int64")), NAMES, r"1 of 3 images have no label"),
        (table([0, 3, 1], datasets.Value("int64")), NAMES, "1 of 3 images have a label above 2.*row 1"),
        (table([0, 1]).select_columns(["image"]), NAMES, r"label column cannot be told.*dataset.rename_column\("),
        (
            table([0, 1], datasets.ClassLabel(names=["cat", "dog"])),
            UNNAMED,
            "no names .* for its 3 rows: which row is",
        ),
    ],
)
def test_unusable_labels_are_told_before_training(data, head, message):
    with pytest.raises(DataError, match=message):
        items(data, head)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1.0, 0.0, 1.0], r"item 0 has the labels \[1.0, 0.0, 1.0\].*several labels are not taken"),
        (1.0, "labels 1.0"),
    ],
)
def test_items_with_several_labels_are_refused_by_name(labels, message):
    with pytest.raises(ConfigError, match=message):
        items([{"pixel_values": torch.zeros(3, 16, 16), "labels": torch.tensor(labels)}])
    with pytest.raises(ConfigError, match="item 0 is pixel_values, target. An item is"):
        items([{"pixel_values": torch.zeros(3, 16, 16), "target": 1}])


def test_a_column_of_several_labels_an_image_is_refused_by_name():
    several = table([[0, 2], [1], [2]], datasets.List(datasets.ClassLabel(names=list(NAMES))))
    with pytest.raises(DataError, match="'label' holds List.*Images with several labels are not taken"):
        items(several)


def test_an_image_that_is_missing_is_named():
    data = table([0, 1, 2])
    images = [None if row == 1 else image for row, image in enumerate(data["image"])]
    data = datasets.Dataset.from_dict({"image": images, "label": data["label"][:]}, features=data.features)
    with pytest.raises(
        DataError, match="The forget data set: 1 of 3 images cannot be used:\n  row 1: it has no image"
    ):
        items(data)


def test_what_a_transform_makes_is_respected():
    data, plain = table([0, 1, 2]), items(table([0, 1, 2]))

    def dark(batch):
        return {"image": [image.point(lambda v: v // 8) for image in batch["image"]], "label": batch["label"]}

    def ready(batch):
        pixels = [torch.full((3, 16, 16), float(label)) for label in batch["label"]]
        return {"pixel_values": pixels, "labels": batch["label"]}

    found = items(data.with_transform(dark), ("fox", "cat", "dog"))
    assert [int(found[i]["labels"]) for i in range(3)] == found.labels.tolist() == [1, 2, 0]
    wanted = ((plain.pixel_values + 1) * 127.5).round().div(8, rounding_mode="floor")
    torch.testing.assert_close(torch.stack([found[i]["pixel_values"] for i in range(3)]), wanted / 127.5 - 1)
    assert items(data.with_transform(ready), processor=None)[2]["pixel_values"].unique().tolist() == [2]
    with pytest.raises(ConfigError, match="gives neither 'pixel_values' nor 'image', but label"):
        items(data.with_transform(lambda batch: {"label": batch["label"]}))
    with pytest.raises(ConfigError, match="needs the model's image processor"):
        items(data.with_transform(dark), processor=None)


def test_a_stream_is_refused():
    with pytest.raises(ConfigError, match="streamed data set has no length"):
        items(table([0, 1]).to_iterable_dataset())


def test_16_bit_parts_keep_their_brightness_to_each_other():
    def deep(top):
        pictures = [Image.fromarray(np.full((16, 16), top - i, dtype=np.uint16)) for i in range(3)]
        features = table([0]).features
        return datasets.Dataset.from_dict({"image": pictures, "label": [0, 1, 2]}, features=features)

    parts = {"forget": (deep(240), "own"), "retain": (deep(4080), "own")}
    forget, retain = labelled_items(parts, model(), PROCESSOR)
    values = [((part.pixel_values.amax((1, 2, 3)) + 1) * 127.5).round().tolist() for part in (forget, retain)]
    assert values == [[15, 14, 14], [255, 254, 254]], "12 bits for both"


def test_a_last_batch_of_one_is_left_out_where_it_would_be_normalised(tmp_path):
    network = AutoModelForImageClassification.from_config(CONFIGS["resnet"]())
    pixels = torch.randn(9, 3, 8, 8)  # the last map has one pixel
    images = [{"pixel_values": pixels[i], "labels": i % 3} for i in range(9)]
    assert leaves_one(network, images, 4) and not leaves_one(network, images, 5)
    assert not leaves_one(network, images, 9) and not leaves_one(model(), images, 4)
    fine_tune(network, images, tmp_path, "x", per_device_train_batch_size=4, max_steps=3, use_cpu=True)


def test_labels_that_a_transform_makes_are_rows_and_changed_ones_are_refused():
    data = table([0, 1, 2])

    def with_rows(batch):
        return batch | {"labels": [2 - label for label in batch["label"]]}

    def changing(batch):
        return batch | {"label": [2 - label for label in batch["label"]]}

    found = items(data.with_transform(with_rows))
    assert [found[i]["labels"] for i in range(3)] == [2, 1, 0]
    with pytest.raises(ConfigError, match="changes the labels of the column 'label'.*in a new column 'labels'"):
        items(data.with_transform(changing))


def test_labels_of_the_data_that_a_transform_copies_are_rows_by_name(caplog):
    def ready(labels):
        return lambda batch: {"pixel_values": [torch.zeros(3, 16, 16)] * len(batch["label"]), "labels": labels(batch)}

    data, other = table([0, 1, 2]), ("fox", "Cat", "dog")
    found = items(data.with_transform(ready(lambda batch: batch["label"])), other, None)
    assert [found[i]["labels"] for i in range(3)] == found.labels.tolist() == [1, 2, 0]
    assert "The forget data set: its transform gives the numbers of the data's classes as 'labels'" in caplog.text
    caplog.clear()
    own_rows = data.with_transform(ready(lambda batch: [(label + 1) % 3 for label in batch["label"]]))
    assert [items(own_rows, other, None)[i]["labels"] for i in range(3)] == [1, 2, 0] and not caplog.text
    with pytest.raises(ConfigError, match="The forget data set: an item of its transform has the labels 'cat'"):
        items(data.with_transform(ready(lambda batch: [NAMES[label] for label in batch["label"]])), other, None)
    with pytest.raises(ConfigError, match="item 0 has the labels 'cat'"):
        items([{"pixel_values": torch.zeros(3, 16, 16), "labels": "cat"}])


@pytest.mark.parametrize("memory", [4.0, 0.0])
def test_loaded_images_are_matched_by_name_as_their_data_are(memory):
    loaded = load_images(table([0, 1, 2]), PROCESSOR, num_channels=3, memory_limit_gib=memory)
    part = ConcatDataset([Subset(loaded.subset([2, 1]), [1]), loaded])
    for given, rows in ((loaded, [1, 2, 0]), (loaded.subset([2, 0]), [0, 1]), (part, [2, 1, 2, 0])):
        found = items(given, ("fox", "Cat", "dog"))
        assert [found[i]["labels"] for i in range(len(rows))] == rows
    assert loaded.labels.tolist() == [0, 1, 2], "the user's own stay as they are"
    with pytest.raises(DataError, match="has the classes fox, which the model's head does not name"):
        items(loaded, ("cat", "owl", "dog"))


def test_what_is_no_data_set_is_named():
    with pytest.raises(ConfigError, match="The forget data set must be a data set, got NoneType"):
        items(None)
    with pytest.raises(ConfigError, match="got DatasetDict. It has the splits train: give one of them"):
        items(datasets.DatasetDict({"train": table([0, 1])}))


def test_options_of_another_method_are_refused():
    whole = AutoModelForImageClassification.from_config(CONFIGS["vit"]())
    own = hf_dtl.FineTuneConfig(output_dir="unused", use_cpu=True)
    with pytest.raises(ConfigError, match="takes its options as RandomLabelConfig, not as FineTuneConfig"):
        hf_dtl.RandomLabelTrainer(whole, own, table([0]), table([1, 2]), processing_class=PROCESSOR)


@pytest.mark.parametrize("method", ["FineTune", "InstanceUnlearning"])
def test_what_is_no_model_is_named(method):
    config, trainer = getattr(hf_dtl, f"{method}Config"), getattr(hf_dtl, f"{method}Trainer")
    for given in ("some/folder", torch.nn.Linear(2, 2)):
        with pytest.raises(ModelError, match=f"Expected a Hub model .*, got {type(given).__name__}.*merge_and_unload"):
            trainer(given, config(output_dir="unused", use_cpu=True, report_to="none"), table([0]), table([1, 2]))
