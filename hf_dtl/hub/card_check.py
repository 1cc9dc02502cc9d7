"""A published card against the one that follows from its report: only the publisher's own part may differ."""

import html
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import yaml
from huggingface_hub import ModelCard

from hf_dtl.audit.report import LeakageReport
from hf_dtl.audit.report_fields import difference, strings
from hf_dtl.errors import PublishError
from hf_dtl.hub.card import LICENCE, MARKER, OWN, leakage_card
from hf_dtl.hub.claims import check_form, check_words
from hf_dtl.hub.metadata import LICENSE

REPORT = "leakage_report.json"
MOST_WORDS = 20_000
"""Letters of a publisher's own words."""
_METADATA = re.compile(r"\s*---\r?\n(.*?)\n---\r?\n", re.DOTALL)
# Markup could hide or restate what was measured; a picture from elsewhere tells its owner who reads the card.
_MARKUP = re.compile(
    r"<(?!https?:|mailto:)[A-Za-z!/?][^>]*|\]\(\s*<?(?:javascript|data|vbscript|file):"
    r"|!\[(?![^\[\]\\]*\]\(plots/[\w-]+\.png\)).{0,40}|^[\s>]*\[!\w+\]"
    r"|\$\$|\\\\[(\[]|\\(?:math|text|char|color|rm|bf|operatorname|mbox|begin)\w*\s*[{\"]",
    re.IGNORECASE | re.MULTILINE,
)
_FORMS = {
    "license": LICENSE, "license_name": re.compile(r"(?!.*\b(?:proven|zero|leak))[\w. +-]{1,60}", re.IGNORECASE),
    "license_link": re.compile(r"LICENSE\S{0,4}|https?://\S{1,200}"),
    "language": re.compile(r"[a-z]{2,3}(-[A-Za-z]{2,4})?"),
    "base_model": re.compile(r"[\w./-]{1,120}"), "base_model_relation": re.compile(r"[a-z]{1,20}"),
    "authors": re.compile(r"[^\n<>]{1,120}|[^\n<>]{1,80}<[^\s<>=]{1,80}>"),
}  # fmt: skip
# What a reference stands for may be far from it, and turn the report's own brackets into links.
_DEFINITION = re.compile(r"^[ \t>]*\[[^\]\n]+\]:.*", re.MULTILINE)
_REWRITE = "Write the card anew from the report: `hf_dtl.hub.staging.add_evidence(folder, report)`."


class OwnPart(NamedTuple):
    """What of a card is its publisher's: metadata among `OWN`, and words."""

    metadata: dict[str, Any]
    words: str


