"""The documents are short, their tables are what the results say, their links lead somewhere, their words are few."""

import difflib
import re

import pytest
from documents import DOCUMENTS, ROOT, text_of

import hf_dtl
from hf_dtl.audit.attacks.registry import attack_names
from hf_dtl.methods.registry import method_names
from study.tables.documents import BLOCK, TABLES, filled


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_tables_are_those_that_the_command_writes(path):
    before = path.read_text(encoding="utf-8")
    after = filled(before)
    changed = "\n".join(difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0))
    assert not changed, f"python scripts/write_tables.py\n{changed}"
    assert before.count("<!-- table:") == len(BLOCK.findall(before)), "a table without an end"


def test_every_table_stands_somewhere_and_says_how_it_was_attacked():
    found = [(name, table) for path in DOCUMENTS for _, name, table, _ in BLOCK.findall(path.read_text())]
    assert {name for name, _ in found} == TABLES.keys()
    for name, table in found:
        if "leakage" in table.lower() and name not in ("methods", "calls", "trainers", "classes", "attacks"):
            assert re.search(
                "Attacked by (custom, weaker than a practitioner|(standard|quick)-1)", table.replace("`", "")
            ), name


def test_a_number_that_was_changed_by_hand_is_noticed():
    text = text_of("docs/results_by_custom.md")
    (row,) = re.findall(r"^\| scrub \|.*$", text, flags=re.MULTILINE)[:1]
    spoiled = text.replace(row, re.sub(r"\d", "9", row), 1)
    assert spoiled != text and filled(spoiled) == text


def test_the_readme_is_short():
    text = text_of("README.md")
    assert len(text.splitlines()) <= 220 and len(text.encode()) < 14_000


def headings(text):
    """Anchors of a page, as GitHub makes them."""
    found = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if not link.startswith("http"):
            place, _, heading = link.partition("#")
            there = path.parent / place if place else path
            assert there.exists(), link
            assert not heading or heading in headings(there.read_text(encoding="utf-8")), link


def test_every_page_is_linked_from_the_readme():
    for page in (ROOT / "docs").glob("*.md"):
        assert f"(docs/{page.name}" in text_of("README.md"), page.name


def test_the_lists_are_complete():
    api, methods, audit = (text_of(f"docs/{name}.md") for name in ("api", "methods", "audit"))
    assert [name for name in hf_dtl.__all__ if f"\n| `{name}` | " not in api] == []
    assert [name for name in method_names() if f"\n| `{name}` | " not in methods] == []
    assert [name for name in attack_names() if f"\n| `{name}` | " not in audit] == []
    assert not re.findall(r"^\| `\w+` \|\s*\|$", api, flags=re.MULTILINE), "a public name without a docstring"


def test_the_glossary_has_few_words_once_each():
    words = re.findall(r"^- \*\*(.+?)\*\*", text_of("docs/glossary.md"), flags=re.MULTILINE)
    assert 15 <= len(words) <= 25 and len(set(words)) == len(words)
