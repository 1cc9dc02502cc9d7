"""The attacks as classes: their keys follow from their settings, and a new one is one file."""

import importlib
import subprocess
import sys
import textwrap
from dataclasses import fields, replace
from itertools import combinations

import pytest
import torch
from audit_toys import QUICK, report, split, task, vit

from hf_dtl.audit import AttackConfig, LeakageReport, attack_names, markdown_table, parse_attacks, run_audit
from hf_dtl.audit import run as run_module
from hf_dtl.audit.attacks import (
    ADAPTIVE,
    GRID,
    Attack,
    Unit,
    each_own,
    find_attack,
    plan,
    register_attack,
    registry,
)
from hf_dtl.audit.piggyback import Attacker
from hf_dtl.data import ImageTensors
from hf_dtl.errors import ConfigError

BUILT_IN = (*GRID, *ADAPTIVE)
CONFIG = AttackConfig()
PRINTS = ("model", "task", [0, 1, 2], "retain")


def key(attack, config=CONFIG, prints=PRINTS):
    return attack.fingerprint(Unit(attack.name, 5, 1), config, *prints)


def group(attack, config=CONFIG):
    return attack.group_key(5, 15, config)


# Keys of the present protocol, from the model, the task and the images of `numbered`.
STORED = {
    "linear_probe": "92669e99a19f36718e554a1f8ded35a4",
    "full": "caa4f0c7d3d091149ea403d98142e335",
    "head_then_full": "16867ab6486394ccabcc8b842e8a892b",
    "lora": "42e9172157185be9c2fd69b93125c0e2",
    "linear_probe_published": "9ac74376aa61ab7bc47d0bb13a321d34",
    "full_published": "07463f854e06de775cae6422b7d9e533",
    "head_then_full_published": "dd347fb6768979e6c663d84f43e4f1c6",
    "lora_published": "0f1339f675b95437d0ce4e301242606c",
    "full_rescaled": "c051ffefe75d2c4e6673f4f6eb6a3740",
    "full_longer": "d180833a4ce554e9a5f4ce59d4dc526d",
    "full_large_lr": "166e629e95efb692821ba7c0de148cc5",
    "retain_then_full": "48e64767c4abe7711db0320555ce1539",
    "retain_only": "3255054fcdf13f80bf48ebb15ad6912e",
}


def with_head_labels(tensor):
    return (torch.arange(tensor.numel()) % 17 / 16.0).reshape(tensor.shape)


def test_attacks_that_were_stored_before_are_found_again():
    model, toy = vit(3), task()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(with_head_labels(parameter))
    given = {name: getattr(toy, name) for name in ("train", "validation", "test")} | {"retain": split(2)}
    toy = replace(
        toy, **{name: ImageTensors(with_head_labels(own.pixel_values), own.labels) for name, own in given.items()}
    )
    prints = (
        run_module._model_fingerprint(model), run_module._task_fingerprint(toy),
        plan.rows(model, toy), run_module._retain_fingerprint(toy),
    )  # fmt: skip
    assert {name: key(find_attack(name), prints=prints) for name in BUILT_IN} == STORED
    assert attack_names()[: len(STORED)] == BUILT_IN == tuple(STORED)


def families(root=Attack):
    for family in root.__subclasses__():
        yield family
        yield from families(family)