class _Once(yaml.SafeLoader):
    """YAML in which no key stands twice: readers differ in which of them counts."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def metadata_of(text: str) -> dict[str, Any]:
    """The metadata of a card.

    Raises:
        PublishError: they cannot be read, or a key stands twice.
    """
    found = _METADATA.match(text)
    try:
        content = yaml.load(found[1], _Once) if found else {}  # noqa: S506  # a safe loader
    except Exception as error:  # whatever broken YAML raises
        raise PublishError(f"The metadata of README.md cannot be read: {error}. {_REWRITE}") from error
    if not isinstance(content, dict):
        raise PublishError(f"The metadata of README.md are no mapping. {_REWRITE}")
    return content


def own_part(text: str) -> OwnPart:
    """What of a card is its publisher's.

    Raises:
        PublishError: its metadata cannot be read, or its words hold markup.
    """
    told = metadata_of(text)
    words = text.partition(MARKER)[2].strip()
    lines = words.splitlines()
    if all(line.startswith(">") for line in lines):  # as the card quotes them
        words = "\n".join(line[1:].removeprefix(" ") for line in lines)
    if len(words) > MOST_WORDS:
        raise PublishError(
            f"The publisher's part of README.md has {len(words):,} letters, more than {MOST_WORDS:,}: they could be "
            "weights. Write less, and link to the rest."
        )
    check_words("The publisher's part of README.md", words)
    check_form("The publisher's part of README.md", words)
    for key in OWN:
        check_words(f"README.md's {key}", " ".join(strings(told.get(key))))
        if odd := [text for text in strings(told.get(key)) if not _FORMS[key].fullmatch(text)]:
            raise PublishError(f"README.md says {key}: {odd[0][:60]!r} in its metadata, which is none. Correct it.")
    check_markup("README.md", words)
    return OwnPart({key: told[key] for key in OWN if key in told}, words)


def check_markup(name: str, words: str) -> None:
    """Refuse in a publisher's Markdown what hides or restates something, or comes from elsewhere when it is read.

    Raises:
        PublishError: naming it.
    """
    if definition := _DEFINITION.search(words):
        raise PublishError(
            f"{name} defines the reference {definition.group().strip()[:40]!r} in the publisher's own words, which "
            "nobody sees. Write the address where it belongs."
        )
    as_read = re.sub(r"<(?=[A-Za-z!/?])", "", html.unescape(re.sub(r"\\(?=[:/.])", "", words)))
    if markup := _MARKUP.search(words) or _MARKUP.search(as_read):
        raise PublishError(
            f"{name} holds {markup.group()[:40]!r} in the publisher's own words. Write them in plain Markdown, "
            "without HTML, scripts, formulas, boxes, and pictures but those of plots/."
        )


def card_of(
    report: LeakageReport,
    labels: Mapping[Any, Any],
    plots: Sequence[str],
    own: OwnPart,
    license: str | None = None,
) -> ModelCard:
    """The card that follows from a report, with the publisher's part; `license` comes before the one named there.

    Raises:
        PublishError: that is no licence as the Hub writes one; it could bring further metadata.
    """
    if license and not LICENSE.fullmatch(license):
        raise PublishError(f"--license {license[:60]!r} is no licence as the Hub writes one, such as apache-2.0.")
    metadata, base = own.metadata, own.metadata.get("base_model")
    rest = {k: v for k, v in metadata.items() if k not in ("license", "base_model", "base_model_relation")}
    license = license or metadata.get("license")
    return leakage_card(
        report, base_model=base if isinstance(base, str) else None, model_labels=labels, plots=plots,
        license=str(license) if license else None, own=rest, words=own.words,
    )  # fmt: skip


def check_card(text: str, expected: str) -> None:
    """Refuse a card that is not the one of its report.

    Args:
        text: the card.
        expected: what `card_of` gives for it.

    Raises:
        PublishError: naming the first thing that differs.
    """
    if said := difference(metadata_of(text), metadata_of(expected)):
        raise PublishError(
            f"The metadata of README.md say {_short(said)} as {REPORT} does. The publisher's own are "
            f"{', '.join(OWN)}. {_REWRITE}"
        )
    if comment := _comment(text):
        raise PublishError(
            f"The metadata of README.md hold the comment {comment[:40]!r}, which no reader sees. Remove it."
        )
    bodies = [_METADATA.sub("", whole, count=1).partition(MARKER) for whole in (text, expected)]
    (here, mark, _), (there, *_) = bodies
    lines = [[" ".join(line.split()) for line in body.splitlines() if line.strip()] for body in (here, there)]
    for said, right in zip(*(own + [""] * (max(map(len, lines)) - len(own)) for own in lines), strict=True):
        licence = said.startswith(LICENCE) and right.startswith(LICENCE)  # it follows from the publisher's metadata
        if said != right and not licence:
            raise PublishError(
                f"README.md says {_short(repr(said))} where {REPORT} gives {_short(repr(right))}. {_REWRITE} "
                "Words of your own belong to its end, under 'From the publisher'."
            )
    if not mark:
        raise PublishError(f"README.md lacks the line after which the publisher's own words begin. {_REWRITE}")


def _comment(text: str) -> str | None:
    """A comment in the metadata: what stands between what YAML reads."""
    found = _METADATA.match(text)
    tokens = list(yaml.scan(found[1])) if found and "#" in found[1] else []
    for one, following in pairwise(tokens):
        if found and "#" in (between := found[1][one.end_mark.index : following.start_mark.index]):
            return between.strip()
    return None


def _short(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:117]}..."
