import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from audit_toys import HAND, large_report, records, report, tasks_report

from hf_dtl.audit import LeakageReport, PiggybackRecord
from hf_dtl.audit.axis_leakage import plain_ratio
from hf_dtl.audit.report import without_folders
from hf_dtl.audit.transfer_bound import TransferBound
from hf_dtl.errors import DataError

BOUND = {
    "channel": "labels",
    "images": 2000,
    "classes": 4,
    "rejection": False,
    "rounds": 1,
    "choices": 1,
    "base": None,
}
BOUND |= {"bits": 4000.0, "bytes": 500}


def test_a_report_with_a_bound_says_what_can_be_in_the_weights():
    bound = TransferBound("labels", 2000, 4, base="/home/ann/public")
    one = replace(report(), bound=bound)
    content = json.loads(one.to_json())
    assert content["schema_version"] == 4 and content["bound"] == BOUND | {"base": "public"}
    assert LeakageReport.from_json(one.to_json()) == one
    assert "At most 500 bytes of the private model" in one.verdict and "the public weights public" in one.verdict
    none = replace(report(), bound=TransferBound("outputs", 2000, 4))
    assert none.bound.bits is None and "No bound" in none.verdict and LeakageReport.from_json(none.to_json()) == none


def test_json_round_trip_keeps_everything_and_the_schema_of_the_design():
    first = report()
    again = LeakageReport.from_json(first.to_json())
    assert again == first
    content = json.loads(first.to_json())
    assert content["schema_version"] == 3 and content["library_version"]
    assert content["target_accuracy"] == {"undisposed": 0.95, "scrubbed": 0.94}
    assert {"model", "dataset", "axis", "attack", "budget", "seed", "learning_rate", "accuracy"} < set(
        content["piggyback"][0]
    )
    # Undisposed 0.85, retrained 0.575, scrubbed 0.675 averaged over both budgets, under the stronger attack.
    assert content["leakage"]["mean"] == pytest.approx((0.675 - 0.575) / 0.275)
    assert content["leakage"]["floor"] == "retrained" == first.floor and content["leakage"]["gate"] == "defined"
    assert content["leakage"]["word"] == first.word == "leaks"
    assert content["leakage"]["strongest_attack"] == {"attack": "full", "budget": 20, "accuracy": pytest.approx(0.75)}
    # Every seed moves all models alike in this report, so its draws agree.
    for bound in ("low", "high"):
        assert content["leakage"][bound] == pytest.approx((0.675 - 0.575) / 0.275)
    assert content["leakage"]["confidence"] == 0.95
    axes = content["leakage"]["axes"]
    assert set(axes) == {"source_subset", "novel_downstream"}
    # Two budgets: the area over log(budget) is their mean.
    assert axes["source_subset"]["slc_auc"]["scrubbed"]["mean"] == pytest.approx(0.675)
    assert axes["source_subset"]["strongest_by_attack"] == "full"
    assert axes["source_subset"]["by_floor"]["scratch"]["mean"] == pytest.approx((0.675 - 0.45) / 0.4)
    assert axes["source_subset"]["floors"][0] == {"dataset": "mnist[0-5]", "budget": 5, "floor": "retrained"}


def test_a_report_of_the_first_release_still_loads():
    """Written by the library before intervals, SLC-AUC and membership."""
    path = Path(__file__).parent / "first_report.json"
    content = json.loads(path.read_text())
    assert "membership" not in content and "low" not in content["leakage"] and content["schema_version"] == 1
    found = LeakageReport.load(path)
    assert found.over("scratch").mean == pytest.approx(content["leakage"]["mean"]) and found.membership == []
    assert found.suite_name == "custom" and found.word is None and not found.claims
    assert LeakageReport.from_json(found.to_json()) == found


def second(**changes):
    """A report of schema 2, by the library of that time: two attacks are equally good on validation images."""
    content = json.loads((Path(__file__).parent / "second_report.json").read_text())
    assert content["schema_version"] == 2 and content["leakage"]["floor"] == "scratch"
    return json.dumps({**content, **changes, "leakage": content["leakage"] | changes.get("leakage", {})})


def test_a_report_of_the_second_schema_is_custom_and_its_written_mean_is_checked_as_it_was_made():
    found, written = LeakageReport.from_json(second()), json.loads(second())["leakage"]["mean"]
    assert found.suite_name == "custom" and not found.claims and "weaker than a practitioner" in found.verdict
    assert written == pytest.approx(plain_ratio(found.piggyback, "source_subset", "scratch")) == pytest.approx(0.5)
    # Today the tie goes to the attack that is better on test images, and the floor is the best one.
    assert found.axes["source_subset"].strongest_attack.attack == "lora" and found.floor == "retrained"
    assert found.headline.mean == pytest.approx((4.2 - 3.6) / (5.1 - 3.6))
    again = json.loads(found.to_json())
    assert again["schema_version"] == 3 and LeakageReport.from_json(json.dumps(again)) == found


