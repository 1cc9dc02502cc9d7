"""The study as a user runs it: two processes side by side, killed and interrupted, continued, and with wrong input."""

import json
import signal
import subprocess
import time
from dataclasses import asdict
from pathlib import Path
from subprocess import TimeoutExpired

import pytest
from launching import Program
from study_toys import OVERRIDE, tiny

from study.main_job import reproduce

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "reproduce.py"


def start(folder, **options):
    words = [str(SCRIPT)]
    for name, value in asdict(tiny(folder, **options)).items():
        words += [f"--{name}", str(value)] if value is not None else []
    return Program(*words, session=True)


def group_members(group):
    """Living processes of a group: the study's first one, its workers and their helpers."""
    found = subprocess.run(["ps", "-eo", "pgid,stat"], capture_output=True, text=True).stdout.splitlines()[1:]
    return [line for line in found if line.split()[0] == str(group) and not line.split()[1].startswith("Z")]


def wait_for(process, condition, timeout=180):
    deadline = time.monotonic() + timeout
    while not condition():
        if process.poll() is not None:
            pytest.fail(f"ended too early: {process.communicate()[1][-3000:]}")
        assert time.monotonic() < deadline
        time.sleep(0.02)


def gone(group):
    deadline = time.monotonic() + 20
    while group_members(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not group_members(group)


def interrupt(process):
    """Ctrl-C, again where Python lost the first (an exception in a finaliser or callback is only printed)."""
    for _ in range(4):
        process.send_signal(signal.SIGINT)
        try:
            return process.communicate(timeout=5)[1]
        except TimeoutExpired:
            continue
    return process.communicate(timeout=60)[1]


@pytest.mark.slow
def test_killed_interrupted_and_continued(tmp_path):
    folder = tmp_path / "out"
    one = folder / "seeds" / "1000" / "stages"
    process = start(folder, workers=2, override=json.dumps(OVERRIDE | {"save_steps": 1}))
    wait_for(process, lambda: any((one / "pretrain.partial").glob("checkpoints/*/trainer_state.json")))
    process.send_signal(signal.SIGKILL)  # the first process alone: its workers must not live on
    process.communicate()
    assert gone(process.pid)

    process = start(folder, workers=2)
    wait_for(process, lambda: any(folder.glob("seeds/*/results/seed-*.json")))
    err = interrupt(process)
    assert process.poll() == 1 and "Interrupted. Start the same command again to continue." in err
    assert "Traceback" not in err
    assert gone(process.pid) and not (folder / "table.md").exists()

    before = {path: path.stat().st_mtime_ns for path in folder.rglob("results/*.json")}
    lines = []
    summary = reproduce(tiny(folder), lines.append)  # in this process, for speed
    assert {path: path.stat().st_mtime_ns for path in before} == before, "a finished trial was repeated"
    assert "were finished before." in "".join(lines)
    assert (folder / "table.md").exists() and summary.rows[0].target.mean is not None
    seed = json.loads(next(folder.glob("seeds/1000/results/seed-*.json")).read_text())
    assert seed["cost"] is None, "the cost of a stage that was cut in two is not known"


def test_wrong_input_has_one_line(tmp_path):
    process = start(tmp_path / "out", methods="none")
    out, err = process.communicate(timeout=120)
    assert process.poll() == 1 and err.strip().startswith("ConfigError: Unknown method 'none'"), err
    assert not (tmp_path / "out").exists()
