"""Multi-task unlearning as a user runs it: from nothing, with two methods and the reference, and started again."""

import runpy
import shutil
import sys
from pathlib import Path

import launching
import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForImageClassification

from hf_dtl.audit import LeakageReport
from hf_dtl.hub.publish import publish
from hf_dtl.models.heads import MultiHeadClassifier
from hf_dtl.pipeline.forget import run as forget
from hf_dtl.pipeline.forget_options import ForgetOptions
from hf_dtl.pipeline.some_tasks_job import SomeTasksJob
from hf_dtl.pipeline.verify import verify

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "unlearn.py"
QUICK = {
    "use_cpu": True,
    "retain": "glyphs",
    "task_columns": "case,weight,rotation",
    "forget_tasks": "case",
    "forget": "random=15%",
    "method": "multitask:retain_gradients=mini_batch,multitask:strategy=scrub:min_phase=1",
    "reference": "retrain",
    "images": 160,
    "image_size": 14,
    "train_epochs": 10.0,
    "steps": 4,
    "forget_batch_size": 16,
    "save_steps": 2,
    "attacks": "linear_probe",
    "budgets": "2",
    "seeds": "0",
    "max_eval_images": 100,
}


def run(output, launch=launching.run, **options):
    words = [SCRIPT, "--output_dir", output]
    for name, value in (QUICK | options).items():  # as people write it
        words += [f"--{name.replace('methods', 'method').replace('_', '-')}", value]
    status, out, err = launch(*words)
    assert status == 0, err[-4000:]
    return out


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    output = tmp_path_factory.mktemp("multitask") / "out"
    return output, run(output)


def reports(output):
    """The report of each method, the first at the top."""
    others = sorted((output / "methods").glob("*/leakage_report.json"))
    return [LeakageReport.load(path) for path in (output / "leakage_report.json", *others)]


def test_ends_with_tables_reports_plots_and_models(done):
    output, printed = done
    for words in (
        "Unlearning random=15% for case",
        "strategy=scrub:min_phase=1",
        "scratch",
        "mean of all tasks",
        "UIS",
    ):
        assert words in printed
    found = reports(output)
    assert [report.method for report in found] == QUICK["method"].split(",")
    for report, folder in zip(found, (output, next((output / "methods").iterdir())), strict=True):
        assert str(output.parent) not in report.to_json() and report.seed == 0
        assert report.spec["kind"] == "tasks" and report.spec["forget_tasks"] == "case"
        assert report.settings["images"] == {"forget": 24, "retain": 136, "validation": 100, "test": 100}
        assert (report.tasks["rotation"].kind, report.tasks["rotation"].forgotten) == ("regression", False)
        for task in report.tasks.values():
            assert {split: set(own) for split, own in task.scores.items()} == {
                split: {"undisposed", "scrubbed", "retrained"} for split in ("forget", "retain", "test")
            }
        assert set(report.tasks["case"].membership_auc) == {"undisposed", "scrubbed", "retrained"}
        assert {r.model for r in report.piggyback} == {"undisposed", "scrubbed", "retrained", "no_model", "scratch"}
        assert {r.dataset for r in report.piggyback} == {"glyphs, case, random=15%"}
        assert "--forget_tasks case" in report.settings["command"] and report.method in report.settings["command"]
        audited = ("model.safetensors", "config.json", "preprocessor_config.json")
        assert set(report.weights) == {f"{task}/{name}" for task in ("case", "weight", "rotation") for name in audited}
        assert (folder / "plots" / "tasks.png").stat().st_size > 5000
    assert (output / "tables.md").exists() and (output / "comparison.md").exists()
    assert not [p for p in output.rglob("*") if ".partial" in p.name or p.name.endswith(".old")]


def test_every_unlearned_model_has_a_card_of_its_own_numbers(done):
    output, _ = done
    folders = [output / "scrubbed", *(output / "methods").glob("*/scrubbed")]
    for folder, report in zip(folders, reports(output), strict=True):
        text = (folder / "README.md").read_text()
        told = ModelCard(text).data.to_dict()["unlearning"]
        assert told["method"] == report.method and told["tasks"] == ["case"]
        score = report.tasks["case"].scores["forget"]
        assert f"scores {score['scrubbed']:.3f} in the task case" in report.verdict
        assert f"it was {score['undisposed']:.3f}" in report.verdict and "from random weights" in report.verdict
        assert str(output.parent) not in text and "some tasks; for the others they were retained" in text


