"""The hashes of a folder's weights."""

import hashlib

from hf_dtl.hub import weights_sha256


def test_every_shard_and_the_settings_are_hashed_and_nothing_else(tmp_path):
    assert weights_sha256(tmp_path) == {}
    (tmp_path / "config.json").write_bytes(b"{}")
    assert weights_sha256(tmp_path) == {}, "settings without weights are no model"
    contents = {
        "model-2.safetensors": b"two" * 10**6,
        "model-1.safetensors": b"",
        "model.bin": b"x",
        "config.json": b"{}",
        "preprocessor_config.json": b"{}",
        "README.md": b"",
    }
    (tmp_path / "sub").mkdir()
    for name, content in (contents | {"sub/model.safetensors": b"y"}).items():
        (tmp_path / name).write_bytes(content)
    found = weights_sha256(str(tmp_path))
    assert list(found) == ["config.json", "model-1.safetensors", "model-2.safetensors", "preprocessor_config.json"]
    assert found == {name: hashlib.sha256(contents[name]).hexdigest() for name in found}


def test_of_several_tasks_every_folder_is_hashed(tmp_path):
    for name in (
        "a/config.json",
        "a/model.safetensors",
        "b/config.json",
        "b/model.safetensors",
        "c/model.safetensors",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    names = [f"{task}/{name}" for task in "ab" for name in ("config.json", "model.safetensors")]
    assert weights_sha256(tmp_path) == {name: hashlib.sha256(name.encode()).hexdigest() for name in names}
    assert list(weights_sha256(tmp_path)) == names
