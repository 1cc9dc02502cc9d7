"""The same picture under another name, person or class."""

import io

import datasets
import numpy as np
import pytest
from PIL import Image

from hf_dtl.data import ForgetRequest, load_task
from hf_dtl.errors import DataError


def picture(number: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8))


def encoded(number: int, kind: str = "PNG", **options) -> dict:
    buffer = io.BytesIO()
    picture(number).save(buffer, format=kind, **options)
    return {"bytes": buffer.getvalue(), "path": None}


def saved(tmp_path, **splits) -> str:
    """Rows are (image, label, person)."""
    features = {"image": datasets.Image(), "label": datasets.Value("string"), "person": datasets.Value("string")}
    datasets.DatasetDict(
        {
            split: datasets.Dataset.from_dict(
                dict(zip(features, map(list, zip(*rows, strict=True)), strict=True)),
                features=datasets.Features(features),
            )
            for split, rows in splits.items()
        }
    ).save_to_disk(tmp_path / "saved")
    return str(tmp_path / "saved")


def others(count: int, start: int = 0) -> list[tuple]:
    return [(encoded(start + i), "xy"[i % 2], "bob") for i in range(count)]


def as_png(values: np.ndarray) -> dict:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def pixels(images) -> list[bytes]:
    return [image.tobytes() for image in images["image"]]


ANN = range(500, 510)


def test_copies_are_found_by_their_pixels_whatever_the_file(tmp_path):
    again = [(encoded(i, "BMP"), "xy"[i % 2], "bob") for i in range(4)]
    again += [(encoded(i, "PNG", compress_level=0), "xy"[i % 2], "bob") for i in range(4)]
    task = load_task(saved(tmp_path, train=others(40) + again))
    found = [pixel for split in (task.train, task.validation, task.test) for pixel in pixels(split)]
    assert task.duplicates_removed == 8 and len(found) == len(set(found)) == 40


@pytest.mark.parametrize("test_split", [False, True])
def test_what_is_forgotten_of_one_person_is_not_retained_of_another(tmp_path, caplog, test_split):
    """Bob's rows come first, some of ann's pictures are in the test split: neither hides them."""
    bobs = [(encoded(i, "BMP"), "xy"[i % 2], "bob") for i in ANN]
    anns = [(encoded(i), "xy"[i % 2], "ann") for i in ANN]
    splits = {"train": bobs[:6] + others(60) + anns}
    if test_split:
        splits["test"] = bobs[6:] + others(10, 900)
    request = ForgetRequest.parse("person=ann")
    task = load_task(saved(tmp_path, **splits), keep_column="person")
    division = request.divide(task)
    ann = {picture(i).tobytes() for i in ANN}
    assert not ann & set(pixels(division.retain))
    for split in (task.validation, task.test):
        kept = split.select(np.flatnonzero(~request.has_value(split, task)))
        assert not ann & set(pixels(kept)), "nor do they judge what is retained"
    copied = {picture(i).tobytes() for i in (ANN if test_split else ANN[:6])}
    assert copied <= set(pixels(division.forget)), "of several persons' pictures none is held out"
    assert "are copies of such; they are forgotten too" in caplog.text


def test_a_picture_that_is_held_out_of_who_is_forgotten_is_not_retained(tmp_path, caplog):
    anns = [(encoded(i), "xy"[i % 2], "ann") for i in ANN]
    bobs = [(encoded(i, "BMP"), "xy"[i % 2], "bob") for i in ANN]
    neutral = [(encoded(i), "xy"[i % 2], "cleo") for i in range(60)]
    path = saved(tmp_path, train=neutral + anns + [(encoded(900), "x", "bob")], test=bobs + others(10, 950))
    task = load_task(path, keep_column="person")
    division = ForgetRequest.parse("person=bob").divide(task)
    assert not {picture(i).tobytes() for i in ANN} & set(pixels(division.retain)) and len(division.forget) == 11
    assert "10 images that stand under another value are copies of such; they are forgotten too" in caplog.text