def test_what_it_leaves_is_published_and_verified(done, tmp_path):
    """The output folder is taken by a dry run, and its published part holds under verification."""
    output, _ = done
    files = {file.name for file in publish(output, "user/scrubbed", dry_run=True).files}
    assert {"README.md", "leakage_report.json", "case/model.safetensors", "rotation/config.json"} <= files
    assert not any("tasks.json" in name for name in files)
    found = verify(output / "scrubbed", output_dir=str(tmp_path / "verified"), use_cpu=True)
    told = {number.model for number in found.numbers if number.what != "gap"}
    assert found.agrees and told == {"scrubbed", "no_model", "scratch"}
    for number in found.numbers:
        assert number.found == pytest.approx(number.published, abs=1e-9), number
    copy = tmp_path / "copy"
    shutil.copytree(output / "scrubbed", copy)
    other = AutoModelForImageClassification.from_pretrained(output / "undisposed" / "case")
    other.save_pretrained(copy / "case")
    found = verify(copy, output_dir=str(tmp_path / "verified"), use_cpu=True)
    assert not found.agrees and "case/model.safetensors was changed" in " ".join(found.wrong)


def test_models_load_plainly_and_reproduce_the_reported_scores(done):
    output, _ = done
    job = SomeTasksJob(ForgetOptions(**QUICK | {"output_dir": str(output)}))
    forgotten = job.scenario.split("forget")
    original = MultiHeadClassifier.load(output / "stages" / "train").state_dict()
    folders = (output, output / "methods" / job.choices[1].folder)
    for folder, report in zip(folders, reports(output), strict=True):
        heads = MultiHeadClassifier.load(folder / "all_tasks").state_dict()
        for task in ("weight", "rotation"):
            assert torch.equal(heads[f"heads.{task}.weight"], original[f"heads.{task}.weight"])
        assert not torch.equal(heads["heads.case.weight"], original["heads.case.weight"])
        for task in ("case", "weight"):
            model = AutoModelForImageClassification.from_pretrained(folder / "scrubbed" / task).eval()
            assert tuple(model.config.id2label.values()) == job.scenario.tasks[task]
            with torch.no_grad():
                named = model(forgotten.pixel_values).logits.argmax(-1)
            right = (named == forgotten.labels[task]).float().mean().item()
            assert right == pytest.approx(report.tasks[task].scores["forget"]["scrubbed"], abs=1e-6)
    retrained = MultiHeadClassifier.load(output / "stages" / "retrained").state_dict()
    assert not torch.equal(retrained["heads.weight.weight"], original["heads.weight.weight"])


def test_a_repeated_command_repeats_only_what_is_missing(done, tmp_path):
    output, _ = done
    copy = tmp_path / "copy"
    shutil.copytree(output, copy)
    options = ForgetOptions(**QUICK | {"output_dir": str(copy)})
    job = SomeTasksJob(options)
    lost = copy / "stages" / job.disposal_stage(job.choices[0])
    shutil.rmtree(lost)
    before = {path: path.stat().st_mtime_ns for path in (copy / "stages").rglob("[a-z]*") if path.is_file()}
    attacks = (copy / "attacks.jsonl").read_bytes()
    forget(options).audit()
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (copy / "attacks.jsonl").read_bytes() == attacks, "the same model again, so the same attacks"
    again, first = (reports(folder)[0] for folder in (copy, output))
    assert again.tasks == first.tasks and again.piggyback == first.piggyback


@pytest.mark.distributed
def test_two_processes_as_one(done, tmp_path):
    trained = done[0] / "stages" / "train"
    # without Adam, which makes steps of rounding, and distillation, whose first gradients are nothing else
    alike = "num_chunks=4:forget_until=steps:optim=sgd:learning_rate=0.05"
    ours = "retain_gradients=mini_batch:target_ce_weight=1:distillation_weight=0"
    methods = f"multitask:{ours}:{alike},multitask:strategy=pcgrad:{alike}"
    options = {"model": str(trained), "train_epochs": 0, "method": methods, "reference": "none"}
    for output, launch in ((tmp_path / "one", launching.run), (tmp_path / "two", launching.run_on_two)):
        run(output, launch, **options)
    [other] = (tmp_path / "one" / "methods").iterdir()
    start = MultiHeadClassifier.load(trained).state_dict()
    for folder in ("all_tasks", f"methods/{other.name}/all_tasks"):
        one, two = (MultiHeadClassifier.load(tmp_path / name / folder).state_dict() for name in ("one", "two"))
        moved = torch.cat([(one[n] - start[n]).flatten() for n in start])
        apart = torch.cat([(one[n] - two[n]).flatten() for n in start])
        assert moved.norm() > 1e-3 and apart.norm() < 1e-2 * moved.norm(), (moved.norm(), apart.norm())
    for one, two in zip(*(reports(tmp_path / name) for name in ("one", "two")), strict=True):
        assert two.settings["images"] == one.settings["images"] and len(two.piggyback) == len(one.piggyback)
        assert set(two.tasks["case"].scores["test"]) == {"undisposed", "scrubbed"}


def test_a_wrong_option_ends_with_one_line(monkeypatch, tmp_path):
    words = "--method multitask --forget-tasks case --forget random=5% --goal relabel --output_dir".split()
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *words, str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert ended.value.code.startswith("ConfigError: --goal relabel") and "\n" not in ended.value.code
    assert not (tmp_path / "out").exists()
