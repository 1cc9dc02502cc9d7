"""Glyphs: every label is what is drawn, every image is the same again, and no two splits share one."""

import itertools
import math

import datasets
import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from hf_dtl.data import glyphs
from hf_dtl.data.glyphs import FACES, FEATURES, MAX_ROTATION, SPLITS, render_glyph, render_glyphs
from hf_dtl.errors import DataError

TASKS = [name for name in FEATURES if name != "image"]

# what was rendered once, with Pillow 12.3 and FreeType 2.14
LABELS = {"letter": 5, "case": 1, "family": 3, "weight": 1, "slant": 1, "rotation": -0.6583549380302429}
LINE = [
    9,
    7,
    13,
    11,
    21,
    20,
    19,
    2,
    15,
    166,
    221,
    185,
    58,
    148,
    66,
    72,
    200,
    188,
    140,
    13,
    21,
    12,
    22,
    23,
    2,
    14,
    16,
    18,
]


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.float64)


def reference(labels: dict) -> np.ndarray:
    """The glyph that the labels say, drawn by another way: large, in the middle, rotated by PIL, and averaged down."""
    face = FACES[glyphs.FAMILIES[labels["family"]]][2 * labels["weight"] + labels["slant"]]
    character = glyphs.LETTERS[labels["letter"]]
    character = character.lower() if labels["case"] else character
    folder = f"{matplotlib.get_data_path()}/fonts/ttf"
    font = ImageFont.truetype(f"{folder}/{face}.ttf", 120)
    image = Image.new("L", (280, 280))
    ImageDraw.Draw(image).text((140, 140), character, fill=255, font=font, anchor="mm")
    turned = image.rotate(MAX_ROTATION * labels["rotation"], Image.Resampling.BICUBIC)  # counter-clockwise
    box = turned.getbbox()
    return pixels(turned.crop(box))


def likeness(image: Image.Image, labels: dict) -> float:
    """How far the best of some sizes and positions of the glyph explains the image: |correlation|, 0..1."""
    ink, best = reference(labels), 0.0
    levels = torch.from_numpy(pixels(image))[None, None]
    levels = levels - levels.mean()
    for em in np.arange(14, 27, 1.0):
        height, width = (round(side * em / 120) for side in ink.shape)
        if max(height, width) > 28 or min(height, width) < 3:
            continue
        small = Image.fromarray(ink.astype(np.uint8)).resize((width, height), Image.Resampling.BOX)
        template = torch.zeros(1, 1, height + 4, width + 4, dtype=torch.float64)
        template[..., 2:-2, 2:-2] = torch.from_numpy(pixels(small))
        template -= template.mean()
        found = torch.nn.functional.conv2d(torch.nn.functional.pad(levels, (2, 2, 2, 2)), template)
        windows = torch.nn.functional.pad(levels, (2, 2, 2, 2)).unfold(2, height + 4, 1).unfold(3, width + 4, 1)
        norm = windows.std((-1, -2), correction=0) * template.std(correction=0) * template[0, 0].numel()
        best = max(best, (found / norm).abs().max().item())
    return best


@pytest.mark.parametrize("row", range(3))
def test_the_image_looks_like_its_labels_more_than_like_any_other(row):
    """Matched against the glyph drawn independently, each label changed in turn to every other value."""
    image, labels = render_glyph("train", row)
    right = likeness(image, labels)
    assert right > 0.75
    alike = {"family": 0.02}  # an R of DejaVu Sans is that of DejaVu Sans Mono but for its width
    for task, classes in glyphs._CLASSES.items():
        for other in set(range(classes)) - {labels[task]}:
            assert likeness(image, labels | {task: other}) < right + alike.get(task, 0), (task, other)
    for turn in (-0.6, 0.6):
        assert likeness(image, labels | {"rotation": labels["rotation"] + turn}) < right, "counter-clockwise"


def test_every_image_is_a_function_of_seed_split_and_row():
    few, more = render_glyphs("train", 5), render_glyphs("train", 12)
    encoded = [row["bytes"] for row in more.cast_column("image", datasets.Image(decode=False))["image"]]
    assert encoded[:5] == [r["bytes"] for r in few.cast_column("image", datasets.Image(decode=False))["image"]]
    for row, stored in enumerate(more):
        image, labels = render_glyph("train", row)
        assert image.tobytes() == stored["image"].tobytes() and {t: stored[t] for t in TASKS} == labels
    assert few.features == FEATURES and stored["image"].size == (28, 28) and stored["image"].mode == "L"


