"""Models of timm, the largest family of the Hub, where timm and a torchvision that fits torch are installed."""

import json
from pathlib import Path

import pytest
import torch
from method_checks import build
from PIL import Image
from safetensors.torch import save_file
from toy_tasks import images

from hf_dtl.data import ImageTensors
from hf_dtl.errors import ModelError
from hf_dtl.hub.publish import publish
from hf_dtl.methods import GradientCollisionConfig, GradientCollisionTrainer
from hf_dtl.models.loading import load_classifier, processor_of
from hf_dtl.pipeline.audit_options import VerifyOptions
from hf_dtl.pipeline.forget import run as forget
from hf_dtl.pipeline.forget_options import ForgetOptions
from hf_dtl.pipeline.verify import run as verify

try:
    import timm
except Exception as error:  # torchvision of another build than torch's raises RuntimeError
    pytest.skip(f"timm cannot be imported: {error}", allow_module_level=True)


@pytest.fixture
def folder(tmp_path):
    """A timm model as the Hub has it: weights, and a config.json that also says how images are prepared."""

    def make(architecture, names=("cat", "dog", "fox")):
        torch.manual_seed(0)
        model = timm.create_model(architecture, num_classes=3, img_size=32) if "vit" in architecture else (
            timm.create_model(architecture, num_classes=3)
        )  # fmt: skip
        config = {"architecture": architecture, "num_classes": 3, "label_names": list(names)}
        config["label_descriptions"] = {"fox": "a secret"}
        config["model_args"] = {"num_classes": 3} | ({"img_size": 32} if "vit" in architecture else {})
        kept = ("mean", "std", "interpolation", "crop_pct")
        prepared = {name: model.pretrained_cfg[name] for name in kept} | {
            "input_size": [3, 32, 32],
            "crop_mode": "center",
            "classifier": "head",
            "first_conv": "patch_embed.proj",
        }
        (tmp_path / "config.json").write_text(json.dumps(config | {"pretrained_cfg": prepared}))
        weights = {name: value.contiguous() for name, value in model.state_dict().items()}
        save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
        return tmp_path, model.eval()

    return make


@pytest.mark.parametrize("architecture", ["test_vit", "test_efficientnet"])
def test_it_is_loaded_disposed_of_and_saved(architecture, folder, tmp_path):
    place, plain = folder(architecture)
    model, data = load_classifier(place), images("mnist[0,1,2]", 10, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(pixel_values=data.pixel_values).logits, plain(data.pixel_values))
    (pixels,) = processor_of(place, model)([Image.new("RGB", (60, 40))])["pixel_values"]
    assert pixels.shape == (3, 32, 32)
    with pytest.raises(ModelError, match="pretrained_cfg"):
        processor_of(place, model, size=64)
    pair = (GradientCollisionConfig, GradientCollisionTrainer)  # exact: it differentiates twice
    half = ImageTensors(data.pixel_values[::2], data.labels[::2])
    trainer = build(
        pair, tmp_path / "run", model, forget=half, retain=data, max_steps=2, learning_rate=1e-3, num_chunks=2
    )
    trainer.train()
    trainer.save_model(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["label_names"] == ["cat", "dog", "fox"] and "secret" not in json.dumps(config)
    loaded = load_classifier(tmp_path / "saved")
    with torch.no_grad():
        expected = trainer.model.eval()(data.pixel_values, task="target")
        torch.testing.assert_close(loaded(pixel_values=data.pixel_values).logits, expected)
    assert processor_of(tmp_path / "saved", loaded).to_dict() == processor_of(place, model).to_dict()


@pytest.mark.usefixtures("short_attacks")
def test_the_whole_way(folder, tmp_path, monkeypatch):
    """A class is forgotten, attacked, published with its card, verified, and opened by the page."""
    place, _ = folder("test_vit", names=("0", "1", "2"))
    run = tmp_path / "run"
    forgotten = forget(
        ForgetOptions(
            model=str(place), forget="class=1", retain="mnist[0,1,2]", retain_images_per_class=30, max_eval_images=60,
            method="random_label", steps=2, attacks="ridge,full_published", budgets="2", seeds="0,1",
            full_learning_rates="1e-3", reference="none", use_cpu=True, output_dir=str(run),
        )
    )  # fmt: skip
    forgotten.audit()
    staged = {file.name for file in publish(run, "ann/scrubbed", dry_run=True).files}
    assert {"README.md", "config.json", "leakage_report.json", "model.safetensors"} <= staged
    given = {"undisposed": str(place), "use_cpu": True, "output_dir": str(tmp_path / "verified")}
    assert verify(VerifyOptions(model=str(run / "scrubbed"), **given)).holds
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "space")
    from page.pairs import Pairs
    from page.probe import probe

    pair = Pairs({"timm": run}).get("timm")
    assert pair.proven and {name for name, _ in probe(pair, "scrubbed", Image.new("RGB", (28, 28))).predictions} == {
        "0", "1", "2"
    }  # fmt: skip
