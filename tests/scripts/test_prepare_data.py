"""The preparation script on a small stand-in of both packages: exact pixels, no duplicates, the same bytes twice."""

import gzip
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "prepare_data.py"


def load_script():
    spec = importlib.util.spec_from_file_location("prepare_data", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_packages(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Ten MNIST images of each digit, the last of each a copy of the first; 20 + 10 Fashion-MNIST images."""
    random = np.random.default_rng(0)
    digits = random.integers(0, 256, (10, 10, 28, 28), dtype=np.uint8)
    digits[:, 9] = digits[:, 0]
    for label, images in enumerate(digits):
        path = folder / "mnist" / "src" / "digits" / f"{label}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"data": np.round(images / 255, 3).ravel().tolist()}))
    garments = random.integers(0, 256, (30, 28, 28), dtype=np.uint8)
    (folder / "fashion").mkdir()
    for part, rows in (("train", slice(20)), ("t10k", slice(20, 30))):
        images = folder / "fashion" / f"{part}-images-idx3-ubyte.gz"
        images.write_bytes(gzip.compress(bytes(16) + garments[rows].tobytes()))
        labels = (np.arange(30) % 10).astype(np.uint8)[rows]
        images.with_name(f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(bytes(8) + labels.tobytes()))
    return digits, garments


def test_packages_become_the_same_files_twice(tmp_path, monkeypatch):
    digits, garments = write_packages(tmp_path)
    options = [f"--mnist={tmp_path}/mnist", f"--fashion_mnist={tmp_path}/fashion"]
    command = [sys.executable, str(SCRIPT), *options, f"--output_dir={tmp_path}/first"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *options, f"--output_dir={tmp_path}/second"])
    load_script().main()
    assert "mnist: 100 images, 10 exact duplicates removed" in printed
    files = sorted(path.relative_to(tmp_path / "first") for path in (tmp_path / "first").rglob("*") if path.is_file())
    assert len(files) == 7
    assert all((tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes() for file in files)
    subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path / "first", check=True, capture_output=True)

    parts = [
        datasets.Dataset.from_parquet(str(tmp_path / "first" / "mnist" / f"{name}.parquet"))
        for name in ("train", "validation", "test")
    ]
    assert [len(part) for part in parts] == [60, 10, 20]
    read = {(np.asarray(row["image"]).tobytes(), row["label"]) for part in parts for row in part}
    assert read == {(digits[label, number].tobytes(), label) for label in range(10) for number in range(9)}
    fashion = datasets.Dataset.from_parquet(str(tmp_path / "first" / "fashion_mnist" / "train.parquet"))
    truth = {image.tobytes(): number % 10 for number, image in enumerate(garments)}
    assert all(truth[np.asarray(row["image"]).tobytes()] == row["label"] for row in fashion)
    assert fashion.features["label"].int2str(0) == "T-shirt/top"


def test_split_is_stratified_and_takes_the_first_of_each_class():
    script = load_script()
    labels = np.repeat([0, 1], [50, 100])
    order = np.random.default_rng(0).permutation(150)
    parts = script.split(labels, order, per_class=40)
    for name, size in (("train", 28), ("validation", 4), ("test", 8)):
        assert np.bincount(labels[parts[name]]).tolist() == [size, size]
    first = {int(index) for label in (0, 1) for index in order[labels[order] == label][:40]}
    assert sorted(np.concatenate(list(parts.values()))) == sorted(first)


def test_a_part_of_cifar_keeps_its_bytes_and_no_image_is_in_two_splits(tmp_path, monkeypatch):
    script, random = load_script(), np.random.default_rng(0)
    monkeypatch.setattr(script, "CIFAR", {"train": {"train": (3, 2), "validation": (1, 2)}, "test": {"test": (1, 1)}})
    whole = {}
    for part, count in (("train", 60), ("test", 20)):
        images = [{"bytes": random.bytes(40), "path": None} for _ in range(count)]
        labels = [row % 10 for row in range(count)]
        whole |= {image["bytes"]: label for image, label in zip(images, labels, strict=True)}
        features = datasets.Features({"img": datasets.Image(decode=False), "label": datasets.Value("int64")})
        datasets.Dataset.from_dict({"img": images, "label": labels}, features=features).to_parquet(
            str(tmp_path / f"{part}.parquet")
        )
    script.write_cifar(tmp_path, tmp_path / "out")
    seen = set()
    for split, counts in (("train", (3, 2)), ("validation", (1, 2)), ("test", (1, 1))):
        rows = pq.read_table(tmp_path / "out" / f"{split}.parquet").to_pylist()
        own = {row["image"]["bytes"]: row["label"] for row in rows}
        assert own.items() <= whole.items() and not seen & own.keys() and len(own) == len(rows)
        assert np.bincount(list(own.values())).tolist() == [counts[0]] * 6 + [counts[1]] * 4
        seen |= own.keys()