def other(value):
    """Another value of the same kind; a setting of a new kind must be added here, so that none is left out."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return value + "x"
        case tuple():
            return (*value, 1)
        case None:
            return 1
    raise AssertionError(f"no other value known for {value!r}")


class Toy(Attack):
    """A family of which nothing but its settings is said."""

    k: int = 1
    augmentation: str = "none"
    start: bool = each_own(False)

    def train(self, context, units):
        raise NotImplementedError


def test_attacks_with_different_settings_never_share_a_key():
    """Every field of every family, so that a setting that a key forgets cannot be added."""
    for name in attack_names():
        find_attack(name)
    seen = 0
    for family in [own for own in families() if own.__module__.startswith("hf_dtl.") or own is Toy]:
        if family.__abstractmethods__:
            continue
        # Under the name of a stored attack, too: its old key is for its old settings alone.
        for plain in (family(name=name) for name in ("mine", *BUILT_IN)):
            for field in fields(family):
                if field.name in ("name", "description"):
                    continue
                changed = replace(plain, **{field.name: other(getattr(plain, field.name))})
                assert key(changed) != key(plain), (family, field.name)
                together = bool(field.metadata.get("each_own"))
                assert (group(changed) == group(plain)) == together, (family, field.name)
                seen += 1
    assert seen > 14 * 20
    named = [find_attack(name) for name in BUILT_IN]
    assert len({key(attack) for attack in named}) == len(named)
    for first, second in combinations(named, 2):
        if first.settings(shared=True) != second.settings(shared=True) or first.family != second.family:
            assert group(first) != group(second), (first.name, second.name)


def test_one_setting_of_two_families_shares_no_key():
    class Same(Toy):
        pass

    assert key(Same(name="mine")) != key(Toy(name="mine")) and group(Same(name="mine")) != group(Toy(name="mine"))


def test_every_setting_of_the_config_is_in_the_key_of_an_attack_from_outside():
    plain = key(Toy(name="mine"))
    free = {"attacks", "budgets", "seeds", "trial_seeds", "finalists", "max_stack", "workers", "eval_batch_size"}
    for field in fields(AttackConfig):
        value = getattr(CONFIG, field.name)
        changed = replace(
            CONFIG, **{field.name: 3 if value is None else value[:1] if isinstance(value, tuple) else other(value)}
        )
        assert (key(Toy(name="mine"), changed) == plain) == (field.name in free), field.name
    for prints in (("model", "task", None, "retain"), ("model", "task", [0, 1, 2], None)):
        assert key(Toy(name="mine"), prints=prints) != plain


def test_keys_cannot_be_changed_by_a_family():
    with pytest.raises(TypeError, match="must not change its keys"):

        class Forgetful(Toy):
            def group_key(self, budget, images, config):
                return ()

    with pytest.raises(ConfigError, match="must be JSON values"):
        Toy(name="mine", k=torch.zeros(1))


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_stored_attack_reads_no_setting_that_its_key_lacks(name):
    """Its key is older than the rule that everything counts, so what it reads is watched."""

    class Watched(AttackConfig):
        read = None

        def __getattribute__(self, attribute):
            if Watched.read is not None:
                Watched.read.add(attribute)
            return super().__getattribute__(attribute)

    config = Watched(**{f.name: getattr(QUICK, f.name) for f in fields(QUICK)} | {"lora_learning_rates": (1e-3,)})
    attacker, attack = Attacker(vit(3), replace(task(), retain=split(4)), config), find_attack(name)
    rates = {"lora": "lora_learning_rates", "linear": "linear_probe_learning_rates"}
    own = {rates.get(name.split("_")[0], "full_learning_rates"), "chosen_rates"}  # the rates are in the key
    Watched.read = set()
    attacker.run(name, 2, 0)
    read, Watched.read = Watched.read, None
    assert read & set(config.deciding()) <= {*attack.reads, *own, "weight_decay", "successive_halving"}


def test_attacks_that_differ_in_settings_of_their_own_find_together_what_they_find_alone():
    attacker = Attacker(vit(3), task(), replace(QUICK, lora_learning_rates=(1e-3, 1e-2)))
    groups = {}
    for name in GRID:
        groups.setdefault(group(find_attack(name), attacker.config), []).append(Unit(name, 4, 0))
    assert sorted(map(len, groups.values())) == [2, 2, 4]
    for units in groups.values():
        for unit, found in zip(units, attacker.run_stack(units), strict=True):
            alone = attacker.run(*unit)
            assert (alone.attack, alone.effort) == (found.attack, found.effort)
            assert abs(alone.accuracy - found.accuracy) < 0.02, unit  # rounding


def test_the_effort_of_a_run_is_its_steps():
    attacker = Attacker(vit(3), task(), QUICK)
    assert attacker.run("linear_probe", 2, 0).effort == 20
    assert attacker.run("full_longer", 4, 0).effort == 4 * attacker.run("full", 4, 0).effort == 4 * 8


def test_every_attack_says_what_it_is():
    for name in BUILT_IN:
        attack = find_attack(name)
        assert attack.name == name and attack.description.endswith(".") and type(attack).__doc__
    assert "2106.09685" in find_attack("lora").source and not find_attack("full").needs


def test_names_sets_and_the_nearest_right_name():
    assert parse_attacks("full, full,adaptive")[:2] == ("full", "full_rescaled")
    assert parse_attacks("all") == attack_names() and parse_attacks("grid") == GRID
    with pytest.raises(ConfigError, match="Unknown attack 'ful_longer' .* Did you mean full_longer"):
        parse_attacks("grid,ful_longer")
    with pytest.raises(ConfigError, match="Did you mean lora"):
        AttackConfig(attacks=("loar",))
    with pytest.raises(ConfigError, match="There are: linear_probe"):
        find_attack("nothing")
    for name in ("full", "all", "a,b"):
        with pytest.raises(ConfigError, match="name"):
            register_attack(name)(Toy)


def test_the_names_are_known_without_torch():
    code = """
        import sys, types
        root = types.ModuleType("hf_dtl")
        root.__path__ = [FOLDER]
        sys.modules["hf_dtl"] = root  # the package's own names are not the matter here
        from hf_dtl.audit import AttackConfig, attack_names, parse_attacks
        assert len(attack_names()) >= 13 and parse_attacks("grid") == AttackConfig().attacks
        assert "torch" not in sys.modules
    """.replace("FOLDER", repr(str(importlib.import_module("hf_dtl").__path__[0])))
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


MEAN = '''
"""Nearest class mean: an attack of another package, in one file."""

from typing import ClassVar

import torch

from hf_dtl.audit.attacks import Attack, register_attack
from hf_dtl.audit.attacks.choice import Choice, share_right


@register_attack("NAME", "The nearest mean of the features of a class.")
class NearestMean(Attack):
    """An image is of the class whose mean is nearest."""

    source: ClassVar[str] = "Mensink et al., 2013"
    shrink: float = 0.0

    def train(self, context, units):
        for unit in units:
            images, labels = context.images(unit)
            features = context.features(images)
            means = torch.stack([features[labels == i].mean(0) for i in range(context.num_classes)])

            def classify(split, means=means):
                return -torch.cdist(context.split_features(split), (1 - self.shrink) * means)

            validation = context.task.validation
            value = share_right(classify(validation), validation.labels)
            yield unit, Choice(0.0, value, {"means": means}, 0), classify
'''


@pytest.fixture(params=["entry point", "registered"])
def nearest_mean(request, tmp_path, monkeypatch):
    """The name of an attack in one file outside the package, found by its entry point or because it was imported."""
    name = f"nearest_mean_{request.param.split()[0]}"
    (tmp_path / f"{name}_attack.py").write_text(MEAN.replace("NAME", name))
    monkeypatch.syspath_prepend(tmp_path)
    if request.param == "registered":
        importlib.import_module(f"{name}_attack")
    else:
        folder = tmp_path / "others_attacks-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: others-attacks\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[hf_dtl.attacks]\n{name} = {name}_attack:NearestMean\n")
    yield name
    registry._registered.pop(name, None)


def test_a_new_attack_is_one_file_outside_the_package(nearest_mean, tmp_path):
    assert attack_names()[-1] == parse_attacks("all")[-1] == nearest_mean
    models = {"undisposed": vit(4), "scrubbed": vit(4, seed=2), "scratch": vit(4, seed=3)}
    config, store = replace(QUICK, attacks=("linear_probe", nearest_mean)), tmp_path / "store.jsonl"
    found = run_audit(models, {"toy": task(noise=0.2)}, config, store=store, progress=False)
    own = [record for record in found if record.attack == nearest_mean]
    assert len(own) == 12 and {record.effort for record in own} == {0}
    assert max(record.accuracy for record in own) > 0.6
    assert found == run_audit(models, {"toy": task(noise=0.2)}, config, store=store, progress=False)
    assert len(store.read_text().splitlines()) == 24
    made = report(piggyback=tuple(found), chance={}, suite=config.suite())
    assert nearest_mean in made.axes["source_subset"].by_attack
    assert f"| {nearest_mean}" in markdown_table(made) and nearest_mean in str(made)
    assert LeakageReport.from_json(made.to_json()) == made
    assert config.suite()["hash"] != replace(config, attacks=("linear_probe",)).suite()["hash"]


def test_an_entry_point_that_registers_another_name_is_refused(tmp_path, monkeypatch):
    (tmp_path / "silent_attack.py").write_text("class Silent: ...\n")
    folder = tmp_path / "silent-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: silent\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[hf_dtl.attacks]\nsilent = silent_attack:Silent\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="Unknown attack 'silent' in silent_attack:Silent"):
        find_attack("silent")


def test_the_hash_of_a_suite_is_that_of_what_decides_numbers():
    plain = CONFIG.suite()
    assert plain["name"] == "custom" and len(plain["hash"]) == 32
    assert replace(CONFIG, workers=2, max_stack=1, eval_batch_size=7).suite() == plain
    for change in ({"budgets": (5,)}, {"seeds": (0,)}, {"attacks": ("full",)}, {"lora_rank": 4}, {"full_passes": 3}):
        assert replace(CONFIG, **change).suite() != plain, change
