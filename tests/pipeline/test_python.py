"""The two examples of a Python user: audit published models, and forget a part of a folder of images."""

import sys

import numpy as np
import pytest
import torch
from architectures import CONFIGS
from PIL import Image
from torch.nn.functional import cross_entropy
from transformers import AutoModelForImageClassification

import hf_dtl
from hf_dtl.audit import LeakageReport
from hf_dtl.audit.suites import SUITES
from hf_dtl.data import embedded_processor, load_images, load_task
from hf_dtl.errors import ConfigError, DTLError, PublishError

pytestmark = pytest.mark.usefixtures("short_attacks")

QUICK = {"attacks": ["linear_probe"], "budgets": [2], "seeds": [0, 1], "max_eval_images": 60, "use_cpu": True}
NAMES = ("cat", "dog", "car", "ship")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The output folder of the main job, made small."""
    output = tmp_path_factory.mktemp("demo") / "out"
    result = hf_dtl.forget(
        forget="mnist[0-5]", retain="mnist[6-9]", method="representation_erasure", forget_images_per_class=30,
        train_epochs=2, adapt_epochs=2, retrain_epochs=2, steps=3, image_size=14, output_dir=str(output), **QUICK,
    )  # fmt: skip
    result.audit()
    return output


def test_two_published_models_are_audited(demo, tmp_path, monkeypatch, capsys):
    given = {
        "undisposed": str(demo / "undisposed"), "retrained": str(demo / "retrained"), "base_model": None,
        "forget": "mnist[0-5]", "retain": "mnist[6-9]", "suite": "custom", **QUICK,
    }  # fmt: skip
    report = hf_dtl.audit(str(demo / "scrubbed"), **given, output_dir=str(tmp_path / "python"))
    print(report)
    said = capsys.readouterr().out
    assert report.verdict.split()[0] in said and "Piggyback learning" in said
    assert max(map(len, said.split("\n"))) <= 100
    assert [path.name for path in report.plot(tmp_path / "plots")] and (tmp_path / "plots" / "piggyback.png").exists()
    models = {record.model for record in report.piggyback}
    assert (
        models == {"undisposed", "scrubbed", "no_model", "scratch", "retrained"} and report.suite["name"] == "custom"
    )
    assert report.spec | {"forget": "mnist[0-5]", "retain": "mnist[6-9]", "kind": "task"} == report.spec
    assert report == LeakageReport.load(tmp_path / "python" / "leakage_report.json")

    from hf_dtl.cli.main import main

    words = ["audit", str(demo / "scrubbed"), "--output_dir", str(tmp_path / "line"), "--use-cpu"]
    for name, value in given.items():
        if value is not None and name != "use_cpu":
            words += [f"--{name}", ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    monkeypatch.setattr(sys, "argv", ["hf-dtl", *words])
    main()
    line = (tmp_path / "line" / "leakage_report.json").read_text()
    assert line == (tmp_path / "python" / "leakage_report.json").read_text()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of pictures of four classes, and a classifier that names them."""
    folder = tmp_path_factory.mktemp("photos")
    for row, name in enumerate(NAMES):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(40):
            pixels = np.random.default_rng([row, number]).normal(90, 40, (16, 16, 3))
            pixels[8 * (row % 2) :, 8 * (row // 2) :, row % 3] += 90
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / "photos" / name / f"{number}.png")
    config = CONFIGS["vit"]()
    config.image_size, config.patch_size, config.num_labels = 14, 7, 4
    config.id2label, config.label2id = dict(enumerate(NAMES)), {name: i for i, name in enumerate(NAMES)}
    torch.manual_seed(0)
    model = AutoModelForImageClassification.from_config(config)
    task = load_task(f"{folder}/photos[{','.join(NAMES)}]")
    images = load_images(task.train, embedded_processor(14), num_channels=3)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        cross_entropy(model(images.pixel_values).logits, images.labels).backward()
        optimizer.step()
    model.save_pretrained(folder / "classifier")
    embedded_processor(14).save_pretrained(folder / "classifier")
    return folder


def test_a_classifier_forgets_some_of_its_classes(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(photos)
    result = hf_dtl.forget(
        "./classifier", forget="./photos[cat,dog]", retain="./photos[car,ship]", method="scrub", steps=6,
        retrain_epochs=2, output_dir=str(tmp_path / "out"), **QUICK,
    )  # fmt: skip
    report = result.audit(suite="custom", budgets=[1, 2])
    assert list(result.model.config.id2label.values()) == ["car", "ship"], "what is kept, and nothing else"
    assert {record.budget for record in report.piggyback} == {1, 2} and report.spec["forget"] == "photos[cat,dog]"
    assert report.source_accuracy["undisposed"] > 0.6 and report.target_accuracy["undisposed"] > 0.6
    assert not (tmp_path / "out" / "stages" / "adapt").exists(), "it knew both tasks"
    published = result.push_to_hub("user/scrubbed", report=report, dry_run=True)
    assert "model.safetensors" in {file.name for file in published.files}
    weight = next(result.model.parameters()).data
    weight[0] += 1
    with pytest.raises(PublishError, match=r"in memory is not the one that was audited.*model.safetensors was"):
        result.push_to_hub("user/scrubbed", report=report, dry_run=True)
    result.models = result.models | {"scrub": AutoModelForImageClassification.from_pretrained("classifier")}
    with pytest.raises(PublishError, match=r"config.json was changed.*result.audit"):
        result.push_to_hub("user/scrubbed", report=report, dry_run=True)
    again = hf_dtl.forget(
        "./classifier", forget="./photos[cat,dog]", retain="./photos[car,ship]", method="scrub", steps=6,
        retrain_epochs=2, output_dir=str(tmp_path / "out"), **QUICK,
    )  # fmt: skip
    assert again.push_to_hub("user/scrubbed", report=report, dry_run=True).files, "it reads what was kept"
    result.models = again.models
    other = result.audit(budgets=[2])  # of the suite that was chosen before
    assert {record.budget for record in other.piggyback} == {2} and result.job.options.suite == "custom"
    with pytest.raises(PublishError, match="give what result.audit"):
        result.push_to_hub("user/scrubbed", report=report, dry_run=True)
    assert hf_dtl.verify(tmp_path / "out" / "scrubbed", forget="./photos[cat,dog]", retain="./photos[car,ship]",
                         output_dir=str(tmp_path / "verified"), use_cpu=True).agrees  # fmt: skip
    assert other.suite != report.suite


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hf_dtl.forget(forgett="class=0"), "There is no option 'forgett'. Did you mean forget?"),
        (lambda: hf_dtl.audit("x", undisposd="y"), "There is no option 'undisposd'. Did you mean undisposed?"),
        (lambda: hf_dtl.forget(method="scrubb"), "Did you mean 'scrub'?"),
        (lambda: hf_dtl.forget(forget="mnist[0-5]", retain="mnist[6,seven]"), "seven"),
        (lambda: hf_dtl.forget(method="scrub", forget_tasks="a"), "--forget_tasks a is for several tasks"),
        (lambda: hf_dtl.audit("x", undisposed="./nowhere", forget="mnist[0,1]"), "There is no folder './nowhere'"),
        (lambda: hf_dtl.audit("x", undisposed="y", forget="mnist", suite="standart-1"), "mean standard-1?"),
        (
            lambda: hf_dtl.audit("x", undisposed="y", forget="mnist", suite="quick-1", attacks=["full"], seeds=[1]),
            "--suite quick-1 fixes the attacker: leave out --attacks, --seeds, or give --suite custom",
        ),
    ],
)
def test_wrong_words_are_said_before_any_work(call, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DTLError) as error:
        call()
    assert message in str(error.value) and not list(tmp_path.iterdir())


