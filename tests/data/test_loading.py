"""Loading a task: splits that share nothing, exact counts, every source, and every kind of bad data."""

from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from table_toys import per_class, png, table

from hf_dtl.data import DatasetSpec, check_disjoint, load_multitask, load_task, sources
from hf_dtl.data.glyphs import FAMILIES, LETTERS, render_glyph
from hf_dtl.errors import DataError

CIFAR10 = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "cifar10"
needs_cifar10 = pytest.mark.skipif(not CIFAR10.is_dir(), reason="the shared CIFAR-10 files are not on this machine")


def contents(split: datasets.Dataset) -> list[bytes]:
    return [np.asarray(image).tobytes() for image in split["image"]]


def saved(tmp_path: Path, **splits: datasets.Dataset) -> str:
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    return str(tmp_path / "saved")


def test_embedded_splits_are_disjoint_by_pixels_and_complete():
    for name in ("mnist", "fashion_mnist"):
        task = load_task(name)
        pixels = [image for split in (task.train, task.validation, task.test) for image in contents(split)]
        assert len(pixels) == 10_000 == len(set(pixels))
        assert task.duplicates_removed == 0
        for split, share in ((task.train, 0.7), (task.validation, 0.1), (task.test, 0.2)):
            counts, everything = per_class(split), Counter()
            for part in (task.train, task.validation, task.test):
                everything.update(per_class(part))
            assert all(abs(counts[label] - share * total) <= 1 for label, total in everything.items())


def test_embedded_labels_agree_with_a_class_by_class_look():
    task = load_task("mnist[1,0]")
    assert task.labels == ("1", "0") and task.name == "mnist[1,0]"
    assert task.train.column_names == ["image", "label"]
    assert task.train.features == datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["1", "0"])}
    )
    # A one is a thin stroke through the middle, a zero has a hole there: known without any label.
    middle = np.stack([np.asarray(image)[12:16, 12:16].mean() for image in task.test["image"]])
    truth = np.asarray(task.test["label"])
    assert middle[truth == 0].mean() > 120 > 40 > middle[truth == 1].mean()


def test_embedded_files_load_with_plain_datasets():
    files = {split: str(sources.EMBEDDED_FOLDER / "fashion_mnist" / f"{split}.parquet") for split in ("train", "test")}
    plain = datasets.load_dataset("parquet", data_files=files)
    assert plain["train"].features["label"].names[9] == "Ankle boot"
    assert plain["test"][0]["image"].size == (28, 28) and plain["test"][0]["image"].mode == "L"


def test_corrupt_embedded_file_is_noticed(tmp_path, monkeypatch):
    for source in sources.EMBEDDED_FOLDER.rglob("*"):
        if source.is_file():
            copy = tmp_path / source.relative_to(sources.EMBEDDED_FOLDER)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(source.read_bytes())
    monkeypatch.setattr(sources, "EMBEDDED_FOLDER", tmp_path)
    assert len(load_task("mnist").test) == 2000
    content = bytearray((tmp_path / "fashion_mnist" / "test.parquet").read_bytes())
    content[1000] ^= 1
    (tmp_path / "fashion_mnist" / "test.parquet").write_bytes(content)
    with pytest.raises(DataError, match="fashion_mnist/test.parquet is corrupt"):
        load_task("fashion_mnist")
    sources._open_embedded.cache_clear()
    (tmp_path / "SHA256SUMS").unlink()
    with pytest.raises(DataError, match="incomplete"):
        load_task("mnist")


def test_few_images_are_drawn_by_seed_from_train_alone():
    whole, few, more = load_task("mnist[6-9]"), *(load_task("mnist[6-9]", images_per_class=n) for n in (5, 20))
    assert per_class(few.train) == dict.fromkeys("6789", 5) and per_class(more.train) == dict.fromkeys("6789", 20)
    assert set(contents(few.train)) < set(contents(more.train)) < set(contents(whole.train))
    assert contents(few.test) == contents(whole.test) and contents(few.validation) == contents(whole.validation)
    assert contents(load_task("mnist[6-9]", images_per_class=5).train) == contents(few.train)
    assert contents(load_task("mnist[6-9]", images_per_class=5, seed=1).train) != contents(few.train)
    other = load_task("mnist[9,6]", images_per_class=5)
    assert set(contents(other.train)) < set(contents(few.train)), "a class is drawn alike whatever is beside it"


