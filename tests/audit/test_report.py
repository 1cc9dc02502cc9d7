import io
import json
import math
import os
from dataclasses import asdict, replace
from statistics import stdev

import pytest
from audit_toys import records, report
from rich.console import Console

from hf_dtl.audit import (
    LeakageReport,
    PiggybackRecord,
    comparison_markdown,
    comparison_table,
    leakage,
    markdown_table,
    table,
)
from hf_dtl.audit.report import without_folders
from hf_dtl.errors import DataError

HAND = {
    ("undisposed", 5): [0.8, 0.8, 0.8],
    ("undisposed", 20): [0.9, 0.9, 0.9],
    ("scratch", 5): [0.3, 0.4, 0.5],
    ("scratch", 20): [0.5, 0.5, 0.5],
    ("scrubbed", 5): [0.5, 0.6, 0.4],
    ("scrubbed", 20): [0.7, 0.8, 0.9],
    ("retrained", 5): [0.5, 0.5, 0.5],
    ("retrained", 20): [0.7, 0.7, 0.7],
}


def test_leakage_by_hand():
    found = leakage(records(HAND))
    # Over both budgets: ceiling 1.7, scratch 0.9, scrubbed 1.2, 1.4, 1.3 by seed; retrained 1.2.
    expected = [(1.2 - 0.9) / 0.8, (1.4 - 0.9) / 0.8, (1.3 - 0.9) / 0.8]
    assert found.over_scratch.mean == pytest.approx(sum(expected) / 3)
    assert found.over_scratch.deviation == pytest.approx(stdev(expected))
    assert found.over_scratch.gap == pytest.approx(0.4)
    assert found.over_scratch.gap_error == pytest.approx(0.05 / math.sqrt(3))
    assert found.over_retrained.mean == pytest.approx((1.3 - 1.2) / 0.5)
    assert found.by_attack["full"] == found.over_scratch
    assert (found.strongest_attack.budget, found.strongest_attack.mean) == (20, pytest.approx(0.8))


@pytest.mark.parametrize(("model", "expected"), [("undisposed", 1.0), ("scratch", 0.0)])
def test_a_copy_of_a_reference_has_the_leakage_of_that_reference(model, expected):
    values = {**HAND, ("scrubbed", 5): HAND[model, 5], ("scrubbed", 20): HAND[model, 20]}
    assert leakage(records(values)).over_scratch.mean == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("scrubbed", "expected"), [(0.9, 1.25), (0.3, -0.25)])
def test_leakage_is_not_clipped(scrubbed, expected):
    values = {("undisposed", 5): [0.8] * 2, ("scratch", 5): [0.4] * 2, ("scrubbed", 5): [scrubbed] * 2}
    assert leakage(records(values)).over_scratch.mean == pytest.approx(expected)


def test_the_strongest_attack_is_chosen_on_validation_so_that_test_is_not_cherry_picked():
    values = {(model, 5): [level] * 2 for model, level in (("undisposed", 0.8), ("scrubbed", 0.5), ("scratch", 0.4))}
    lucky = {("scrubbed", 5): [0.7] * 2, ("undisposed", 5): [0.8] * 2, ("scratch", 5): [0.4] * 2}
    both = records(values, attack="full", validation=0.6)
    both += records(lucky, attack="linear_probe", validation=0.5)
    found = leakage(both)
    assert found.over_scratch.mean == pytest.approx(0.25)
    assert {name: ratio.mean for name, ratio in found.by_attack.items()} == {
        "full": pytest.approx(0.25),
        "linear_probe": pytest.approx(0.75),
    }


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({("undisposed", 5): [0.3, 0.5, 0.4], ("undisposed", 20): [0.5, 0.5, 0.5]}, "no better than the scratch"),
        ({("undisposed", 5): [0.1, 0.9, 0.8], ("undisposed", 20): [0.5, 0.7, 0.5]}, "beyond noise"),
        ({("undisposed", 5): [0.1, 0.1, 0.1], ("undisposed", 20): [0.1, 0.1, 0.1]}, "no better than the scratch"),
        ({("scratch", 5): None, ("scratch", 20): None}, "scratch model was not attacked"),
        ({("scratch", 20): None}, "scratch model was not attacked at every budget"),
    ],
)
def test_leakage_within_noise_is_undefined_with_a_reason(change, reason):
    values = {key: value for key, value in {**HAND, **change}.items() if value is not None}
    ratio = leakage(records(values)).over_scratch
    assert ratio.mean is None and ratio.deviation is None and reason in ratio.undefined


def test_one_seed_is_no_measure_of_noise():
    ratio = leakage(records({key: value[:1] for key, value in HAND.items()})).over_scratch
    assert ratio.mean is None and "one seed" in ratio.undefined


def test_unequal_seeds_and_repeated_attacks_are_refused():
    found = records(HAND)
    with pytest.raises(DataError, match="different seeds"):
        leakage(found[1:])
    with pytest.raises(DataError, match="twice"):
        leakage([*found, found[0]])


def test_json_round_trip_keeps_everything_and_the_schema_of_the_design():
    first = report()
    again = LeakageReport.from_json(first.to_json())
    assert again == first
    content = json.loads(first.to_json())
    assert content["schema_version"] == 1 and content["library_version"]
    assert content["target_accuracy"] == {"undisposed": 0.95, "scrubbed": 0.94}
    assert {"model", "dataset", "axis", "attack", "budget", "seed", "learning_rate", "accuracy"} < set(
        content["piggyback"][0]
    )
    # Ceiling 0.85, floor 0.45, scrubbed 0.675 averaged over both budgets, under the stronger attack.
    assert content["leakage"]["mean"] == pytest.approx((0.675 - 0.45) / 0.4)
    assert content["leakage"]["floor"] == "scratch"
    assert content["leakage"]["strongest_attack"] == {"attack": "full", "budget": 20, "accuracy": pytest.approx(0.75)}
    assert set(content["leakage"]["axes"]) == {"source_subset", "novel_downstream"}


