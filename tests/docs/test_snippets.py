"""Every Python block of the documents runs, in a reader's folder with tiny models."""

import re
import shutil
import subprocess
import sys
from functools import partial
from types import ModuleType

import pytest
from documents import DOCUMENTS, ROOT, blocks, text_of

import hf_dtl
from hf_dtl.audit.attacks import registry as attacks
from hf_dtl.hub.publish import publish
from hf_dtl.methods import registry as methods
from hf_dtl.pipeline.options import as_given
from hf_dtl.scenarios.scenario import Scenario

CHEAP = {
    "suite": "custom",
    "attacks": "linear_probe", "budgets": "2", "seeds": "0,1", "max_eval_images": 24, "steps": 6, "retrain_epochs": 1,
    "forget_images_per_class": 12, "retain_images_per_class": 12, "use_cpu": True,
}  # fmt: skip
PAGES = [str(path.relative_to(ROOT)) for path in DOCUMENTS if path.name != "CONTRIBUTING.md"]
SNIPPETS = [(page, number) for page in PAGES for number in range(len(blocks(page, "python")))]


@pytest.fixture
def cheap(few_steps, monkeypatch):
    """The calls of the snippets take few images and attacks, and publishing sends nothing."""

    def small(given, options):
        own = {name: value for name, value in CHEAP.items() if hasattr(options, name)}
        return as_given(given | own, options)

    monkeypatch.setattr("hf_dtl.pipeline.forget.as_given", small)
    monkeypatch.setattr("hf_dtl.pipeline.audit.as_given", small)
    sent = []
    monkeypatch.setattr(
        "hf_dtl.hub.publish.publish", lambda *args, **options: sent.append(publish(*args, **options, dry_run=True))
    )
    return sent


@pytest.mark.parametrize(("page", "number"), SNIPPETS, ids=[f"{page}-{number}" for page, number in SNIPPETS])
def test_a_snippet_runs(page, number, reader, monkeypatch, cheap, capsys):
    monkeypatch.chdir(reader)
    shutil.rmtree("outputs/audit", ignore_errors=True)  # of a command of the same page, which other tests run there
    names = {}
    exec(compile(blocks(page, "python")[number], page, "exec"), names)
    if page == "README.md":
        assert (reader / "plots" / "piggyback.png").is_file() and cheap[0].url is None
        assert isinstance(names["report"], hf_dtl.LeakageReport) and "Piggyback learning" in capsys.readouterr().out
    if page == "docs/methods.md":
        assert {f.name for f in (reader / "scrubbed").iterdir()} >= {"config.json", "model.safetensors"}
    if page == "docs/unlearning.md":
        assert len(names["done"].accuracy) == 2 and max(names["done"].accuracy) < 1


# CONTRIBUTING.md -----------------------------------------------------------------------------------------------


@pytest.fixture
def unregistered(monkeypatch):
    """What registers itself is gone after the test."""
    for registry in (methods, attacks):
        monkeypatch.setattr(registry, "_registered", dict(registry._registered))


def module(monkeypatch, name, text):
    """A file as the package would have it, under that name."""
    made = ModuleType(name)
    made.__file__ = f"{name}.py"
    monkeypatch.setitem(sys.modules, name, made)
    exec(compile(text, made.__file__, "exec"), made.__dict__)
    return made


def run_tests(text, tmp_path):
    """The tests of a block, with every value that they are parametrised by."""
    names, ran = {}, 0
    exec(compile(text, "CONTRIBUTING.md", "exec"), names)
    for name, test in list(names.items()):
        if not name.startswith("test_"):
            continue
        marks = [mark for mark in getattr(test, "pytestmark", ()) if mark.name == "parametrize"]
        for values in marks[0].args[1] if marks else [None]:
            folder = tmp_path / f"{name}{ran}"
            folder.mkdir()
            (test if marks else partial(test, folder))(*([values] if marks else []))
            ran += 1
    return ran


def test_the_method_of_the_guide_passes_its_checks(unregistered, monkeypatch, tmp_path):
    method, checks, *_ = blocks("CONTRIBUTING.md", "python")
    made = module(monkeypatch, "hf_dtl.methods.hinge_forgetting", method)
    assert run_tests(checks, tmp_path) == 2
    assert "hinge_forgetting" in methods.method_summaries()
    assert methods.find_method("hinge_forgetting") is made.HingeForgettingTrainer


def test_the_attack_of_the_guide_passes_its_checks(unregistered, monkeypatch, tmp_path):
    *_, attack, checks = blocks("CONTRIBUTING.md", "python")
    module(monkeypatch, "hf_dtl.audit.attacks.nearest_mean", attack)
    assert run_tests(checks, tmp_path) == 2
    assert {"nearest_mean", "nearest_mean_cosine"} <= set(attacks.parse_attacks("all"))


def test_the_files_of_the_guide_are_formatted():
    for number, text in enumerate(blocks("CONTRIBUTING.md", "python")):
        for check in (["check", "-q"], ["format", "--check", "-q"]):
            words = [sys.executable, "-m", "ruff", *check, "--stdin-filename", f"hf_dtl/methods/guide{number}.py", "-"]
            done = subprocess.run(words, input=text, cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0, (number, done.stdout, done.stderr)


def test_the_hooks_of_the_guide_are_those_of_the_code():
    method, scenario = re.findall(r"^\| give .*\n\|.*\n((?:\|.*\n)+)", text_of("CONTRIBUTING.md"), flags=re.MULTILINE)
    hooks = re.findall(r"^\| `(\w+)", method, flags=re.MULTILINE)
    assert len(hooks) >= 6 and all(callable(getattr(hf_dtl.UnlearningTrainer, hook)) for hook in hooks)
    assert set(re.findall(r"^\| `(\w+)", scenario, flags=re.MULTILINE)) == Scenario.__abstractmethods__


def test_the_entry_points_of_the_guide_are_looked_for():
    groups = {table.splitlines()[0].split('"')[1] for table in blocks("CONTRIBUTING.md", "toml")}
    assert groups == {methods.GROUP, attacks.GROUP}
    python = "".join(blocks("CONTRIBUTING.md", "python"))
    for table in blocks("CONTRIBUTING.md", "toml"):
        name, _, place = table.splitlines()[1].partition(" = ")
        assert f"class {place.strip(chr(34)).partition(chr(58))[2]}(" in python and f'("{name}"' in python