@pytest.mark.parametrize("factor", [257, 256, 16])
def test_copies_of_16_bits_and_8_are_one_picture(tmp_path, factor):
    grey = [np.random.default_rng(i).integers(0, 256, (6, 6), dtype=np.uint16) for i in range(40)]
    grey[0][0, 0] = 255
    deep = [(as_png(values * factor), "xy"[i % 2], "ann") for i, values in enumerate(grey)]
    plain = [(as_png(values.astype(np.uint8)), "xy"[i % 2], "ann") for i, values in enumerate(grey[:10])]
    task = load_task(saved(tmp_path, train=deep, test=plain))
    assert task.duplicates_removed == 10 and len(task.test) == 10
    assert len(task.train) + len(task.validation) == 30


def test_listed_rows_stand_for_their_copies(tmp_path, caplog):
    bobs, anns = ([(encoded(i), "xy"[i % 2], who) for i in ANN] for who in ("bob", "ann"))
    path = saved(tmp_path, train=bobs + others(40) + anns)
    (tmp_path / "rows.txt").write_text("\n".join(str(50 + i) for i in range(10)))
    task = load_task(path, keep_column="person")
    division = ForgetRequest.parse(f"{tmp_path}/rows.txt").divide(task)
    assert set(pixels(division.forget)) == {picture(i).tobytes() for i in ANN} and sorted(division.rows) == list(
        range(10)
    )
    assert "10 of its rows are copies of other images, which are forgotten instead: row 50" in caplog.text
    (tmp_path / "two.txt").write_text("0,y\n50,x\n")
    with pytest.raises(DataError, match="rows 50 and 0 are the same picture, listed as 'x' and 'y'"):
        ForgetRequest.parse(f"{tmp_path}/two.txt").divide(task)


def test_a_picture_of_two_classes_is_not_retained_when_one_is_forgotten(tmp_path, caplog):
    three = [(encoded(i), "xyz"[i % 3], "bob") for i in range(60)]
    as_z = [(encoded(i), "z", "bob") for i in (0, 3, 6)]  # pictures of x
    as_x = [(encoded(i), "x", "bob") for i in (2, 5)]  # pictures of z
    task = load_task(saved(tmp_path, train=three + as_z + as_x))
    for forgotten, also_there in (("z", (0, 3, 6)), ("x", (2, 5))):
        division = ForgetRequest.parse(f"class={forgotten}").divide(task)
        assert {task.labels[label] for label in division.forget["label"]} == {forgotten}
        assert not {picture(i).tobytes() for i in also_there} & set(pixels(division.retain))
        assert f"class={forgotten}: {len(also_there)} images of other classes are copies of these" in caplog.text
    assert "5 exact duplicates removed before splitting, 5 of them under another label or value" in caplog.text


@pytest.mark.parametrize(("top", "bits"), [(65535, 16), (4095, 12), (1023, 10), (255, 8)])
def test_16_bit_images_are_read_by_the_range_of_all_splits(tmp_path, caplog, top, bits):
    from hf_dtl.data import embedded_processor, load_images

    grey = [np.random.default_rng(i).integers(0, 256, (6, 6), dtype=np.uint8) for i in range(30)]
    grey[29][0, 0] = 255

    def deep(i):
        buffer = io.BytesIO()
        factor = (top + 1) // 256
        dim = 16 if i < 20 else 1  # the training images alone are darker
        Image.fromarray((grey[i] // dim).astype(np.uint16) * factor + (factor - 1)).save(buffer, "PNG")
        return {"bytes": buffer.getvalue(), "path": None}

    rows = [(deep(i), "xy"[i % 2], "bob") for i in range(30)]
    task = load_task(saved(tmp_path, train=rows[:20], test=rows[20:]))
    images = load_images(task.test, embedded_processor(6), num_channels=3)
    values = ((images.pixel_values[:, 0] + 1) * 127.5).numpy().round()
    np.testing.assert_array_equal(values, np.stack(grey[20:]))
    train = load_images(task.train, embedded_processor(6), num_channels=3).pixel_values
    assert ((train.max() + 1) * 127.5).round() == 15, "and stay darker"
    assert f"they are read as of {bits} bits" in caplog.text