def test_a_changed_report_of_the_second_schema_is_refused():
    with pytest.raises(DataError, match=r"leakage mean 0\.4, not 0\.[45].* as its attacks give"):
        LeakageReport.from_json(second(leakage={"mean": 0.4}))
    runs = json.loads(second())["piggyback"]
    with pytest.raises(DataError, match="attacks give"):
        LeakageReport.from_json(
            second(piggyback=[r | {"accuracy": 0.3} if r["model"] == "scrubbed" else r for r in runs])
        )
    with pytest.raises(DataError, match="suite standard-1 with the hash"):
        LeakageReport.from_json(second(suite={"name": "standard-1", "hash": "0f" * 16}))


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
        (changed(schema_version=5), "schema_version 5"),
        (changed(schema_version=4), "lacks bound"),
        (changed(bound=BOUND), "unknown keys bound"),
        (changed(schema_version=4, bound=BOUND | {"bytes": 1}), "bytes 1, not 500"),
        (changed(schema_version=4, bound=BOUND | {"channel": "outputs"}), "bits 4000.0, not None"),
        (changed(schema_version=4, bound=BOUND | {"channel": "guesses"}), "channel='guesses' is unknown"),
        (changed(schema_version=4, bound=BOUND | {"images": -1}), "`images`.*-1"),
        (changed(schema_version=4, bound=BOUND | {"note": "none"}), "note"),
        (changed(schema_version=4, bound=[]), "bound.*must be an object"),
        (changed(schema_version=True), "schema_version True"),
        (changed(schema_version=1), "unknown keys spec, suite"),
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
        (changed(target_destroyed=None), "target_destroyed"),
        (changed(leakage={**json.loads(report().to_json())["leakage"], "high": 0.5}), "leakage high 0.5"),
        (changed(leakage={**json.loads(report().to_json())["leakage"], "low": None}), "leakage low None"),
        (
            changed(leakage={**json.loads(report().to_json())["leakage"], "word": "forgotten"}),
            "says leakage word 'forgotten'",
        ),
        (changed(target_margin=None), "target_margin"),
        (changed(chance={"mnist": None}), "chance.mnist"),
        (changed(weights=["model.safetensors"]), "`weights` of a leakage report must be an object"),
        (changed(weights={"sub/model.safetensors": "0" * 64}), "without folders"),
        (changed(weights={"model.bin": "0" * 64}), "model.bin"),
        (changed(weights={"model.safetensors": "0" * 63}), "64 hexadecimal"),
        (changed(weights={"model.safetensors": 7}), "weights.model.safetensors"),
        (changed(membership={}), "list of objects"),
        (changed(membership=[{"model": "scrubbed"}]), "attack"),
        (changed(membership=[{"model": "scrubbed", "attack": "loss", "auc": 1.2}]), "1.2"),
        (changed(membership=[{"model": "scrubbed", "attack": "loss", "forget_images": [1]}]), "forget_images"),
        (changed(membership=[{"model": "scrubbed", "attack": "loss", "h0": 0.1}]), "`h0` .* is no part of one"),
        (changed(membership=[{"model": "any", "attack": "loss"}]), "`model` .* must be one of undisposed, scrubbed"),
        (changed(membership=[{"model": "scrubbed", "attack": "any"}]), "`attack` .* must be one of loss, confidence"),
        (changed(membership=[{"model": "scrubbed", "attack": "loss", "task": "a"}]), "must be one of none"),
        (changed(membership=[{"model": "scrubbed", "attack": "loss"}] * 2), "several rows"),
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


MEMBERSHIP = [
    {"model": "scrubbed", "attack": "loss", "calibration": "retain", "auc": 0.7, "tpr_at_1_percent_fpr": None},
    {"model": "retrained", "attack": "loss", "calibration": "retain", "auc": 0.5, "forget_images": 200},
]


def test_optional_parts_survive_the_round_trip():
    found = report(target=(None, None), membership=MEMBERSHIP, source_accuracy={"undisposed": None, "scrubbed": None})
    again = LeakageReport.from_json(found.to_json())
    assert again == found and again.membership == MEMBERSHIP
    assert json.loads(found.to_json())["target_destroyed"] is None
    weights = {"model-00001-of-00002.safetensors": "0a" * 32, "model-00002-of-00002.safetensors": "1b" * 32}
    assert LeakageReport.from_json(report(weights=weights).to_json()).weights == weights
    assert LeakageReport.from_json(without("weights")).weights == {}


@pytest.mark.parametrize(
    ("target", "margin", "destroyed"),
    [
        ((0.95, 0.91), 0.05, False),
        ((0.95, 0.89), 0.05, True),
        ((0.95, 0.91), 0.03, True),
        ((0.95, 0.89), 0.1, False),
        ((0.95, None), 0.05, None),
        ((None, 0.95), 0.05, None),
    ],
)
def test_a_target_is_destroyed_by_more_than_the_margin_and_unknown_when_not_measured(target, margin, destroyed):
    found = report(target=target, target_margin=margin)
    assert found.target_destroyed is destroyed
    assert LeakageReport.from_json(found.to_json()).target_destroyed is destroyed


