"""Methods are found by name without torch, and added by one file outside the package."""

import subprocess
import sys

import pytest
from method_checks import trained

import hf_dtl.methods
from hf_dtl.errors import ConfigError
from hf_dtl.methods import registry
from hf_dtl.methods.by_name import parse_method
from hf_dtl.methods.registry import find_method, method_names, public_names, register_method

OUTSIDE = '''
from dataclasses import dataclass

from hf_dtl.functional import uniform_fooling
from hf_dtl.methods.registry import register_method
from hf_dtl.trainers.config import UnlearningConfig
from hf_dtl.trainers.option_fields import option
from hf_dtl.trainers.trainer import UnlearningTrainer


@dataclass
class ShrugConfig(UnlearningConfig):
    """Options of the shrug."""

    strength: float = option(1.0, "How much, > 0.", above=0)


@register_method("{name}")
class ShrugTrainer(UnlearningTrainer):
    """Answer forget images with a shrug."""

    config_class = ShrugConfig

    def forget_loss(self, logits, chunk):
        return self.args.strength * uniform_fooling(logits)
'''


@pytest.fixture(autouse=True)
def forgotten_afterwards(monkeypatch):
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))


def write_package(folder, name, value):
    """A file with a method, and the metadata by which an installed package would name it."""
    (folder / f"{name}_package.py").write_text(OUTSIDE.replace("{name}", name))
    info = folder / f"{name}_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[hf_dtl.methods]\n{name} = {value}\n")


def test_a_method_of_another_package_is_one_file(tmp_path, monkeypatch):
    write_package(tmp_path, "shrug", "shrug_package:ShrugTrainer")
    monkeypatch.syspath_prepend(tmp_path)
    assert "shrug" in method_names() and "shrug_package" not in sys.modules, "listed, and not imported"
    choice = parse_method("shrug:strength=2")
    assert choice.options == {"strength": 2.0} and choice.trainer_class.__name__ == "ShrugTrainer"
    with pytest.raises(ConfigError, match="shrug has no option 'strenth'.*strength"):
        parse_method("shrug:strenth=2")
    with pytest.raises(ConfigError, match="strength=0.0 must be > 0"):
        parse_method("shrug:strength=0").config(output_dir=str(tmp_path))
    trainer = trained((choice.config_class, choice.trainer_class), tmp_path, **choice.options)
    assert trainer.state.log_history[0]["disposal_value"] > 2


def test_a_method_of_a_script_is_registered_when_it_is_run(tmp_path):
    names = method_names()
    exec(OUTSIDE.replace("{name}", "scripted"), {"__name__": "a_script"})
    assert set(method_names()) == {*names, "scripted"}
    choice = parse_method("scripted")
    assert trained((choice.config_class, choice.trainer_class), tmp_path).state.global_step == 3
    exec(OUTSIDE.replace("{name}", "scripted"), {"__name__": "a_script"})  # as a notebook's cell is run again
    for taken in ("scripted", "scrub"):
        with pytest.raises(ConfigError, match=f"a method '{taken}' already"):
            exec(OUTSIDE.replace("{name}", taken), {"__name__": "another_script"})


def test_what_is_no_method_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="needs a class attribute config_class"):
        register_method("bare")(type("BareTrainer", (find_method("scrub"),), {}))
    with pytest.raises(ConfigError, match="cannot be called 'a:b'"):
        register_method("a:b")
        register_method("a:b")(find_method("scrub"))
    write_package(tmp_path, "broken", "broken_package:NoTrainer")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="'broken' of another package cannot be loaded from 'broken_package:NoTr"):
        find_method("broken")
    with pytest.raises(ConfigError, match="Unknown method 'salon'; the methods are: .*Did you mean 'salun'"):
        parse_method("salon")


def test_every_public_name_resolves_and_every_method_has_a_trainer():
    for name in method_names():
        trainer = find_method(name)
        assert getattr(hf_dtl.methods, trainer.__name__) is trainer if trainer.__module__.startswith("hf_dtl") else 1
        assert trainer.config_class.kinds <= {"task", "part", "tasks"}
    for name, file in public_names().items():
        assert getattr(hf_dtl.methods, name).__module__ == f"hf_dtl.methods.{file}"


def test_names_and_their_misspellings_need_no_torch():
    code = (
        "import sys; from hf_dtl.methods.by_name import parse_methods\n"
        "try: parse_methods('scrub,salon')\n"
        "except ValueError as error: print(error, 'torch' in sys.modules)"
    )
    loads = "import hf_dtl, sys; print('torch' in sys.modules)"
    if subprocess.run([sys.executable, "-c", loads], capture_output=True, text=True).stdout.strip() == "True":
        pytest.skip("the package itself loads torch")
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "Did you mean 'salun'?" in found.stdout and found.stdout.strip().endswith(" False"), found.stderr
