"""Images that would open what is not theirs: files outside their data set, and programs."""

import io
import os

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hf_dtl.data import embedded_processor, load_images, load_task
from hf_dtl.data.selection import DatasetSpec
from hf_dtl.data.sources import open_splits
from hf_dtl.errors import DataError

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(/etc/passwd) (r) file\n%%EOF\n"
FEATURES = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})


def png(value=0):
    content = io.BytesIO()
    Image.new("RGB", (8, 8), (value, 0, 0)).save(content, "PNG")
    return content.getvalue()


def parquet(folder, rows):
    """A parquet file of images, as a stranger may publish it."""
    folder.mkdir(exist_ok=True)
    labels = [i % 2 for i in range(len(rows))]
    pq.write_table(pa.table({"image": rows, "label": labels}, schema=FEATURES.arrow_schema), folder / "train.parquet")
    return folder / "train.parquet"


@pytest.mark.parametrize("up", (False, True))
@pytest.mark.parametrize("named", ("folder", "file"))
def test_a_row_opens_nothing_outside_its_data(tmp_path, up, named):
    (tmp_path / "secret.png").write_bytes(png(200))
    path = tmp_path / ("data/../secret.png" if up else "secret.png")
    rows = [{"bytes": png(i), "path": None} for i in range(19)] + [{"bytes": None, "path": str(path)}]
    file = parquet(tmp_path / "data", rows)
    with pytest.raises(
        DataError, match=r"row 19 is a path outside the data set \(.*secret.png\), which is not opened"
    ):
        load_task(str(file.parent if named == "folder" else file))


def test_a_row_may_name_an_image_of_its_own_folder(tmp_path):
    rows = [{"bytes": None, "path": str(tmp_path / f"{i}.png")} for i in range(20)]
    for i, row in enumerate(rows):
        (tmp_path / row["path"]).write_bytes(png(i))
    task = load_task(str(parquet(tmp_path, rows)))
    assert len(task.train) + len(task.validation) + len(task.test) == 20


def test_no_format_starts_a_program(tmp_path, monkeypatch):
    program, traces = tmp_path / "bin" / "gs", tmp_path / "started"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho >> {traces}\nexit 0\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    rows = {"image": [{"bytes": png(), "path": None}, {"bytes": EPS, "path": "a.eps"}], "label": [0, 1]}
    images = datasets.Dataset.from_dict(rows, features=FEATURES)
    for limit in (4.0, 0.0):
        with pytest.raises(DataError, match="row 1, class 'b', a.eps: cannot identify it.*PNG, JPEG"):
            load_images(images, embedded_processor(), num_channels=3, memory_limit_gib=limit)
    assert not traces.exists()


def test_a_cache_that_cannot_be_written_is_blamed_on_itself(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    file = parquet(tmp_path / "rows", [{"bytes": png(i), "path": None} for i in range(20)])
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match="cache of data sets, .*cannot be written.*Set HF_HOME"):
        open_splits(DatasetSpec.parse(str(file)))
