"""Which rows of tables are for training and which judge: by a column, or by the names of files and folders."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from table_toys import per_class, table

from hf_dtl.data import load_task
from hf_dtl.errors import DataError


def test_a_column_of_splits_and_files_called_after_them_in_any_case(tmp_path, caplog):
    whole = table({"cat": 30, "dog": 30})
    said = ["Test" if i % 30 < 6 else "train" if i % 2 else None for i in range(60)]
    (tmp_path / "one").mkdir()
    whole.add_column("Split", said).to_parquet(tmp_path / "one" / "all.parquet")
    as_pandas = pq.read_table(tmp_path / "one" / "all.parquet")
    at = as_pandas.schema.get_field_index("Split")
    for kind in (pa.large_string(), pa.dictionary(pa.int32(), pa.string())):  # text as pandas 3 writes it, a category
        cast = as_pandas["Split"].cast(kind) if kind == pa.large_string() else as_pandas["Split"].dictionary_encode()
        (tmp_path / str(kind)[:5]).mkdir()
        pq.write_table(as_pandas.set_column(at, "Split", cast), tmp_path / str(kind)[:5] / "all.parquet")
    for path in (*(tmp_path / name for name in ("one", "large", "dicti")), tmp_path / "one" / "all.parquet"):
        task = load_task(str(path))
        assert len(task.test) == 12 and len(task.train) + len(task.validation) == 48, path
    assert "the splits are those of the column 'Split': 48 train, 12 test" in caplog.text
    assert "24 rows have nothing in the column 'Split' and are for training" in caplog.text
    whole.add_column("split", ["gold" if i == 3 else "train" for i in range(60)]).to_parquet(tmp_path / "odd.parquet")
    assert len(load_task(str(tmp_path / "odd.parquet")).test) == 12
    assert "the column 'split' says gold, which is no split; so it is used for no row" in caplog.text
    (tmp_path / "two").mkdir()
    table({"cat": 20, "dog": 20}).to_parquet(tmp_path / "two" / "TRAIN.parquet")
    table({"cat": 5, "dog": 7}, start=900).to_parquet(tmp_path / "two" / "Test.parquet")
    assert per_class(load_task(str(tmp_path / "two")).test) == {"cat": 5, "dog": 7}


def test_folders_called_after_splits_and_a_column_of_numbers(tmp_path, caplog):
    for number, name in enumerate(("train", "test")):
        (tmp_path / "hive" / f"split={name}").mkdir(parents=True)
        table({"cat": 20, "dog": 20}, 100 * number).to_parquet(tmp_path / "hive" / f"split={name}" / "part-0.parquet")
    task = load_task(str(tmp_path / "hive"))
    assert len(task.test) == 40 and task.drawn == ("validation",)
    table({"cat": 20, "dog": 20}).add_column("split", [0, 1] * 20).to_parquet(tmp_path / "coded.parquet")
    assert load_task(str(tmp_path / "coded.parquet")).drawn == ("test", "validation")
    table({"cat": 20, "dog": 20}).add_column("split", ["0", "1"] * 20).to_parquet(tmp_path / "coded2.parquet")
    assert load_task(str(tmp_path / "coded2.parquet")).drawn == ("test", "validation")
    assert "the column 'split' says 0, 1, which is no split; so it is used for no row" in caplog.text
    assert "the column 'split' holds Value('int64'), no words such as train and test" in caplog.text


def test_shards_of_numbers_and_of_text_are_refused(tmp_path):
    table({7: 12, 8: 12}).to_parquet(tmp_path / "a.parquet")
    table({"007": 12, "cat": 12}, 100).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(DataError, match="'label' holds .*int64.* in 'a.parquet', and .*string.* in 'b.parquet'"):
        load_task(str(tmp_path))


def test_a_column_of_splits_that_files_contradict_is_told(tmp_path, caplog):
    for number, name in enumerate(("petsTrain", "petsTest")):
        part = table({"cat": 20, "dog": 20}, 100 * number).add_column("split", ["train", "test"] * 20)
        part.to_parquet(tmp_path / f"{name}.parquet")
    assert len(load_task(str(tmp_path)).test) == 40
    assert "the split 'train' has test in its column 'split', which is not used" in caplog.text


@pytest.mark.parametrize("names", [("train_val", "train_test"), ("train", "train_val", "test"), ("train_test",)])
def test_a_file_called_after_two_splits_is_refused(tmp_path, names):
    for number, name in enumerate(names):
        table({"cat": 12, "dog": 12}, 100 * number).to_parquet(tmp_path / f"{name}.parquet")
    with pytest.raises(DataError, match=r"train_(val|test)\.parquet.* has words of several splits. Name it after one"):
        load_task(f"{tmp_path}")
