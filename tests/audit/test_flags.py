"""Every flag is raised by what it is about, and by nothing else."""

import re
from dataclasses import replace

import pytest
from audit_toys import records, report
from documents import text_of

LEVELS = {"undisposed": 0.9, "scrubbed": 0.7, "scratch": 0.4, "retrained": 0.5}
RATES = {"audit": {"full_learning_rates": [1e-4, 1e-3, 1e-2], "lora_learning_rates": [1e-4, 1e-3, 1e-2]}}
ENOUGH = {"images": {"source": {"train": 100, "validation": 600, "test": 900}}}


def names(found):
    return [flag.name for flag in found.flags]


def audited(noise=0.01, levels=LEVELS, attack="full", settings=RATES | ENOUGH, change=lambda record: record):
    draws = [-noise, 0.0, noise, noise / 2, -noise / 2]
    values = {(model, b): [level + d for d in draws] for model, level in levels.items() for b in (5, 20)}
    found = [change(record) for record in records(values, attack=attack)]
    return report(piggyback=tuple(found), settings=settings)


def test_a_sound_report_has_none():
    assert names(audited()) == []


def test_the_gate():
    assert names(audited(levels=LEVELS | {"undisposed": 0.55, "scrubbed": 0.5})) == ["weights"]
    values = {("undisposed", 5): [0.9, 0.6, 0.7], ("scrubbed", 5): [0.6] * 3, ("retrained", 5): [0.6, 0.6, 0.6]}
    assert "unresolved" in names(report(piggyback=tuple(records(values)), settings=ENOUGH))


def test_wide_bounds():
    values = {("undisposed", 5): [0.9] * 3, ("scrubbed", 5): [0.9, 0.5, 0.6], ("retrained", 5): [0.5] * 3}
    assert names(report(piggyback=tuple(records(values)), settings=ENOUGH)) == ["wide"]


@pytest.mark.parametrize(("after", "flagged"), [(0.9, True), (0.83, True), (0.8, False), (None, False)])
def test_an_old_head_that_still_answers(after, flagged):
    """Guessing gives .1: nine tenths of what .9 knew are .82."""
    quiet = LEVELS | {"scrubbed": 0.5}
    said = {"source_accuracy": {"undisposed": 0.9, "scrubbed": after}, "chance": {audited().piggyback[0].dataset: 0.1}}
    assert ("old head" in names(replace(audited(levels=quiet), **said))) is flagged
    assert "old head" not in names(replace(audited(levels=LEVELS | {"scrubbed": 0.9}), **said)), "LEAKS says it"


@pytest.mark.parametrize(
    ("values", "seen"),
    [
        ({"learning_rate": 1e-2}, "largest learning rate"),
        ({"learning_rate": 1e-4}, "smallest learning rate"),
        ({"effort": 400, "curve": ((50, 0.1, 0.1), (400, 0.2, 0.2))}, "most steps"),
        ({"effort": 50, "curve": ((50, 0.1, 0.1), (400, 0.1, 0.2))}, None),
    ],
)
def test_an_end_of_the_grid(values, seen):
    flags = audited(change=lambda r: replace(r, **values) if r.model == "scrubbed" else r).flags
    assert [flag.name for flag in flags] == (["edge"] if seen else [])
    assert not seen or seen in flags[0].seen


def test_a_probe_that_beats_fine_tuning():
    found = audited().piggyback
    better = records({("scrubbed", b): [0.8] * 5 for b in (5, 20)}, attack="ridge")
    flags = report(piggyback=(*found, *better), settings=RATES | ENOUGH).flags
    assert "probe" in [flag.name for flag in flags] and "ridge at 5" in str(flags)
    ignoring = [replace(record, attack="network_photometric") for record in better]
    left = report(piggyback=(*found, *ignoring), settings=RATES | ENOUGH).flags
    assert "probe" not in [flag.name for flag in left], "a network from random weights reads nothing of these"
    assert names(audited(attack="ridge")) == [], "without a fine-tuning there is nothing to beat"


def test_diverged_attacks_and_few_images():
    diverged = audited(change=lambda r: replace(r, diverged=r.model == "scratch" and r.seed == 0))
    assert names(diverged) == ["diverged"] and "2 of full on scratch" in diverged.flags[0].seen
    few = {"images": {"validation": 120, "test": 900}}
    assert names(audited(settings=RATES | few)) == ["images"]


def test_attacks_that_validation_cannot_tell_apart():
    found = audited().piggyback
    other = [replace(r, attack="lora", accuracy=r.accuracy + 0.15) for r in found if r.model == "scrubbed"]
    flags = report(piggyback=(*found, *other), settings=RATES | ENOUGH).flags
    assert [flag.name for flag in flags] == ["choice"]


def test_every_flag_is_explained():
    headings = re.findall(r"^## (\w+)$", text_of("docs/flags.md"), re.MULTILINE)
    source = text_of("hf_dtl/audit/flags.py")
    assert sorted(set(re.findall(r'Flag\(\s*"(\w+)"', source))) == sorted(headings)