def test_diverged_attacks_and_successive_halving_are_known_to_the_report():
    assert report().diverged == {} and report().successive_halving is False
    assert large_report().diverged == {("source_subset", "full_large_lr", "scrubbed"): 1}
    assert report(settings={"audit": {"successive_halving": True}}).successive_halving is True
    assert report(settings={"audit": {"successive_halving": False}}).successive_halving is False
    assert report(settings={"audit": "successive_halving"}).successive_halving is False


def test_an_undefined_leakage_survives_the_round_trip():
    found = report(piggyback=tuple(records({k: v[:1] for k, v in HAND.items()})))
    assert found.headline.mean is None and json.loads(found.to_json())["leakage"]["mean"] is None
    assert LeakageReport.from_json(found.to_json()) == found
    assert isinstance(found.piggyback[0], PiggybackRecord)


SPEC = {"kind": "part", "forget": "/home/ann/photos[cat,dog]", "retain": None, "seed": 3, "task_columns": ["a", "b"]}
SUITE = {"name": "custom", "hash": "0f" * 16}


def test_the_second_schema_keeps_the_scenario_the_suite_and_the_effort_of_every_run():
    first = report()
    runs = tuple(replace(record, effort=48) for record in first.piggyback)
    found = report(spec=SPEC, suite=SUITE, piggyback=runs)
    assert found.spec == {**SPEC, "forget": "photos[cat,dog]"} and found.suite == SUITE
    again = LeakageReport.from_json(found.to_json())
    assert again == found and again.piggyback[0].effort == 48
    assert first.piggyback[0].effort is None and first.spec == first.suite == {} and first.tasks is None
    assert "tasks" not in json.loads(first.to_json())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (changed(spec={"kind": "part"}), "lacks forget, retain, seed"),
        (changed(spec=SPEC | {"kind": "class"}), "kind 'class'"),
        (changed(spec=SPEC | {"seed": "0"}), r"spec\.seed"),
        (changed(spec=SPEC | {"more": {"deep": 1}}), r"spec\.more. of a leakage report must be flat"),
        (changed(suite={"name": "custom"}), "name and hash"),
        (changed(suite={"name": "custom", "hash": 5}), r"suite\.hash"),
        (changed(tasks={}), "needs a forgotten task"),
        (changed(tasks={"case": {"kind": "classes"}}), "needs kind, forgotten and scores"),
        (record(effort=-1), "effort"),
        (without("spec"), "lacks spec"),
    ],
)
def test_what_the_second_schema_adds_is_checked(text, words):
    with pytest.raises(DataError, match=words):
        LeakageReport.from_json(text)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "text"}, "classes or regression"),
        ({"forgotten": 1}, "forgotten"),
        ({"scores": {"forget": {}}}, "needs forget, retain, test"),
        ({"scores": {s: {"undisposed": 0.5} for s in ("forget", "retain", "test")}}, "undisposed, scrubbed"),
        ({"scores": {s: {"undisposed": 0.5, "scrubbed": -0.1} for s in ("forget", "retain", "test")}}, "-0.1"),
        ({"uis": {"scrubbed": float("nan")}}, r"uis\.scrubbed"),
        ({"membership_auc": {"other": 0.5}}, "'other'"),
        ({"dataset": ""}, "dataset"),
        ({"forgotten": False}, "needs a forgotten task"),
    ],
)
def test_the_tasks_of_a_report_are_checked(change, words):
    tasks = tasks_report().tasks
    with pytest.raises(DataError, match=words):
        tasks_report(tasks=tasks | {"case": replace(tasks["case"], **change)})


def test_a_report_on_several_tasks_is_read_as_it_was_written_and_names_weights_by_task():
    found = tasks_report()
    assert LeakageReport.from_json(found.to_json()) == found
    assert found.floor == "retrained" and found.headline.mean == found.over("retrained").mean
    with pytest.raises(DataError, match="folders of the tasks case"):
        tasks_report(weights={"other/model.safetensors": "0a" * 32})
    # A forgotten regression is not attacked.
    number = replace(found.tasks["rotation"], forgotten=True)
    silent = tasks_report(tasks={"rotation": number}, piggyback=(), weights={})
    assert LeakageReport.from_json(silent.to_json()) == silent and "nothing is shown about removal" in silent.verdict


def test_a_report_prints_its_verdict_and_tables_and_draws_its_pictures(tmp_path):
    for found, pictures in ((report(), ["attacks", "piggyback"]), (tasks_report(), ["attacks", "piggyback", "tasks"])):
        text = str(found)
        assert text.replace("\n", " ").startswith(found.verdict)
        assert "Piggyback learning" in text and max(map(len, text.splitlines())) <= 100 and "…" not in text
        files = found.plot(tmp_path / found.method)
        assert sorted(files) == sorted((tmp_path / found.method).iterdir())
        assert sorted({file.stem for file in files}) == pictures


def test_a_text_without_end_is_refused_at_once():
    """A stranger's report of 270,000 classes would be read for minutes, by every check of its words."""
    content = report().to_dict()
    content["settings"] = {"source_dataset": f"mnist[{','.join(map(str, range(270_000)))}]"}
    with pytest.raises(DataError, match="a text of 1,[0-9,]+ characters; up to 50,000 are read"):
        LeakageReport.from_json(json.dumps(content))
