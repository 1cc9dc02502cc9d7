"""A folder of images: each file is used or told, whatever lies beside it."""

import io
import os
import re
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from hf_dtl.data import load_task
from hf_dtl.data.image_folder import read_image_folder
from hf_dtl.data.tables import numbers_in
from hf_dtl.errors import DataError


def picture(path: Path, number: int, kind: str = "PNG") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind)
    path.write_bytes(buffer.getvalue())


def fill(root: Path, *names: str, count: int = 12, start: int = 0) -> Path:
    """So many pictures in each folder, no two alike."""
    for number, name in enumerate(names):
        for i in range(count):
            picture(root / name / f"{i:02d}.png", start + 1000 * number + i)
    return root


def counts(root: Path, split: str = "train") -> dict[str | None, int]:
    """Images by the name of their class."""
    opened = read_image_folder(root)
    assert opened is not None
    names = opened[split].features["label"].names
    found = [None if label is None else names[label] for label in opened[split]["label"]]
    return {name: found.count(name) for name in dict.fromkeys(found)}


def test_rows_are_those_that_datasets_would_give(tmp_path):
    fill(tmp_path / "train", "cat", "dog")
    fill(tmp_path / "test", "cat", "dog", start=100)
    opened = read_image_folder(tmp_path)
    theirs = datasets.load_dataset(str(tmp_path), cache_dir=str(tmp_path / ".cache"))
    assert opened is not None and opened.keys() == theirs.keys()
    for split in theirs:
        assert opened[split].features == theirs[split].features
        assert opened[split]["label"][:] == theirs[split]["label"][:]
        assert [i.tobytes() for i in opened[split]["image"]] == [i.tobytes() for i in theirs[split]["image"]]


@pytest.mark.parametrize(
    ("folders", "stray", "told"),
    [
        (("cat/2023", "cat/2024", "dog/2024"), None, "36 files lie in folders below those of the classes (cat, dog)"),
        (("photos/photos/cat", "photos/photos/dog"), None, None),
        (("cat", "dog"), "preview.png", "1 files lie beside the folders of the classes and have none: preview.png"),
        (("cat", "dog"), "cat/thumbs/1.png", "1 files lie in folders below those of the classes"),
        (("car", "train", "bus"), None, None),
        (("train station", "toy_train"), None, None),
        (("[a]", "b, c"), None, None),
    ],
)
def test_classes_are_the_first_folders(tmp_path, caplog, folders, stray, told):
    fill(tmp_path / "own", *folders)
    if stray:
        picture(tmp_path / "own" / stray, 99)
    wanted = {name.removeprefix("photos/photos/").partition("/")[0] for name in folders}
    found = counts(tmp_path / "own")
    assert found.pop(None, 0) == (stray == "preview.png")
    assert found.keys() == wanted and sum(found.values()) == 12 * len(folders) + (stray == "cat/thumbs/1.png")
    assert (told or "") in caplog.text and bool(caplog.text) == bool(told)
    assert load_task(f"{tmp_path}/own").labels == tuple(sorted(wanted))


def test_splits_by_folders_of_many_names(tmp_path, caplog):
    fill(tmp_path / "seg_train" / "seg_train", "Cat", "dog")
    fill(tmp_path / "seg_test" / "seg_test", "cat", "dog", count=4, start=100)
    fill(tmp_path / "Dev", "dog", count=3, start=200)
    picture(tmp_path / "sample.png", 77)
    assert counts(tmp_path) == {"Cat": 12, "dog": 12}
    assert counts(tmp_path, "test") == {"Cat": 4, "dog": 4}, "a name that differs in case alone is the same class"
    assert counts(tmp_path, "validation") == {"dog": 3}, "one class alone is a class, as it is in training"
    assert "1 files lie beside the folders of the splits, not in one: sample.png" in caplog.text


def test_unlabelled_test_images_are_told_and_a_split_beside_others_is_refused(tmp_path, caplog):
    fill(tmp_path / "a" / "train", "cat", "dog")
    fill(tmp_path / "a" / "test", ".", start=100)
    task = load_task(str(tmp_path / "a"))
    assert len(task.train) + len(task.validation) + len(task.test) == 24
    assert "the 12 images of the split 'test' have no label; it is not used" in caplog.text
    fill(tmp_path / "a" / "extra", ".", start=200)
    with pytest.raises(DataError, match="'train' holds folders, as a split does, but 'extra' beside it is no split"):
        load_task(str(tmp_path / "a"))


