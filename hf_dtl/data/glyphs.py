"""Glyphs of open fonts with exact labels for several tasks, rendered where they are needed: no file, no network.

The fonts are those that matplotlib ships (DejaVu and STIX General, both under free licences). An image is a function
of the seed, the split and its row alone: with one version of Pillow and its FreeType it is the same bit for bit.
"""

import io
import math
from functools import cache
from pathlib import Path

import datasets
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hf_dtl.data.selection import FAMILIES
from hf_dtl.errors import DataError

LETTERS = ("A", "B", "D", "E", "G", "H", "N", "Q", "R", "T")
"""Letters whose two cases have different shapes."""
CASES = ("upper", "lower")
WEIGHTS = ("regular", "bold")
SLANTS = ("upright", "italic")
FACES = {
    "sans": ("DejaVuSans", "DejaVuSans-Oblique", "DejaVuSans-Bold", "DejaVuSans-BoldOblique"),
    "mono": ("DejaVuSansMono", "DejaVuSansMono-Oblique", "DejaVuSansMono-Bold", "DejaVuSansMono-BoldOblique"),
    "serif": ("DejaVuSerif", "DejaVuSerif-Italic", "DejaVuSerif-Bold", "DejaVuSerif-BoldItalic"),
    "stix": ("STIXGeneral", "STIXGeneralItalic", "STIXGeneralBol", "STIXGeneralBolIta"),
}
"""Font files of each family: upright, italic or oblique, bold, bold italic or oblique."""
SPLITS = ("train", "validation", "test")
SIZE = 28
MAX_ROTATION = 15.0
"""Degrees to either side; the target of the task `rotation` is the angle divided by it."""

_FINER = 2  # glyphs are drawn so many times larger, then averaged down
_EM = 42  # pixels of the em square of a drawn glyph: 21 pixels of the image
_ACROSS = np.linspace(-0.5, 0.5, SIZE)

_NAMES = {"letter": LETTERS, "case": CASES, "family": FAMILIES, "weight": WEIGHTS, "slant": SLANTS}
_CLASSES = {task: len(names) for task, names in _NAMES.items()}
FEATURES = datasets.Features(
    {"image": datasets.Image()}
    | {task: datasets.ClassLabel(names=list(names)) for task, names in _NAMES.items()}
    | {"rotation": datasets.Value("float32")}
)
Labels = dict[str, int | float]


def render_glyph(split: str, row: int, seed: int = 0) -> tuple[Image.Image, Labels]:
    """Render one image and say what is on it.

    Every label is drawn uniformly and independently of the others; so are position, size (the em square is 20 to 26
    pixels, less where the glyph would not fit), light on dark or dark on light, contrast (80 to 200 of 255 levels),
    the background's gradient and the noise.

    Args:
        split: `train`, `validation` or `test`; their draws have nothing in common.
        row: number of the image, from 0 on.
        seed: not negative; another seed gives other images.

    Returns:
        A grey image of 28×28 pixels, and its labels: positions in `LETTERS`, `CASES`, `FAMILIES`, `WEIGHTS` and
        `SLANTS` under `letter`, `case`, `family`, `weight` and `slant`; and `rotation` in -1..1, counter-clockwise in
        units of `MAX_ROTATION` degrees.

    Example:
        >>> image, labels = render_glyph("train", 0)
        >>> image.size, LETTERS[labels["letter"]], FAMILIES[labels["family"]]
        ((28, 28), 'R', 'serif')
    """
    draw = np.random.default_rng([seed, SPLITS.index(split), row])
    labels = {task: int(draw.integers(classes)) for task, classes in _CLASSES.items()}
    rotation = float(np.float32(draw.uniform(-1, 1)))
    letter = LETTERS[labels["letter"]]
    face = FACES[FAMILIES[labels["family"]]][2 * labels["weight"] + labels["slant"]]
    ink = _placed(_glyph(face, letter if labels["case"] == 0 else letter.lower()), rotation, draw)

    contrast = draw.uniform(80, 200)
    darker = draw.uniform(0, 255 - contrast)
    background, glyph = (darker, darker + contrast) if draw.random() < 0.5 else (darker + contrast, darker)
    direction, slope = draw.uniform(0, 2 * math.pi), draw.uniform(0, 30)
    gradient = slope * (math.cos(direction) * _ACROSS[None, :] + math.sin(direction) * _ACROSS[:, None])
    noise = draw.normal(0, draw.uniform(2, 12), (SIZE, SIZE))
    levels = background + (glyph - background) * ink + gradient + noise
    return Image.fromarray(levels.round().clip(0, 255).astype(np.uint8)), {**labels, "rotation": rotation}


