"""A visitor's image: its size is read before its pixels are."""

import warnings
from pathlib import Path

import gradio as gr
from gradio.data_classes import ImageData
from PIL import Image, ImageOps

from hf_dtl.data.decoding import bits_of, to_channels, with_alpha
from hf_dtl.errors import DataError

MOST_BYTES, MOST_PIXELS, MOST_ASPECT, SIDE = 5_000_000, 16_000_000, 8, 512
MOST_SCANS, MOST_TILES = 64, 10_000
"""Of a JPEG, which may ask for all of its pixels again in 40 bytes, where real ones have a dozen; and of a TIFF."""
_PLACES = (273, 324)
"""Tags of a TIFF that say where its strips or tiles are."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


def read_image(path: str | Path) -> Image.Image:
    """Decode an uploaded file to 8-bit RGB, or RGBA where it is transparent, of at most 512 pixels a side.

    Raises:
        DataError: it is too large in bytes or pixels, too narrow, broken, or no image.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise DataError(f"The file is larger than {MOST_BYTES // 1_000_000} MB. Upload a smaller image.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is stricter
            image = Image.open(path, formats=FORMATS)
        if image.format in ("JPEG", "TIFF") and path.read_bytes().count(b"\xff\xda") > MOST_SCANS:
            raise DataError(f"The image comes in more than {MOST_SCANS} passes. Save it again and upload that.")
        if max((len(image.tag_v2.get(tag, ())) for tag in _PLACES if image.format == "TIFF"), default=0) > MOST_TILES:  # type: ignore[attr-defined]
            raise DataError(f"The image is cut into more than {MOST_TILES:,} parts. Save it again and upload that.")
        width, height = image.size
        if width * height > MOST_PIXELS:
            raise DataError(
                f"The image has {width}×{height} pixels; up to {MOST_PIXELS // 1_000_000} million are taken. "
                "Upload a smaller one."
            )
        if max(width, height) > MOST_ASPECT * min(width, height):
            raise DataError(f"The image has {width}×{height} pixels: too narrow. Cut out the part that matters.")
        image.thumbnail((2 * SIDE, 2 * SIDE)) if image.mode in ("RGB", "L") else None
        image = ImageOps.exif_transpose(image)
        image = with_alpha(image) or to_channels(image, 3, bits_of(image) or 16)
        image.thumbnail((SIDE, SIDE))
        return image
    except DataError:
        raise
    except Exception as error:  # PIL's decoders raise many types for a broken file
        raise DataError(f"The file is no image that can be read ({', '.join(FORMATS)}), or it is broken.") from error


def on_background(image: Image.Image, background: str) -> Image.Image:
    """The image as a model's data are read, RGB: what is transparent is put on their background.

    Raises:
        DataError: it is of one colour throughout.
    """
    image = to_channels(image, 3, background=background)
    if all(low == high for low, high in image.getextrema()):
        raise DataError(
            f"The image is of one colour throughout; what is transparent is put on {background}, as the model's data "
            "were. Try another."
        )
    return image


def received(component: gr.Image, payload: ImageData | None) -> Image.Image | DataError | None:
    """What an image component gives to an event: an image as `read_image` gives it, or what is wrong with it.

    It takes the place of `gr.Image.preprocess`, which decodes first and fails without a message. Of the class, since
    gradio makes a component anew for a visitor when it is updated, and not by a subclass, of which gradio would write
    a stub beside this file.
    """
    if payload is None:
        return None
    if not payload.path:
        return DataError("Upload an image file.")
    try:
        return read_image(payload.path)
    except DataError as error:
        return error
