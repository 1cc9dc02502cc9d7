"""The two commands of a newcomer, on few images and steps: forget a task, then attack harder what it left."""

import shlex
import subprocess
import sys
from pathlib import Path

import launching
from launching import ACCELERATE

import hf_dtl.cli.__main__
from hf_dtl.audit import LeakageReport

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "dtl_finetune.py"
ALONE = ("--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no")
DATA = ("--forget", "mnist[0,1,2]", "--retain", "mnist[6,7]")
ATTACKS = ("--attacks", "class_means", "--budgets", "1", "--seeds", "0,1", "--max_eval_images", "60", "--use_cpu")
SMALL = (
    "--forget_images_per_class", "30", "--train_epochs", "2", "--adapt_epochs", "2", "--retrain_epochs", "1",
    "--steps", "2", "--method", "gradient_collision", "--image_size", "14", "--novel", "fashion_mnist[0,1]",
)  # fmt: skip


def test_forget_a_task_and_audit_what_is_left(tmp_path):
    output = tmp_path / "dtl"
    words = [*ACCELERATE, *ALONE, SCRIPT, "--output_dir", output, *DATA, *ATTACKS, *SMALL]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-4000:]
    report = LeakageReport.load(output / "leakage_report.json")
    table, _, ending = done.stdout.partition("Verdict on gradient_collision:")
    verdict, _, following = ending.partition("Next:")
    assert "target accuracy" in table and " ".join(report.verdict.split()) in " ".join(verdict.split())
    for name in ("scrubbed", "undisposed", "retrained"):
        assert (output / name / "model.safetensors").exists()
    assert (output / "scrubbed" / "README.md").exists() and list((output / "plots").glob("*.png"))

    (command,) = (line for line in following.splitlines() if "--suite standard-1" in line)
    words = shlex.split(command)[1:]  # as it is printed, but for fewer attacks: of an option the last one counts
    assert words[0] == "forget"
    status, out, err = launching.run(
        hf_dtl.cli.__main__.__file__, *words, *ATTACKS, "--suite", "custom", "--attacks", "ridge"
    )
    assert status == 0, err[-4000:]
    assert "pretrain:" not in err and "dispose:" not in err, "what is finished is not repeated"
    again = LeakageReport.load(output / "leakage_report.json")
    assert "Verdict on" in out and again.target_accuracy == report.target_accuracy
    assert {record.attack for record in again.piggyback} == {"ridge"}
    models = {"undisposed", "scrubbed", "no_model", "scratch", "retrained"}
    assert {record.model for record in again.piggyback} == models
