"""Each folder is a Space as it stands: front matter that the Hub takes, and a page that computes."""

import importlib.metadata
import importlib.util
import re
import shutil
from pathlib import Path

import pytest
from huggingface_hub import RepoCard
from packaging.requirements import Requirement

from hf_dtl.metrics import NAMES, path

COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}


@pytest.mark.parametrize("name", NAMES)
def test_front_matter(name):
    folder = Path(path(name))
    card = RepoCard.load(folder / "README.md", repo_type="space", ignore_metadata_errors=False).data.to_dict()
    assert re.fullmatch(r"\d+\.\d+\.\d+", card["sdk_version"]) and card["sdk"] == "gradio"
    assert card["title"] and card["description"] and len(card["emoji"]) == 1
    assert {card["colorFrom"], card["colorTo"]} <= COLOURS
    assert card["python_version"] == "3.11"  # a text: the number 3.10 would become 3.1
    assert card["pinned"] is False and card["tags"] == ["evaluate", "metric"]
    assert (folder / card["app_file"]).is_file() and (folder / f"{name}.py").is_file()


@pytest.mark.parametrize("name", NAMES)
def test_requirements_are_installed_and_leave_gradio_to_the_sdk(name):
    lines = (Path(path(name)) / "requirements.txt").read_text().splitlines()
    names = [Requirement(line).name for line in lines]
    assert "hf_dtl" in names and "gradio" not in names
    for line in lines:
        wanted = Requirement(line)
        assert wanted.specifier.contains(importlib.metadata.version(wanted.name)), line


@pytest.mark.parametrize("name", NAMES)
def test_scripts_suit_the_scanner(name):
    """Its scanner takes `import a, b` for one module, and a comment after an import for an address."""
    lines = (Path(path(name)) / f"{name}.py").read_text().splitlines()
    imports = [line for line in lines if re.match(r"(import|from)\s", line)]
    assert imports
    for line in imports:
        assert re.fullmatch(r"import [\w.]+|from [\w.]+ import [\w, ]+", line), line


@pytest.fixture(params=NAMES)
def app(request, tmp_path, monkeypatch):
    """The page of a copied folder, away from the library."""
    return load(request.param, tmp_path, monkeypatch)


def load(name, tmp_path, monkeypatch):
    pytest.importorskip("gradio", reason="gradio comes with the extra `space`")
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    shutil.copytree(path(name), tmp_path / name)
    spec = importlib.util.spec_from_file_location(f"page_of_{name}", tmp_path / name / "app.py")
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    return page


def test_every_event_has_a_name(app):
    names = [event["api_name"] for event in app.demo.config["dependencies"]]
    assert names == ["score"]


def test_pages_compute(tmp_path, monkeypatch):
    gradio = pytest.importorskip("gradio", reason="gradio comes with the extra `space`")
    pages = {name: load(name, tmp_path, monkeypatch) for name in NAMES}
    score = pages["piggyback_accuracy"].score
    accuracy, text = score(" [0, 1 1;\n2]", "0,1,2,2")
    assert accuracy == 0.75 and "**3 of 4**" in text and "guessing gives 0.333" in text
    assert "| 2 | 2 | 0.500 |" in text
    for wrong, message in (
        (("0 x", "0 1"), "'x' is none"), (("0.5", "0"), "whole numbers"), (("", ""), "one class number"),
        (("0 1", "0"), "2 predictions"), (("-1", "0"), "has -1"), ((None, "0"), "one class number"),
    ):  # fmt: skip
        with pytest.raises(gradio.Error, match=message):
            score(*wrong)
    assert "|" not in score(" ".join(map(str, range(30))), " ".join(map(str, range(30))))[1]

    score = pages["unlearning_impact_score"].score
    assert score(0.5, 0.375, 0.5, "instances", None) == 0.125
    assert score(0.8, 0.8, 0.5, "untouched", 1.0) == 0.25
    with pytest.raises(gradio.Error, match="unlearned_test of task 0 must be a number"):
        score(0.8, None, 0.8, "instances", None)

    score = pages["tug_of_war"].score
    assert score(0.75, 0.25, 1.0, 1.0, 0.5, 1.0) == (0.25, 0.5 / 1.5)
    assert score(0.75, 0.25, None, None, None, None) == (0.5, 0.5)
    for wrong, message in (((0.5, None, *[None] * 4), "retrained model on forget"), ([None] * 6, "same splits")):
        with pytest.raises(gradio.Error, match=message):
            score(*wrong)


def test_a_page_serves(tmp_path, monkeypatch):
    """Through a server on a free port, as a Space serves it."""
    page = load("piggyback_accuracy", tmp_path, monkeypatch)
    client_module = pytest.importorskip("gradio_client")
    _, url, _ = page.demo.launch(prevent_thread_lock=True, quiet=True, server_port=None)
    try:
        client = client_module.Client(url, verbose=False)
        accuracy, text = client.predict("0, 1, 1, 2", "0, 1, 2, 2", api_name="/score")
        assert accuracy == 0.75 and "**3 of 4**" in text
        with pytest.raises(client_module.exceptions.AppError, match="2 predictions but 1 references"):
            client.predict("0, 1", "0", api_name="/score")
    finally:
        page.demo.close()
