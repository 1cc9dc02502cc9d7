"""The choice of the suites: each suite's own choice, its committee among them, on images that stay unseen."""

import json
from dataclasses import replace

import pytest
from audit_toys import task, vit

import study.suites
from hf_dtl.audit.suites import SUITES
from study.suites import SuiteOptions, choose_suite, halved
from study.tables.suites import suite_table

ATTACKS = {
    "quick-1": ("class_means",),
    "standard-1": ("ridge", "class_means", "committee"),
    "full-1": ("ridge", "class_means", "label_spreading", "committee"),
}


@pytest.fixture(autouse=True)
def small_suites(monkeypatch):
    for name, attacks in ATTACKS.items():
        monkeypatch.setitem(SUITES, name, replace(SUITES[name], attacks=attacks))
    models = [("vit, undisposed", vit(seed=1), halved(task())), ("vit, scrubbed", vit(seed=2), halved(task()))]
    monkeypatch.setattr(study.suites, "development_models", lambda options: iter(models))


def test_each_suite_chooses_among_its_own_attacks(tmp_path):
    found = choose_suite(SuiteOptions(budgets="2", output_dir=str(tmp_path)))
    assert json.loads((tmp_path / "choice.json").read_text()) == json.loads(json.dumps(found))
    for budgets in found["models"].values():
        (reached,) = budgets.values()
        assert set(reached) == set(ATTACKS) and all(reached[name][0] in own for name, own in ATTACKS.items())
        assert reached["full-1"][1] >= reached["standard-1"][1] >= reached["quick-1"][1], "chosen on validation"
    table = suite_table(found)
    assert [row[:2] for row in table.rows] == [(name, "2") for name in found["models"]]
    before = (tmp_path / "attacks.jsonl").read_bytes()
    assert choose_suite(SuiteOptions(budgets="2", output_dir=str(tmp_path))) == found
    assert (tmp_path / "attacks.jsonl").read_bytes() == before


def test_the_test_images_stay_unseen():
    whole = task()
    half = halved(whole)
    assert len(half.validation.labels) + len(half.test.labels) == len(whole.validation.labels)
