"""Text that users write beside their images: lists and tables, from any editor, and no value read as another."""

import codecs
import csv
import io
import logging
import math
import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from hf_dtl.errors import DataError

logger = logging.getLogger(__name__)
_WHOLE = re.compile(r"0|-?[1-9]\d{0,17}")
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?|nan", re.IGNORECASE)


def read_text(path: Path) -> str:
    """Text in UTF-8, or in what Windows writes: UTF-8 or UTF-16 with a byte order mark.

    Raises:
        DataError: it is none of these, or cannot be read.
    """
    try:
        content = path.read_bytes()
        utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return content.decode("utf-16" if utf16 else "utf-8-sig")
    except OSError as error:
        raise DataError(f"{path.name} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} is not text in UTF-8 ({error}). Save it with that encoding.") from error


def read_csv(path: Path) -> list[dict[str, str | None]]:
    """Rows of a table separated by commas, semicolons or tabs; an empty field is None, and every other one is text.

    Raises:
        DataError: a row has more or fewer fields than the first one has names.
    """
    text = read_text(path)
    header = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count))
    rows = [[field.strip() for field in row] for row in reader if row]
    if not rows:
        return []
    check_different(rows[0], path.name)
    for number, row in enumerate(rows, 1):
        if len(row) != len(rows[0]):
            raise DataError(f"{path.name}, row {number}: {len(row)} fields, but {len(rows[0])} names. Quote commas.")
    return [{name: field or None for name, field in zip(rows[0], row, strict=True)} for row in rows[1:]]


def check_different(names: Sequence[str], where: str) -> None:
    """Refuse two columns of one name: one of them would be lost.

    Raises:
        DataError: there are such.
    """
    bare = [str(name).strip() for name in names]
    if twice := sorted({name for name in bare if bare.count(name) > 1}):
        raise DataError(f"{where} has several columns called '{twice[0]}'. Rename all but one.")


def numbers_in(
    texts: Sequence[str | None], name: str = ""
) -> list[str | None] | list[int | None] | list[float | None]:
    """A column of text as numbers, where each of them is written as only a number is: `007` stays what it is.

    So do numbers that stand there in two ways, as versions do: `1.1` and `1.10`. A line tells it.

    Example:
        >>> numbers_in(["1", None, "10"]), numbers_in(["01", "10"]), numbers_in(["None", "1"])
        ([1, None, 10], ['01', '10'], ['None', '1'])
    """
    there = [text for text in texts if text is not None]
    if all(map(_WHOLE.fullmatch, there)):
        return [None if text is None else int(text) for text in texts]
    if all(map(_NUMBER.fullmatch, there)):
        values = [math.nan if text is None else float(text) for text in texts]
        ways: dict[float, str] = {}
        for text, value in zip(texts, values, strict=True):
            if text is not None and not math.isnan(value) and ways.setdefault(value, text) != text:
                told = "The column '%s' has %s and %s: its values are texts, told apart as they are written."
                logger.warning(told, name, ways[value], text)
                return list(texts)
        return [None if math.isnan(value) else value for value in values]
    return list(texts)


def array_of(name: str, values: Sequence[object], where: str) -> pa.Array:
    """The values of a column.

    Raises:
        DataError: they are of several types.
    """
    try:
        return pa.array(values)
    except pa.ArrowException as error:
        raise DataError(f"{where}: the column '{name}' holds values of several types: {error}.") from error