def render_glyphs(split: str, images: int, seed: int = 0) -> datasets.Dataset:
    """Render the first images of a split.

    Args:
        split: `train`, `validation` or `test`.
        images: how many; a longer split begins with a shorter one.
        seed: see `render_glyph`.

    Returns:
        The columns `image` (PNG), `letter`, `case`, `family`, `weight`, `slant` (ClassLabel) and `rotation` (float).

    Raises:
        DataError: the fonts are not where matplotlib keeps them, or a number is negative.
    """
    if images < 1 or seed < 0:
        raise DataError(f"glyphs: {images} images with seed {seed}; at least 1 image and a seed from 0 on are needed.")
    columns: dict[str, list] = {name: [] for name in FEATURES}
    for row in range(images):
        image, labels = render_glyph(split, row, seed)
        buffer = io.BytesIO()
        image.save(buffer, format="PNG", compress_level=1)
        columns["image"].append({"bytes": buffer.getvalue(), "path": None})
        for task, label in labels.items():
            columns[task].append(label)
    return datasets.Dataset.from_dict(columns, features=FEATURES)


@cache
def _glyph(face: str, character: str) -> Image.Image:
    """A glyph in white on black, cut to its ink and two pixels around it."""
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{face}.ttf")
    try:
        with path.open("rb") as file:  # given a path, PIL would look for a missing file among the system's fonts
            font = ImageFont.truetype(file, _EM, layout_engine=ImageFont.Layout.BASIC)
    except OSError as error:
        raise DataError(
            f"glyphs: the font {path.name} is not at {path.parent} ({error}). Install matplotlib from PyPI, which has "
            "its fonts with it."
        ) from error
    left, top, right, bottom = font.getbbox(character)
    image = Image.new("L", (math.ceil(right - left) + 4, math.ceil(bottom - top) + 4))
    ImageDraw.Draw(image).text((2 - left, 2 - top), character, fill=255, font=font)
    return image


def _placed(glyph: Image.Image, rotation: float, draw: np.random.Generator) -> np.ndarray:
    """The share of ink in each pixel, (SIZE, SIZE) in 0..1, of a glyph rotated, scaled and shifted as a whole."""
    angle = math.radians(MAX_ROTATION * rotation)
    cos, sin = math.cos(angle), math.sin(angle)
    width, height = glyph.width - 4, glyph.height - 4
    extent = (width * cos + height * abs(sin), width * abs(sin) + height * cos)
    canvas = SIZE * _FINER
    scale = min(draw.uniform(0.95, 1.25), (canvas - 2) / max(extent))
    # a position within 2 pixels of the middle at which the whole glyph is inside
    x, y = (canvas / 2 + draw.uniform(-1, 1) * min((canvas - 2 - scale * e) / 2, 2 * _FINER) for e in extent)
    # PIL asks where in the glyph a pixel (x, y) of the canvas comes from; y points down.
    a, b, d, e = cos / scale, -sin / scale, sin / scale, cos / scale
    inverse = (a, b, glyph.width / 2 - a * x - b * y, d, e, glyph.height / 2 - d * x - e * y)
    fine = glyph.transform((canvas, canvas), Image.Transform.AFFINE, inverse, Image.Resampling.BICUBIC)
    return np.asarray(fine.reduce(_FINER)) / 255
