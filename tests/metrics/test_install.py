"""Installing into `evaluate`'s module cache: once or twice is the same, and only what is ours is touched."""

import os
import shutil
import sys
import time
from pathlib import Path

import evaluate
import pytest

from hf_dtl.errors import ConfigError, OutputError
from hf_dtl.metrics import NAMES, path
from hf_dtl.metrics.__main__ import main
from hf_dtl.metrics.install import MARKER, install, status, uninstall

NAME = "tug_of_war"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", tmp_path / "modules")
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path / "modules" / "evaluate_modules" / "metrics"


def tree(folder: Path):
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def states(found):
    return {one.name: one.state for one in found}


def version(cache, digit, script="", own=False):
    """A version of the metric that is in the cache already."""
    folder = cache / f"evaluate-metric--{NAME}" / (digit * 64)
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    if script is not None:
        (folder / f"{NAME}.py").write_text(script)
    if own:
        (folder / MARKER).write_text("{}")
    return folder


def test_install_is_complete_and_idempotent(cache):
    assert set(states(status()).values()) == {"not installed"}
    assert not cache.exists()
    assert set(states(install()).values()) == {"installed"}
    assert states(status()) == dict.fromkeys(NAMES, "installed")
    first = tree(cache.parents[1])
    for name in NAMES:
        (script,) = (cache / f"evaluate-metric--{name}").glob(f"*/{name}.py")
        assert script.read_bytes() == (Path(path(name)) / f"{name}.py").read_bytes()
        assert len(script.parent.name) == 64
    for package in (cache.parents[1], cache.parent, cache, cache / f"evaluate-metric--{NAME}"):
        assert (package / "__init__.py").exists()
    assert set(states(install()).values()) == {"already installed"}
    assert tree(cache.parents[1]) == first


def test_an_earlier_version_is_replaced_and_a_foreign_one_kept(cache):
    old, foreign = version(cache, "a", own=True), version(cache, "b", "x = 1")
    half = version(cache, "c", script=None)
    later = time.time() + 1000
    os.utime(foreign / f"{NAME}.py", (later, later))
    assert states(status([NAME])) == {NAME: "a copy that hf_dtl did not install"}
    (done,) = install([NAME])
    assert done.state == "replaced"
    assert sorted(f.name for f in done.folder.parent.iterdir() if f.is_dir()) == sorted(
        [done.folder.name, foreign.name]
    )
    assert not old.exists() and not half.exists()
    assert status([NAME])[0].folder == done.folder  # newer than the foreign one, whose clock was ahead


def test_a_damaged_version_is_repaired(cache):
    (done,) = install([NAME])
    (done.folder / f"{NAME}.py").write_text("damaged")
    assert states(status([NAME]))[NAME].startswith("installed by another version")
    assert states(install([NAME])) == {NAME: "replaced"}
    assert states(status([NAME])) == {NAME: "installed"}


def test_what_evaluate_loads_is_what_status_names(cache):
    from evaluate.loading import CachedEvaluationModuleFactory

    for digit in "ab":
        version(cache, digit, "x = 1")
    install([NAME])
    assert CachedEvaluationModuleFactory(f"evaluate-metric--{NAME}").get_module().hash == status([NAME])[0].folder.name


def test_uninstall_takes_ours_only(cache):
    install()
    foreign = version(cache, "b", "x = 1")
    assert set(states(uninstall()).values()) == {"removed"}
    assert [p.name for p in cache.glob("evaluate-metric--*")] == [foreign.parent.name]
    assert (foreign / f"{NAME}.py").read_text() == "x = 1"
    shutil.rmtree(foreign)
    assert set(states(uninstall()).values()) == {"was not installed"}
    assert not list(cache.glob("evaluate-metric--*"))


def test_errors(cache, monkeypatch):
    for act in (install, uninstall, status):
        with pytest.raises(ConfigError, match="no metric 'accuracy'"):
            act(["accuracy"])
    cache.parents[2].joinpath("modules").write_text("a file is in the way")
    with pytest.raises(OutputError, match="Set HF_HOME"):
        install()


def test_command_line(cache, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(cache.parents[2]))
    main(["install"])
    said = capsys.readouterr().out
    assert f"~/modules/evaluate_modules/metrics/evaluate-metric--{NAME}/" in said and str(cache) not in said
    assert 'evaluate.load("piggyback_accuracy")' in said
    main(["status", NAME])
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()[1:]] == [[NAME, "installed"]]
    main(["uninstall"])
    assert capsys.readouterr().out.count("removed") == len(NAMES)
    main(["path", NAME])
    assert capsys.readouterr().out.strip() == path(NAME)
    with pytest.raises(SystemExit) as stopped:
        main(["install", "accuracy"])
    assert stopped.value.code == 1 and "there are: piggyback_accuracy" in capsys.readouterr().err
