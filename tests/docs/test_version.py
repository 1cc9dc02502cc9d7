"""The version stands in one place; what is said of it elsewhere agrees."""

import re
import tomllib

import yaml
from documents import ROOT, text_of

import hf_dtl


def test_the_package_takes_its_version_from_the_code():
    project = tomllib.loads(text_of("pyproject.toml"))
    assert "version" in project["project"]["dynamic"] and "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "hf_dtl.__version__"}


def test_the_changelog_and_the_citation_name_it():
    newest = re.search(r"^## \[(\d+\.\d+\.\d+)\]", text_of("CHANGELOG.md"), flags=re.MULTILINE)
    citation = yaml.safe_load(text_of("CITATION.cff"))
    assert newest[1] == hf_dtl.__version__ == citation["version"]
    assert citation["license"] == tomllib.loads(text_of("pyproject.toml"))["project"]["license"]


def test_the_citation_has_what_its_format_asks_for():
    citation = yaml.safe_load(text_of("CITATION.cff"))
    assert citation["cff-version"] == "1.2.0" and {"message", "title", "authors"} <= citation.keys()
    for reference in citation["references"]:
        assert {"authors", "title", "type"} <= reference.keys()
        number = re.search(r"\d{4}\.\d{5}", reference["url"])[0]
        sources = [path for path in (ROOT / "hf_dtl" / "methods").glob("*.py") if number in path.read_text()]
        assert sources, f"no method has its source in {number}"
