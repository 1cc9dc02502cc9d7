"""Published folders whose report is honest, dishonest, cut or of other weights, verified as a user does it."""

import json
import re
import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from false_claims import ANSWERS, BOUNDS, CLAIMS, STRANGERS, labels_turned_round, records, throughout, told
from PIL import Image
from safetensors.torch import load_file, save_file

from hf_dtl import data
from hf_dtl.audit import LeakageReport
from hf_dtl.errors import ConfigError, DataError, DTLError, ModelError
from hf_dtl.hub import add_evidence, weights_sha256
from hf_dtl.pipeline.audit import Audit
from hf_dtl.pipeline.audit_options import AuditOptions, VerifyOptions
from hf_dtl.pipeline.forget import run as forget
from hf_dtl.pipeline.forget_options import ForgetOptions
from hf_dtl.pipeline.job import STORE
from hf_dtl.pipeline.verify import other_names
from hf_dtl.pipeline.verify import run as verify
from hf_dtl.scenarios.spec import ScenarioSpec
from hf_dtl.scenarios.whole_task import WholeTask

pytestmark = pytest.mark.usefixtures("few_pictures", "small_suite")
EXAMPLE = Path(data.__file__).parent / "embedded" / "example"
SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "audit.py"
QUICK = {
    "image_size": 14, "max_eval_images": 60, "budgets": "2", "seeds": "1,0", "full_learning_rates": "1e-3",
    "use_cpu": True, "augmentation": "none",
}  # fmt: skip


@pytest.fixture(scope="module")
def disposed(tmp_path_factory):
    """What the main job publishes."""
    output = tmp_path_factory.mktemp("dtl")
    forgotten = forget(
        ForgetOptions(
            forget="mnist[0,1,2]", retain="mnist[6,7]", novel="none", suite="quick-1",
            forget_images_per_class=40, retain_images_per_class=8, train_epochs=8, adapt_epochs=2, retrain_epochs=1,
            steps=2, method="negative_ce", seed=3, output_dir=str(output), image_size=14, use_cpu=True,
            augmentation="none",
        )
    )  # fmt: skip
    forgotten.audit()
    return output / "scrubbed"


@pytest.fixture(scope="module")
def unlearned(tmp_path_factory):
    """What unlearning a class publishes."""
    output = tmp_path_factory.mktemp("unlearn")
    forgotten = forget(
        ForgetOptions(
            retain="mnist[0,1,2,3]", forget="class=2", retain_images_per_class=30, train_epochs=3, method="fine_tune",
            steps=2, attacks="linear_probe,full_published", reference="retrain", output_dir=str(output),
            **QUICK,
        )
    )  # fmt: skip
    forgotten.audit()
    return output / "scrubbed"


@pytest.fixture(scope="module")
def audited(disposed, tmp_path_factory):
    """The same model, audited from outside with images of its own choice."""
    output = tmp_path_factory.mktemp("audit")
    options = AuditOptions(
        scrubbed=str(disposed), undisposed=str(disposed.parent / "undisposed"), forget="mnist[0,1,3]",
        retain="mnist[6,7]", attacks="linear_probe,retain_then_full", budgets="2", seeds="0,1",
        full_learning_rates="1e-3", max_train_images_per_class=15, max_eval_images=50, use_cpu=True, retrain=True,
        retrain_epochs=1, output_dir=str(output / "out"),
    )  # fmt: skip
    job = Audit(options)
    shutil.copytree(disposed, output / "published")
    add_evidence(output / "published", job.report(job.attack(job.run.folder / STORE)))
    return output / "published"


