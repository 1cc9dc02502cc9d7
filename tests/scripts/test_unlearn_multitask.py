"""Multi-task unlearning as a user runs it: from nothing, with two methods and the reference, and started again."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from launching import ACCELERATE, TWO
from transformers import AutoModelForImageClassification

from hf_dtl.hub.multitask_card import verdict
from hf_dtl.models.heads import MultiHeadClassifier
from hf_dtl.pipeline.forget_options import ForgetOptions
from hf_dtl.pipeline.some_tasks_job import SomeTasksJob

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
    "seeds": "0,1",
    "max_eval_images": 100,
}


def run(output, launcher=(), **options):
    words = [sys.executable, *launcher, str(SCRIPT), "--output_dir", str(output)]
    for name, value in (QUICK | options).items():  # as people write it
        words += [f"--{name.replace('methods', 'method').replace('_', '-')}", str(value)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    ended = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-4000:]
    return ended.stdout


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    output = tmp_path_factory.mktemp("multitask") / "out"
    return output, run(output)


def test_ends_with_a_table_a_report_a_plot_and_both_models(done):
    output, printed = done
    for words in (
        "Unlearning random=15% for case",
        "strategy=scrub:min_phase=1",
        "random weights",
        "mean of all tasks",
        "UIS",
    ):
        assert words in printed
    text = (output / "multitask_report.json").read_text()
    report = json.loads(text)
    assert str(output.parent) not in text and report["seed"] == 0 and report["schema_version"] == 1
    assert report["images"] == {"forget": 24, "retain": 136, "validation": 100, "test": 100}
    assert report["tasks"]["rotation"] == {"kind": "regression", "forgotten": False}
    assert [entry["model"] for entry in report["models"]] == ["original", "unlearned", "unlearned", "retrained"]
    for entry in report["models"]:
        assert {task: set(own) for task, own in entry["scores"].items()} == {
            task: {"forget", "retain", "test"} for task in ("case", "weight", "rotation")
        }
        assert entry["membership_auc"].keys() == {"case"} and entry["cost"]["cpu"] > 0
    assert report["models"][1]["leakage"]["case"].keys() == {"over_scratch", "over_retrained"}
    assert {r["model"] for r in report["relearning"]} == {"undisposed", "scrubbed", "retrained", "scratch"}
    assert "--forget_tasks case" in report["command"] and QUICK["method"] in report["command"]
    assert (output / "plots" / "scores.png").stat().st_size > 5000 and (output / "tables.md").exists()
    assert not [p for p in output.rglob("*") if ".partial" in p.name or p.name.endswith(".old")]


def test_every_unlearned_model_has_a_card_of_its_own_numbers(done):
    output, _ = done
    report = json.loads((output / "multitask_report.json").read_text())
    names = [entry["method"] for entry in report["models"] if entry["model"] == "unlearned"]
    folders = [output / "scrubbed", *(output / "methods").glob("*/scrubbed")]
    for folder, entry in zip(folders, report["models"][1:3], strict=True):
        text = (folder / "README.md").read_text()
        told = ModelCard(text).data.to_dict()["unlearning"]
        assert told["method"] == entry["method"] and told["tasks"] == ["case"]
        assert told["unlearning_impact_score"] == round(entry["uis"]["mean"], 6)
        said = next(line for line in text.splitlines() if line.startswith("> **Verdict.**"))
        score, original = entry["scores"]["case"], report["models"][0]["scores"]["case"]
        assert f"scores {score['forget']:.3f} in the task case" in said and f"it was {original['forget']:.3f}" in said
        assert "from random weights" in said and "not compared" not in said
        assert [name for name in names if f"`{name}`" in text] == [entry["method"]]
        assert str(output.parent) not in text and "some tasks; for the others they were retained" in text


def test_the_verdict_names_the_worst_task_and_what_was_not_done():
    tasks = {task: {"forgotten": task != "c"} for task in "abc"}
    report = {"tasks": tasks, "images": {"forget": 9}}
    before = {task: {"forget": 1.0, "test": 0.8} for task in tasks}
    after = {"a": {"forget": 0.7, "test": 0.8}, "b": {"forget": 0.95, "test": 0.75}, "c": {"forget": 1.0, "test": 0.7}}
    models = {"original": {"scores": before}, "unlearned": {"scores": after}}
    said = verdict(report, models, {})
    assert "scores 0.950 in the task b" in said and "fell by 0.100 at most, in the task c" in said
    assert "No attack tried" in said and "not compared with a model that was trained again" in said
    again = {"a": {"scrubbed": 0.9, "retrained": 0.5}, "b": {"scrubbed": 0.95, "retrained": 0.9}}
    said = verdict(report, {**models, "retrained": {}}, again)
    assert "relearns the task a scores on these images 0.900 from this model, 0.500 from a model" in said
    assert "not compared" not in said


def test_models_load_plainly_and_reproduce_the_reported_scores(done):
    output, _ = done
    report = json.loads((output / "multitask_report.json").read_text())
    job = SomeTasksJob(ForgetOptions(**QUICK | {"output_dir": str(output)}))
    forget = job.split("forget")
    original = MultiHeadClassifier.load(output / "stages" / "train").state_dict()
    folders = (output / "scrubbed", output / "methods" / job.choices[1].folder / "scrubbed")
    for folder, entry in zip(folders, report["models"][1:3], strict=True):
        heads = MultiHeadClassifier.load(folder).state_dict()
        for task in ("weight", "rotation"):
            assert torch.equal(heads[f"heads.{task}.weight"], original[f"heads.{task}.weight"])
        assert not torch.equal(heads["heads.case.weight"], original["heads.case.weight"])
        for task in ("case", "weight"):
            model = AutoModelForImageClassification.from_pretrained(folder / "tasks" / task).eval()
            assert tuple(model.config.id2label.values()) == job.tasks[task]
            with torch.no_grad():
                right = (model(forget.pixel_values).logits.argmax(-1) == forget.labels[task]).float().mean().item()
            assert right == pytest.approx(entry["scores"][task]["forget"], abs=1e-6)
    retrained = MultiHeadClassifier.load(output / "stages" / "retrained").state_dict()
    assert not torch.equal(retrained["heads.weight.weight"], original["heads.weight.weight"])


def test_a_repeated_command_repeats_only_what_is_missing(done, tmp_path):
    output, _ = done
    copy = tmp_path / "copy"
    shutil.copytree(output, copy)
    job = SomeTasksJob(ForgetOptions(**QUICK | {"output_dir": str(copy)}))
    lost = copy / "stages" / job.disposal_stage(job.choices[0])
    shutil.rmtree(lost)
    before = {path: path.stat().st_mtime_ns for path in (copy / "stages").rglob("*") if path.is_file()}
    attacks = (copy / "attacks.jsonl").read_bytes()
    runpy.run_path(str(SCRIPT))["main"](ForgetOptions(**QUICK | {"output_dir": str(copy)}))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (copy / "attacks.jsonl").read_bytes() == attacks, "the same model again, so the same attacks"
    again, first = (json.loads((folder / "multitask_report.json").read_text()) for folder in (copy, output))
    assert again["models"][1]["scores"] == first["models"][1]["scores"] and again["relearning"] == first["relearning"]


def test_two_processes_as_one(done, tmp_path):
    trained = done[0] / "stages" / "train"
    # without Adam, which makes steps of rounding, and distillation, whose first gradients are nothing else
    alike = "num_chunks=4:forget_until=steps:optim=sgd:learning_rate=0.05"
    ours = "retain_gradients=mini_batch:target_ce_weight=1:distillation_weight=0"
    methods = f"multitask:{ours}:{alike},multitask:strategy=pcgrad:{alike}"
    options = {"model": str(trained), "train_epochs": 0, "method": methods, "reference": "none"}
    options |= {"seeds": "0"}
    reports = []
    for output, launcher in ((tmp_path / "one", ()), (tmp_path / "two", (*ACCELERATE, *TWO))):
        run(output, launcher, **options)
        reports.append(json.loads((output / "multitask_report.json").read_text()))
    [other] = (tmp_path / "one" / "methods").iterdir()
    start = MultiHeadClassifier.load(trained).state_dict()
    for folder in ("scrubbed", f"methods/{other.name}/scrubbed"):
        one, two = (MultiHeadClassifier.load(tmp_path / name / folder).state_dict() for name in ("one", "two"))
        moved = torch.cat([(one[n] - start[n]).flatten() for n in start])
        apart = torch.cat([(one[n] - two[n]).flatten() for n in start])
        assert moved.norm() > 1e-3 and apart.norm() < 1e-2 * moved.norm(), (moved.norm(), apart.norm())
    one, two = reports
    assert [entry["model"] for entry in two["models"]] == ["original", "unlearned", "unlearned"]
    assert two["images"] == one["images"] and len(two["relearning"]) == len(one["relearning"])


def test_a_wrong_option_ends_with_one_line(monkeypatch, tmp_path):
    words = "--method multitask --forget-tasks case --forget random=5% --goal relabel --output_dir".split()
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *words, str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert ended.value.code.startswith("ConfigError: --goal relabel") and "\n" not in ended.value.code
    assert not (tmp_path / "out").exists()
