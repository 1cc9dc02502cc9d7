"""The whole way of a real pre-trained model, by the commands of a user, and what each of them takes.

    python scripts/real_model.py --model ../shared/models/dinov2-small-focus --data ../shared/data/cifar10

A head for some classes is fitted to the frozen backbone; then the classifier forgets one of them and is attacked by
quick-1, and the result is published (dry), verified, and opened and probed as the page does. Further options are those
of `hf-dtl forget`; a repeated call goes on where the last one ended. The defaults ask for little: a first look at
few images.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets
import numpy as np
import torch

from hf_dtl.cli.main import main as hf_dtl
from hf_dtl.data import load_images, load_task
from hf_dtl.data.columns import class_ids, find_label_column
from hf_dtl.models.heads import MultiHeadClassifier
from hf_dtl.models.loading import load_classifier, processor_of
from hf_dtl.trainers.training import fit_head

SPACE = Path(__file__).resolve().parents[1] / "space"


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print what a part of the way took."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"== {what}: {wall:.1f} s, of them {cpu:.1f} s of one core", flush=True)


def few_images(data: Path, classes: list[str], counts: dict[str, int], folder: Path) -> None:
    """Write the first images of each class, by split, to Parquet files as a user has them."""
    for split, count in counts.items():
        whole = datasets.load_dataset("parquet", data_files=str(data / f"{split}.parquet"), split="train")
        column = find_label_column(whole.features, None, str(data))
        names, ids = class_ids({split: whole}, column, str(data))
        rows = [np.flatnonzero(ids[split] == names.index(name))[:count] for name in classes]
        whole.select(np.sort(np.concatenate(rows))).to_parquet(folder / f"{split}.parquet")


def make_classifier(model: Path, data: str, size: int, folder: Path) -> None:
    """Fit a head to a frozen backbone, and save both as a classifier with its processor."""
    task, backbone = load_task(data), load_classifier(model, new_head=True)
    processor = processor_of(model, backbone, size=size)
    split = MultiHeadClassifier(backbone, task="old")
    split.add_head("own", task.labels)
    images = load_images(task.train, processor, num_channels=3)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    fit_head(split, "own", images, device=device)
    split.cpu().export("own").save_pretrained(folder)
    processor.save_pretrained(folder)


def verify(model: Path, data: str, folder: Path) -> None:
    """Verify what was made; few images and a first look are not enough for a report to be verified, which is said."""
    try:
        hf_dtl(["verify", str(model), "--retain", data, "--output_dir", str(folder)])
    except SystemExit as end:
        if end.code != 1:
            raise


def open_in_the_page(run: Path, data: str) -> None:
    """Load the pair as the page does, and probe it with an image of each class."""
    sys.path.insert(0, str(SPACE))
    from page.pairs import Pairs
    from page.probe import probe

    pair = Pairs({"run": run}).get("run")
    task = load_task(data)
    labels = list(task.test["label"])
    for label, name in enumerate(task.labels):
        image = task.test[labels.index(label)]["image"].convert("RGB")
        said = {which: probe(pair, which, image).predictions[0] for which in pair.models}
        print(f"{name}: " + ", ".join(f"{which} says {top} ({p:.2f})" for which, (top, p) in said.items()))


def main(words: list[str] | None = None) -> None:
    """Go the whole way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of a backbone with or without a head")
    parser.add_argument("--data", type=Path, required=True, help="folder of train.parquet and test.parquet")
    parser.add_argument("--classes", default="cat,dog,ship", help="of the data, separated by commas")
    parser.add_argument("--forget", default="cat", help="one of them")
    parser.add_argument("--image_size", type=int, default=112, help="pixels")
    parser.add_argument("--train_images", type=int, default=100, help="training images a class")
    parser.add_argument("--test_images", type=int, default=30, help="test images a class")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/real_model"))
    given, further = parser.parse_known_args(words)
    classifier, images, run = (given.output_dir / name for name in ("classifier", "data", "run"))
    data = f"{images}[{given.classes}]"
    if not (classifier / "config.json").is_file():
        images.mkdir(parents=True, exist_ok=True)
        with timed("data and head"):
            counts = {"train": given.train_images, "test": given.test_images}
            few_images(given.data, given.classes.split(","), counts, images)
            make_classifier(given.model, data, given.image_size, classifier)
    suite = [] if "--attacks" in further else ["--suite", "quick-1"]
    forget = ["--retain", data, "--forget", f"class={given.forget}", *suite, "--output_dir", str(run)]
    with timed("forget and audit"):
        hf_dtl(["forget", str(classifier), *forget, *further])
    with timed("publish, dry"):
        hf_dtl(["publish", str(run), "user/scrubbed", "--dry_run"])
    with timed("verify"):
        verify(run / "scrubbed", data, given.output_dir / "verify")
    with timed("open in the page and probe"):
        open_in_the_page(run, data)


if __name__ == "__main__":
    main()
