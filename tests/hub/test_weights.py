"""The hashes of a folder's weights."""

import hashlib

from hf_dtl.hub import weights_sha256


def test_every_shard_is_hashed_and_nothing_else(tmp_path):
    assert weights_sha256(tmp_path) == {}
    contents = {
        "model-2.safetensors": b"two" * 10**6,
        "model-1.safetensors": b"",
        "model.bin": b"x",
        "config.json": b"{}",
    }
    (tmp_path / "sub").mkdir()
    for name, content in (contents | {"sub/model.safetensors": b"y"}).items():
        (tmp_path / name).write_bytes(content)
    found = weights_sha256(str(tmp_path))
    assert list(found) == ["model-1.safetensors", "model-2.safetensors"]
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
    names = ["a/model.safetensors", "b/model.safetensors"]
    assert weights_sha256(tmp_path) == {name: hashlib.sha256(name.encode()).hexdigest() for name in names}
    assert list(weights_sha256(tmp_path)) == names
