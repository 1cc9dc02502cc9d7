"""Install the metrics where `evaluate.load` looks for a bare name when the Hub does not have it: its module cache."""

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from hf_dtl.errors import OutputError
from hf_dtl.metrics import NAMES, path

MARKER = "installed_by_hf_dtl.json"
DIGEST_LENGTH = 64
"""`evaluate` takes every folder whose name is this long for a version of a module, and loads the newest script."""


class Installation(NamedTuple):
    """Where one metric stands: its name, what was done or found, and the folder of that version (None without one)."""

    name: str
    state: str
    folder: Path | None


def cache_folder() -> Path:
    """Folder of the cached metrics, by `evaluate`'s own settings: HF_MODULES_CACHE, else HF_HOME, else ~/.cache."""
    import evaluate  # it loads torch, which `--help` does not need

    return Path(evaluate.config.HF_MODULES_CACHE) / evaluate.config.MODULE_NAME_FOR_DYNAMIC_MODULES / "metrics"


def short_path(folder: Path) -> str:
    """A folder as it is printed: with ~ for the home."""
    home = Path.home()
    return f"~/{folder.relative_to(home)}" if folder.is_relative_to(home) else str(folder)


def install(names: Iterable[str] = NAMES) -> list[Installation]:
    """Put the scripts of metrics into `evaluate`'s module cache; it is the same done once or twice.

    A version that an earlier library installed is replaced; versions that came from elsewhere are left alone.

    Raises:
        ConfigError: there is no such metric.
        OutputError: the cache cannot be written.
    """
    from evaluate.loading import init_dynamic_modules

    cached = [_Cached(name) for name in names]
    try:
        init_dynamic_modules()
        return [one.install() for one in cached]
    except OSError as error:
        raise OutputError(
            f"The metrics cannot be installed in {short_path(cache_folder())}: {error}. "
            "Set HF_HOME (or HF_MODULES_CACHE) to a folder that can be written."
        ) from error


def uninstall(names: Iterable[str] = NAMES) -> list[Installation]:
    """Take out what `install` put into the cache, and nothing else.

    Raises:
        ConfigError: there is no such metric.
        OutputError: the cache cannot be written.
    """
    found = []
    for cached in [_Cached(name) for name in names]:
        own = [version for version in cached.versions() if _is_own(version)]
        try:
            for version in own:
                _remove(version)
            if cached.folder.is_dir() and {e.name for e in cached.folder.iterdir()} <= {"__init__.py", "__pycache__"}:
                shutil.rmtree(cached.folder)
        except OSError as error:
            raise OutputError(f"{short_path(cached.folder)} cannot be removed: {error}.") from error
        found.append(Installation(cached.name, "removed" if own else "was not installed", None))
    return found


def status(names: Iterable[str] = NAMES) -> list[Installation]:
    """Say what `evaluate.load` finds in its cache under the bare name of each metric.

    Returns:
        One entry a metric; its state is `installed`, `installed by another version of hf_dtl: install again`,
        `a copy that hf_dtl did not install`, or `not installed`.

    Raises:
        ConfigError: there is no such metric.
    """
    found = []
    for cached in [_Cached(name) for name in names]:
        used = cached.active()
        state = "not installed" if used is None else "a copy that hf_dtl did not install"
        if used is not None and _is_own(used):
            other = "" if cached.is_complete(used) else " by another version of hf_dtl: install again"
            state = f"installed{other}"
        found.append(Installation(cached.name, state, used))
    return found


class _Cached:
    """The versions of one metric in `evaluate`'s cache, beside the script of this library."""

    def __init__(self, name: str):
        self.name, self.file = name, f"{name}.py"
        self.script = (Path(path(name)) / self.file).read_bytes()
        self.folder = cache_folder() / f"evaluate-metric--{name}"

    def versions(self) -> list[Path]:
        return [entry for entry in self.folder.glob("*") if len(entry.name) == DIGEST_LENGTH]

    def active(self) -> Path | None:
        """The version that `evaluate` loads."""
        scripts = [script for version in self.versions() if (script := version / self.file).is_file()]
        return max(scripts, key=lambda script: script.stat().st_mtime).parent if scripts else None

    def is_complete(self, version: Path) -> bool:
        script = version / self.file
        return script.is_file() and script.read_bytes() == self.script and (version / "__init__.py").is_file()

    def install(self) -> Installation:
        from hf_dtl import __version__

        target, used = self.folder / hashlib.sha256(self.script).hexdigest(), self.active()
        # Ours, or without a script: one such folder hides every other version from `evaluate`.
        others = [version for version in self.versions() if version != target]
        stale = [version for version in others if _is_own(version) or not (version / self.file).is_file()]
        if used == target and not stale and self.is_complete(target):
            return Installation(self.name, "already installed", target)
        self.folder.mkdir(parents=True, exist_ok=True)
        for package in (self.folder.parent, self.folder):
            (package / "__init__.py").touch()
        partial = self.folder / f".partial-{uuid.uuid4().hex[:8]}"
        partial.mkdir()
        try:
            (partial / "__init__.py").touch()
            (partial / self.file).write_bytes(self.script)
            (partial / MARKER).write_text(json.dumps({"library_version": __version__}) + "\n", encoding="utf-8")
            if used is not None:  # the newest script wins, also over one whose clock was ahead
                newest = max(time.time(), (used / self.file).stat().st_mtime + 1)
                os.utime(partial / self.file, (newest, newest))
            if target.exists():
                _remove(target)
            try:
                partial.rename(target)
            except OSError:
                if not self.is_complete(target):  # else another process has just installed the same
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        for version in stale:
            _remove(version)
        return Installation(self.name, "installed" if used is None else "replaced", target)


def _is_own(version: Path) -> bool:
    return (version / MARKER).is_file()


def _remove(version: Path) -> None:
    """Remove a version at once: half of one would be loaded."""
    gone = version.with_name(f".removed-{uuid.uuid4().hex[:8]}")
    try:
        version.rename(gone)
    except FileNotFoundError:  # another process was faster
        return
    shutil.rmtree(gone)
