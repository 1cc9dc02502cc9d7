"""Transfer images are none of what is to be forgotten, by class or by picture, and none that are known already."""

import datasets
import pytest
from PIL import Image

from hf_dtl.data import load_task
from hf_dtl.data.transfer import load_transfer
from hf_dtl.errors import DataError


@pytest.fixture(scope="module")
def tasks():
    return load_task("mnist[0,1]", images_per_class=20), load_task("mnist[6,7]", images_per_class=5)


def opened(tasks, text, **changes):
    source, kept = tasks
    given = {
        "forgotten": [source.train, source.test], "labelled": kept.train, "held_out": [kept.validation, kept.test],
        "labels": source.labels, "forgotten_key": source.source_key,
    }  # fmt: skip
    return load_transfer(str(text), **given | changes)


def parquet(folder, pictures, **columns):
    features = {"image": datasets.Image()} | {name: datasets.Value("string") for name in columns}
    table = datasets.Dataset.from_dict({"image": pictures, **columns}, features=datasets.Features(features))
    table.to_parquet(folder / "some.parquet")
    return folder / "some.parquet"


def test_what_is_labelled_or_there_twice_is_left_out_and_draws_contain_each_other(tasks, tmp_path):
    known = {image.tobytes() for image in tasks[1].train["image"]}
    found = opened(tasks, "mnist[6,7]")
    assert found.column_names == ["image"] and not known & {image.tobytes() for image in found["image"]}
    assert len(found) == len(load_task("mnist[6,7]").train) - 10
    few, more = ({i.tobytes() for i in opened(tasks, "mnist[6,7]", count=n, seed=4)["image"]} for n in (10, 30))
    assert len(few) == 10 and few < more and len(more) == 30
    foreign = [Image.new("L", (28, 28), n % 7) for n in range(10)]
    assert len(opened(tasks, parquet(tmp_path, foreign))) == 7


def test_classes_and_pictures_of_what_is_to_be_forgotten_are_refused(tasks, tmp_path):
    with pytest.raises(DataError, match="classes 0, 1, which are to be forgotten"):
        opened(tasks, "mnist")
    lost = [*tasks[0].train["image"][:3], *tasks[1].test["image"][:2]]
    path = parquet(tmp_path, lost)
    with pytest.raises(DataError, match="3 of 5 are pictures of what is to be forgotten"):
        opened(tasks, path)
    named = parquet(tmp_path, [Image.new("L", (9, 9), n) for n in range(2)], label=["Cat", "dog"])
    with pytest.raises(DataError, match="classes Cat, which"):
        opened(tasks, named, labels=["cat", "bird"])
    assert len(opened(tasks, named, labels=["bird"])) == 2


def test_one_data_set_under_two_columns_shares_its_pictures(tasks, tmp_path):
    both = [*tasks[0].train["image"][:6]]
    shared = tasks[0].train.select(range(3))
    assert len(opened(tasks, parquet(tmp_path, both), labelled=shared)) == 3


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (lambda tasks: tasks[1].test["image"][:2], {}, "there is no image that is not labelled or held out"),
        (lambda tasks: [Image.new("L", (9, 9))], {"count": 2}, "2 are wanted and there are 1"),
    ],
)
def test_too_few_are_named(tasks, tmp_path, make, changes, message):
    with pytest.raises(DataError, match=message):
        opened(tasks, parquet(tmp_path, make(tasks)), **changes)