def test_pixels_are_those_of_the_first_time():
    """The pixels of one image, written down: they may differ with another Pillow, and then by rounding alone."""
    image, labels = render_glyph("test", 3, seed=5)
    assert labels == LABELS
    assert np.abs(pixels(image)[14] - LINE).max() <= 2


def test_splits_and_seeds_share_nothing():
    draws = [(split, seed) for split in SPLITS for seed in (0, 1)]
    seen = {(render_glyph(split, row, seed)[0].tobytes()) for split, seed in draws for row in range(30)}
    assert len(seen) == len(draws) * 30
    angles = [[render_glyph(split, row, seed)[1]["rotation"] for row in range(30)] for split, seed in draws]
    assert len(set(itertools.chain.from_iterable(angles))) == len(draws) * 30, "not the same draws under other noise"


def test_labels_are_uniform_and_independent():
    split = render_glyphs("train", 1500)
    labels = {task: np.asarray(split[task]) for task in TASKS}
    for task, classes in glyphs._CLASSES.items():
        share = np.bincount(labels[task], minlength=classes) / 1500
        assert np.abs(share - 1 / classes).max() < 5 * math.sqrt(1 / classes / 1500), task
    turn = labels["rotation"]
    assert -1 <= turn.min() < -0.98 and 0.98 < turn.max() <= 1 and abs(turn.mean()) < 0.07
    correlation = np.corrcoef(np.stack(list(labels.values())))
    assert np.abs(correlation - np.eye(len(TASKS))).max() < 0.12


def test_the_whole_glyph_is_inside_and_nothing_is_fixed():
    inks = []
    for row in range(200):
        labels = render_glyph("train", row)[1]
        ink = glyphs._placed(glyphs._glyph("DejaVuSerif-Bold", "N"), labels["rotation"], np.random.default_rng(row))
        assert ink.min() >= 0 and ink.max() <= 1
        assert max(ink[0].max(), ink[-1].max(), ink[:, 0].max(), ink[:, -1].max()) < 0.5, "cut off"
        inks.append(ink)
    weight = np.stack(inks).sum((1, 2))
    assert weight.max() > 1.3 * weight.min(), "sizes"
    r = np.arange(28) - 13.5
    middle = np.stack([((i.sum(0) * r).sum() / i.sum(), (i.sum(1) * r).sum() / i.sum()) for i in inks])
    assert (middle.std(0) > 0.5).all() and np.abs(middle).max() < 6 and np.abs(middle.mean(0)).max() < 0.5
    edges = np.stack([pixels(render_glyph("train", row)[0])[0] for row in range(100)]).mean(1)
    assert edges.min() < 60 and edges.max() > 195, "light and dark backgrounds"


def test_fonts_are_what_the_labels_call_them():
    families = {"sans": "DejaVu Sans", "mono": "DejaVu Sans Mono", "serif": "DejaVu Serif", "stix": "STIXGeneral"}
    assert set(FACES) == set(families) == set(glyphs.FAMILIES)
    for family, faces in FACES.items():
        for number, face in enumerate(faces):
            file = f"{matplotlib.get_data_path()}/fonts/ttf/{face}.ttf"
            name, style = ImageFont.truetype(file).getname()
            assert name == families[family]
            assert ("Bold" in style) == (glyphs.WEIGHTS[number // 2] == "bold")
            assert ("Italic" in style or "Oblique" in style) == (glyphs.SLANTS[number % 2] == "italic")


def test_all_fonts_are_there_and_have_other_shapes():
    shapes = {(f, c): glyphs._glyph(f, c).tobytes() for f in itertools.chain(*FACES.values()) for c in "aRg"}
    assert len(set(shapes.values())) == 16 * 3


def test_bad_numbers_and_missing_fonts(monkeypatch, tmp_path):
    for images, seed in ((0, 0), (-1, 0), (3, -1)):
        with pytest.raises(DataError, match="at least 1 image and a seed from 0"):
            render_glyphs("train", images, seed)
    monkeypatch.setattr(matplotlib, "get_data_path", lambda: str(tmp_path))
    glyphs._glyph.cache_clear()
    with pytest.raises(DataError, match="DejaVu|STIX"):
        render_glyphs("train", 1)
    glyphs._glyph.cache_clear()
