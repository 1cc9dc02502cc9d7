"""The audit of given models as a user runs it: on models of other makers, interrupted, continued, with wrong input."""

import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from datasets import Dataset, Features, Image, Value
from launching import ACCELERATE, TWO, Program
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification

from hf_dtl.audit import LeakageReport, parse_attacks, scratch_model
from hf_dtl.audit.attacks.registry import attack_names
from hf_dtl.data import embedded_processor, load_images, load_task
from hf_dtl.errors import DTLError
from hf_dtl.pipeline.audit import Audit
from hf_dtl.pipeline.audit_options import AuditOptions
from hf_dtl.pipeline.job import STORE

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "audit.py"
QUICK = {
    "forget": "mnist[0,1,2,3]",
    "retain": "mnist[6,7,8]",
    "attacks": "linear_probe,full",
    "budgets": "2,5",
    "seeds": "0,1",
    "linear_probe_learning_rates": "1e-1",
    "full_learning_rates": "3e-3",
    "max_train_images_per_class": 40,
    "max_eval_images": 60,
    "use_cpu": True,
}
ATTACKS = 2 * 2 * 2
PROBES = 2 * 2  # without a network nothing is fine-tuned


def vit(size=14, labels=10):
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return ViTForImageClassification(ViTConfig(**shape, image_size=size, patch_size=7, num_labels=labels))


def resnet():
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=10)
    return ResNetForImageClassification(config)


