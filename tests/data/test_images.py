"""Decoding, channels, memory and the messages on images that cannot be used."""

import io
import pickle

import datasets
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from hf_dtl.data import ImageTensors, LazyImages, embedded_processor, images, load_images, load_task
from hf_dtl.data.decoding import Variety, to_channels
from hf_dtl.data.processors import default_processor
from hf_dtl.errors import DataError


class Config:
    image_size, num_channels = 8, 1


def encode(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind)
    return buffer.getvalue()


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def dataset(contents: list[bytes], paths: list[str | None] | None = None) -> datasets.Dataset:
    paths = paths or [None] * len(contents)
    return datasets.Dataset.from_dict(
        {
            "image": [{"bytes": content, "path": path} for content, path in zip(contents, paths, strict=True)],
            "label": [number % 2 for number in range(len(contents))],
        },
        features=datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}),
    )


def test_tensors_are_the_pixels_rescaled_to_minus_one_to_one():
    task = load_task("mnist[0,1]", images_per_class=150)
    result = load_images(task.train, embedded_processor(), num_channels=3)
    assert isinstance(result, ImageTensors) and len(result) == 300
    pixels = np.stack([np.asarray(image) for image in task.train["image"]])
    expected = torch.from_numpy(pixels / 127.5 - 1).float()[:, None].expand(-1, 3, -1, -1)
    torch.testing.assert_close(result.pixel_values, expected)
    assert result.labels.dtype == torch.int64 and result.labels.tolist() == task.train["label"][:]
    assert result[7]["labels"] == task.train["label"][7] and torch.equal(
        result[7]["pixel_values"], result.pixel_values[7]
    )
    part = result.subset([299, 0])
    assert torch.equal(part.pixel_values, result.pixel_values[[299, 0]]) and part.labels.tolist() == [
        task.train["label"][299],
        task.train["label"][0],
    ]


def test_lazy_images_give_the_same_items_also_in_workers():
    train = load_task("mnist[0,1]", images_per_class=5).train
    eager = load_images(train, embedded_processor(), num_channels=3)
    lazy = load_images(train, embedded_processor(), num_channels=3, memory_limit_gib=0)
    assert isinstance(lazy, LazyImages)
    bytes_needed = eager.pixel_values.nbytes
    exact = load_images(train, embedded_processor(), num_channels=3, memory_limit_gib=bytes_needed / 2**30)
    assert isinstance(exact, ImageTensors), "the limit itself is still kept in memory"
    for candidate in (lazy, pickle.loads(pickle.dumps(lazy)), pickle.loads(pickle.dumps(eager))):
        assert torch.equal(candidate.labels, eager.labels)
        assert all(torch.equal(candidate[row]["pixel_values"], eager[row]["pixel_values"]) for row in range(10))
    assert torch.equal(lazy.subset([9, 3])[1]["pixel_values"], eager[3]["pixel_values"])
    loader = torch.utils.data.DataLoader(lazy, batch_size=10, num_workers=1)
    torch.testing.assert_close(next(iter(loader))["pixel_values"], eager.pixel_values)
    with pytest.raises(IndexError):
        lazy[10]


def test_several_batches_keep_the_order(monkeypatch):
    train = load_task("mnist[0,1]", images_per_class=5).train
    expected = load_images(train, embedded_processor(), num_channels=3).pixel_values
    monkeypatch.setattr(images, "BATCH", 3)
    assert torch.equal(load_images(train, embedded_processor(), num_channels=3).pixel_values, expected)


GREY = noise(6, 6)
COLOUR = noise(6, 6, 3, seed=1)


def on_white(pixels: np.ndarray) -> np.ndarray:
    """With the opacity `GREY`."""
    opacity = GREY[..., None] / 255
    return opacity * pixels + (1 - opacity) * 255


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(GREY), np.stack([GREY] * 3, -1)),
        (Image.fromarray(COLOUR), COLOUR),
        (Image.fromarray(np.dstack([COLOUR, GREY])), on_white(COLOUR)),
        (Image.fromarray(np.dstack([GREY, GREY])), on_white(np.stack([GREY] * 3, -1))),
        (Image.fromarray(COLOUR).convert("P", palette=Image.Palette.ADAPTIVE, colors=256), COLOUR),
        (Image.fromarray(GREY.astype(np.uint16) * 256 + 7), np.stack([GREY] * 3, -1)),
        (Image.fromarray(255 - np.dstack([COLOUR, np.full((6, 6), 255, np.uint8)]), "CMYK"), COLOUR),
        (Image.fromarray(GREY > 127), np.stack([np.where(GREY > 127, 255, 0)] * 3, -1)),
    ],
    ids=["grey", "rgb", "rgba", "grey+alpha", "palette", "16-bit", "cmyk", "1-bit"],
)
def test_every_mode_becomes_rgb(image, expected):
    kind = "TIFF" if image.mode == "CMYK" else "PNG"
    result = load_images(dataset([encode(image, kind)]), embedded_processor(6), num_channels=3)
    pixels = (result.pixel_values[0].permute(1, 2, 0).numpy() + 1) * 127.5
    np.testing.assert_allclose(pixels, expected, atol=1 if image.mode in ("RGBA", "LA") else 1e-3)