def test_held_out_splits_are_carved_per_class_and_do_not_move_with_the_seed(tmp_path):
    table({"cat": 50, "dog": 20, "owl": 10}).to_parquet(tmp_path / "pets.parquet")
    task = load_task(f"{tmp_path}/pets.parquet", seed=0)
    assert task.name == "pets.parquet" and task.labels == ("cat", "dog", "owl")
    assert per_class(task.test) == {"cat": 10, "dog": 4, "owl": 2}
    assert per_class(task.validation) == {"cat": 4, "dog": 2, "owl": 1}
    assert per_class(task.train) == {"cat": 36, "dog": 14, "owl": 7}
    everything = contents(task.train) + contents(task.validation) + contents(task.test)
    assert len(set(everything)) == 80
    other = load_task(f"{tmp_path}/pets.parquet", seed=5)
    assert contents(other.test) == contents(task.test) and contents(other.validation) == contents(task.validation)


def test_labels_stay_with_their_images(tmp_path):
    counts = {7: 20, 10: 20, 2: 20}
    data = table(counts)
    truth = dict(zip(contents(data), data["label"], strict=True))
    data.to_parquet(tmp_path / "numbers.parquet")
    task = load_task(f"{tmp_path}/numbers.parquet[10,2]")
    assert task.labels == ("10", "2")
    for split in (task.train, task.validation, task.test):
        named = [int(task.labels[label]) for label in split["label"]]
        assert named == [truth[image] for image in contents(split)]
    assert load_task(f"{tmp_path}/numbers.parquet").labels == ("2", "7", "10"), "numeric, not alphabetic order"


def test_own_splits_are_used(tmp_path):
    parts = {"train": table({"a": 20, "b": 20}), "validation": table({"a": 3, "b": 3}, 100)}
    parts["test"] = table({"a": 4, "b": 4}, 200)
    task = load_task(saved(tmp_path, **parts))
    assert [len(split) for split in (task.train, task.validation, task.test)] == [40, 6, 8]
    task = load_task(saved(tmp_path / "2", train=parts["train"], val=parts["validation"]))
    assert contents(task.test) == contents(parts["validation"])
    assert len(task.validation) == 4 and len(task.train) == 36
    task = load_task(saved(tmp_path / "3", **parts) + ":train[:10]+train[5:15]+train[30:]")
    assert sorted(contents(task.train)) == sorted(contents(parts["train"].select([*range(15), *range(30, 40)])))
    task = load_task(saved(tmp_path / "4", **parts) + ":test+train[-3:]")
    wanted = contents(parts["test"]) + contents(parts["train"])[-3:]
    assert sorted(contents(task.train) + contents(task.validation)) == sorted(wanted)
    assert contents(task.test) == contents(parts["validation"])
    task = load_task(saved(tmp_path / "5", extra=parts["train"]))
    assert len(task.train) + len(task.validation) + len(task.test) == 40


def test_split_without_labels_is_not_a_test_split(tmp_path):
    feature = datasets.ClassLabel(names=["a", "b"])
    blind = table({-1: 6}, 100, feature)
    task = load_task(saved(tmp_path, train=table({0: 20, 1: 20}, 0, feature), test=blind))
    assert len(task.test) == 8 and not set(contents(task.test)) & set(contents(blind))


def test_names_that_are_written_nearly_alike_are_told(tmp_path, caplog):
    table({"Cat": 20, "cat": 20, "dog": 20}).to_parquet(tmp_path / "pets.parquet")
    assert load_task(f"{tmp_path}/pets.parquet").labels == ("Cat", "cat", "dog")
    assert "written nearly alike and count as different: 'Cat' and 'cat'" in caplog.text and "dog" not in caplog.text


def test_images_without_label_are_left_out(tmp_path):
    data = table({"a": 20, "b": 20})
    labels = [[None, "", "  "][number % 3] if number % 4 == 0 else label for number, label in enumerate(data["label"])]
    data.remove_columns("label").add_column("label", labels).to_parquet(tmp_path / "partly.parquet")
    task = load_task(f"{tmp_path}/partly.parquet")
    everything = contents(task.train) + contents(task.validation) + contents(task.test)
    assert sorted(everything) == sorted(image for n, image in enumerate(contents(data)) if n % 4)


