"""The main job as a user runs it: as a process, interrupted, continued, and fed with wrong input."""

import json
import os
import signal
import time
from pathlib import Path

import launching
import pytest
import torch
from launching import Program, run_on_two
from toy_tasks import two_headed
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

from hf_dtl.audit import LeakageReport
from hf_dtl.data import embedded_processor, load_images, load_task

pytestmark = pytest.mark.usefixtures("short_attacks")

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "dtl_finetune.py"
DIGITS = {  # files open faster than glyphs are rendered
    "forget": "mnist[0-5]",
    "retain": "mnist[6-9]",
    "novel": "none",
    "forget_images_per_class": 192,  # whole batches on one and on two processes
    "retain_images_per_class": 16,
}
QUICK = DIGITS | {
    "architecture": "vit",  # on two processes every batch has its own statistics in a ResNet
    "use_cpu": True,
    "method": "gradient_collision",
    "train_epochs": 0.5,
    "adapt_epochs": 5,
    "retrain_epochs": 2,
    "steps": 4,
    "save_steps": 2,
    "attacks": "linear_probe,full",
    "full_learning_rates": "1e-3",
    "budgets": "1",
    "seeds": "0",
    "max_eval_images": 80,
}


def command(output, **options):
    words = [str(SCRIPT), "--output_dir", str(output)]
    for name, value in (QUICK | options).items():
        words += [f"--{name}", str(value)]
    return words


def run(output, **options):
    return launching.run(*command(output, **options))


METHODS = "gradient_collision,representation_erasure:forget_weight=0.5"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    code, out, err = run(output, method=METHODS)
    assert code == 0, err[-4000:]
    return output, out


def test_ends_with_the_table_and_the_files(undisturbed):
    output, printed = undisturbed
    for words in (
        "Methods compared",
        "undisposed",
        "scratch",
        "retrained",
        "leakage",
        "Verdict on gradient_collision:",
    ):
        assert words in printed
    report = LeakageReport.load(output / "leakage_report.json")
    assert report.method == "gradient_collision" and report.seed == 0
    models = {(r.model, r.axis, r.attack, r.budget, r.seed) for r in report.piggyback}
    assert len(models) == 4 * 2 + 1 == len(report.piggyback), "of no_model linear probes alone"
    other = LeakageReport.load(output / "methods" / "representation_erasure-forget_weight_0.5" / "leakage_report.json")
    assert other.settings["disposal"]["forget_weight"] == 0.5
    shared = [{r for r in x.piggyback if r.model != "scrubbed"} for x in (report, other)]
    assert shared[0] == shared[1], "the references are attacked once"
    for plot in ("piggyback.png", "piggyback.svg", "comparison.png"):
        assert (output / "plots" / plot).stat().st_size > 5000
    assert not [p for p in output.rglob("*") if ".partial" in p.name or p.name.endswith(".old")]


def test_models_load_plainly_and_reproduce_the_reported_accuracy(undisturbed):
    output, _ = undisturbed
    report = LeakageReport.load(output / "leakage_report.json")
    task = load_task("mnist[6,7,8,9]")
    test = load_images(task.test.shuffle(seed=0).select(range(80)), embedded_processor(), num_channels=3)
    for name in ("undisposed", "scrubbed"):
        model = AutoModelForImageClassification.from_pretrained(output / name).eval()
        assert list(model.config.id2label.values()) == ["6", "7", "8", "9"]
        with torch.no_grad():
            right = (model(test.pixel_values).logits.argmax(-1) == test.labels).double().mean().item()
        assert right == pytest.approx(report.target_accuracy[name])
        AutoImageProcessor.from_pretrained(output / name)
    answer = pipeline("image-classification", model=str(output / "scrubbed"))(task.test[0]["image"])
    assert {a["label"] for a in answer} == {"6", "7", "8", "9"}


def test_what_is_published_holds_nothing_private(undisturbed):
    output, _ = undisturbed
    files = {str(p.relative_to(output / "scrubbed")) for p in (output / "scrubbed").rglob("*") if p.is_file()}
    assert files == {
        "README.md", "config.json", "leakage_report.json", "model.safetensors", "preprocessor_config.json",
        "plots/attacks.png", "plots/attacks.svg", "plots/piggyback.png", "plots/piggyback.svg",
    }  # fmt: skip
    for name in ("README.md", "config.json", "leakage_report.json", "preprocessor_config.json"):
        text = (output / "scrubbed" / name).read_text()
        assert str(output.parent) not in text and str(Path.home()) not in text and os.uname().nodename not in text
    card = (output / "scrubbed" / "README.md").read_text()
    assert "pipeline_tag: image-classification" in card and "plots/piggyback.png" in card


def wait_for(process, condition, timeout=120):
    deadline = time.monotonic() + timeout
    while not condition():
        if process.poll() is not None:
            pytest.fail(f"ended before it could be interrupted: {process.communicate()[1][-3000:]}")
        assert time.monotonic() < deadline, "never reached the point of interruption"
        time.sleep(0.005)


