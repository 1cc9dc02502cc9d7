"""Tables in several files: what one says of a column, the others say too, or it is told which does not."""

import datasets
import pytest
from table_toys import table

from hf_dtl.data import load_task
from hf_dtl.errors import DataError


def shards(folder, *parts):
    for number, part in enumerate(parts):
        part.to_parquet(folder / "own" / f"train-{number}.parquet")
    return f"{folder}/own"


def labelled(labels, kind):
    return table({1: len(labels)}, 100).remove_columns("label").add_column("label", labels, feature=kind)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (
            table({1: 12, 2: 12}, 100).add_column("age", [1] * 24),
            "'train-1.parquet' has the columns age, which 'train-0.parquet' lacks. Give all files the same",
        ),
        (
            labelled([1.0, 2.5] * 12, datasets.Value("float64")),
            "whole numbers in 'train-0.parquet', and 2.5 in 'train-1.parquet'",
        ),
        (
            labelled([True, False] * 12, datasets.Value("bool")),
            "int64.* in 'train-0.parquet', and .*bool.* in 'train-1.parquet'.*alike",
        ),
    ],
)
def test_a_file_that_does_not_fit_the_first_is_named(tmp_path, other, told):
    with pytest.raises(DataError, match=told):
        load_task(shards(tmp_path, table({1: 12, 2: 12}), other))


def test_files_may_lack_a_column_and_write_whole_numbers_as_floats(tmp_path):
    """As pandas does beside an empty field: they are the same numbers."""
    first = table({1: 12, 2: 12}).add_column("age", [1] * 24)
    floats = labelled([1.0, 2.0, None] * 8, datasets.Value("float32"))
    task = load_task(shards(tmp_path, first, floats))
    assert task.labels == ("1", "2") and len(task.train) + len(task.validation) + len(task.test) == 40


def test_the_reader_of_other_tables_is_heard(tmp_path):
    for number, label in enumerate(("1", "2.5")):
        (tmp_path / f"train-{number}.csv").write_text(f"image,label\na.png,{label}\n")
    with pytest.raises(DataError, match="Schema .*double.*the same columns, of the same types"):
        load_task(str(tmp_path), image_column="image")
