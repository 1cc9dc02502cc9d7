"""Unlearning as a user runs it: as a process, with several methods, again on its own result, and with wrong input."""

import json
import re
import shutil
from pathlib import Path

import launching
import pytest
import torch
from transformers import AutoModelForImageClassification

from hf_dtl.audit import LeakageReport
from hf_dtl.data import embedded_processor, load_images, load_task
from hf_dtl.errors import DTLError
from hf_dtl.pipeline.forget_options import ForgetOptions
from hf_dtl.pipeline.part_job import PartJob

pytestmark = pytest.mark.usefixtures("short_attacks")

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "unlearn.py"
QUICK = {
    "use_cpu": True,
    "retain": "mnist[0,1,2,3]",
    "forget": "class=2",
    "method": "projected_gradient",
    "retain_images_per_class": 64,
    "train_epochs": 25,
    "augmentation": "none",
    "steps": 4,
    "save_steps": 2,
    "attacks": "linear_probe,full_published",
    "full_learning_rates": "1e-3",
    "budgets": "2",
    "seeds": "0",
    "image_size": 14,
    "max_eval_images": 120,
}


def run(output, launch=launching.run, **options):
    words = [SCRIPT, "--output_dir", output]
    for name, value in (QUICK | options).items():
        words += [] if value is None else [f"--{name}", value]
    return launch(*words)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    output = tmp_path_factory.mktemp("unlearn") / "out"
    code, out, err = run(output, reference="retrain", method="projected_gradient,negative_ce")
    assert code == 0, err[-4000:]
    return output, out


def test_ends_with_tables_reports_card_and_plots(done):
    output, printed = done
    for words in ("class=2", "Methods compared", "MIA", "Verdict on projected_gradient:"):
        assert words in printed
    for words in ("average gap to retrained", "membership inference"):
        assert words in (output / "tables.md").read_text()
    reports = [
        LeakageReport.load(folder / "leakage_report.json") for folder in (output, output / "methods/negative_ce")
    ]
    assert [report.method for report in reports] == ["projected_gradient", "negative_ce"]
    for report in reports:
        found = report.unlearning
        assert found.images == {"forget": 64, "retain": 192} and found.request == "class=2"
        assert found.accuracy["forget"]["retrained"] == 0, "the class was never shown to it"
        assert found.accuracy["retain"]["undisposed"] > 0.6 and found.relative_cost > 0
        assert {row["model"] for row in report.membership} == {"undisposed", "scrubbed", "retrained"}
        assert report.settings["notes"] == []
    assert {r for r in reports[0].piggyback if r.model != "scrubbed"} < set(reports[1].piggyback)
    for name in ("plots/piggyback.png", "plots/attacks.png", "plots/comparison.png", "scrubbed/plots/piggyback.png"):
        assert (output / name).stat().st_size > 5000
    assert "made to forget 64 of them (`class=2`)" in (output / "scrubbed" / "README.md").read_text()
    assert not [p for p in output.rglob("*") if ".partial" in p.name or p.name.endswith(".old")]
    assert sorted(p.name for p in (output / "scrubbed").iterdir()) == [
        "README.md", "config.json", "leakage_report.json", "model.safetensors", "plots", "preprocessor_config.json",
    ]  # fmt: skip


def test_the_attacker_is_judged_half_by_the_forgotten_class(done):
    output, _ = done
    options = QUICK | {"output_dir": str(output), "train_epochs": 25.0, "reference": "retrain"}
    axis = PartJob(ForgetOptions(**options)).scenario.attacked["source"]
    for images in (axis.test, axis.validation):
        counts = torch.bincount(images.labels, minlength=4).tolist()
        assert counts[2] == sum(counts) - counts[2] > 0
    assert torch.bincount(axis.train.labels).tolist() == [64] * 4


def test_models_load_plainly_and_reproduce_the_reported_accuracy(done):
    output, _ = done
    report = LeakageReport.load(output / "leakage_report.json")
    forget = load_task("mnist[0,1,2,3]", images_per_class=64).train.filter(
        lambda label: label == 2, input_columns="label"
    )
    images = load_images(forget, embedded_processor(QUICK["image_size"]), num_channels=3)
    for name in ("undisposed", "scrubbed"):
        model = AutoModelForImageClassification.from_pretrained(output / name).eval()
        assert list(model.config.id2label.values()) == ["0", "1", "2", "3"]
        with torch.no_grad():
            right = (model(images.pixel_values).logits.argmax(-1) == images.labels).float().mean().item()
        assert right == pytest.approx(report.unlearning.accuracy["forget"][name], abs=1e-6)


