"""Install the metrics where `evaluate.load` looks for a bare name when the Hub does not have it: its module cache."""

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import evaluate
from evaluate.loading import init_dynamic_modules

from hf_dtl.errors import OutputError
from hf_dtl.metrics import NAMES, path

MARKER = "installed_by_hf_dtl.json"
DIGEST_LENGTH = 64
"""`evaluate` takes every folder whose name is this long for a version of a module, and loads the newest script."""


@dataclass(frozen=True)
class Installation:
    """Where one metric stands.

    Args:
        name: of the metric.
        state: what was done or found.
        folder: of the version meant by `state`; None when there is none.
    """

    name: str
    state: str
    folder: Path | None


def cache_folder() -> Path:
    """Folder of the cached metrics, by `evaluate`'s own settings: HF_MODULES_CACHE, else HF_HOME, else ~/.cache."""
    return Path(evaluate.config.HF_MODULES_CACHE) / evaluate.config.MODULE_NAME_FOR_DYNAMIC_MODULES / "metrics"


def shown(folder: Path) -> str:
    """A folder as it is printed: with ~ for the home."""
    home = Path.home()
    return f"~/{folder.relative_to(home)}" if folder.is_relative_to(home) else str(folder)


def install(names: Iterable[str] = NAMES) -> list[Installation]:
    """Put the scripts of metrics into `evaluate`'s module cache; it is the same done once or twice.

    A version that an earlier library installed is replaced; versions that came from elsewhere are left alone.

    Args:
        names: of the metrics.

    Returns:
        One entry a metric.

    Raises:
        ConfigError: there is no such metric.
        OutputError: the cache cannot be written.
    """
    scripts = {name: _script(name) for name in names}
    try:
        init_dynamic_modules()
        return [_install(name, script) for name, script in scripts.items()]
    except OSError as error:
        raise OutputError(
            f"The metrics cannot be installed in {shown(cache_folder())}: {error}. "
            "Set HF_HOME (or HF_MODULES_CACHE) to a folder that can be written."
        ) from error


def uninstall(names: Iterable[str] = NAMES) -> list[Installation]:
    """Take out what `install` put into the cache, and nothing else.

    Args:
        names: of the metrics.

    Returns:
        One entry a metric.

    Raises:
        ConfigError: there is no such metric.
        OutputError: the cache cannot be written.
    """
    found = []
    for name in {name: _script(name) for name in names}:
        own = [version for version in _versions(name) if _is_own(version)]
        try:
            for version in own:
                _remove(version)
            parent = _parent(name)
            if parent.is_dir() and {entry.name for entry in parent.iterdir()} <= {"__init__.py", "__pycache__"}:
                shutil.rmtree(parent)
        except OSError as error:
            raise OutputError(f"{shown(_parent(name))} cannot be removed: {error}.") from error
        found.append(Installation(name, "removed" if own else "was not installed", None))
    return found


def status(names: Iterable[str] = NAMES) -> list[Installation]:
    """Say what `evaluate.load` finds in its cache under the bare name of each metric.

    Args:
        names: of the metrics.

    Returns:
        One entry a metric; its state is `installed`, `installed by another version of hf_dtl: install again`,
        `a copy that hf_dtl did not install`, or `not installed`.

    Raises:
        ConfigError: there is no such metric.
    """
    found = []
    for name, script in {name: _script(name) for name in names}.items():
        used = _used(name)
        if used is None:
            state = "not installed"
        elif not _is_own(used):
            state = "a copy that hf_dtl did not install"
        elif _is_complete(used, name, script):
            state = "installed"
        else:
            state = "installed by another version of hf_dtl: install again"
        found.append(Installation(name, state, used))
    return found


def _script(name: str) -> bytes:
    return (Path(path(name)) / f"{name}.py").read_bytes()


def _parent(name: str) -> Path:
    return cache_folder() / f"evaluate-metric--{name}"


def _versions(name: str) -> list[Path]:
    parent = _parent(name)
    return [entry for entry in parent.iterdir() if len(entry.name) == DIGEST_LENGTH] if parent.is_dir() else []


def _used(name: str) -> Path | None:
    """The version that `evaluate` loads."""
    scripts = [version / f"{name}.py" for version in _versions(name)]
    existing = [script for script in scripts if script.is_file()]
    return max(existing, key=lambda script: script.stat().st_mtime).parent if existing else None


def _is_own(version: Path) -> bool:
    return (version / MARKER).is_file()


def _is_stale(version: Path, name: str) -> bool:
    """Ours, or without a script: one such folder hides every other version from `evaluate`."""
    return _is_own(version) or not (version / f"{name}.py").is_file()


def _is_complete(version: Path, name: str, script: bytes) -> bool:
    installed = version / f"{name}.py"
    return installed.is_file() and installed.read_bytes() == script and (version / "__init__.py").is_file()


def _install(name: str, script: bytes) -> Installation:
    from hf_dtl import __version__

    parent, digest = _parent(name), hashlib.sha256(script).hexdigest()
    target, used = parent / digest, _used(name)
    stale = [version for version in _versions(name) if version != target and _is_stale(version, name)]
    if used == target and not stale and _is_complete(target, name, script):
        return Installation(name, "already installed", target)
    parent.mkdir(parents=True, exist_ok=True)
    for package in (parent.parent, parent):
        (package / "__init__.py").touch()
    partial = parent / f".partial-{uuid.uuid4().hex[:8]}"
    partial.mkdir()
    try:
        (partial / "__init__.py").touch()
        (partial / f"{name}.py").write_bytes(script)
        (partial / MARKER).write_text(json.dumps({"library_version": __version__}) + "\n", encoding="utf-8")
        if used is not None:
            # the newest script wins, also over one whose clock was ahead
            newest = max(time.time(), (used / f"{name}.py").stat().st_mtime + 1)
            os.utime(partial / f"{name}.py", (newest, newest))
        if target.exists():
            _remove(target)
        try:
            partial.rename(target)
        except OSError:
            if not _is_complete(target, name, script):  # else another process has just installed the same
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for version in stale:
        _remove(version)
    return Installation(name, "installed" if used is None else "replaced", target)


def _remove(version: Path) -> None:
    """Remove a version at once: half of one would be loaded."""
    gone = version.with_name(f".removed-{uuid.uuid4().hex[:8]}")
    try:
        version.rename(gone)
    except FileNotFoundError:  # another process was faster
        return
    shutil.rmtree(gone)
