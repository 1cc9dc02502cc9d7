"""The whole way of a model that comes without a head, on a stand-in of a few thousand weights."""

import re

import pytest
from transformers import Dinov2Config, Dinov2Model

import real_model
from hf_dtl.data import load_task

SMALL = (
    "--image_size", "14", "--train_images", "30", "--test_images", "8", "--steps", "2", "--method", "random_label",
    "--forget_batch_size", "8", "--attacks", "ridge", "--budgets", "2", "--seeds", "0,1", "--use_cpu",
)  # fmt: skip


def test_a_backbone_goes_the_whole_way(tmp_path, capsys):
    pytest.importorskip("gradio", reason="gradio comes with the extra `space`")
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 7}
    Dinov2Model(Dinov2Config(**shape)).save_pretrained(tmp_path / "backbone")
    digits = load_task("mnist[0,1,2,3]", images_per_class=40)
    for split in ("train", "test"):
        getattr(digits, split).to_parquet(tmp_path / f"{split}.parquet")
    words = ["--model", str(tmp_path / "backbone"), "--data", str(tmp_path), "--classes", "1,2,3", "--forget", "2"]
    real_model.main([*words, "--output_dir", str(tmp_path / "out"), *SMALL])
    told = capsys.readouterr().out
    assert "numbers that were compared agree" in told
    parts = re.findall(r"^== (.*): [\d.]+ s, of them [\d.]+ s", told, re.MULTILINE)
    assert parts == ["data and head", "forget and audit", "publish, dry", "verify", "open in the page and probe"]
    assert re.findall(r"^(\d): scrubbed says \d \(\d.\d\d\), undisposed says", told, re.MULTILINE) == ["1", "2", "3"]
