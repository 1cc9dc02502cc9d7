"""A published student is made again from public weights, images and the published labels, bit by bit, or not."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_dtl.audit import LeakageReport
from hf_dtl.errors import ConfigError, DataError, ModelError, PublishError
from hf_dtl.hub.staging import stage
from hf_dtl.methods.transfer_images import TRANSFER
from hf_dtl.pipeline.audit_options import VerifyOptions
from hf_dtl.pipeline.forget import open_job, scrubbed_by
from hf_dtl.pipeline.forget_options import ForgetOptions
from hf_dtl.pipeline.verify import run as verify

TOY = {
    "forget": "mnist[0,1,2]", "retain": "mnist[6,7]", "novel": "none", "forget_images_per_class": 40,
    "retain_images_per_class": 8, "train_epochs": 1, "adapt_epochs": 25, "adapt_learning_rate": 1e-3,
    "reference": "none", "steps": 6, "image_size": 14, "architecture": "vit",
    "use_cpu": True, "augmentation": "none", "max_eval_images": 60,
    "budgets": "2", "seeds": "0", "attacks": "linear_probe", "method": "anchored_distillation:confidence=0.6",
    "transfer_dataset": "mnist[6,7,8]", "transfer_images": 40,
}  # fmt: skip


def options(folder, **changes):
    return ForgetOptions(**TOY | {"output_dir": str(folder)} | changes)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The output folder of a student that began at public weights, and the place of these."""
    place = tmp_path_factory.mktemp("rebuild")
    base = open_job(options(place / "any", base_model=None)).small_model(["a", "b", "c", "d"])
    base.config.id2label = {0: "a", 1: "b", 2: "c", 3: "d"}
    torch.manual_seed(9)
    for weight in base.parameters():
        weight.data.add_(0.01 * torch.randn_like(weight))
    base.save_pretrained(place / "base")
    result = scrubbed_by(open_job(options(place / "out", base_model=str(place / "base"))))
    result.audit()
    return place / "out", place / "base"


def again(folder, base, output, **changes):
    given = {"model": str(folder), "base_model": str(base), "rebuild": True, "output_dir": str(output / "verify")}
    return verify(VerifyOptions(**given | {"use_cpu": True} | changes))


@pytest.fixture
def copied(made, tmp_path):
    return shutil.copytree(made[0] / "scrubbed", tmp_path / "copied")


def test_an_honest_model_is_the_same_bit_by_bit_and_can_be_published(made, tmp_path):
    output, base = made
    report = LeakageReport.load(output / "leakage_report.json")
    assert report.bound.images == 40 and report.bound.rejection and report.bound.base == "base"
    assert report.bound.to_dict()["bytes"] == 8  # 40 * log2(3) bits
    assert TRANSFER in {file.name for file in stage(output, tmp_path / "staged")}
    found = again(output / "scrubbed", base, tmp_path)
    assert not found.wrong and any("the same bit by bit" in note for note in found.notes)
    assert any("the bound" in claim for claim in again(output / "scrubbed", base, tmp_path, rebuild=False).claimed)


def test_a_single_label_or_weight_that_was_changed_is_found(made, copied, tmp_path):
    path = copied / TRANSFER
    content = json.loads(path.read_text())
    content["codes"][3] = (content["codes"][3] + 1) % 2
    path.write_text(json.dumps(content, separators=(",", ":")) + "\n")
    found = again(copied, made[1], tmp_path)
    assert any("tensors differ" in said for said in found.wrong) and not found.holds
    shutil.copy(made[0] / "scrubbed" / TRANSFER, path)
    weights = load_file(copied / "model.safetensors")
    bias = weights["classifier.bias"]
    bias[0] = torch.nextafter(bias[0], torch.tensor(9.0))
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    found = again(copied, made[1], tmp_path)
    assert any("1 of " in said and "tensors differ (classifier.bias" in said for said in found.wrong)


def test_what_lacks_is_named(made, copied, tmp_path):
    with pytest.raises(DataError, match="other images than these 30"):
        report = json.loads((copied / "leakage_report.json").read_text())
        report["spec"]["transfer_images"] = report["settings"]["transfer_images"] = 30
        (copied / "leakage_report.json").write_text(json.dumps(report))
        again(copied, made[1], tmp_path)
    shutil.copy(made[0] / "leakage_report.json", copied)
    report = json.loads((copied / "leakage_report.json").read_text())
    report["settings"]["disposal"]["output_dir"] = "elsewhere"
    (copied / "leakage_report.json").write_text(json.dumps(report))
    with pytest.raises(ModelError, match="settings.disposal.output_dir, which is no option"):
        again(copied, made[1], tmp_path)
    shutil.copy(made[0] / "leakage_report.json", copied)
    (copied / TRANSFER).unlink()
    with pytest.raises(DataError, match=f"--rebuild needs {TRANSFER}"):
        again(copied, made[1], tmp_path)
    report = json.loads((copied / "leakage_report.json").read_text())
    del report["bound"]
    (copied / "leakage_report.json").write_text(json.dumps(report | {"schema_version": 3}))
    with pytest.raises(ConfigError, match="--rebuild is for a model whose report has a bound"):
        again(copied, made[1], tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content | {"note": "a head"}, "more than the codes"),
        (lambda content: content | {"codes": content["codes"] * 2}, "holds labels of 80 images"),
        (lambda content: content | {"codes": [9, *content["codes"][1:]]}, r"in 0\.\.2"),
        (lambda content: content | {"codes": [0.5, *content["codes"][1:]]}, "more than the codes"),
        (lambda content: content | {"rejection": False, "codes": [0] * 40}, "not what leakage_report.json"),
        (lambda content: content | {"classes": ["6", "an apple"]}, "of the head's classes"),
        (lambda content: content | {"images": "f" * 33}, "no fingerprint"),
    ],
)
def test_a_label_file_that_holds_anything_else_is_not_published(made, copied, tmp_path, change, message):
    path = copied / TRANSFER
    path.write_text(json.dumps(change(json.loads(path.read_text())), separators=(",", ":")) + "\n")
    with pytest.raises(PublishError, match=message):
        stage(copied, tmp_path / "staged")
    text = (made[0] / "scrubbed" / TRANSFER).read_text()
    path.write_text(text.replace(",", ", ", 1))
    with pytest.raises(PublishError, match="written in another way"):
        stage(copied, tmp_path / "blank")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"base_model": "BASE", "image_size": 28}, ModelError, "another size of images or layers"),
        ({"transfer_dataset": "mnist[0,6]"}, DataError, "classes 0, which are to be forgotten"),
        ({"transfer_images": 100_000}, DataError, "100000 are wanted and there are"),
        ({"channel": "guesses"}, ConfigError, "channel='guesses' is unknown"),
        ({"method": "scrub"}, ConfigError, "--transfer_dataset mnist.6,7,8. is for a method that has a use for it"),
        ({"transfer_dataset": None}, ConfigError, "--transfer_images 40 draws from --transfer_dataset"),
        ({"transfer_images": 0}, ConfigError, "--transfer_images 0"),
    ],
)
def test_bad_input_is_named_before_the_folder_is_touched(made, tmp_path, changes, error, message):
    changes = {name: str(made[1]) if value == "BASE" else value for name, value in changes.items()}
    with pytest.raises(error, match=message):
        open_job(options(tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()