@pytest.mark.parametrize("wrong", [-2, 3])
def test_a_label_that_numbers_no_class_is_refused(tmp_path, wrong):
    rows = table({0: 20, 1: 20, 2: 20, wrong: 5}).cast_column("label", datasets.Value("int64")).to_dict()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])})
    schema = datasets.Features({**features, "label": datasets.Value("int64")})
    plain = datasets.Dataset.from_dict(rows, features=schema)
    path = saved(tmp_path, train=datasets.Dataset(plain.data.table.cast(features.arrow_schema)))
    with pytest.raises(DataError, match=f"5 of 65 rows of the column 'label' hold {wrong}, but its 3 names"):
        load_task(path)


def test_duplicates_leave_the_training_split_first(tmp_path):
    train, test = table({"a": 20, "b": 20}), table({"a": 4, "b": 4}, 100)
    doubled = datasets.concatenate_datasets([train, train.select([0, 39]), test.select([1])])
    validation = datasets.concatenate_datasets([table({"a": 3, "b": 3}, 200), test.select([0])])
    task = load_task(saved(tmp_path, train=doubled, test=test, validation=validation))
    assert task.duplicates_removed == 4
    assert contents(task.test) == contents(test)
    assert sorted(contents(task.train)) == sorted(contents(train))
    assert len(task.validation) == 6


def test_folder_of_parquet_files_and_image_folder(tmp_path):
    (tmp_path / "hub" / "data").mkdir(parents=True)
    table({"a": 20, "b": 20}).to_parquet(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet")
    table({"a": 4, "b": 4}, 100).to_parquet(tmp_path / "hub" / "data" / "test-00000-of-00001.parquet")
    task = load_task(str(tmp_path / "hub"))
    assert (task.name, len(task.test), len(task.train)) == ("hub", 8, 36)

    for number in range(40):
        path = tmp_path / "photos" / ("red fox" if number % 2 else "owl") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number if number < 38 else number - 2))
    task = load_task(f"{tmp_path}/photos[red fox,owl]")
    assert task.labels == ("red fox", "owl") and task.duplicates_removed == 2
    sizes = [per_class(split) for split in (task.train, task.validation, task.test)]
    assert sizes == [{"red fox": 13, "owl": 13}, {"red fox": 2, "owl": 2}, {"red fox": 4, "owl": 4}]


def test_columns_found_or_named(tmp_path):
    data = table({"a": 20, "b": 20}).rename_columns({"image": "photo", "label": "kind"})
    raw = datasets.Dataset.from_dict({"png": [png(number) for number in range(40)], "kind": data["kind"]})
    raw.to_parquet(tmp_path / "raw.parquet")
    task = load_task(f"{tmp_path}/raw.parquet", label_column="kind")
    assert task.train[0]["image"].size == (4, 4), "bytes are taken for images"
    both = datasets.concatenate_datasets([data, table({"a": 40}).select_columns(["image"])], axis=1)
    both.to_parquet(tmp_path / "both.parquet")
    with pytest.raises(DataError, match="several columns of images: photo, image"):
        load_task(f"{tmp_path}/both.parquet", label_column="kind")
    assert len(load_task(f"{tmp_path}/both.parquet", image_column="photo", label_column="kind").test) == 8
    with pytest.raises(DataError, match="no image column 'picture'. Columns there: png, kind"):
        load_task(f"{tmp_path}/raw.parquet", image_column="picture")
    with pytest.raises(DataError, match="no label column 'class'. Columns there: png, kind"):
        load_task(f"{tmp_path}/raw.parquet", label_column="class")
    with pytest.raises(DataError, match="label column cannot be told"):
        load_task(f"{tmp_path}/raw.parquet")
    raw.add_column("score", [0.5] * 40).to_parquet(tmp_path / "score.parquet")
    with pytest.raises(DataError, match="the column 'score' holds no images"):
        load_task(f"{tmp_path}/score.parquet", image_column="score", label_column="kind")
    for number in range(40):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    paths = datasets.Dataset.from_dict({"path": [f"{tmp_path}/{n}.png" for n in range(40)], "kind": data["kind"]})
    paths.to_parquet(tmp_path / "paths.parquet")
    by_path = load_task(f"{tmp_path}/paths.parquet", image_column="path", label_column="kind")
    assert contents(by_path.test) == contents(task.test), "file names are taken for images where they are asked for"
    with pytest.raises(DataError, match="the image of row 0 cannot be read: .*No such file.*table's own folder"):
        load_task(f"{tmp_path}/paths.parquet", image_column="kind", label_column="kind")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mnits", "'mnits' was not found. Did you mean 'mnist'.*HF_HUB_OFFLINE is set"),
        ("nobody/nothing", "'nobody/nothing' was not found.*the Hub"),
        ("./nothing.parquet", "no such file or folder"),
        (__file__, "not a .parquet file"),
        (str(Path(__file__).parent), "cannot be read as a data set|no column of images"),
        ("mnist@main", "leave out '@main'"),
        ("glyphs@main", "leave out '@main'"),
        ("glyphs[sanz,mono]", "'glyphs' has no class 'sanz'. Did you mean 'sans'?.*0: sans"),
        ("glyphs[A,Z]", "'glyphs' has no class 'Z'.*Classes there: 0: A"),
        ("mnist:tset", "no split 'tset'. Splits there: train, validation, test"),
        ("mnist[0,eleven]", "no class 'eleven'"),
        ("mnist[0,3-5,4]", "'4' is listed twice"),
        ("mnist[3]", "at least two classes"),
        ("mnist:train[:0]", "train split is empty"),
        ("mnist:train[:1]", r"class '\d' has 0 training images, 1 are needed"),
        ("mnist:train[80%:200%]", "cannot be taken"),
    ],
)
def test_unusable_data(spec, message):
    with pytest.raises(DataError, match=message):
        load_task(spec)