def test_the_next_request_needs_no_retain_images_and_numbers_classes_as_the_model_does(done, tmp_path):
    output, _ = done
    chosen = f"projected_gradient:subspace_file={output / 'layer_inputs.safetensors'}"
    code, out, err = run(
        tmp_path / "again", method=chosen, model=output / "scrubbed", train_epochs=None,
        retain="mnist[3,1,0]", forget="class=3", membership=False, image_size=None,
    )  # fmt: skip
    assert code == 0, err[-4000:]
    text = (tmp_path / "again" / "scrubbed" / "leakage_report.json").read_text()
    report = LeakageReport.from_json(text)
    assert report.unlearning.images == {"forget": 64, "retain": 128} and report.membership == []
    assert report.unlearning.accuracy["retain"]["undisposed"] > 0.6, "in another order than the head's"
    card = (tmp_path / "again" / "scrubbed" / "README.md").read_text()
    assert str(output.parent) not in text + card and str(tmp_path) not in text + card
    assert "0 is not the goal" in out

    other = {"method": chosen, "model": str(output / "undisposed"), "train_epochs": 0}
    with pytest.raises(DTLError, match="weights differ"):
        PartJob(ForgetOptions(**QUICK | {"output_dir": str(tmp_path / "wrong")} | other))
    assert not (tmp_path / "wrong").exists()


@pytest.mark.distributed
def test_random_images_on_two_processes_as_on_one(tmp_path):
    options = {"forget": "random=25%", "method": "negative_ce:num_chunks=2", "membership": False}
    options |= {"attacks": "linear_probe", "seeds": "0"}
    one, two = tmp_path / "one", tmp_path / "two"
    code, _, err = run(one, **options)
    assert code == 0, err[-4000:]
    # the same model, so that only the unlearning differs
    options |= {"model": one / "undisposed", "train_epochs": None}
    for output, launch in ((tmp_path / "again", launching.run), (two, launching.run_on_two)):
        code, _, err = run(output, launch, **options)
        assert code == 0, err[-4000:]
    weights = [
        AutoModelForImageClassification.from_pretrained(f / "scrubbed").state_dict() for f in (tmp_path / "again", two)
    ]
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(*(w.values() for w in weights), strict=True))
    report = LeakageReport.load(two / "leakage_report.json")
    assert report.unlearning.images == {"forget": 64, "retain": 192}
    assert "forgotten_test" not in report.unlearning.accuracy


def test_a_repeated_command_trains_and_attacks_nothing_again(done, tmp_path):
    output, _ = done
    copy = tmp_path / "copy"
    shutil.copytree(output, copy)
    before = {
        path: path.stat().st_mtime_ns
        for path in copy.rglob("*")
        if "stages" in path.parts and path.is_file() and path.name[0] != "."
    }
    attacks = (copy / "attacks.jsonl").read_bytes()
    code, _, err = run(copy, reference="retrain", method="projected_gradient,negative_ce")
    assert code == 0, err[-4000:]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (copy / "attacks.jsonl").read_bytes() == attacks
    with pytest.raises(DTLError, match="holds another run .*forget: 'class=2' there, 'class=3' now"):
        PartJob(ForgetOptions(**QUICK | {"output_dir": str(copy), "forget": "class=3", "train_epochs": 25.0}))
    assert (copy / "scrubbed" / "README.md").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"forget": "class=9"}, "'mnist[0,1,2,3]' has no class '9'"),
        ({"forget": "random=0"}, "Nothing to forget"),
        ({"reference": "maybe"}, "--reference 'maybe' is unknown"),
        ({"reference": "retrain", "retrained": "x"}, "not both"),
        ({"method": "projected_gradient:threshold=1.5"}, "threshold=1.5 must be in (0, 1]"),
        ({"method": "projected_gradient:subspace_file=x"}, "belongs to a model that is there already"),
        ({"method": "projected_gradient:subspace_file=x", "train_epochs": 0}, "does not exist"),
        ({"method": "representation_erasure"}, "needs at least 2; these images are of one"),
        ({"method": "feature_eraser"}, "needs at least 2; these images are of one"),
        ({"budgets": "100"}, "Use --budgets up to"),
        ({"forget_batch_size": 0}, "--forget_batch_size 0 must be a positive multiple"),
    ],
)
def test_bad_input_is_refused_before_any_weight_changes(options, message, tmp_path):
    output = tmp_path / "out"
    with pytest.raises(DTLError, match=re.escape(message)):
        PartJob(ForgetOptions(**QUICK | {"output_dir": str(output)} | options))
    assert not output.exists()


def test_classes_outside_the_model_are_named(done, tmp_path):
    output, _ = done
    options = {"model": output / "undisposed", "train_epochs": None, "retain": "mnist[0,1,7,8]"}
    code, _, err = run(tmp_path / "out", forget="class=7", **options)
    assert code == 1 and err.startswith("ModelError: The model's head does not name the classes 7, 8")
    assert not (tmp_path / "out").exists()


def test_the_reported_command_repeats_the_run(done):
    output, _ = done
    settings = json.loads((output / "leakage_report.json").read_text())["settings"]
    assert settings["command"].startswith("hf-dtl forget --")
    assert "--forget class=2" in settings["command"] and "--seed " not in settings["command"]
    assert "--reference retrain" in settings["command"] and "--method projected_gradient" in settings["command"]