def test_an_option_of_the_run_is_none_of_its_audit(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(photos)
    result = hf_dtl.forget(
        "./classifier", forget="class=cat", retain="./photos", method="random_label", steps=1,
        output_dir=str(tmp_path / "out"), **QUICK,
    )  # fmt: skip
    with pytest.raises(ConfigError, match="steps: no option of the audit of a run"):
        result.audit(steps=3)


def test_the_audit_of_a_run_changes_to_a_suite_and_back_to_an_attacker_of_ones_own(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(photos)
    result = hf_dtl.forget(
        "./classifier", forget="./photos[cat,dog]", retain="./photos[car,ship]", method="random_label", steps=1,
        reference="none", output_dir=str(tmp_path / "out"), **{**QUICK, "full_learning_rates": "1e-3"},
    )  # fmt: skip

    def changed(**options):
        result._change(options)
        return result.job.attacks

    suite = SUITES["quick-1"]
    assert (changed(seeds=[0]).attacks, result.job.options.suite) == (("linear_probe",), "custom")
    quick = changed(suite="quick-1")
    assert (quick.attacks, quick.budgets, quick.seeds) == (suite.attacks, suite.budgets, suite.seeds)
    assert quick.hash() == suite.config(result.job.parameters).hash() and result.job.scenario.most_budget == 20
    own = changed(budgets=[2])
    assert own.budgets == (2,) and result.job.options.suite == "custom" and result.job.scenario.most_budget == 2
    assert changed(suite="quick-1") == quick
    with pytest.raises(ConfigError, match="--suite quick-1 fixes the attacker: leave out --budgets"):
        result.audit(suite="quick-1", budgets=[2])
    assert result.job.attacks == quick


def test_options_that_are_missing_or_unknown_are_named_before_anything_is_loaded():
    with pytest.raises(ConfigError, match="missing: undisposed"):
        hf_dtl.audit("a/model", forget="mnist[0-5]", retain="mnist[6-9]")
    with pytest.raises(ConfigError, match="Did you mean undisposed"):
        hf_dtl.audit("a/model", undisposd="a/model")