def run(*words):
    """The script's exit status, or its last words."""
    before, sys.argv = sys.argv, [str(SCRIPT), *map(str, words)]
    try:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    except SystemExit as end:
        return end.code
    finally:
        sys.argv = before


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where copies lie, and the output folder in which their attacks are run once for all tests."""
    return tmp_path_factory.mktemp("verify")


@pytest.fixture
def copied(disposed, place):
    """A copy of the published folder to be spoilt."""
    folder = place / "copied"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(disposed, folder)
    return folder


def options(folder, output, **changes):
    return VerifyOptions(**{"model": str(folder), "output_dir": str(output / "out"), "use_cpu": True} | changes)


def change_report(folder, change):
    path = folder / "leakage_report.json"
    change(LeakageReport.load(path)).save(path)


def test_weights_are_named_in_the_report(disposed, audited):
    report = LeakageReport.load(disposed / "leakage_report.json")
    assert set(report.weights) == {"model.safetensors", "config.json", "preprocessor_config.json"}
    assert report.weights == weights_sha256(disposed)
    assert LeakageReport.load(disposed.parent / "leakage_report.json").weights == report.weights
    assert LeakageReport.load(audited / "leakage_report.json").weights == report.weights


def test_an_honest_folder_holds_as_far_as_its_models_are_there_and_its_attacks_are_kept(copied, place, capsys):
    output = place / "out"
    assert run("--verify", copied, "--output_dir", output, "--use_cpu") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "PL accuracy HOLDS, leakage claimed" in said and "undisposed and retrained" in said
    assert "Claimed, not checked: every attack on the undisposed model" in said and "max(2 deviations" in said
    found = json.loads((output / "verification.json").read_text())
    keys = {(n["model"], n["attack"]) for n in found["numbers"] if n["what"] == "PL accuracy"}
    report = LeakageReport.load(copied / "leakage_report.json")
    made = ("scrubbed", "scratch", "no_model")
    assert keys == {(r.model, r.attack) for r in report.piggyback if r.model in made} and len(keys) == 12
    assert found["holds"] and {"target accuracy", "gap"} <= {n["what"] for n in found["numbers"]}
    for number in found["numbers"]:  # the same images, heads and random weights
        assert number["found"] == pytest.approx(number["published"], abs=1e-9), number
    stored = (output / "attacks.jsonl").read_bytes()
    assert verify(options(copied, place)).holds and (output / "attacks.jsonl").read_bytes() == stored


def test_with_the_models_at_hand_the_leakage_holds_too(disposed, copied, place):
    given = {role: str(disposed.parent / role) for role in ("undisposed", "retrained")}
    found = verify(options(copied, place, **given))
    assert found.holds and not found.trusted and "The report HOLDS" in found.sentences()[-1]
    for number in found.numbers:
        assert number.found == pytest.approx(number.published, abs=1e-9), number
    assert {"undisposed", "retrained"} < {number.model for number in found.numbers if number.attack}
    told(records(lambda r: replace(r, accuracy=0.5) if r.model == "undisposed" else r))(copied)
    claimed = verify(options(copied, place))
    assert claimed.holds and "leakage claimed" in claimed.sentences()[-1], "nobody here can know"
    assert not verify(options(copied, place, **given)).agrees


def test_what_a_publisher_drew_is_claimed_and_what_another_version_wrote_is_not_verified(disposed, copied, place):
    given = {role: str(disposed.parent / role) for role in ("undisposed", "retrained")}
    first = verify(options(copied, place, **given))
    assert "The report HOLDS" in first.sentences()[-1]
    (copied / "plots").mkdir(exist_ok=True)
    Image.new("RGB", (640, 480), "white").save(copied / "plots" / "piggyback.png")
    shutil.copyfile(copied / "model.safetensors", copied / "plots" / "undisposed.svg")
    (copied / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    found = verify(options(copied, place, **given))
    assert "Leakage HOLDS, the rest claimed" in found.sentences()[-1]
    assert "what the pictures show (piggyback.png)" in found.claimed
    assert "undisposed.svg behind, and nobody looked at what is in there" in found.notes[0]
    shutil.copyfile(copied / "model.safetensors", copied / ".gitattributes")
    told(lambda report: replace(report, library_version="0.0.9"))(copied)
    card = copied / "README.md"
    card.write_text(card.read_text() + "\nFORGOTTEN, says everybody.\n")
    found = verify(options(copied, place, **given))
    assert found.agrees and "NOT VERIFIED" in found.sentences()[-1]
    assert "hf_dtl 0.0.9 wrote the card, it says" in found.otherwise[0] and ".gitattributes" in found.notes[0]


def test_a_word_that_does_not_follow_from_this_runs_numbers_does_not_hold(disposed, copied, place, monkeypatch):
    """However near the numbers are, which here may be as far as they like."""
    given = {role: str(disposed.parent / role) for role in ("undisposed", "retrained")}
    monkeypatch.setattr("hf_dtl.hub.verification.noise", lambda *_: 1.0)
    ANSWERS["target accuracy after"](copied)
    found = verify(options(copied, place, **given))
    assert found.agrees and not found.holds and "NOT VERIFIED" in found.sentences()[-1]
    assert found.otherwise == ("The report says False for target destroyed; the numbers of this run say True.",)


def test_models_trained_again_need_nobodys_word(copied, place):
    found = verify(options(copied, place, retrain=True))
    assert found.holds and not found.trusted and "The report HOLDS" in found.sentences()[-1]
    for number in found.numbers:
        assert number.found == pytest.approx(number.published, abs=1e-9), number
    told(records(lambda r: replace(r, accuracy=0.5) if r.model == "retrained" else r))(copied)
    assert not verify(options(copied, place, retrain=True)).agrees


@pytest.mark.parametrize("changed", [{"train_epochs": 1e9}, {"train_epochs": "x"}, {"reference": "sideways"}])
def test_a_strangers_training_is_bounded(copied, place, changed):
    settings(**changed)(copied)
    with pytest.raises(DTLError, match="settings of the report do not say how"):
        verify(options(copied, place, retrain=True))


def test_the_default_folder_carries_the_models_name(tmp_path):
    (tmp_path / "run" / "scrubbed").mkdir(parents=True)
    folders = [VerifyOptions(model=str(m)).output_dir for m in (tmp_path / "run" / "scrubbed", "ann/model")]
    assert folders == ["outputs/verify/run--scrubbed", "outputs/verify/ann--model"]


@pytest.mark.parametrize("name", CLAIMS)
def test_a_false_claim_never_holds(copied, place, tmp_path, name):
    change, words = CLAIMS[name]
    change(copied)
    try:
        found = verify(options(copied, tmp_path if "one image" in name else place))
    except DTLError as error:
        assert re.search(words, str(error)), str(error)
    else:
        assert not found.holds and re.search(words, " ".join(found.sentences())), found.sentences()
        assert "HOLDS" not in " ".join(found.sentences())


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_are_measured_again_where_the_models_are(disposed, copied, place, name):
    given = {role: str(disposed.parent / role) for role in ("undisposed", "retrained")}
    ANSWERS[name](copied)
    what = " ".join(name.split()[:2])
    assert [n.what for n in verify(options(copied, place, **given)).numbers if not n.holds] == [what]
    part = verify(options(copied, place, retrained=given["retrained"]))
    assert not part.agrees or what in " ".join(part.claimed)


def test_holds_says_what_was_measured(disposed, copied, place):
    given = {role: str(disposed.parent / role) for role in ("undisposed", "retrained")}
    some = verify(options(copied, place, attacks="class_means", **given)).sentences()[-1]
    assert some.startswith("PL accuracy of what was run HOLDS, the rest claimed")
    report = LeakageReport.load(copied / "leakage_report.json")
    lent = {"model": "a/b", "train_epochs": None, "adapt_epochs": None}  # a head of a model that is not at hand
    told(lambda r: replace(r, settings=r.settings | lent))(copied)
    assert report.source_accuracy["scrubbed"] is not None
    found = verify(options(copied, place, **given))
    assert found.sentences()[-1].startswith("Leakage HOLDS, the rest claimed")
    assert "source accuracy of the undisposed and the scrubbed model" in found.claimed


@pytest.mark.parametrize("name", STRANGERS)
def test_what_no_published_model_may_hold_is_refused_before_it_is_loaded(copied, tmp_path, name):
    change, words = STRANGERS[name]
    change(copied)
    with pytest.raises(DTLError, match=words):
        verify(options(copied, tmp_path))
    assert not list(tmp_path.glob("out/attacks.jsonl*"))


@pytest.mark.parametrize("name", BOUNDS)
def test_settings_of_a_stranger_are_bounded(unlearned, tmp_path, name):
    folder = shutil.copytree(unlearned, tmp_path / "copy")
    report = LeakageReport.load(folder / "leakage_report.json")
    settings(audit=report.settings["audit"] | {name: BOUNDS[name]})(folder)
    with pytest.raises(DTLError, match="attacker's settings in the report cannot be used|and its attacks have"):
        verify(options(folder, tmp_path))


@pytest.mark.parametrize("kind", ["unlearned", "audited"])
def test_reports_of_other_jobs_agree_and_of_no_suite_never_hold(kind, request, tmp_path):
    found = verify(options(request.getfixturevalue(kind), tmp_path))
    assert found.agrees and not found.holds and "a claim takes standard-1" in " ".join(found.less)
    assert {number.model for number in found.numbers if number.attack} == {"scrubbed", "no_model", "scratch"}
    attacks = {"unlearned": {"linear_probe", "full_published"}, "audited": {"linear_probe", "retain_then_full"}}
    assert {number.attack for number in found.numbers} == attacks[kind] | {""}
    whats = {number.what for number in found.numbers}
    assert ("forget accuracy" in whats) == (kind == "unlearned")
    for number in found.numbers:
        assert number.found == pytest.approx(number.published, abs=1e-9), number


def test_labels_in_another_order_than_were_measured_do_not_hold(unlearned, tmp_path):
    """Signed anew, as if these settings had been audited: the accuracies are then of other labels."""
    folder = shutil.copytree(unlearned, tmp_path / "copy")
    labels_turned_round(folder)
    bad = {number.what for number in verify(options(folder, tmp_path)).numbers if not number.holds}
    assert {"target accuracy", "retain accuracy"} <= bad


def test_an_embellished_validation_accuracy_is_shown(copied, place, capsys):
    def embellished(report):
        worse = [
            replace(r, validation_accuracy=r.validation_accuracy / 2) if r.model == "scrubbed" else r
            for r in report.piggyback
        ]
        return replace(report, piggyback=tuple(worse))

    told(embellished)(copied)
    assert run("--verify", copied, "--output_dir", place / "out", "--use_cpu", "--attacks", "ridge") == 1
    said = capsys.readouterr().out
    assert "The report DOES NOT HOLD" in said and "(validation)" in said and "NO" in said


def chosen(record):
    return (record.model, record.attack) != ("scrubbed", "full_published")


def test_attacks_that_a_suite_lacks_and_those_that_were_invented_do_not_hold(copied, unlearned, place, tmp_path):
    report = LeakageReport.load(copied / "leakage_report.json")
    kept = [r for r in report.to_dict()["piggyback"] if (r["model"], r["attack"]) != ("scratch", "class_means")]
    content = report.to_dict() | {"piggyback": kept}
    (copied / "leakage_report.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="lacks .* of its attacks on the scratch model"):
        verify(options(copied, place))
    folder = shutil.copytree(unlearned, tmp_path / "copy")
    told(lambda r: replace(r, piggyback=tuple(x for x in r.piggyback if chosen(x))))(folder)
    found = verify(options(folder, tmp_path))
    assert not found.agrees and "–" in found.table().markdown()


def test_weights_that_changed_by_one_number_are_named(copied, place, capsys):
    told = weights_sha256(copied)["model.safetensors"]
    weights = load_file(copied / "model.safetensors")
    (bias,) = (name for name in weights if name.startswith("classifier") and name.endswith("bias"))
    weights[bias][0] = torch.nextafter(weights[bias][0], torch.tensor(10.0))
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    now = weights_sha256(copied)["model.safetensors"]
    quick = ("--attacks", "class_means", "--use_cpu", "--output_dir", place / "out")
    assert told != now and run("--verify", copied, *quick) == 1
    said = capsys.readouterr().out
    assert f"model.safetensors was changed: its hash is {now[:12]}…, in the report {told[:12]}…." in said
    assert "DOES NOT HOLD: 1 of the statements above" in " ".join(said.split())


def no_report(folder):
    (folder / "leakage_report.json").unlink()


def other_schema(folder):
    text = (folder / "leakage_report.json").read_text()
    (folder / "leakage_report.json").write_text(text.replace('"schema_version": 3', '"schema_version": 9'))


def pickle_only(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def no_weights(folder):
    (folder / "model.safetensors").unlink()


def settings(**changes):
    def change(folder):
        change_report(folder, lambda report: replace(report, settings=report.settings | changes))

    return change


def spec(**changes):
    return lambda folder: change_report(folder, throughout(**changes))


def of_no_suite(**changes):
    def change(folder):
        custom = {"name": "custom", "hash": "0" * 32}
        change_report(folder, lambda r: replace(r, suite=custom, settings=r.settings | {"suite": "custom"} | changes))

    return change


WRONG = {
    "no report": (no_report, {}, DataError, "There is no leakage_report.json"),
    "other schema": (other_schema, {}, DataError, "schema_version 9"),
    "pickle": (pickle_only, {}, ModelError, "pytorch_model.bin is a pickle"),
    "no weights": (no_weights, {}, ModelError, "no safetensors weights"),
    "no attacker": (of_no_suite(audit=None), {}, DataError, "no `audit`"),
    "attacker": (of_no_suite(audit={"attacks": ["strong"]}), {}, DataError, "Unknown attacks strong"),
    "outside": (spec(forget="..[0,1,2]"), {}, DataError, "folders are not opened"),
    "home": (spec(forget="~[0,1,2]"), {}, DataError, "folders are not opened"),
    "local data": (spec(forget="photos/[0,1,2]"), {}, DataError, "--forget"),
    "spec": (spec(max_eval_images="x"), {}, DataError, "`max_eval_images` in the spec of the report"),
    "size": (settings(image_size=4), {}, ModelError, "attacks with images of 4 pixels, and the processor beside"),
    "counts": (spec(forget_images_per_class=39), {}, DataError, "source train 120 there, 117 here"),
    "other attacks": (None, {"attacks": "lora"}, ConfigError, "lora is not in the report"),
    "other budgets": (None, {"budgets": "5,7"}, ConfigError, "7 is not in the report"),
    "another width": (None, {"undisposed": str(EXAMPLE / "undisposed")}, ModelError, "reads .48. features, that of"),
    "repository": (shutil.rmtree, {"model": "org/none"}, ModelError, "'org/none' is no folder here"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_refused_before_any_attack(case, copied, tmp_path):
    change, changes, kind, words = WRONG[case]
    if change is not None:
        change(copied)
    with pytest.raises(kind, match=words):
        verify(options(copied, tmp_path, **changes))
    assert not list(tmp_path.glob("out/attacks.jsonl*"))


def test_rows_of_no_class_that_is_kept_are_told(disposed, monkeypatch):
    """Where the report lists no classes to keep, publishing cannot count them."""
    report = LeakageReport.load(disposed / "leakage_report.json")
    monkeypatch.setattr(WholeTask, "attacked", {})
    scenario, folder = WholeTask(ScenarioSpec.from_dict(report.spec), 20), options(disposed, disposed)
    for rows, told_of in (
        (2, []),
        (3, ["The head has 3 rows, and 2 classes are kept: the others may be forgotten ones."]),
    ):
        model = SimpleNamespace(config=SimpleNamespace(num_labels=rows))
        assert other_names(report, scenario, {"": model}, folder) == told_of


def test_wrong_input_ends_with_status_2(tmp_path, capsys):
    assert run("--verify", tmp_path) == 2
    assert "DataError: There is no leakage_report.json" in capsys.readouterr().err
    (tmp_path / "scrubbed").mkdir()
    (tmp_path / "scrubbed" / "leakage_report.json").write_text("{}")
    assert run(f"--verify={tmp_path}") == 2 and "/scrubbed." in capsys.readouterr().err
    assert run("--verify") == 2


def test_data_in_another_place_are_given(copied, place):
    spec(forget="photos[0,1,2]")(copied)
    told(lambda report: report)(copied)
    assert verify(options(copied, place, forget="mnist[0,1,2]")).holds
    other = {"forget": "mnist[4,5,8]", "attacks": "class_means", "output_dir": str(place / "other")}
    try:
        assert not verify(options(copied, place, **other)).agrees
    except DataError as error:
        assert "other numbers of images" in str(error)


def test_any_error_ends_with_status_2(copied, monkeypatch, capsys):
    def broken(options):
        raise MemoryError("no room")

    monkeypatch.setattr("hf_dtl.pipeline.verify.read_published", broken)
    assert run("--verify", copied) == 2 and "MemoryError: no room" in capsys.readouterr().err
