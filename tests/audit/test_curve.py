"""The curve of an attack in its record: what may stand there, and that older files load without it."""

import json
from dataclasses import asdict

import pytest

from hf_dtl.audit import PiggybackRecord
from hf_dtl.audit.store import AttackStore
from hf_dtl.errors import DataError

ENTRY = asdict(PiggybackRecord("scrubbed", "toy", "source_subset", "full_affine", 5, 0, 1e-3, 0.8, 0.7, effort=100))
CURVE = [[50, 0.5, 0.6], [100, 0.7, 0.8], [400, 0.6, 0.9]]


def test_a_curve_goes_to_disk_and_comes_back(tmp_path):
    record = PiggybackRecord.from_dict(ENTRY | {"curve": CURVE})
    assert record.curve == ((50, 0.5, 0.6), (100, 0.7, 0.8), (400, 0.6, 0.9))
    AttackStore(tmp_path / "store.jsonl").add("key", record)
    assert AttackStore(tmp_path / "store.jsonl")["key"] == record
    assert PiggybackRecord.from_dict(json.loads(json.dumps(asdict(record)))) == record


def test_an_entry_of_before_has_none():
    assert PiggybackRecord.from_dict({key: value for key, value in ENTRY.items() if key != "curve"}).curve == ()
    assert PiggybackRecord.from_dict(ENTRY | {"curve": []}).curve == ()


@pytest.mark.parametrize(
    "curve",
    [
        None, 3, "abc", {}, [3], [[100, 0.7]], [[100, 0.7, 0.8, 0.9]], [["100", 0.7, 0.8]], [[100.0, 0.7, 0.8]],
        [[True, 0.7, 0.8]], [[0, 0.7, 0.8], [100, 0.7, 0.8]], [[100, 0.7, 0.8], [200, 0.7, 1.01]],
        [[100, 0.7, 0.8], [200, float("nan"), 0.5]], [[100, 0.7, 0.8], [100, 0.7, 0.8]],
        [[200, 0.1, 0.1], [100, 0.7, 0.8]], [[100, 0.7, 0.8], [200, None, 0.5]],
    ],
)  # fmt: skip
def test_anything_else_is_refused(curve):
    with pytest.raises(DataError, match=r"`curve` of a piggyback record must be a list of \(steps, "):
        PiggybackRecord.from_dict(ENTRY | {"curve": curve})


def test_the_chosen_effort_is_on_the_curve_and_reaches_no_less():
    """It may reach more on validation, by copies of the images that it answers; then another share of the test."""
    PiggybackRecord.from_dict(ENTRY | {"curve": CURVE, "validation_accuracy": 0.75, "accuracy": 0.78})
    for changed in ({"effort": 51}, {"effort": None}, {"validation_accuracy": 0.69}):
        with pytest.raises(DataError, match="lacks the chosen effort"):
            PiggybackRecord.from_dict(ENTRY | {"curve": CURVE} | changed)
