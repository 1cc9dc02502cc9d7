"""The publishing command as a user types it; what it sends is tested in tests/hub."""

import runpy
import shutil
import sys
from pathlib import Path

import pytest
from drawing import draw_once
from publish_toys import finished_run

from hf_dtl.hub.weights import weights_sha256

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "publish.py"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        draw_once(patch.setattr)
        yield finished_run(tmp_path_factory.mktemp("publish") / "run")


@pytest.fixture
def command(monkeypatch):
    def call(*words):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, words)])
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as end:
            return end.code
        return None

    return call


@pytest.mark.parametrize("named", [False, True])
def test_a_dry_run_shows_files_sizes_and_hashes_and_needs_neither_token_nor_network(run, command, capsys, named):
    places = ("--repo_id", "ann/x", "--folder", run) if named else (run, "ann/x")
    assert command(*places, "--dry_run", "--private", "false", "--revision", "v2") is None
    shown = capsys.readouterr().out
    assert "Would be published: ann/x, public, branch v2" in shown and "Nothing was sent" in shown
    for name in ("README.md", "config.json", "leakage_report.json", "plots/attacks.png", "preprocessor_config.json"):
        assert f" {name} " in shown
    size = (run / "scrubbed" / "model.safetensors").stat().st_size
    assert f" {size:,} " in shown
    assert weights_sha256(run / "scrubbed")["model.safetensors"] in shown
    assert "undisposed" not in shown and "run.json" not in shown


def test_it_is_private_and_on_main_unless_told_otherwise(run, command, capsys):
    assert command(run, "ann/x", "--dry_run") is None
    assert "ann/x, private, branch main" in capsys.readouterr().out


def test_a_model_of_ones_own_is_published_with_the_report_of_its_audit(run, command, capsys, tmp_path):
    model, report = tmp_path / "model", tmp_path / "leakage_report.json"
    shutil.copytree(
        run / "scrubbed", model, ignore=shutil.ignore_patterns("README.md", "plots", "leakage_report.json")
    )
    shutil.copy(run / "leakage_report.json", report)
    before = sorted(path.name for path in model.iterdir())
    assert command(model, "ann/x", "--report", report, "--dry_run") is None
    shown = capsys.readouterr().out
    assert " README.md " in shown and " plots/attacks.png " in shown and " leakage_report.json " in shown
    assert sorted(path.name for path in model.iterdir()) == before, "the user's folder stays as it is"
    (model / "optimizer.pt").write_bytes(b"x")
    assert "optimizer.pt" in command(model, "ann/x", "--report", report, "--dry_run")
    (model / "optimizer.pt").unlink()
    shutil.copy(run / "undisposed" / "model.safetensors", model)
    assert "PublishError" in command(model, "ann/x", "--report", report, "--dry_run"), (
        "other weights than the report's"
    )
    audit = tmp_path / "audit"
    audit.mkdir()
    (audit / "attacks.jsonl").touch()
    for words in ((), ("--report", report)):
        assert "is the folder of an audit and holds no model" in command(audit, "ann/x", "--dry_run", *words)
    assert "There is no folder" in command(tmp_path / "nowhere", "ann/x", "--report", report, "--dry_run")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nowhere", "ann/x", "--dry_run"), "PublishError: There is no folder nowhere"),
        (("nowhere", "https://huggingface.co/ann/x"), "is not the id of a model"),
        (("nowhere", "ann/x"), "PublishError: There is no folder nowhere"),
    ],
)
def test_errors_are_one_message(command, words, said, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert said in command(*words)


def test_missing_words_are_named(command, capsys):
    assert command() == 2 and "--folder, --repo_id" in capsys.readouterr().err
