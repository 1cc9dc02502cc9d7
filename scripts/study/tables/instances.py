"""The study of instance-wise unlearning in numbers and tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hf_dtl.audit.text_table import TextTable
from study.engine import records_of
from study.tables import Average, column, mean, no_rows, over_seeds, page, relearned, side_by_side, tuning_table

MEASURED_ON = ("forget", "retain", "test")
TOGETHER = ", cumulative"
"""After the name of a variant that serves each request together with all earlier ones."""
Result = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class VariantRow:
    """One model on one request, over training seeds: the undisposed one, or what a variant left.

    Args:
        name: the variant at its strength, or undisposed, which has what stands before `lost` alone.
        accuracy: on forgotten, retained and test images, in 0..1.
        mia: AUC of telling forgotten from unseen images by their loss; 0.5 is guessing, and below it the forgotten
            images stand out as damaged.
        relearned: accuracy on the forgotten images after relearning from retained ones, under the strongest attack.
        lost: points of test accuracy lost against the undisposed model of the seed.
        steps: until everything was forgotten, or the most that were allowed; of several requests the sum.
        cpu: seconds of unlearning; of several requests with the making of adversaries.
        adversaries: CPU seconds of making them, where variants share them.
        served: share of the images that are misnamed when their own request is done.
        kept: share of the images of earlier requests that are misnamed after the last; for several requests.
        tried: accuracy on forget and validation images in tuning by strength, None where the training diverged; none
            where another request's tuning is used.
        diverged: training seeds on which it diverged.
    """

    name: str
    accuracy: dict[str, Average] = column({"forget": "D_f", "retain": "D_r", "test": "test"}, 3)
    mia: Average = column("MIA", 3)
    relearned: Average = column("relearned", 3)
    lost: Average = column("lost, points", 1)
    steps: Average = column("steps", 0)
    cpu: Average = column("CPU s", 1)
    adversaries: Average = column("CPU s of adversaries", 1)
    served: Average = column("forgotten when served", 3)
    kept: Average = column("earlier still forgotten", 3)
    tried: dict[float, dict[str, float] | None] = field(default_factory=dict)
    diverged: int = 0

    @property
    def heading(self) -> str:
        """The name as a table shows it."""
        return self.name if self.lost else f"({self.name})"


@dataclass(frozen=True)
class Requests:
    """All variants on requests of one size.

    Args:
        sizes: images of each request; several are served one after another.
        undisposed: the model before.
        rows: the variants.
        failed: why a variant has no row.
    """

    sizes: tuple[int, ...]
    undisposed: VariantRow
    rows: tuple[VariantRow, ...]
    failed: dict[str, str]

    @property
    def title(self) -> str:
        """The requests in words."""
        several = f"{len(self.sizes)} requests one after another of " if len(self.sizes) > 1 else ""
        return f"{several}k = {self.sizes[0]}"


def numbers_of(name: str, results: Sequence[Result]) -> dict[str, Any]:
    """Fields of a `VariantRow` that every model has, from the results of each seed's trial."""
    return {
        "name": name,
        "accuracy": {split: Average.of(one["accuracy"][split] for one in results) for split in MEASURED_ON},
        "mia": Average.of(one["mia"] for one in results),
        "relearned": Average.of(relearned(records_of(one)) for one in results),
    }


def row_of(
    name: str,
    results: Sequence[Result],
    undisposed: Sequence[Result],
    adversaries: Sequence[float | None],
    tried: dict[float, dict[str, float] | None],
) -> VariantRow:
    """Sum up a variant.

    Args:
        name: the variant at its strength.
        results: the results of each seed's trial.
        undisposed: those of the undisposed model, in the same order.
        adversaries: CPU seconds of making shared ones, likewise.
        tried: see `VariantRow`.
    """
    kept = [number for number, one in enumerate(results) if "diverged" not in one]
    own, old = [results[n] for n in kept], [undisposed[n] for n in kept]
    lost = [100 * (b["accuracy"]["test"] - o["accuracy"]["test"]) for o, b in zip(own, old, strict=True)]
    return VariantRow(
        **numbers_of(name, own),
        lost=Average.of(lost),
        steps=Average.of(float(sum(one["steps"])) for one in own),
        served=Average.of(mean([1 - shares[-1] for shares in one["after"]]) for one in own),
        kept=Average.of(mean([1 - share for share in one["after"][-1][:-1]]) for one in own),
        cpu=Average.of(one["cpu"] for one in own),
        adversaries=Average.of(adversaries[n] for n in kept),
        tried=tried,
        diverged=len(results) - len(own),
    )