def test_too_few_images_for_the_budget_names_class_count_and_remedy(tmp_path):
    table({"cat": 30, "dog": 10}).to_parquet(tmp_path / "pets.parquet")
    with pytest.raises(DataError, match="class 'dog' has 7 training images, 8 are needed.*images_per_class at most 7"):
        load_task(f"{tmp_path}/pets.parquet", images_per_class=8)
    assert len(load_task(f"{tmp_path}/pets.parquet", images_per_class=7).train) == 14
    with pytest.raises(DataError, match="at least 1"):
        load_task("mnist", images_per_class=0)


def test_unusable_files(tmp_path):
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match="cannot be read as a data set"):
        load_task(f"{tmp_path}/broken.parquet")
    table({"a": 2, "b": 2}).remove_columns("image").to_parquet(tmp_path / "text.parquet")
    with pytest.raises(DataError, match="no column of images.*Columns there: label"):
        load_task(f"{tmp_path}/text.parquet")
    data = table({"a": 9, "b": 9})
    data.cast_column("label", datasets.Value("string")).remove_columns("label").add_column(
        "label", [0.5] * 18
    ).to_parquet(tmp_path / "regression.parquet")
    with pytest.raises(DataError, match=r"'label' holds .*float64.*1 and not 1\.0.*astype\('Int64'\)"):
        load_task(f"{tmp_path}/regression.parquet")
    with pytest.raises(DataError, match="test split is empty after selection"):
        load_task(saved(tmp_path, train=table({"a": 9, "b": 9, "c": 9}), test=table({"c": 2}, 100)) + "[a,b]")
    empty = datasets.Dataset.from_dict(
        {"image": [None, *([{"bytes": png(1), "path": None}] * 3)], "label": [0, 1, 0, 1]}
    )
    empty.cast_column("image", datasets.Image()).to_parquet(tmp_path / "hole.parquet")
    with pytest.raises(DataError, match="row 0 has no image"):
        load_task(f"{tmp_path}/hole.parquet")


def test_glyphs_as_one_task_by_letter_or_by_another_column():
    letters, family = load_task("glyphs[T,A]"), load_task("glyphs[stix,mono]", label_column="family")
    assert letters.labels == ("T", "A") and family.labels == ("stix", "mono")
    whole = load_task("glyphs")
    assert [len(getattr(whole, split)) for split in ("train", "validation", "test")] == [7000, 1000, 2000]
    assert whole.labels == LETTERS and whole.duplicates_removed == 0
    for task, column, names in ((letters, "letter", LETTERS), (family, "family", FAMILIES)):
        rows = [row for row in range(60) if names[render_glyph("test", row)[1][column]] in task.labels]
        assert contents(task.test)[: len(rows)] == [render_glyph("test", row)[0].tobytes() for row in rows]
        told = [task.labels[label] for label in task.test["label"][: len(rows)]]
        assert told == [names[render_glyph("test", row)[1][column]] for row in rows]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("label", "'glyphs' has no label column 'label'. Columns there: image, letter, case"),
        ("rotation", "'rotation' holds .*float32.*; a label is one ClassLabel"),
    ],
)
def test_a_column_of_glyphs_that_is_no_task(column, message):
    with pytest.raises(DataError, match=message):
        load_task("glyphs", label_column=column)


