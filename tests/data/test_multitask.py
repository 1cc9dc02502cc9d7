"""Data with several label columns: every source, splits that share nothing, bad labels refused before any training."""

import io
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from hf_dtl.data import (
    DatasetSpec,
    LazyImages,
    MultiTaskImages,
    embedded_processor,
    images,
    load_multitask,
    load_multitask_images,
    load_task,
    multitask,
)
from hf_dtl.errors import DataError

TASKS = ["colour", "shape", "count", "age"]


@pytest.fixture(autouse=True)
def few_glyphs(monkeypatch):
    monkeypatch.setattr(multitask, "GLYPH_IMAGES", {"train": 40, "validation": 12, "test": 15})


def png(number: int) -> bytes:
    """An image that differs from that of every other number."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (4, 4), dtype=np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def contents(split: datasets.Dataset) -> list[bytes]:
    return [np.asarray(image).tobytes() for image in split["image"]]


def saved(folder: Path, **splits: datasets.Dataset) -> str:
    datasets.DatasetDict(splits).save_to_disk(folder / "saved")
    return str(folder / "saved")


def table(number: int, start: int = 0, **columns: list) -> datasets.Dataset:
    """Distinct images with a ClassLabel, a string, an integer and a float column."""
    rows = np.arange(number)
    values = {
        "colour": [int(r) % 3 for r in rows],
        "shape": ["round" if r % 2 else "angular" for r in rows],
        "count": [(7, 2, 10)[r % 3] for r in rows],
        "age": [float(r) / 4 for r in rows],
    }
    values |= columns
    features = {
        "image": datasets.Image(),
        "colour": datasets.ClassLabel(names=["red", "green", "blue"]),
        "shape": datasets.Value("string"),
        "count": datasets.Value("int64"),
        "age": datasets.Value("float64"),
    }
    features |= {name: datasets.Value("int32") for name in columns.keys() - features.keys()}
    pictures = [{"bytes": png(start + int(r)), "path": None} for r in rows]
    return datasets.Dataset.from_dict({"image": pictures, **values}, features=datasets.Features(features))


def parts(data) -> list[datasets.Dataset]:
    return [data.train, data.validation, data.test]


def everything(data) -> dict[bytes, dict]:
    """Image → its labels, of all splits."""
    return {
        pixels: {task: split[row][task] for task in data.tasks}
        for split in parts(data)
        for row, pixels in enumerate(contents(split))
    }


def test_glyphs_are_rendered_with_all_tasks_and_the_same_held_out_images():
    data = load_multitask("glyphs")
    assert data.name == "glyphs" and list(data.tasks) == ["letter", "case", "family", "weight", "slant", "rotation"]
    assert data.tasks["case"] == ("upper", "lower") and data.tasks["rotation"] == ()
    assert [len(split) for split in parts(data)] == [40, 12, 15] and len(everything(data)) == 67
    assert data.train.column_names == ["image", *data.tasks] and data.train_rows.tolist() == list(range(40))
    other = load_multitask("glyphs", task_columns=["slant", "rotation"], images=50, seed=4)
    assert list(other.tasks) == ["slant", "rotation"] and len(other.train) == 50
    assert contents(other.test) == contents(data.test) and contents(other.validation) == contents(data.validation)
    assert not set(contents(other.train)) & set(contents(data.train)) and other.source_key == data.source_key
    assert contents(load_multitask("glyphs", images=20).train) == contents(data.train)[:20]
    assert len(load_multitask("glyphs:train[:25%]").train) == 10


def test_fashion_groups_follow_from_the_class():
    data, fashion = load_multitask("fashion_groups"), load_task("fashion_mnist")
    assert list(data.tasks) == ["item", "kind", "worn_on", "sleeves", "season"]
    assert data.tasks["item"] == fashion.labels and data.tasks["kind"] == ("garment", "footwear", "bag")
    for mine, given in zip(parts(data), (fashion.train, fashion.validation, fashion.test), strict=True):
        assert mine["item"][:] == given["label"][:] and len(mine) == len(given)
    assert contents(data.test.select(range(20))) == contents(fashion.test.select(range(20)))
    table = {
        "T-shirt/top": ("garment", "upper body", "short or none", "warm"),
        "Trouser": ("garment", "legs", "not a matter of sleeves", "any"),
        "Pullover": ("garment", "upper body", "long", "cold"),
        "Dress": ("garment", "whole body", "short or none", "warm"),
        "Coat": ("garment", "upper body", "long", "cold"),
        "Sandal": ("footwear", "feet", "not a matter of sleeves", "warm"),
        "Shirt": ("garment", "upper body", "long", "any"),
        "Sneaker": ("footwear", "feet", "not a matter of sleeves", "any"),
        "Bag": ("bag", "carried", "not a matter of sleeves", "any"),
        "Ankle boot": ("footwear", "feet", "not a matter of sleeves", "cold"),
    }
    names = [[data.tasks[task][number] for number in data.train[task]] for task in data.tasks]
    assert {item: tuple(groups) for item, *groups in zip(*names, strict=True)} == table


def test_training_images_are_drawn_by_the_seed():
    whole = load_multitask("fashion_groups", task_columns=["kind"])
    small, large = (load_multitask("fashion_groups", task_columns=["kind"], images=n) for n in (30, 60))
    assert len(small.train) == 30 and set(small.train_rows) < set(large.train_rows) and len(large.train) == 60
    assert np.array_equal(np.asarray(whole.train["kind"])[small.train_rows], small.train["kind"])
    other = load_multitask("fashion_groups", task_columns=["kind"], images=30, seed=1)
    assert set(other.train_rows) != set(small.train_rows) and contents(other.test) == contents(small.test)
    with pytest.raises(DataError, match="images is 7001, but there are 7000 training images"):
        load_multitask("fashion_groups", images=7001)


def test_a_saved_data_set_keeps_every_label_beside_its_image(tmp_path):
    given = table(60)
    data = load_multitask(saved(tmp_path, train=given), task_columns=TASKS)
    assert data.tasks == {
        "colour": ("red", "green", "blue"), "shape": ("angular", "round"), "count": ("2", "7", "10"), "age": (),
    }  # fmt: skip
    assert data.name == "saved" and data.duplicates_removed == 0
    found = everything(data)
    assert len(found) == 60, "no image in two splits"
    for row, pixels in enumerate(contents(given)):
        count = {2: 0, 7: 1, 10: 2}[given[row]["count"]]
        wanted = {"colour": row % 3, "shape": row % 2, "count": count, "age": row / 4}
        assert found[pixels] == wanted
    assert contents(data.train) == [contents(given)[row] for row in data.train_rows]
    assert [len(split) for split in parts(data)] == [43, 5, 12], "20 % and 10 % are held out"
    fewer = load_multitask(str(tmp_path / "saved"), task_columns={"hue": "colour"}, seed=7)
    assert fewer.tasks == {"hue": ("red", "green", "blue")}
    assert contents(fewer.test) == contents(data.test), "held out whatever the tasks and the seed"


def test_splits_of_the_data_set_are_kept_and_copies_removed(tmp_path):
    train, test = table(30), table(9, start=26)  # four images of the test split are training images too
    data = load_multitask(saved(tmp_path, train=train, test=test), task_columns=["shape", "age"])
    assert len(data.test) == 9 and data.duplicates_removed == 4 and len(data.train) + len(data.validation) == 26
    assert len(everything(data)) == 35
    path = tmp_path / "one.parquet"
    table(20).to_parquet(path)
    assert list(load_multitask(str(path), task_columns=["count"]).tasks) == ["count"]
    half = load_multitask(DatasetSpec(str(path), split="train[:50%]"), task_columns=["count"])
    assert len(everything(half)) == 10 and half.name == "one.parquet:train[:50%]"


def test_a_class_that_is_only_held_out_and_copies_that_disagree_are_told(tmp_path, caplog):
    train, test = table(40, shape=["disc", "bar"] * 20), table(9, 100, shape=["disc", "ring", "bar"] * 3)
    twice = train.select(range(6)).map(lambda row: {"shape": "bar" if row["shape"] == "disc" else "disc"})
    path = saved(tmp_path, train=datasets.concatenate_datasets([train, twice]), test=test)
    load_multitask(path, task_columns=["shape"])
    assert "3 of 9 test images are of classes of the task 'shape' that no training image has: ring" in caplog.text
    assert "6 exact duplicates removed before splitting, 6 of them under another label or value" in caplog.text


def test_a_slice_of_two_splits_keeps_labels_with_images(tmp_path):
    first, second = table(20), table(12, start=50)
    path = saved(tmp_path, train=first, extra=second)
    data = load_multitask(f"{path}:train[10:]+extra", task_columns=["colour", "age"])
    by_image = dict(zip(contents(first) + contents(second), [*first, *second], strict=True))
    found = everything(data)
    assert len(found) == 22
    assert all(by_image[p]["age"] == f["age"] and by_image[p]["colour"] == f["colour"] for p, f in found.items())


def test_booleans_and_other_columns(tmp_path):
    given = table(12).add_column("smiles", [r % 3 == 0 for r in range(12)])
    data = load_multitask(saved(tmp_path, train=given), task_columns=["smiles"])
    assert data.tasks == {"smiles": ("False", "True")}
    assert {f["smiles"] for f in everything(data).values()} == {0, 1}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"colour": [None, *[0, 1] * 10]}, r"1 of 21 images have no label for the task 'colour'.*row 0\b"),
        ({"colour": [0, 1, -1, *[0, 1] * 9]}, r"task 'colour' \(column 'colour'\): row 2\b"),
        ({"shape": ["a", "b", None, *["a", "b"] * 9]}, "task 'shape'.*row 2"),
        ({"count": [*[4, 5] * 10, -1]}, "task 'count'.*row 20"),
        ({"count": [*[4, 5] * 10, None]}, "task 'count'.*row 20"),
        ({"age": [*[0.5, 1.5] * 10, float("nan")]}, "task 'age'.*row 20"),
        ({"age": [*[0.5, 1.5] * 10, None]}, "task 'age'.*row 20"),
        ({"age": [*[0.5, 1.5] * 10, float("inf")]}, "task 'age'.*row 20"),
        ({"colour": [1] * 21}, "one class only, 'green', for the task 'colour'"),
        ({"shape": ["a"] * 21}, "one class only, 'a', for the task 'shape'"),
        ({"age": [2.5] * 21}, "one value only, 2.5, for the task 'age'"),
    ],
)
def test_labels_that_are_missing_or_all_the_same(tmp_path, columns, message):
    with pytest.raises(DataError, match=message):
        load_multitask(saved(tmp_path, train=table(21, **columns)), task_columns=TASKS)


def test_a_missing_label_counts_only_where_it_is_used(tmp_path):
    path = saved(tmp_path, train=table(21, count=[-1, *[4, 5] * 10]), test=table(6, start=90, count=[-1, *[4] * 5]))
    assert load_multitask(path, task_columns=["shape"]).tasks["shape"] == ("angular", "round")
    with pytest.raises(DataError, match="test split: 1 of 6 images"):
        load_multitask(f"{path}:train[1:]", task_columns=["count"])


def test_minus_one_is_no_class_whatever_the_others_are(tmp_path):
    given = table(21, sign=[-2, 3, *[-2, 0, 3] * 6, -1])
    data = load_multitask(saved(tmp_path, train=given) + ":train[:20]", task_columns=["sign"])
    assert data.tasks["sign"] == ("-2", "0", "3")
    wanted = dict(zip(contents(given), [{-2: 0, 0: 1, 3: 2}.get(sign) for sign in given["sign"]], strict=True))
    assert all(wanted[pixels] == found["sign"] for pixels, found in everything(data).items())


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("glyphs", {"task_columns": ["lettre"]}, "no label column 'lettre'. Did you mean 'letter'"),
        ("glyphs", {"task_columns": ["case", "case"]}, "column 'case' is named twice"),
        ("glyphs", {"task_columns": {"a": "case", "b": "case"}}, "column 'case' is named twice"),
        ("glyphs", {"task_columns": {"a.b": "case"}}, "'a.b' cannot be the name of a task"),
        ("glyphs", {"task_columns": {"image": "case"}}, "'image' cannot be the name of a task"),
        ("glyphs", {"task_columns": ["image"]}, "no label column 'image'"),
        ("glyphs", {"task_columns": []}, "names no task"),
        ("glyphs", {"task_columns": "case"}, r"give a list of columns, such as \['case'\]"),
        ("glyphs", {"images": 0}, "images is 0"),
        ("glyphs", {"seed": -1}, "seed -1"),
        ("glyphs[A,B]", {}, "leave the brackets out"),
        ("glyphs@main", {}, "leave out '@main'"),
        ("glyphs:dev", {}, "no split 'dev'"),
        ("mnist", {}, "say which columns are tasks"),
        ("mnist", {"task_columns": ["labels"]}, "Did you mean 'label'"),
        ("no_such_folder/", {"task_columns": ["a"]}, "no such file or folder"),
    ],
)
def test_what_cannot_be_asked_for(spec, options, message):
    with pytest.raises(DataError, match=message):
        load_multitask(spec, **options)


def test_columns_that_are_no_labels(tmp_path):
    odd = table(6).add_column("boxes", [[1, 2]] * 6)
    path = saved(tmp_path, train=odd, test=table(6, start=50))
    with pytest.raises(DataError, match="'boxes' holds .*; a label is one"):
        load_multitask(saved(tmp_path / "b", train=odd), task_columns=["boxes"])
    with pytest.raises(DataError, match="split 'test' has no column 'boxes'"):
        load_multitask(path, task_columns=["boxes"])
    other = table(6, start=50).cast_column("age", datasets.Value("float32"))
    with pytest.raises(DataError, match="'age' has another type in the split 'test'"):
        load_multitask(saved(tmp_path / "c", train=table(6), test=other), task_columns=["age"])


def test_tensors_hold_images_and_labels_of_every_task():
    data = load_multitask("glyphs")
    processor = embedded_processor()
    result = load_multitask_images(data.train, processor, num_channels=3)
    assert len(result) == 40 and result.pixel_values.shape == (40, 3, 28, 28)
    pixels = np.stack([np.asarray(image) for image in data.train["image"]])
    expected = torch.from_numpy(pixels / 127.5 - 1).float()[:, None].expand(-1, 3, -1, -1)
    torch.testing.assert_close(result.pixel_values, expected)
    assert list(result.labels) == list(data.tasks)
    for task, names in data.tasks.items():
        assert result.labels[task].dtype == (torch.int64 if names else torch.float32)
        assert result.labels[task].tolist() == data.train[task][:]
    item = result[7]
    assert torch.equal(item["pixel_values"], result.pixel_values[7]) and set(item["labels"]) == set(data.tasks)
    assert all(value.shape == () and value == result.labels[task][7] for task, value in item["labels"].items())
    part = result.subset([39, 0])
    assert torch.equal(part.pixel_values, result.pixel_values[[39, 0]])
    assert all(torch.equal(part.labels[task], result.labels[task][[39, 0]]) for task in data.tasks)
    batch = next(iter(torch.utils.data.DataLoader(part, batch_size=2)))
    assert torch.equal(batch["labels"]["rotation"], part.labels["rotation"])


def test_a_task_may_be_named_label():
    data = load_multitask("mnist", task_columns=["label"], images=5)
    result = load_multitask_images(data.train, embedded_processor(), num_channels=3)
    assert result.labels["label"].tolist() == data.train["label"][:]


def test_images_above_the_memory_limit_are_decoded_when_asked_for():
    data = load_multitask("glyphs", task_columns=["letter", "rotation"], images=6)
    eager = load_multitask_images(data.train, embedded_processor(), num_channels=3)
    lazy = load_multitask_images(data.train, embedded_processor(), num_channels=3, memory_limit_gib=0)
    assert isinstance(lazy.pixel_values, LazyImages) and len(lazy) == 6
    for mine, rows in ((lazy, range(6)), (lazy.subset(torch.tensor([4, 1])), (4, 1))):
        for position, row in enumerate(rows):
            item, wanted = mine[position], eager[row]
            assert torch.equal(item["pixel_values"], wanted["pixel_values"])
            assert {t: v.item() for t, v in item["labels"].items()} == {
                t: v.item() for t, v in wanted["labels"].items()
            }


def test_regression_alone_and_a_broken_image(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "BATCH", 4)
    given = table(20)
    data = load_multitask(saved(tmp_path, train=given), task_columns={"label": "age"})
    result = load_multitask_images(data.train, embedded_processor(8), num_channels=3)
    assert result.labels["label"].tolist() == data.train["label"][:] and list(result.labels) == ["label"]
    whole = [{"bytes": png(n), "path": None} for n in range(20)]
    broken = given.remove_columns("image").add_column(
        "image", [*whole[:-1], {"bytes": b"no image", "path": None}], feature=datasets.Image()
    )
    for name, columns in (("x", ["age"]), ("y", ["shape", "age"])):
        spec = saved(tmp_path / name, train=broken, test=table(5, start=80), validation=table(5, start=90))
        split = load_multitask(spec, task_columns=columns).train
        with pytest.raises(DataError, match="1 of 20 images cannot be used:\n  row 19"):
            load_multitask_images(split, embedded_processor(8), num_channels=3)


def test_numbers_that_drown_the_classes_are_told(tmp_path, caplog):
    ages = [float(10 * age) for age in range(20)]
    given = saved(tmp_path, train=table(20, age=ages))
    load_multitask(given, task_columns=["shape", "age"])
    assert "the numbers in 'age' have a deviation of" in caplog.text and "drowns the other tasks'" in caplog.text
    caplog.clear()
    load_multitask(given, task_columns=["age"])
    load_multitask(saved(tmp_path / "near", train=table(20)), task_columns=["shape", "age"])
    assert "deviation" not in caplog.text


def test_tensors_that_do_not_fit_together():
    with pytest.raises(DataError, match="no label for any task"):
        MultiTaskImages(torch.zeros(2, 1, 2, 2), {})
    with pytest.raises(DataError, match=r"'case' has labels of the shape \(3,\) for 2 images"):
        MultiTaskImages(torch.zeros(2, 1, 2, 2), {"case": torch.zeros(3)})
    assert MultiTaskImages(torch.zeros(1, 1, 2, 2), {"a": torch.zeros(1, dtype=torch.float64)}).labels["a"].dtype == (
        torch.float32
    )