def test_images_of_any_suffix_are_used_and_others_told_by_kind(tmp_path, caplog):
    fill(tmp_path, "cat", "dog")
    picture(tmp_path / "cat" / "download", 1, "JPEG")
    picture(tmp_path / "cat" / "photo.jpg_large", 2, "JPEG")
    picture(tmp_path / "dog" / "PHOTO.WEBP", 3, "WEBP")
    for number in range(3):
        (tmp_path / "dog" / f"IMG_{number}.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "dog" / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "cat" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "again").symlink_to(tmp_path)
    os.symlink(fill(tmp_path.parent / f"{tmp_path.name} elsewhere", "x", start=7000) / "x", tmp_path / "fox")
    assert counts(tmp_path) == {"cat": 14, "dog": 13, "fox": 12}
    assert "3 files are no images that can be read (3 .HEIC) and are not used: dog/IMG_0.HEIC" in caplog.text
    assert "1 files are links to nothing and are not used: dog/gone.png" in caplog.text


def test_hidden_images_and_packed_ones_are_told(tmp_path, caplog):
    root = fill(tmp_path / "own", "cat", "dog")
    picture(root / "cat" / ".hidden.png", 1)
    picture(root / ".cache" / "thumb.png", 2)
    (root / "dog" / "._00.png").write_bytes(b"\x00\x05\x16\x07")  # what a Mac writes
    assert counts(root) == {"cat": 12, "dog": 12}
    assert "1 files are images that are hidden (a name with a dot in front) and are not used: cat/.hidden.png" in (
        caplog.text
    )
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "images.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match="'packed' holds images.zip and no image. Unpack it"):
        load_task(str(tmp_path / "packed"))


def test_two_tables_of_metadata_are_refused(tmp_path):
    root = fill(tmp_path / "own", "cat", "dog")
    (root / "metadata.csv").write_text("file_name,person\ncat/00.png,ann\n")
    (root / "metadata.jsonl").write_text('{"file_name": "cat/00.png", "person": "ann"}\n')
    with pytest.raises(DataError, match="metadata.csv and metadata.jsonl lie side by side"):
        load_task(str(root))


def test_metadata_stand_beside_class_folders_and_lose_no_value(tmp_path, caplog):
    fill(tmp_path, "cat", "dog", count=4)
    rows = [("cat/01.png", "None", "007", 3), ("cat/00.png", "NA", "7", 12), (r"dog\00.png", "", "07", "")]
    text = "file_name;person;badge;age\n" + "".join(";".join(map(str, row)) + "\n" for row in rows)
    (tmp_path / "metadata.csv").write_bytes(text.encode("utf-16"))
    opened = read_image_folder(tmp_path)
    assert opened is not None
    train = opened["train"]
    names = [
        Path(value["path"]).parent.name for value in train.cast_column("image", datasets.Image(decode=False))["image"]
    ]
    assert names == ["cat"] * 2 + ["dog"] + ["cat"] * 2 + ["dog"] * 3, "in the order of the table, then the others"
    assert train["label"][:] == [0, 0, 1, 0, 0, 1, 1, 1]
    assert train["person"][:4] == ["None", "NA", None, None] and train["badge"][:3] == ["007", "7", "07"]
    assert train["age"][:4] == [3, 12, None, None]
    assert "5 files are not listed in metadata.csv: its columns are empty" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file_name,label\ncat/99.png,x\n", "lists 1 images that are not there: cat/99.png"),
        ("file_name,label\n../secret.png,x\n", "lists 1 images that are not there"),
        ("name,label\ncat/00.png,x\n", "needs a column `file_name`"),
        ("file_name,label\ncat/00.png,x,y\n", "row 2: 3 fields, but 2 names"),
        ("file_name,label\ncat/00.png,caf\xe9\n", "not text in UTF-8"),
    ],
)
def test_metadata_that_do_not_fit(tmp_path, text, message):
    fill(tmp_path / "own", "cat", "dog", count=2)
    picture(tmp_path / "secret.png", 5)
    (tmp_path / "own" / "metadata.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=message):
        read_image_folder(tmp_path / "own")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.csv", "file_name,person,person \na/00.png,ann,bob\n"),
        ("metadata.jsonl", '{"file_name": "a/00.png", "person": "ann", "person ": "bob"}\n'),
    ],
)
def test_two_columns_of_one_name_are_refused(tmp_path, name, text):
    fill(tmp_path, "a", "b")
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=f"{name} has several columns called 'person'. Rename all but one"):
        read_image_folder(tmp_path)