def test_killed_at_any_stage_it_ends_with_the_same_report(undisturbed, tmp_path):
    """SIGKILL in the middle of pre-training, disposal and audit; each next start continues where the last was cut."""
    expected, output = undisturbed[0], tmp_path / "out"
    stages = output / "stages"

    def attacks():
        store = output / "attacks.jsonl"
        return store.read_text().count("\n") if store.exists() else 0

    points = {
        "pretrain": lambda: any((stages / "pretrain.partial" / "checkpoints").glob("checkpoint-*")),
        "dispose": lambda: any((stages / "dispose").glob("gradient_collision-*.partial/checkpoints/checkpoint-*")),
        "audit": lambda: attacks() >= 5,
    }
    for name, reached in points.items():
        process = Program(*command(output, method=METHODS))
        wait_for(process, reached)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.poll() == -signal.SIGKILL
        assert not (output / "leakage_report.json").exists(), f"killed in {name}, but it looks finished"
    stored = attacks()
    before = {p: p.stat().st_mtime_ns for p in stages.rglob("model.safetensors")}
    code, _, err = run(output, method=METHODS)
    assert code == 0, err[-3000:]
    for name in ("pretrain", "adapt", "dispose: "):
        assert f"{name}:" not in err, "a finished stage ran again"
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert attacks() == 5 * 2 + 1 and stored < 11
    for file in ("leakage_report.json", "comparison.md", "scrubbed/README.md"):
        assert (output / file).read_bytes() == (expected / file).read_bytes(), file


def test_without_data_it_forgets_families_of_glyphs_and_its_report_is_verified(tmp_path, monkeypatch):
    """In this process, where fewer glyphs can be rendered, and once for both."""
    from hf_dtl.pipeline.audit_options import VerifyOptions
    from hf_dtl.pipeline.forget import run as forget
    from hf_dtl.pipeline.forget_options import ForgetOptions
    from hf_dtl.pipeline.verify import run as verify

    few = {"train": 3800, "validation": 500, "test": 500}
    monkeypatch.setattr("hf_dtl.data.sources.RENDERED_IMAGES", few)
    output = tmp_path / "out"
    given = {name: value for name, value in QUICK.items() if name not in {*DIGITS, "architecture"}}
    given |= {"output_dir": str(output), "steps": 5, "train_epochs": 0.2, "adapt_epochs": 1, "max_eval_images": 60}
    forget(ForgetOptions(**given)).audit()
    report = LeakageReport.load(output / "leakage_report.json")
    told = {key: report.spec[key] for key in ("forget", "retain", "novel", "novel_label_column")}
    assert list(told.values()) == ["glyphs[sans,mono,serif,stix]", "glyphs[N,Q,R,T]", "glyphs", "style"]
    assert report.spec["retain_images_per_class"] == 10
    assert report.chance == {"glyphs[sans,mono,serif,stix]": 1 / 4, "glyphs by style": 1 / 4}
    names = AutoModelForImageClassification.from_pretrained(output / "scrubbed").config.id2label.values()
    assert [*names] == ["N", "Q", "R", "T"]
    again = verify(VerifyOptions(model=str(output / "scrubbed"), output_dir=str(tmp_path / "again"), use_cpu=True))
    assert again.agrees, again.sentences()


@pytest.mark.distributed
def test_two_processes_end_like_one(undisturbed, tmp_path):
    output = tmp_path / "out"
    code, out, err = run_on_two(*command(output, method="gradient_collision"))
    assert code == 0, err[-4000:]
    assert out.count("target accuracy") == 1, "only one process prints"
    one, two = (LeakageReport.load(folder / "leakage_report.json") for folder in (undisturbed[0], output))
    assert one.target_accuracy.keys() == two.target_accuracy.keys() and len(one.piggyback) == len(two.piggyback)
    # Later stages begin with a head fitted to features that differ by rounding; trainers are tested one by one.
    processor = embedded_processor(28)
    images = load_images(load_task(DIGITS["forget"]).test, processor, num_channels=3).pixel_values[:100].float()
    models = [
        AutoModelForImageClassification.from_pretrained(folder / "stages" / "pretrain")
        for folder in (undisturbed[0], output)
    ]
    with torch.no_grad():
        one_says, two_say = (model(images).logits.softmax(1) for model in models)
    assert (one_says - two_say).abs().mean() < 0.01 < (one_says - 1 / 6).abs().mean()


def test_another_run_in_the_folder_and_a_repeated_one(undisturbed):
    output, _ = undisturbed
    before = (output / "leakage_report.json").read_bytes()
    code, _, err = run(output, seed=1)
    assert code == 1 and "OutputError" in err and "seed: 0 there, 1 now" in err
    assert "Traceback" not in err
    assert (output / "leakage_report.json").read_bytes() == before


