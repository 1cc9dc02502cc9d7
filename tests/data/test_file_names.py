"""Names of image files in a table: they begin in its own folder, and nothing outside of it is opened."""

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from table_toys import png

from hf_dtl.data import load_multitask, load_task
from hf_dtl.errors import DataError

NAMES = [f"images/{number}.png" for number in range(40)]
LABELS = [number % 2 for number in range(40)]
STRUCT = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")}).arrow_schema


def pictures(folder, start=0):
    (folder / "images").mkdir(parents=True)
    for number, name in enumerate(NAMES):
        (folder / name).write_bytes(png(start + number))


def written(folder, kind):
    """A table of names: as texts, images without bytes, these beside bytes, or as `datasets` saves it."""
    folder.mkdir(parents=True, exist_ok=True)
    images = NAMES if kind in ("names", "saved") else [{"bytes": None, "path": name} for name in NAMES]
    if kind == "mixed":
        images = [{"bytes": png(number), "path": f"{number}.png"} for number in range(20)] + images[20:]
    table = pa.table({"image": images, "label": LABELS}, schema=STRUCT if images is not NAMES else None)
    if kind == "saved":
        datasets.Dataset(table).save_to_disk(str(folder))
        return str(folder)
    pq.write_table(table, folder / "train.parquet")
    return str(folder / "train.parquet")


@pytest.mark.parametrize("kind", ["names", "images", "mixed", "saved"])
def test_names_begin_in_the_tables_own_folder(tmp_path, monkeypatch, kind):
    """And not where the program was started, though there are files of these names too."""
    pictures(tmp_path / "data")
    pictures(tmp_path / "here", start=100)
    monkeypatch.chdir(tmp_path / "here")
    place = written(tmp_path / "data", kind)
    seen = set()
    several = load_multitask(place, task_columns=["label"], image_column="image")
    for task in (load_task(place, image_column="image"), several):
        for split in (task.train, task.validation, task.test):
            seen |= {image.tobytes() for image in split["image"]}
    own = datasets.Dataset.from_dict({"image": [png(n) for n in range(40)]}).cast_column("image", datasets.Image())
    assert seen == {image.tobytes() for image in own["image"]}


@pytest.mark.parametrize("kind", ["names", "images", "mixed"])
def test_names_of_the_folder_where_one_started_are_refused(tmp_path, monkeypatch, kind):
    pictures(tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(DataError, match=r"cannot be read: .*/data/images/\d+.png.*begins in the table's own folder"):
        load_task(written(tmp_path / "data", kind), image_column="image")


def test_names_lead_to_nothing_outside(tmp_path):
    pictures(tmp_path)
    (tmp_path / "data").mkdir()
    names = [f"../{name}" for name in NAMES]
    pq.write_table(pa.table({"image": names, "label": LABELS}), tmp_path / "data" / "train.parquet")
    with pytest.raises(DataError, match="row 0 is a path outside the data set"):
        load_task(f"{tmp_path}/data", image_column="image")
