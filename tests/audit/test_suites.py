"""Suites: a name is believed only with its hash, its attacks, draws and floors, and only some may say forgotten."""

from dataclasses import replace
from itertools import product

import pytest
from audit_toys import records, report

from hf_dtl.audit import LeakageReport
from hf_dtl.audit.attacks.registry import find_attack
from hf_dtl.audit.suites import CUSTOM, LARGE, SMALL, SUITES, find_suite
from hf_dtl.errors import ConfigError, DataError

HASH = "0f" * 16
LEVELS = {"undisposed": 0.85, "scrubbed": 0.5, "no_model": 0.4, "scratch": 0.35, "retrained": 0.5}


FROZEN = {name: suite.hashes for name, suite in SUITES.items()}


@pytest.fixture(autouse=True)
def hashes(monkeypatch):
    """Every suite as it is, with a hash that the tests know."""
    for name, suite in SUITES.items():
        monkeypatch.setitem(SUITES, name, replace(suite, hashes=(HASH, "1e" * 16)))


def attacked(name, **changed):
    """What a suite makes of models with these levels: all attacks on the trial draws, the first ones on all."""
    suite, found = SUITES[name], []
    for model, level in {**LEVELS, **changed}.items():
        fitting = [a for a in suite.attacks if not (model == "no_model" and find_attack(a).whole_network)]
        for place, attack in enumerate(a for a in fitting if not find_attack(a).needs):
            seeds = suite.seeds if place < suite.options["finalists"] else suite.seeds[:2]
            values = [level - 0.009 * place + 0.001 * seed for seed in seeds]
            runs = records({(model, budget): values for budget in suite.budgets}, attack=attack)
            found += [replace(r, learning_rate=find_attack(attack).learning_rates(suite.config(0))[0]) for r in runs]
    return found


def audited(name, found=None, **changed):
    piggyback = tuple(attacked(name, **changed) if found is None else found)
    return report(piggyback=piggyback, suite={"name": name, "hash": HASH})


@pytest.mark.parametrize("name", SUITES)
def test_only_a_suite_that_may_claim_says_forgotten(name):
    held = audited(name)
    assert held.suite_name == name and held.headline.word == "forgotten" and held.claims == (name != "quick-1")
    assert held.word == ("not shown" if name == "quick-1" else "forgotten")
    assert ("FORGOTTEN, as far as these attacks can tell" in held.verdict) == (name != "quick-1")
    assert ("NOT SHOWN by a first look" in held.verdict) == (name == "quick-1")
    assert ("a first look" in held.attacked_by) == (name == "quick-1")
    assert LeakageReport.from_json(held.to_json()) == held
    leaking = audited(name, scrubbed=0.7)
    assert leaking.word == "leaks" and "LEAKS: the source task was not removed" in leaking.verdict
    own = replace(held, suite={})
    assert own.suite_name == CUSTOM and own.word == "not shown" and "weaker than a practitioner" in own.verdict
    assert "FORGOTTEN" not in own.verdict and "Only standard-1 may say forgotten" in own.verdict


def test_a_claim_is_no_praise_where_the_target_is_destroyed():
    held = replace(audited("standard-1"), target_accuracy={"undisposed": 0.95, "scrubbed": 0.3})
    assert held.word == "forgotten" and held.verdict.startswith("The target task was destroyed")
    unknown = replace(held, target_accuracy={"undisposed": 0.95, "scrubbed": None})
    assert "it is not known whether this model still does its task" in unknown.verdict


def test_a_word_that_the_attacks_do_not_show_is_refused():
    text = audited("quick-1").to_json()
    assert '"word": "forgotten"' not in text
    with pytest.raises(DataError, match="says leakage word 'forgotten', not 'not shown' as its attacks give"):
        LeakageReport.from_json(text.replace('"word": "not shown"', '"word": "forgotten"', 1))


@pytest.mark.parametrize("hash_", ["", "2d" * 16])
def test_a_claim_with_another_hash_is_refused(hash_):
    with pytest.raises(DataError, match="suite standard-1 with the hash|suite.hash"):
        report(piggyback=tuple(attacked("standard-1")), suite={"name": "standard-1", "hash": hash_})
    with pytest.raises(DataError, match="suite standard-9 with the hash .* there are quick-1, standard-1, "):
        report(piggyback=tuple(attacked("standard-1")), suite={"name": "standard-9", "hash": HASH})


