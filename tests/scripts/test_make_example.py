"""The script that makes the example, with little training and into another folder."""

import runpy
from pathlib import Path

import pytest
from transformers import AutoModelForImageClassification

from hf_dtl.audit import LeakageReport

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "make_example.py"


@pytest.mark.slow  # who changes the example runs it
def test_it_leaves_models_and_reports_with_their_command(tmp_path):
    script = runpy.run_path(str(SCRIPT))
    main, example = script["main"], tmp_path / "example"
    main.__globals__["EXAMPLE_FOLDER"] = example
    options = script["ExampleOptions"](
        forget_images_per_class=20, train_epochs=1, adapt_epochs=1, retrain_epochs=1, steps=2, attacks="linear_probe",
        budgets="1", seeds="0", max_eval_images=30, use_cpu=True, membership=False,
    )  # fmt: skip
    main(options)
    report = LeakageReport.load(example / "scrubbed" / "leakage_report.json")
    assert report.settings["command"] == "python scripts/make_example.py"
    assert (example / "scrubbed" / "README.md").read_text().count(report.settings["command"]) == 1
    names = ("scrubbed", "undisposed", "retrained")
    heads = [AutoModelForImageClassification.from_pretrained(example / name) for name in names]
    assert all(model.config.num_labels == 4 and model.num_parameters() < 80_000 for model in heads)
    card = (example / "methods" / "gradient_collision" / "scrubbed" / "README.md").read_text()
    assert "Leakage" in card and "](plots/" not in card, "its pictures are left out"