def test_one_channel_takes_grey_and_refuses_colour():
    processor = default_processor(Config())
    grey_as_rgb = Image.fromarray(np.stack([noise(8, 8)] * 3, -1))
    result = load_images(dataset([encode(grey_as_rgb)]), processor, num_channels=1)
    torch.testing.assert_close(result.pixel_values[0, 0], torch.from_numpy(noise(8, 8) / 127.5 - 1).float())
    mixed = dataset([encode(grey_as_rgb), encode(Image.fromarray(noise(8, 8, 3)))], [None, "red.png"])
    with pytest.raises(DataError, match="row 1, class 'dog', red.png: it is in colour.*takes 1 channel; convert"):
        load_images(mixed, processor, num_channels=1)
    with pytest.raises(ValueError, match="32-bit"):
        to_channels(Image.fromarray(np.ones((2, 2), np.float32)), 3)


def test_exif_rotation_is_applied():
    image, exif = Image.fromarray(COLOUR[:4]), Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", exif=exif)
    result = load_images(dataset([buffer.getvalue()]), embedded_processor(6), num_channels=3)
    upright = load_images(
        dataset([encode(Image.fromarray(np.rot90(COLOUR[:4], -1).copy()))]), embedded_processor(6), num_channels=3
    )
    assert torch.equal(result.pixel_values, upright.pixel_values)