WRONG = {
    "method": ({"method": "gradient_colision"}, "ConfigError: Unknown method 'gradient_colision'"),
    "one task": ({"method": "instancewise"}, "--method instancewise cannot be used: it forgets a part of one task"),
    "data": ({"forget": "mnits[0,1]"}, "DataError"),
    "class": ({"retain": "mnist[6,seven]"}, "seven"),
    "overlap": ({"retain": "mnist[5,6,7]"}, "share the classes 5"),
    "column": ({"forget_label_column": "digit"}, "digit"),
    "few": ({"retain_images_per_class": 5000}, "5000"),
    "budget": ({"budgets": "5,5000"}, "5000"),
    "budgets": ({"budgets": "five"}, "--budgets 'five' must be whole numbers"),
    "model": ({"model": "no/such-model"}, "ModelError: The model 'no/such-model' cannot be loaded"),
    "size": ({"image_size": 30, "architecture": "vit"}, "must be a multiple of the built-in ViT's patch size"),
    "architecture": ({"architecture": "vgg"}, "--architecture 'vgg' is unknown; use one of: vit, resnet"),
    "batch": ({"forget_batch_size": 31}, "num_chunks=2 must"),
    "chunks": ({"method": "gradient_collision:num_chunks=8"}, "6 classes for num_chunks=8"),
    "size of the model": ({"model": "FIXED", "image_size": 24}, "24"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_refused_before_anything_is_written(case, tmp_path, capsys):
    """In this process, for speed; the messages reach the user through the script's one handler (tested above)."""
    from hf_dtl.errors import DTLError
    from hf_dtl.pipeline.forget_options import ForgetOptions
    from hf_dtl.pipeline.whole_task_job import WholeTaskJob

    options, message = WRONG[case]
    if options.get("model") == "FIXED":
        options = options | {"model": str(tmp_path / "model")}
        two_headed().export("target").save_pretrained(tmp_path / "model")
    with pytest.raises(DTLError) as error:
        WholeTaskJob(ForgetOptions(output_dir=str(tmp_path / "out"), **QUICK | options))
    assert message in f"{type(error.value).__name__}: {error.value}"
    assert not (tmp_path / "out").exists()


def test_chunks_fit_few_classes(tmp_path):
    from hf_dtl.pipeline.forget_options import ForgetOptions
    from hf_dtl.pipeline.whole_task_job import WholeTaskJob

    for source, chunks in (("mnist[0,1]", 2), ("mnist[0,1,2]", 2), ("mnist[0,1,2,3]", 4)):
        options = QUICK | {"output_dir": str(tmp_path / source), "forget": source}
        job = WholeTaskJob(ForgetOptions(**options))
        assert job.disposal_config(job.choices[0], tmp_path).num_chunks == chunks


def test_probes_get_all_images_of_a_process(tmp_path):
    from hf_dtl.pipeline.forget_options import ForgetOptions
    from hf_dtl.pipeline.whole_task_job import WholeTaskJob

    job = WholeTaskJob(ForgetOptions(**QUICK | {"output_dir": str(tmp_path), "method": None}))
    assert [choice.name for choice in job.choices] == ["representation_erasure", "gradient_collision"]
    assert [job.disposal_config(choice, tmp_path).num_chunks for choice in job.choices] == [1, 4]


@pytest.mark.parametrize(("epochs", "same"), [(1.0, True), (0, False)])
def test_retrained_starts_where_the_source_model_started(epochs, same, tmp_path, monkeypatch):
    from hf_dtl.pipeline.forget_options import ForgetOptions
    from hf_dtl.pipeline.whole_task_job import WholeTaskJob

    given = two_headed().export("target")
    given.save_pretrained(tmp_path / "model")
    embedded_processor(16).save_pretrained(tmp_path / "model")
    options = QUICK | {"model": str(tmp_path / "model"), "train_epochs": epochs}
    job = WholeTaskJob(ForgetOptions(output_dir=str(tmp_path / "out"), **options))
    starts = {}

    def remember(name, model, images, training):
        starts[name] = {key: value.clone() for key, value in model.state_dict().items()}
        for parameter in model.parameters():
            parameter.data += 1  # as training does
        return model

    monkeypatch.setattr(job, "train_stage", remember)
    job.references(job.pretrain())
    body = [key for key in starts["retrained"] if not key.startswith("classifier")]
    assert all(torch.equal(starts["retrained"][key], given.state_dict()[key]) for key in body) is same


def test_settings_that_change_results_are_recorded(undisturbed):
    recorded = json.loads((undisturbed[0] / "run.json").read_text())
    assert recorded["seed"] == 0 and recorded["adapt_epochs"] == 5
    assert not {"output_dir", "methods", "dispose_steps", "budgets"} & recorded.keys()


def test_other_options_of_the_disposal_continue_the_run_in_a_stage_of_their_own(undisturbed):
    from hf_dtl.pipeline.forget_options import ForgetOptions
    from hf_dtl.pipeline.whole_task_job import WholeTaskJob

    output, _ = undisturbed
    (done,) = (output / "stages" / "dispose").glob("gradient_collision-*")
    for change, same in (({}, True), ({"learning_rate": 1e-4}, False), ({"forget_weight": 2.0}, False)):
        job = WholeTaskJob(ForgetOptions(output_dir=str(output), **QUICK | change))
        assert (job.run.folder / "stages" / job.disposal_stage(job.choices[0]) == done) is same
