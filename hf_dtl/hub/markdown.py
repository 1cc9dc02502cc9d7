"""Texts of others in Markdown: shown as they are, whatever markup they hold, and read as a reader sees them."""

import html
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markdown_it.token import Token

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


_PARSER = MarkdownIt("commonmark").enable("table")
# Look-alikes of Latin letters and slashes that have neither a Latin name nor a form of the standard's (NFKC).
_LOOKS = str.maketrans(
    "АВЕЅІЈКМНОРСТУХаеорсухѕіјԁһԛԝвгкмнтгΑΒΕΖΗΙΚΜΝΟΡΤΥΧονιαερτυκησօոսհցզѵ"
    "ꓐꓑꓓꓔꓖꓗꓙꓚꓜꓝꓟꓠꓡꓢꓣꓦꓧꓪꓫꓬꓮꓰꓲꓳꓴᎠᎡᎢᎪᎫᎬᎳᎷᎻᏀᏃᏙᏚᏞᏟᏢᏦᏴᏔ⁄∕⧸╱⧵∖。․·ˑ։：",
    "ABESIJKMHOPCTYXaeopcyxsijdhqwbrkmhtrABEZHIKMNOPTYXoviaeptuknoonuhgqv"
    "BPDTGKJCZFMNLSRVHWXYAEIOUDRTAJEWMHGZVSLCPKBW////\\\\....::",
)
_LETTER = re.compile(
    r"(?:LATIN|SQUARED|INDICATOR|CIRCLED).*? (SMALL )?LETTER (?:(?:SMALL CAPITAL|\w+ED|OPEN|DOTLESS) )*([A-Z])\b"
)
_BLANKS = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"


def readings(text: str) -> tuple[str, ...]:
    """A text as it is written, and as it is read: without markup, entities, characters without width, look-alikes, and
    with the letters that stand for %68 in an address.

    Example:
        >>> readings("hf&#95;a\\\\_*b*")[-1].strip()
        'hf_a_b'
    """
    shown = [text]
    if re.search(r"[\\*_~`&\[<]", text):  # an entity is no markup, or some readers take it for such
        shown = ["\n".join(_shown(_PARSER.parse(form))) for form in dict.fromkeys((text, html.unescape(text)))]
    found = [text, "".join(c for c in text if not _without_width(c))]
    for form in shown:
        plain = unicodedata.normalize("NFKC", "".join(c for c in form if not _without_width(c))).translate(_LOOKS)
        plain = plain if plain.isascii() else "".join(map(_latin, plain))
        found += [plain, unquote(plain)]
    return tuple(dict.fromkeys(found))


@cache
def _latin(one: str) -> str:
    """A letter without its marks, and the Latin one that its name says: small capitals, turned and framed ones."""
    if unicodedata.category(one) == "Mn":
        return ""
    plain = unicodedata.normalize("NFKD", one)[0]
    named = None if plain.isascii() else _LETTER.search(unicodedata.name(plain, ""))
    return (named[2].lower() if named[1] else named[2]) if named else plain


def outline(text: str) -> Iterator[tuple[str, str]]:
    """Headings and cells of tables in a text, each with what it is; a line in bold alone is read as a heading."""
    for before, token in pairwise(_PARSER.parse(text)):
        kind = {"heading_open": "heading", "th_open": "table", "td_open": "table"}.get(before.type)
        if token.type == "inline" and (kind or re.fullmatch(r"(\*\*|__).+\1:?", token.content)):
            yield from ((kind or "heading", form.strip(" *_:\n")) for form in readings(token.content))


def _shown(tokens: Sequence[Token]) -> Iterator[str]:
    for token in tokens:
        if token.type == "inline":
            yield "".join(_shown(token.children or ()))
            told = [
                child.attrs[name]
                for child in token.children or ()
                for name in ("href", "title")
                if name in child.attrs
            ]
            yield from (unquote(str(one)) for one in told)
        else:
            yield "\n" if token.type.endswith("break") else token.content


def unseen(text: str) -> str | None:
    """The first character that nobody sees, or that turns the order of others, by its number; None without any.

    What joins emoji, or letters of other scripts than Latin, is none.
    """
    before = "a"
    for one in text:
        joins = one in "\u200c\u200d\ufe0e\ufe0f" and not before.isascii() and (one, before) != ("\ufe0f",) * 2
        if _without_width(one) and not (joins and one != before):
            return f"U+{ord(one):04X}"
        before = one
    return None


def _without_width(one: str) -> bool:
    if one.isascii():
        return not one.isprintable() and one not in "\t\n\r"
    selects = 0xFE00 <= ord(one) <= 0xFE0F or ord(one) >= 0xE0000
    return selects or one in _BLANKS or unicodedata.category(one) in ("Cc", "Cf", "Co", "Cs", "Zl", "Zp")