def test_glyphs_are_rendered_once_a_process(monkeypatch):
    load_task("glyphs[A,B]")
    monkeypatch.setattr(sources, "render_glyphs", None)
    assert load_task("glyphs[bold,regular]", label_column="weight").labels == ("bold", "regular")


def test_source_and_target_must_not_share_classes(tmp_path):
    check_disjoint(load_task("mnist[0-5]"), load_task("mnist[6-9]"))
    check_disjoint(load_task("fashion_mnist[0-5]"), load_task("fashion_mnist[6-9]"))
    with pytest.raises(DataError, match="share the classes 4, 5"):
        check_disjoint(load_task("mnist[0-5]"), load_task("mnist:test[9,5,4]"))
    feature = datasets.ClassLabel(names=["1", "bag"])
    path = saved(tmp_path, train=table({0: 9, 1: 9}, 0, feature))
    other = load_task(DatasetSpec(path))
    check_disjoint(load_task("mnist"), other)
    with pytest.raises(DataError, match="share the classes Bag"):
        check_disjoint(load_task("fashion_mnist"), other)
    check_disjoint(load_task("glyphs[A,B,D,E,G,H]"), load_task("glyphs[N,Q,R,T]"))
    with pytest.raises(DataError, match="share the classes B"):
        check_disjoint(load_task("glyphs[A,B]"), load_task("glyphs[B,T]"))


@needs_cifar10
def test_cifar10_from_a_folder():
    task = load_task(f"{CIFAR10}[dog,cat]", images_per_class=100)
    assert task.name == "cifar10[dog,cat]" and per_class(task.train) == {"dog": 100, "cat": 100}
    assert len(task.test) == 2000 and len(task.validation) == 1000
    assert task.train[0]["image"].mode == "RGB" and task.train[0]["image"].size == (32, 32)


@pytest.mark.parametrize("names", (["train-0", "train-1"], ["train", "test"]))
@pytest.mark.parametrize(
    ("other", "told"),
    [
        (datasets.ClassLabel(names=["dog", "cat"]), "0 is 'cat' in '{}.parquet', but 'dog' in '{}.parquet'"),
        (datasets.ClassLabel(names=["cat", "dog", "eel"]), "2 is no named class in '{}.parquet', but 'eel' in"),
        (datasets.Value("int64"), "0 is 'cat' in '{}.parquet', but no named class in '{}.parquet'"),
    ],
)
def test_parquet_files_that_number_classes_in_other_ways_are_refused(tmp_path, names, other, told):
    for number, feature in enumerate((datasets.ClassLabel(names=["cat", "dog"]), other)):
        part = table({0: 12, 1: 12}, 100 * number, feature)
        part.to_parquet(tmp_path / "own" / f"{names[number]}.parquet")
    with pytest.raises(DataError, match=told.format(*names)):
        load_task(f"{tmp_path}/own")
    with pytest.raises(DataError, match="do not number the classes of the column 'label' alike"):
        load_multitask(f"{tmp_path}/own", task_columns=["label"])


def test_files_that_no_split_takes_are_told(tmp_path, caplog):
    for number, name in enumerate(("training/a", "dev/holdout", "extra", "test/b")):
        table({"cat": 12, "dog": 12}, 100 * number).to_parquet(tmp_path / f"{name}.parquet")
    (tmp_path / "README.md").write_text("Pets")
    Image.new("L", (4, 4)).save(tmp_path / "preview.png")
    load_task(f"{tmp_path}")
    told = "2 files are in none of the splits found (train, validation, test) and are not used"
    assert told in caplog.text and "extra.parquet, preview.png." in caplog.text
    (tmp_path / "extra.parquet").rename(tmp_path / "test" / "extra.parquet")
    (tmp_path / "preview.png").unlink()
    caplog.clear()
    assert len(load_task(f"{tmp_path}").test) == 48 and "not used" not in caplog.text
