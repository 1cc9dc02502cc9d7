"""Unlearning a part of one data set in the report: its numbers, tables, card, and what is refused."""

import json
from dataclasses import asdict, replace

import pytest
from audit_toys import report

from hf_dtl.audit import LeakageReport, comparison_markdown, markdown_table
from hf_dtl.audit.plots import plot_attacks, plot_comparison
from hf_dtl.audit.unlearning import Unlearning
from hf_dtl.errors import DataError
from hf_dtl.hub import leakage_card

ACCURACY = {
    "forget": {"undisposed": 0.9, "scrubbed": 0.2, "retrained": 0.1},
    "retain": {"undisposed": 0.95, "scrubbed": 0.93, "retrained": 0.96},
    "test": {"undisposed": 0.88, "scrubbed": 0.87, "retrained": 0.85},
    "forgotten_test": {"undisposed": 0.8, "scrubbed": 0.0, "retrained": 0.0},
}
COST = {"scrubbed": {"cpu": 2.0, "wall": 3.0, "peak_mib": 10.0}, "retrained": {"cpu": 80.0, "wall": 81.0}}
FOUND = Unlearning("class=3", {"forget": 700, "retain": 6300}, ACCURACY, COST)


def unlearned(**changes):
    return replace(report(), unlearning=FOUND, **changes)


def test_gap_and_cost_by_hand():
    assert FOUND.average_gap() == pytest.approx((0.1 + 0.03 + 0.02) / 3)
    assert FOUND.average_gap("undisposed") == pytest.approx((0.8 + 0.01 + 0.03) / 3)
    assert FOUND.tug_of_war() == pytest.approx(0.9 * 0.97 * 0.98)
    assert FOUND.relative_cost == pytest.approx(2 / 80)
    accuracy = {s: {r: v for r, v in values.items() if r != "retrained"} for s, values in ACCURACY.items()}
    alone = replace(FOUND, accuracy=accuracy, cost={"scrubbed": None})
    assert alone.average_gap() is None and alone.tug_of_war() is None and alone.relative_cost is None


def test_the_report_keeps_it_and_its_leakage_is_that_of_a_whole_task():
    first = unlearned()
    content = json.loads(first.to_json())
    assert LeakageReport.from_json(first.to_json()) == first
    assert content["unlearning"]["average_gap"] == pytest.approx(0.05)
    assert content["leakage"] == json.loads(report().to_json())["leakage"], "one definition for every scenario"
    assert "unlearning" not in json.loads(report().to_json())


def test_numbers_that_do_not_follow_are_refused():
    content = json.loads(unlearned().to_json())
    content["unlearning"]["average_gap"] = 0.0
    with pytest.raises(DataError, match=r"says average_gap 0\.0, but its accuracies give 0\.0"):
        LeakageReport.from_json(json.dumps(content))
    del content["unlearning"]["average_gap"]
    with pytest.raises(DataError, match="`unlearning` needs"):
        LeakageReport.from_json(json.dumps(content))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"request": ""}, "`request`"),
        ({"images": {"forget": 0, "retain": 1}}, "positive counts"),
        ({"accuracy": {"forget": ACCURACY["forget"]}}, "needs forget, retain, test"),
        ({"accuracy": ACCURACY | {"forget": {"undisposed": 0.1}}}, "needs undisposed and scrubbed"),
        ({"accuracy": ACCURACY | {"test": {"undisposed": 0.1, "scrubbed": 0.1}}}, "lacks a model"),
        ({"accuracy": ACCURACY | {"test": ACCURACY["test"] | {"scrubbed": 1.1}}}, r"must be in 0\.\.1"),
        ({"cost": {"scrubbed": {"cpu": 1.0}}}, "must hold cpu and wall"),
        ({"cost": {"scrubbed": {"cpu": -1.0, "wall": 0.0}}}, "must hold cpu and wall"),
    ],
)
def test_bad_values(changes, message):
    with pytest.raises(DataError, match=message):
        Unlearning(**{**asdict(FOUND), **changes})


def test_tables_card_and_pictures_speak_of_the_request(tmp_path):
    shown = markdown_table(unlearned())
    assert "forget: 700 training images | 0.900 | 0.200 | 0.100" in shown
    assert "average gap to retrained | 0.280 | 0.050 | 0.000" in shown and "2.5 % of retraining's CPU time" in shown
    assert "leakage over retrained | 1.000 | 0.364" in shown and "leakage over scratch | 1.000 | 0.562" in shown
    both = comparison_markdown([unlearned(), unlearned(method="other")])
    assert "| other | 0.200 | 0.930 | 0.870 | 0.050 |" in both and "| (retrained) | 0.100 |" in both
    with pytest.raises(DataError, match="same request"):
        comparison_markdown([unlearned(), replace(report(), unlearning=replace(FOUND, request="class=4"))])
    card = str(leakage_card(unlearned(), model_labels=["a", "b"]))
    assert "was trained on 7000 images and then made to forget 700 of them (`class=3`)" in card
    assert "5.0 points on average away" in card and "leakage over retrained 0.364" in card
    assert "disposable" not in card and "`retrained` a model trained again without the forgotten images" in card
    before = str(leakage_card(report(), model_labels=["a", "b"]))
    assert "disposable transfer" in before and "koh2023disposable" in before and "made to forget" not in before
    for files in (plot_attacks(unlearned(), tmp_path / "a"), plot_comparison([unlearned()], tmp_path / "c")):
        text = next(path for path in files if path.suffix == ".svg").read_text()
        assert "over retrained" in text and "over scratch" not in text


def test_without_a_retrained_model_nothing_is_claimed():
    accuracy = {s: {r: v for r, v in values.items() if r != "retrained"} for s, values in ACCURACY.items()}
    found = replace(FOUND, accuracy=accuracy, cost={})
    records = tuple(record for record in report().piggyback if record.model != "retrained")
    alone = replace(report(), unlearning=found, piggyback=records)
    assert "0 is not the goal" in markdown_table(alone)
    card = str(leakage_card(alone, model_labels=["a", "b"]))
    assert alone.word is None and "That is no verdict" in card and "leakage over scratch 0.562" in card
    assert "not compared with a model that was trained again" in card