def save(model, folder, labels="0123456789", size=14):
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: i for i, label in enumerate(labels)}
    model.eval().save_pretrained(folder)
    embedded_processor(size).save_pretrained(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A ViT and a ResNet that know ten digits, a copy of each with 1e-6 of noise, and random ones."""
    folder = tmp_path_factory.mktemp("models")
    task = load_task("mnist", images_per_class=100)
    images = load_images(task.train, embedded_processor(14), num_channels=3)
    for name, build, rate in (("vit", vit, 3e-3), ("resnet", resnet, 1e-2)):
        torch.manual_seed(0)
        model = build()
        optimizer = torch.optim.AdamW(model.parameters(), rate)
        for _ in range(120):
            batch = torch.randint(len(images), (64,))
            optimizer.zero_grad()
            cross_entropy(model(images.pixel_values[batch]).logits, images.labels[batch]).backward()
            optimizer.step()
        save(model, folder / name)
        save(scratch_model(model, seed=5), folder / f"{name}-random")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 + 1e-6 * torch.randn_like(parameter))
        save(model, folder / f"{name}-copy")
    return folder


def words(models, output, **options):
    given = {"undisposed": models / "vit", "scrubbed": models / "vit-copy", "output_dir": output} | QUICK | options
    return [word for name, value in given.items() for word in (f"--{name}", str(value)) if value is not None]


def run(*arguments):
    """The script in this process, for speed; returns its last words, None when it succeeded."""
    before = sys.argv
    sys.argv = [str(SCRIPT), *map(str, arguments)]
    try:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    except SystemExit as end:
        return end.code
    finally:
        sys.argv = before


def audit(models, output, **options):
    """The report of an audit in this process, without plots."""
    given = {"undisposed": str(models / "vit"), "scrubbed": str(models / "vit-copy"), "output_dir": str(output)}
    job = Audit(AuditOptions(**given | QUICK | options))
    return job.report(job.attack(job.run.folder / STORE))


@pytest.fixture(scope="module")
def undisturbed(models, tmp_path_factory):
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    assert run(*words(models, output)) is None
    return output


def test_ends_with_report_tables_and_plots(undisturbed):
    report = LeakageReport.load(undisturbed / "leakage_report.json")
    assert report.method == "vit-copy" and len(report.piggyback) == 3 * ATTACKS + PROBES
    assert report.target_accuracy["scrubbed"] == report.target_accuracy["undisposed"] > 0.5
    assert report.source_accuracy["scrubbed"] == report.source_accuracy["undisposed"] > 0.5
    assert {(row["model"], row["attack"]) for row in report.membership} == {
        (model, attack) for model in ("undisposed", "scrubbed") for attack in ("loss", "confidence")
    }
    assert report.settings["audit"]["attacks"] == ["linear_probe", "full"]
    assert report.settings["images"]["source"] == {"train": 4 * 40, "validation": 60, "test": 60}
    assert {p.name for p in undisturbed.iterdir() if p.name != "stages"} == {
        "attacks.jsonl", "leakage_report.json", "plots", "run.json", "tables.md",
    }  # fmt: skip
    for name in ("piggyback", "attacks", "comparison"):
        assert all((undisturbed / "plots" / f"{name}.{kind}").stat().st_size > 5000 for kind in ("png", "svg"))
    text = (undisturbed / "leakage_report.json").read_text()
    assert str(undisturbed.parent) not in text and "hf-dtl audit --forget" in text and "--scrubbed vit-copy" in text


@pytest.mark.distributed
def test_killed_it_is_continued_by_two_processes_and_repeats_nothing(models, undisturbed, tmp_path):
    output, store = tmp_path / "out", tmp_path / "out" / "attacks.jsonl"
    first = Program(SCRIPT, *words(models, output))
    deadline = time.monotonic() + 100
    while not (store.exists() and store.read_bytes().count(b"\n") >= 4):
        assert first.poll() is None, first.communicate()[1][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    finished = store.read_bytes()
    assert 4 <= finished.count(b"\n") < 3 * ATTACKS
    assert not (output / "leakage_report.json").exists()
    both = subprocess.run(
        [sys.executable, *ACCELERATE, *TWO, SCRIPT, *words(models, output), "--resume"],
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    out = both.stdout
    assert both.returncode == 0, both.stderr[-4000:]
    assert out.count("Piggyback learning") == 1, "one process prints"
    assert store.read_bytes().startswith(finished) and not list(output.glob("*.process*"))
    assert store.read_bytes().count(b"\n") == 3 * ATTACKS + PROBES, "no attack is repeated"
    one, two = (LeakageReport.load(folder / "leakage_report.json") for folder in (undisturbed, output))
    assert (one.machine["processes"], two.machine["processes"]) == (1, 2)
    for mine, theirs in zip(one.piggyback, two.piggyback, strict=True):
        assert theirs.accuracy == pytest.approx(mine.accuracy, abs=0.02)
        assert (theirs.model, theirs.attack, theirs.budget, theirs.seed) == (
            mine.model, mine.attack, mine.budget, mine.seed,
        )  # fmt: skip


def test_finished_audit_started_again_writes_the_same_report(models, undisturbed, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(undisturbed, output)
    (output / "leakage_report.json").unlink()
    refused = run(*words(models, output))
    assert refused.startswith("OutputError") and "--resume" in refused
    assert run(*words(models, output), "--resume") is None
    for name in ("leakage_report.json", "tables.md", "attacks.jsonl"):
        assert (output / name).read_bytes() == (undisturbed / name).read_bytes(), name
    assert "seed: 0 there, 1 now" in run(*words(models, output, seed=1), "--resume")
    # other attacks continue the audit: those that are finished stay
    audit(models, output, attacks="linear_probe,linear_probe_published", resume=True)
    assert (output / "attacks.jsonl").read_bytes().count(b"\n") == 3 * (ATTACKS + 4) + PROBES


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_unscrubbed_copy_leaks_all_and_random_weights_nothing(models, tmp_path, name):
    options = {"undisposed": str(models / name), "forget": "mnist", "retain": None, "budgets": "2", "seeds": "0,1,2"}
    options |= {"attacks": "linear_probe,full_published", "max_eval_images": 300, "membership": False}
    for kind, expected, room in (("copy", 1.0, 0.1), ("random", 0.0, 0.25)):
        report = audit(models, tmp_path / kind, scrubbed=str(models / f"{name}-{kind}"), **options)
        assert report.over("scratch").mean == pytest.approx(expected, abs=room), kind
        assert report.target_destroyed is None


def test_heads_without_the_source_classes(models, tmp_path):
    """Task unlearning: heads of the target classes only, and a reference trained here."""
    torch.manual_seed(0)
    for name in ("before", "after"):
        save(vit(labels=3), tmp_path / name, labels="678")
    report = audit(
        models, tmp_path / "out", undisposed=str(tmp_path / "before"), scrubbed=str(tmp_path / "after"),
        attacks="retain_then_full,retain_only", budgets="2", seeds="0", retrain=True, retrain_epochs=1,
    )  # fmt: skip
    assert set(report.source_accuracy.values()) == {None} and None not in report.target_accuracy.values()
    assert {(r.model, r.axis, r.attack) for r in report.piggyback} == {
        (model, "source_subset", "retain_then_full") for model in ("undisposed", "scrubbed", "scratch", "retrained")
    }
    notes = " ".join(report.settings["notes"])
    assert not report.membership and "Membership inference: left out" in notes and "retain_only" in notes


def changed(models, folder, change):
    """A copy of the ViT whose weights were changed."""
    shutil.copytree(models / "vit", folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def not_a_number(models, folder):
    return {"scrubbed": changed(models, folder, lambda weights: weights["classifier.weight"].fill_(torch.nan))}


def without_head(models, folder):
    return {"scrubbed": changed(models, folder, lambda weights: weights.pop("classifier.weight"))}


def pickled(models, folder):
    shutil.copytree(models / "vit", folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return {"scrubbed": folder}


def other_processor(models, folder):
    shutil.copytree(models / "vit", folder)
    processor = embedded_processor(14)
    processor.image_mean = [0.1, 0.1, 0.1]
    processor.save_pretrained(folder)
    return {"scrubbed": folder}


def wrong_size(models, folder):
    save(vit(size=28), folder)
    embedded_processor(14).save_pretrained(folder)
    return {"scrubbed": folder}


def dataset(folder, labels):
    images = [task["image"] for task in load_task("mnist", images_per_class=10).train.select(range(len(labels)))]
    features = Features({"image": Image(), "label": Value("string")})
    Dataset.from_dict({"image": images, "label": labels}, features=features).save_to_disk(folder)
    return {"forget": f"{folder}/"}


WRONG = {
    "weights not finite": (not_a_number, "ModelError", "`classifier.weight` of the scrubbed model is not finite"),
    "no head": (without_head, "ModelError", "classifier.weight"),
    "pickle": (pickled, "ModelError", "no file named model.safetensors"),
    "processors": (other_processor, "ModelError", "image_mean [0.5, 0.5, 0.5] (undisposed), [0.1, 0.1, 0.1]"),
    "size": (wrong_size, "ModelError", "The scrubbed model: ViTForImageClassification cannot use images"),
    "model": ({"scrubbed": "./nowhere"}, "ModelError", "There is no folder './nowhere'"),
    "no data": (lambda _, folder: dataset(folder, []), "DataError", ""),
    "one class": (lambda _, folder: dataset(folder, ["a"] * 12), "DataError", "at least two classes"),
    "few images": ({"budgets": "5,50", "max_train_images_per_class": 20}, "DataError", "the class '0' has 20"),
    "budget": ({"budgets": "5,5000", "max_train_images_per_class": None}, "DataError", "Use --budgets up to 694"),
    "head": ({"retain": "fashion_mnist[0,1]"}, "DataError", "The head of the scrubbed model names 0, 1, 2"),
    "overlap": ({"retain": "mnist[3,4]"}, "DataError", "share the classes 3"),
    "attack": ({"attacks": "grid,strong"}, "ConfigError", "Unknown attack 'strong'"),
    "rates": ({"full_learning_rates": "fast"}, "ConfigError", "--full_learning_rates 'fast'"),
    "margin": ({"target_margin": 5}, "ConfigError", "--target_margin 5.0"),
    "processor": ({"processor": "retrained"}, "ConfigError", "a model that is not given"),
    "retrain": ({"retrain": True, "retain": None}, "ConfigError", "--retain"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_refused_before_anything_is_written(case, models, tmp_path):
    options, kind, message = WRONG[case]
    if callable(options):
        options = options(models, tmp_path / "given")
    said = run(*words(models, tmp_path / "out", **options))
    assert isinstance(said, str) and said.startswith(f"{kind}: ") and message in said
    assert not (tmp_path / "out").exists()


def test_wrong_input_leaves_finished_attacks_alone(models, undisturbed, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(undisturbed, output)
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    assert "DataError" in run(*words(models, output, budgets="5000"), "--resume")
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


def test_one_processor_for_all_models_and_other_sizes(models, tmp_path):
    given = other_processor(models, tmp_path / "given")
    quick = {"attacks": "linear_probe", "budgets": "2", "seeds": "0", "membership": False}
    report = audit(
        models, tmp_path / "one", scrubbed=str(given["scrubbed"]), processor="undisposed",
        novel="fashion_mnist[0,1]", **quick,
    )  # fmt: skip
    assert report.target_accuracy["scrubbed"] == report.target_accuracy["undisposed"], "the same weights and pixels"
    assert not report.membership and set(report.axes) == {"source_subset", "novel_downstream"}
    resized = {"undisposed": str(models / "resnet"), "scrubbed": str(models / "resnet-copy"), "image_size": 20}
    job = Audit(AuditOptions(**QUICK | quick | resized | {"output_dir": str(tmp_path / "two")}))
    assert job.scenario.images["source"]["train"].pixel_values.shape[1:] == (3, 20, 20)
    assert job.processor.image_mean == embedded_processor(14).image_mean


def test_names_of_attacks():
    assert parse_attacks("full, full,linear_probe") == ("full", "linear_probe")
    assert set(parse_attacks("grid,adaptive")) < set(parse_attacks("all")) == set(attack_names())
    with pytest.raises(DTLError, match="'nothing'"):
        parse_attacks("nothing")