def left_out(**values):
    return lambda r: not all(getattr(r, name) == value for name, value in values.items())


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        (left_out(attack="ridge_affine", model="scrubbed", budget=20), "2 of its attacks on the scrubbed model: rid"),
        (left_out(attack="prototype_400"), "lacks 4 of its attacks on the retrained model: prototype_400 with 5"),
        (left_out(attack="prototype_400", model="undisposed", seed=1, budget=5), "undisposed model: prototype_400"),
        (left_out(budget=20), "on the no_model model: ridge with 20 images a class, seed 0"),
        (left_out(seed=4), "on the no_model model: an attack with 5 images a class, seed 4"),
        (left_out(model="no_model"), "of its attacks on the no_model model"),
        (left_out(model="scratch"), "on the scratch model: ridge with 5 images"),
        (left_out(model="undisposed"), "on the undisposed model"),
    ],
)  # fmt: skip
def test_a_claim_without_one_of_its_attacks_draws_or_floors_is_refused(kept, words):
    whole = attacked("standard-1")
    audited("standard-1", whole)
    with pytest.raises(DataError, match=words + r".*It is custom\."):
        audited("standard-1", [record for record in whole if kept(record)])
    report(piggyback=tuple(attacked("standard-1")), suite={"name": CUSTOM, "hash": HASH})


def test_further_floors_are_believed_only_if_they_were_attacked_alike():
    whole = attacked("standard-1", base=0.45)
    assert audited("standard-1", whole).word == "forgotten"
    with pytest.raises(DataError, match="on the base model: prototype_400"):
        audited("standard-1", [r for r in whole if (r.model, r.attack) != ("base", "prototype_400")])


@pytest.mark.parametrize(("name", "parameters"), product(SUITES, (SMALL, LARGE)))
def test_a_hash_is_that_of_all_that_decides_numbers(name, parameters, monkeypatch):
    suite = SUITES[name]
    config = suite.config(parameters)
    assert suite.config(parameters, max_stack=1, workers=3).hash() == config.hash(), "costs decide no number"
    for change in (
        {"attacks": config.attacks[:-1]}, {"budgets": (5,)}, {"seeds": (0, 1)}, {"finalists": config.finalists + 1},
        {"trial_seeds": 1},
    ):  # fmt: skip
        assert replace(config, **change).hash() != config.hash(), change
    monkeypatch.setitem(SUITES, name, replace(suite, hashes=(config.hash(), HASH)))
    assert config.suite() == {"name": name, "hash": config.hash()}
    assert replace(config, seeds=(0, 1)).suite()["name"] == CUSTOM
    assert replace(config, successive_halving=not config.successive_halving).suite()["name"] == CUSTOM


def test_an_unknown_suite_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match="There is no suite 'standart-1'.* standard-1.* There are: quick-1, "):
        find_suite("standart-1")


@pytest.mark.parametrize("name", FROZEN)
def test_a_suite_is_frozen(name):
    """Whatever changes numbers makes another suite: give it the next number, never a new hash."""
    assert tuple(SUITES[name].config(parameters).hash() for parameters in (SMALL, LARGE)) == FROZEN[name]


@pytest.mark.parametrize(
    "change",
    [
        lambda i, r: {"learning_rate": 1 / (3 + i)},  # each another: a head could stand there
        lambda i, r: {"learning_rate": 0.0123} if r.attack == "prototype_400" else {},
        lambda i, r: {"effort": 7, "curve": ((7, 0.0, 0.5), (9, 0.0, 0.5))},
    ],
)
def test_a_suite_has_its_own_learning_rates_and_checkpoints(change):
    found = audited("standard-1")
    runs = tuple(replace(r, **change(i, r)) for i, r in enumerate(found.piggyback))
    with pytest.raises(DataError, match="that the attack does not choose from. It is custom"):
        replace(found, piggyback=runs)