def test_a_table_of_labels_with_no_class_folders(tmp_path, caplog):
    fill(tmp_path, "images", count=20)
    lines = "".join(f'{{"file_name": "images/{i:02d}.png", "label": "{"ab"[i % 2]}"}}\n' for i in range(20))
    (tmp_path / "metadata.jsonl").write_text(lines)
    assert load_task(str(tmp_path)).labels == ("a", "b")
    (tmp_path / "metadata.jsonl").unlink()
    (tmp_path / "labels.csv").write_text("path,label\nimages/00.png,a\n")
    with pytest.raises(DataError, match="each class needs a subfolder, or a metadata.csv"):
        load_task(str(tmp_path))
    assert "would be read as metadata.csv (.jsonl), with a column file_name" in caplog.text


def test_folders_count_where_a_column_of_labels_disagrees_and_the_column_where_there_is_none(tmp_path, caplog):
    fill(tmp_path, "cat", "dog", count=3)
    for number in range(2):
        picture(tmp_path / f"{number}.png", 50 + number)
    rows = ["cat/00.png,dog", "cat/01.png,CAT", "dog/00.png,", "dog/01.png,owl", "0.png,Dog", "1.png,owl"]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,label", *rows]))
    assert counts(tmp_path) == {"cat": 3, "dog": 4, "owl": 1}
    assert "2 files have another class in the column `label` of the metadata than by their folder" in caplog.text
    assert "cat/00.png, dog/01.png." in caplog.text


@pytest.mark.parametrize(
    ("folder", "said", "splits", "told"),
    [
        ("", ("Train", "val", "test"), {"train": 2, "validation": 2, "test": 2}, "the splits are those in the col"),
        ("", ("train", "test", ""), {"train": 4, "test": 2}, "2 files have nothing in the column `split` of the meta"),
        (
            "",
            ("train", "gold", "test"),
            {"train": 6},
            "2 files have no split's name in the column `split` .* (gold); ",
        ),
        ("train/", ("train", "test", "train"), {"train": 6, "test": 2}, "2 files have another split in the column"),
    ],
)
def test_splits_are_those_of_the_metadata_where_no_folder_gives_one(tmp_path, caplog, folder, said, splits, told):
    fill(tmp_path / folder, "cat", "dog", count=3)
    if folder:
        fill(tmp_path / "test", "cat", "dog", count=1, start=100)
    rows = [f"{folder}{name}/{i:02d}.png,{said[i]}" for name in ("cat", "dog") for i in range(3)]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,Split", *rows]))
    opened = read_image_folder(tmp_path)
    assert opened is not None and {name: len(split) for name, split in opened.items()} == splits
    found = [
        re.fullmatch(".*" + re.escape(told or "").replace(r"\.\*", ".*") + ".*", text) for text in caplog.messages
    ]
    assert len(found) <= 2 and any(found) == bool(told)


def test_numbered_folders_are_in_the_order_of_their_numbers(tmp_path):
    fill(tmp_path, *map(str, range(12)), count=3)
    assert load_task(str(tmp_path)).labels == tuple(map(str, range(12)))


def test_a_path_may_have_brackets(tmp_path):
    root = tmp_path / "[2024] trip: a@b"
    fill(root / "photos", "cat", "dog")
    task = load_task(f"{root}/photos[dog,cat]")
    assert task.labels == ("dog", "cat") and task.name == "photos[dog,cat]"
    train = read_image_folder(root / "photos")
    assert train is not None
    train["train"].to_parquet(root / "photos.parquet")
    assert load_task(f"{root}/photos.parquet:train[cat,dog]").labels == ("cat", "dog")


def test_a_clone_without_git_lfs_is_told(tmp_path):
    fill(tmp_path, "cat", "dog")
    for i in range(3):
        (tmp_path / "cat" / f"{i:02d}.png").write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{i}\n")
    with pytest.raises(DataError, match="3 of 24 images are pointers of git-lfs.*git lfs pull"):
        load_task(str(tmp_path))


def test_numbers_that_are_written_in_two_ways_are_told_apart(caplog):
    assert numbers_in(["1.10", "1.1", None, "2.0"], "version") == ["1.10", "1.1", None, "2.0"]
    assert "The column 'version' has 1.10 and 1.1: its values are texts" in caplog.text
    assert numbers_in(["0.5", None, "0.5", "1e3"]) == [0.5, None, 0.5, 1000.0]
