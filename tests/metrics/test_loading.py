"""The ways of loading, in processes with an empty home; one is told to be offline, of one the network is silent."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from audit_toys import vit

from hf_dtl.data import embedded_processor
from hf_dtl.metrics import NAMES, path

COMMON = """
import os
import runpy
import sys
import evaluate
import hf_dtl.metrics
import hf_dtl.metrics.install

def checked():
    got = [evaluate.load(name).compute(**values) for name, values in (
        ("piggyback_accuracy", dict(predictions=[0, 1, 1, 2], references=[0, 1, 2, 2])),
        ("unlearning_impact_score", dict(original_test=0.5, unlearned_test=0.375, unlearned_forget=0.5)),
        ("tug_of_war", dict(accuracies={"forget": 0.5}, retrained={"forget": 0.25})),
    )]
    assert got == [
        {"piggyback_accuracy": 0.75}, {"unlearning_impact_score": 0.125, "per_task": [0.125]},
        {"tug_of_war": 0.75, "average_gap": 0.25},
    ], got
"""
FIRST = """
for name in hf_dtl.metrics.NAMES:
    evaluate.load(hf_dtl.metrics.path(name))
    try:
        evaluate.load(name)
        raise AssertionError(f"{name} was installed by an import or by loading it by path")
    except FileNotFoundError as error:
        assert f"Module '{name}' doesn't exist" in str(error), error
os.chdir(sys.argv[1])  # a folder that holds the three Spaces
checked()
os.chdir("/")
sys.argv = ["hf_dtl.metrics", "install"]
runpy.run_module("hf_dtl.metrics", run_name="__main__")
checked()
"""
LATER = """
import hf_dtl.audit.attacks.fresh_network

hf_dtl.audit.attacks.fresh_network.BATCH = 4  # what a network reaches is not the point
checked()
for snippet in sys.argv[1:]:
    exec(compile(snippet, "README.md", "exec"), {})
"""


def run(script, home, cwd, *arguments, **environment):
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "XDG_", "PYTHON"))}
    nobody = "http://127.0.0.1:9"  # the port of discard: the connection is refused
    offline = {"HF_ENDPOINT": nobody, "HF_HUB_OFFLINE": "1", "HF_UPDATE_DOWNLOAD_COUNTS": "0", "NO_PROXY": "127.0.0.1"}
    offline |= environment
    done = subprocess.run(
        [sys.executable, "-c", COMMON + script, *arguments],
        cwd=cwd, env={**kept, **offline, "HOME": str(home)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def snippets():
    text = "".join((Path(path(name)) / "README.md").read_text(encoding="utf-8") for name in NAMES)
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """One process: no bare name before the installation, by path, from copied folders, then by name."""
    home, spaces = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("spaces")
    for name in NAMES:
        shutil.copytree(path(name), spaces / name)
    return home, run(FIRST, home, home, str(spaces), HF_EVALUATE_OFFLINE="1")


def test_by_path_as_a_space_and_by_name(first):
    home, done = first
    assert "~/.cache/huggingface/modules/evaluate_modules/metrics" in done.stdout
    cache = home / ".cache" / "huggingface" / "modules" / "evaluate_modules" / "metrics"
    found = sorted(p.name for p in cache.glob("evaluate-metric--*"))
    assert found == [f"evaluate-metric--{name}" for name in sorted(NAMES)]


def test_in_a_later_process_by_name_and_as_the_readmes_say(first, tmp_path):
    for name in ("scrubbed", "undisposed", "retrained"):
        folder = tmp_path / "outputs" / "demo" / name
        vit().save_pretrained(folder)
        embedded_processor(size=8).save_pretrained(folder)
    found = snippets()
    assert len(found) == 6
    done = run(LATER, first[0], tmp_path, "\n".join(found))
    assert re.search(r"^quick-1 0\.\d+ ", done.stdout, flags=re.MULTILINE), done.stdout