def test_corrupt_images_are_named_with_row_class_and_reason():
    good = encode(Image.fromarray(noise(8, 8, 3)))
    contents = [b"nonsense", good, good[: len(good) // 2], b"", *[b"nonsense"] * 4, good]
    paths = [f"{number}.png" for number in range(9)]
    with pytest.raises(DataError) as error:
        load_images(dataset(contents, paths), embedded_processor(), num_channels=3, desc="source train")
    message = str(error.value)
    assert message.startswith(
        "source train: 7 of 9 images cannot be used:\n  row 0, class 'cat', 0.png: cannot identify"
    )
    assert "row 2, class 'cat', 2.png: " in message and "and 2 more" in message and "1.png" not in message
    assert "remove them" in message and "BytesIO" not in message
    selection = dataset(contents).select([1, 8, 5])
    with pytest.raises(DataError, match=r"1 of 3 images.*\n  row 2 \(row 5 of the file\), class 'dog'"):
        load_images(selection, embedded_processor(), num_channels=3)


def test_lazy_images_report_broken_headers_at_once_and_broken_pixels_on_access():
    good = encode(Image.fromarray(noise(8, 8, 3)))
    with pytest.raises(DataError, match="row 1.*cannot identify"):
        load_images(dataset([good, b"nonsense"]), embedded_processor(), num_channels=3, memory_limit_gib=0)
    lazy = LazyImages(dataset([good, good[:-40]]), embedded_processor(), num_channels=3)
    assert lazy[0]["labels"] == 0
    with pytest.raises(DataError, match="row 1, class 'dog'"):
        lazy[1]


@pytest.mark.parametrize("limit", [4, 0])
def test_further_pages_and_frames_are_told(caplog, limit):
    pages = [Image.fromarray(noise(8, 8, 3, seed=i)) for i in range(4)]
    contents = [encode(pages[0])]
    for kind, rest in (("TIFF", pages[2:]), ("GIF", pages[3:]), ("MPO", pages[2:])):
        buffer = io.BytesIO()
        pages[1].save(buffer, kind, save_all=True, append_images=rest)
        contents.append(buffer.getvalue())
    found = load_images(dataset(contents), embedded_processor(), num_channels=3, memory_limit_gib=limit, desc="scans")
    found.subset([1])
    told = "scans: 2 of 4 images have several pages or frames; the first of each alone is used."
    assert caplog.messages.count(told) == 1, "and the second image of a telephone's MPO is no page"


def test_decompression_bomb_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(DataError, match="decompression bomb"):
        load_images(dataset([encode(Image.fromarray(noise(8, 8)))]), embedded_processor(), num_channels=3)


def test_processor_that_does_not_fit_is_refused():
    sizes = dataset([encode(Image.fromarray(noise(8, size, 3))) for size in (8, 9)])
    loose = embedded_processor()
    loose.do_resize = False
    with pytest.raises(DataError, match=r"several shapes.*\(3, 8, 8\), \(3, 8, 9\).*resizes all"):
        load_images(sizes, loose, num_channels=3)
    grey = dataset([encode(Image.fromarray(noise(8, 8)))])
    with pytest.raises(DataError, match=r"in the shape \(3, 28, 28\).*takes 1 channel"):
        load_images(grey, embedded_processor(), num_channels=1)
    three = embedded_processor()
    three.do_convert_rgb = False
    with pytest.raises(DataError, match="cannot process L images|takes 1 channel"):
        load_images(grey, three, num_channels=1)
    with pytest.raises(DataError, match="takes 4 channels"):
        load_images(grey, three, num_channels=4)
    with pytest.raises(DataError, match="there is no image"):
        load_images(grey.select([]), three, num_channels=1)


def test_images_that_decode_to_nothing_are_told_by_count(caplog):
    plain = [encode(Image.new("RGB", (6, 6), (i, i, i))) for i in range(3)]
    contents = [*plain, encode(Image.fromarray(COLOUR)), encode(Image.fromarray(COLOUR), "BMP")]
    load_images(dataset(contents), embedded_processor(6), num_channels=3, desc="signs")
    assert "signs: 3 of 5 images are of one colour throughout once decoded. White signs on nothing need" in caplog.text
    assert "signs: 1 of 5 images are equal to another one once decoded" in caplog.text
    dark = [encode(Image.fromarray(noise(6, 6, seed=i) % 15)) for i in range(3)]
    load_images(dataset(dark), embedded_processor(6), num_channels=3, desc="night")
    assert "night: the brightest value of all 3 images is 14 of 255" in caplog.text
    with pytest.raises(DataError, match="all 3 images are the same once they are decoded"):
        load_images(dataset([plain[0]] * 3), embedded_processor(6), num_channels=3)
    caplog.clear()
    variety = Variety("good")
    variety.add([Image.fromarray(GREY), Image.fromarray(COLOUR)])
    variety.tell()
    assert not caplog.text


def test_white_signs_on_nothing_are_told_apart_on_black(tmp_path, caplog):
    for name in ("circle", "square"):
        (tmp_path / name).mkdir()
        for i in range(12):
            sign = Image.new("RGBA", (16, 16))
            draw = ImageDraw.Draw(sign)
            (draw.ellipse if name == "circle" else draw.rectangle)((1, 1, 3 + i, 3 + i), fill="white")
            sign.save(tmp_path / name / f"{i}.png")
    with pytest.raises(DataError):
        load_task(str(tmp_path))
    told = "24 images are transparent, and of one colour once they are put on white. White signs on nothing need a "
    assert told + "background, as in --background black" in caplog.text
    caplog.clear()
    task = load_task(str(tmp_path), background="black")
    assert not caplog.text
    images = load_images(task.train, embedded_processor(16), num_channels=3)
    assert len(images) + len(task.validation) + len(task.test) == 24
    assert len({image.numpy().tobytes() for image in images.pixel_values}) == len(images)
    lazy = load_images(task.train, embedded_processor(16), num_channels=3, memory_limit_gib=0)
    assert torch.equal(lazy[3]["pixel_values"], images.pixel_values[3])
    with pytest.raises(DataError, match="background='blakc' is no colour"):
        load_task(str(tmp_path), background="blakc")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB"])
def test_what_is_transparent_is_white(mode):
    sign = np.zeros((6, 6), dtype=np.uint8)
    sign[2:4, 2:4] = 255  # opaque, and black
    image = Image.fromarray(np.dstack([np.zeros((6, 6, 3), dtype=np.uint8), sign]))
    if mode != "RGBA":
        image = image.convert("LA") if mode == "LA" else Image.fromarray(255 - sign)  # what is there is 0, else 255
        if mode in ("P", "L", "RGB"):
            image = Image.fromarray(np.where(sign > 0, 0, 9).astype(np.uint8)).convert("RGB" if mode == "RGB" else "L")
            image = image.quantize(4) if mode == "P" else image
            image.info["transparency"] = (9, 9, 9) if mode == "RGB" else image.getpixel((0, 0))
        image = Image.open(io.BytesIO(encode_with(image)))
    for channels in (1, 3):
        grey = np.asarray(to_channels(image, channels).convert("L"))
        np.testing.assert_array_equal(grey, 255 - sign)


def encode_with(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **{k: v for k, v in image.info.items() if k == "transparency"})
    return buffer.getvalue()