def markdown(values: Result, requests: Sequence[Requests]) -> str:
    """Write the study as Markdown, from what `results.json` says and the numbers."""
    o, search = values["options"], values["adversaries"]
    parts = [
        f"A model of {values['parameters'] / 1e6:.2f} M parameters is trained once a seed for {o['train_epochs']:g} "
        f"passes over {values['images']['forget'] + values['images']['retain']:,} images. It is then to misname k of "
        "them that are drawn at random, with nothing but the model and these images (`instancewise`, goal "
        f"misclassify), in at most {o['steps']} steps of {o['forget_batch_size']} images and "
        f"{values['adversaries_a_step']} adversaries or collages, stopping when all are misnamed. Every number is "
        f"{over_seeds(values)}. The learning rate of every variant was chosen of several on a seed of its own "
        f"({values['tuning_seed']}), for k = {' and '.join(map(str, values['tuned_sizes']))}; another k takes over "
        "that of the nearest. Of those that forget everything it is the one with the best validation accuracy; where "
        "none does, the one that forgets most. "
        f"Adversaries: {search['examples']} an image, L2 distance {search['epsilon']:g}, {search['attack_steps']} "
        f"steps of {search['step_size']:g}.",
        "*D_f*, *D_r*, *test*: accuracy on forgotten images (0 is wanted), on retained training images, and on test "
        "images. *Lost*: points of test accuracy. *MIA*: AUC of telling forgotten from unseen images by their loss; "
        "0.5 is guessing, and far below it the forgotten images stand out as damaged. *Relearned*: accuracy on the "
        f"forgotten images after relearning from {o['budgets']} retained images a class, under the strongest of the "
        f"attacks {o['attacks']} on validation images (attack seeds {o['seeds']}); a model that never saw the images "
        "would name about as many of them as of test images.",
        "![Accuracy on forgotten images, test accuracy lost, and accuracy after relearning, by k](instances.png)",
    ]
    for one in requests:
        parts += [f"## {one.title}", table(one).markdown(), *no_rows(one.failed)]
    return page(values, f"Forgetting single images: {values['title']}", [*parts, "## Tuning", _tuning(requests)])


def table(requests: Requests) -> TextTable:
    """The variants side by side, and the undisposed model below them."""
    several = len(requests.sizes) > 1
    without = ("adversaries",) if several else ("served", "kept")
    notes = []
    if several:
        notes.append(
            "CPU s: with the adversaries, which every request needs anew. D_f: the images of all requests, after the "
            "last. The learning rate is the one of a single request of that size."
        )
    if any(row.name.endswith(TOGETHER) for row in requests.rows):
        notes.append(
            "Cumulative: each request is served together with all earlier ones, on the model before the first; else "
            "alone, on the model that the one before left."
        )
    return side_by_side(requests.title, (*requests.rows, requests.undisposed), notes, first="variant", without=without)


def _tuning(requests: Sequence[Requests]) -> str:
    tried = [
        (
            (one.title, row.name),
            {s: None if a is None else f"{a['forget']:.3f} / {a['validation']:.3f}" for s, a in row.tried.items()},
        )
        for one in requests
        for row in one.rows
    ]
    columns = ("request", "chosen", "accuracy on D_f / validation images of the tuning seed, by learning rate")
    return tuning_table(tried, columns).markdown()
