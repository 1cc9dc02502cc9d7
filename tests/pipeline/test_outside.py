"""A method and an attack of other people: one file each, in the lists, the audit and the tables."""

import importlib
import subprocess
import sys

import pytest
from launching import FEW

import hf_dtl
from hf_dtl.audit.attacks import registry as attacks
from hf_dtl.methods import registry as methods

METHOD = '''
"""Forget by labels of tomorrow."""

from dataclasses import dataclass

from torch.nn import functional as F

from hf_dtl.methods.registry import register_method
from hf_dtl.trainers import UnlearningTrainer
from hf_dtl.trainers.config import UnlearningConfig, option


@dataclass
class TomorrowConfig(UnlearningConfig):
    """Options: days."""

    days: int = option(1, "Classes that a label is moved by.", low=1)


@register_method("tomorrow")
class TomorrowTrainer(UnlearningTrainer):
    """Name every image to forget by a later class."""

    config_class = TomorrowConfig

    def forget_loss(self, outputs, chunk):
        return F.cross_entropy(outputs.float(), (chunk.labels + self.args.days) % outputs.shape[-1])
'''
ATTACK = '''
"""Fine-tuning twice as long."""

from hf_dtl.audit.attacks import FineTuning, register_attack


@register_attack("twice_as_long", length=2)
class TwiceAsLong(FineTuning):
    """Fine-tuning of every weight, twice as long."""
'''


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """Two files of another distribution, found by its entry points."""
    for name in attacks.attack_names():  # a module registers its own once: when it is first imported
        attacks.find_attack(name)
    for name in methods.method_names():
        methods.find_method(name)
    (tmp_path / "tomorrow.py").write_text(METHOD)
    (tmp_path / "twice.py").write_text(ATTACK)
    info = tmp_path / "other_people-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other_people\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[hf_dtl.methods]\ntomorrow = tomorrow:TomorrowTrainer\n[hf_dtl.attacks]\ntwice_as_long = twice:TwiceAsLong\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for registry in (methods, attacks):  # what registers itself is gone after the test
        monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    importlib.invalidate_caches()
    return tmp_path


def test_they_are_listed_audited_and_in_the_tables(short_attacks, outside, monkeypatch, tmp_path):
    result = hf_dtl.forget(
        forget="mnist[0,1,2]", retain="mnist[6,7]", novel="none", method="tomorrow:days=2",
        forget_images_per_class=12, train_epochs=1, adapt_epochs=1, retrain_epochs=1, steps=2, image_size=14,
        attacks="linear_probe,twice_as_long", budgets=[1], seeds=[0], max_eval_images=30, use_cpu=True,
        output_dir=str(tmp_path / "out"),
    )  # fmt: skip
    report = result.audit()
    assert report.method == "tomorrow:days=2" and report.settings["disposal"]["days"] == 2
    assert {record.attack for record in report.piggyback} == {"linear_probe", "twice_as_long"}
    steps = {record.attack: record.effort for record in report.piggyback if record.budget == 1}
    assert steps["twice_as_long"] == 2 * FEW["full_min_steps"]
    table = (tmp_path / "out" / "tables.md").read_text()
    assert "twice_as_long" in table and "twice_as_long" in str(report) and "tomorrow:days=2" in str(report)
    for command, name in (("forget", "tomorrow"), ("audit", "twice_as_long")):
        words = [sys.executable, "-m", "hf_dtl.cli", command, "--list"]
        monkeypatch.setenv("PYTHONPATH", f"{outside}:{':'.join(path for path in sys.path if path)}")
        listed = subprocess.run(words, capture_output=True, text=True, timeout=60)
        assert listed.returncode == 0 and name in listed.stdout, listed.stderr
