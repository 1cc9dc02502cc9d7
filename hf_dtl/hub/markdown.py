"""Texts of others in Markdown: shown as they are, whatever markup they hold."""

import re
from collections.abc import Sequence

from hf_dtl.audit.text_table import TextTable


def plain(text: object) -> str:
    """Text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*<&]|(?<!\w)_|_(?!\w)|(?<=\])[(\[])", r"\\\1", " ".join(str(text).split()))


def plain_table(table: TextTable) -> TextTable:
    """A table whose every text Markdown shows as it is."""

    def each(texts: Sequence[str]) -> tuple[str, ...]:
        return tuple(map(plain, texts))

    return TextTable(plain(table.title), each(table.columns), tuple(map(each, table.rows)), each(table.notes))


def code(text: object, *, cell: bool = False) -> str:
    """Text as a code span on one line, in a table's cell with its pipes escaped."""
    words = " ".join(str(text).split())
    fence = "`" * (1 + max(map(len, re.findall(r"`+", words)), default=0))
    room = " " if words.startswith("`") or words.endswith("`") or not words else ""
    span = f"{fence}{room}{words}{room}{fence}"
    return span.replace("|", "\\|") if cell else span