def changed(**values):
    return json.dumps({**json.loads(report().to_json()), **values})


def without(key):
    return json.dumps({k: v for k, v in json.loads(report().to_json()).items() if k != key})


def record(**values):
    entry = asdict(report().piggyback[0]) | values
    return changed(piggyback=[{key: value for key, value in entry.items() if value is not ...}])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", "JSON object"),
        (changed(schema_version=2), "schema_version 2"),
        (without("method"), "lacks method"),
        (changed(extra=1), "unknown keys extra"),
        (changed(seed="0"), "seed"),
        (changed(target_accuracy={"undisposed": 0.9}), "scrubbed"),
        (changed(source_accuracy={"undisposed": 0.9, "scrubbed": 1.2}), "1.2"),
        (changed(piggyback=[]), "at least one"),
        (changed(piggyback={}), "list"),
        (record(accuracy=1.5), "1.5"),
        (record(accuracy=True), "True"),
        (record(model="mine"), "mine"),
        (record(axis="other"), "other"),
        (record(budget=5.0), "budget"),
        (record(learning_rate=...), "learning_rate"),
        (record(note="hello"), "note"),
        (changed(leakage={"mean": 0.1, "deviation": 0.05}), "attacks give"),
        (changed(leakage=None), "leakage"),
        (changed(target_destroyed=True), "target_destroyed"),
    ],
)
def test_a_report_that_is_not_right_is_refused(text, words):
    with pytest.raises(DataError, match=words):
        LeakageReport.from_json(text)


def test_a_report_is_saved_in_one_step_and_a_failed_save_keeps_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "new" / "leakage_report.json"
    report().save(path)
    assert LeakageReport.load(path) == report()
    old = path.read_bytes()

    def interrupted(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(OSError, match="no space"):
        report(method="other").save(path)
    assert path.read_bytes() == old and [p.name for p in path.parent.iterdir()] == [path.name]
    with pytest.raises(DataError, match=r"missing\.json"):
        LeakageReport.load(tmp_path / "missing.json")
    with pytest.raises(DataError, match="JSON"):
        report(settings={"x": float("nan")}).save(path)


def test_a_published_report_names_no_private_folder():
    settings = {
        "a": "/home/ann/photos[cat,T-shirt/top]",
        "b": ["~/x/y.parquet", "C:\\data\\set"],
        "c": {"d": "../runs/model"},
        "hub": "org/name:train[:10%][T-shirt/top]",
        "url": "https://example.org/a/b",
        "n": 3,
    }
    assert report(settings=settings).settings == {
        "a": "photos[cat,T-shirt/top]",
        "b": ["y.parquet", "set"],
        "c": {"d": "model"},
        "hub": "org/name:train[:10%][T-shirt/top]",
        "url": "https://example.org/a/b",
        "n": 3,
    }
    assert without_folders("file:///srv/a/b") == "b"


@pytest.mark.parametrize(("scrubbed", "destroyed"), [(0.91, False), (0.89, True)])
def test_a_destroyed_target_is_marked(scrubbed, destroyed):
    found = report(target=(0.95, scrubbed))
    assert found.target_destroyed is destroyed
    assert ("†" in comparison_markdown([found])) is destroyed
    assert ("Target destroyed" in markdown_table(found)) is destroyed


def printed(*tables):
    console = Console(width=100, file=io.StringIO(), color_system=None)
    console.print(*tables)
    return console.file.getvalue()


def test_tables_show_the_four_models_with_deviation_and_fit_100_columns():
    found = report()
    text, markdown = printed(*table(found)), markdown_table(found)
    for words in ("0.950", "0.940", "0.960", "0.160", "0.562 ± 0.050", "0.800 ± 0.020", "0.650 ± 0.020"):
        assert words in text and words in markdown, words
    assert max(map(len, text.splitlines())) <= 100 and "…" not in text


def test_class_names_in_brackets_are_printed_not_taken_for_markup():
    found = replace(report(), piggyback=tuple(records(HAND, dataset="cifar10[cat,dog]")))
    assert "cifar10[cat,dog]" in printed(*table(found))


def test_methods_side_by_side():
    several = [
        report(),
        report(method="negative_ce", scrubbed=(0.82, 0.92), target=(0.95, 0.5)),
        report(method="gradient_collision:chunks=class", scrubbed=(0.35, 0.45)),
    ]
    text = printed(comparison_table(several))
    rows = [line for line in comparison_markdown(several).splitlines() if line.startswith("| ")]
    assert rows[2].count("|") == rows[0].count("|")
    assert rows[3].startswith("| negative_ce † | 0.500 | 0.160 | 0.820 ± 0.020 |") and "1.050 ± 0.050" in rows[3]
    assert rows[5].startswith("| (undisposed) | 0.950 | 0.960 | 0.800 ± 0.020 |")
    assert "-0.125 ± 0.050" in rows[4]
    assert max(map(len, text.splitlines())) <= 100 and "…" not in text
    assert "0.820 ± 0.020" in text
    with pytest.raises(DataError, match="side by side"):
        comparison_table([report(), replace(report(), piggyback=tuple(records(HAND, dataset="other")))])


def test_an_undefined_leakage_is_printed_as_such():
    found = report(piggyback=tuple(records({k: v[:1] for k, v in HAND.items()})))
    assert found.leakage.mean is None and "| undefined |" in markdown_table(found)
    assert json.loads(found.to_json())["leakage"]["mean"] is None
    assert LeakageReport.from_json(found.to_json()) == found
    assert isinstance(found.piggyback[0], PiggybackRecord)
