"""What makes a report's number doubtful: flags, each with what to do; docs/flags.md has a paragraph on every one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hf_dtl.audit.attacks.registry import find_attack, is_attack
from hf_dtl.audit.axis_leakage import PLAccuracy, complete_points, pl_accuracies, ratio_of
from hf_dtl.audit.suites import IMAGES

if TYPE_CHECKING:
    from hf_dtl.audit.report import LeakageReport

WIDE = 0.5
"""Width of bounds from which on a number says little."""
KEPT = 0.9
"""Share of what the old head knew above guessing, from which on it counts as kept."""


@dataclass(frozen=True)
class Flag:
    """A reason for doubt: its name, by which docs/flags.md has it, what was seen, and what to do."""

    name: str
    seen: str
    remedy: str

    def __str__(self) -> str:
        return f"Flag {self.name}: {self.seen}. {self.remedy}"


def flags(report: LeakageReport) -> tuple[Flag, ...]:
    """The flags of a report on its source subset, in the order of docs/flags.md."""
    if "source_subset" not in report.axes:
        return ()
    return tuple(_flags(report))


def _flags(report: LeakageReport) -> Iterator[Flag]:
    ratio, found = report.headline, report.axes["source_subset"]
    if ratio.gate == "weights do not matter":
        yield Flag("weights", str(ratio.undefined), "Audit a harder task, or with fewer images a class.")
    if ratio.gate == "unresolved":
        yield Flag("unresolved", str(ratio.undefined), "Give more draws (--seeds), or take standard-1.")
    if ratio.low is not None and ratio.high is not None and ratio.high - ratio.low > WIDE:
        width = ratio.high - ratio.low
        yield Flag("wide", f"the bounds are {width:.2f} apart", "Give more draws (--seeds), or take standard-1.")
    before, after = report.source_accuracy["undisposed"], report.source_accuracy["scrubbed"]
    if before is not None and after is not None and not report.part and report.word != "leaks":
        guess = report.chance.get(found.datasets[0], 0.0)
        if before > guess and after - guess >= KEPT * (before - guess):
            yield Flag(
                "old head", f"the source task's old head is right on {after:.3f} of its images, once on {before:.3f}",
                "The source task was not removed, whatever attacks reach without that head.",
            )  # fmt: skip
    single = pl_accuracies([r for r in report.piggyback if not _of_others(r.attack)], "source_subset")
    strongest = [point for point in single if point.model == "scrubbed"]
    yield from _edges(report, strongest)
    probes = [point for point in strongest if not (_trains(point.attack) or _ignores_weights(point.attack))]
    if probes and any(_trains(attack) for attack in found.by_attack):
        where = ", ".join(f"{point.attack} at {point.budget}" for point in probes)
        yield Flag(
            "probe", f"frozen weights beat fine-tuning ({where})",
            "What is left can be read without training: the features kept it. Longer fine-tuning may get more.",
        )  # fmt: skip
    failed = [f"{n} of {attack} on {model}" for (axis, attack, model), n in report.diverged.items()
              if axis == "source_subset"]  # fmt: skip
    if failed:
        yield Flag("diverged", f"attacks failed: {', '.join(failed)}", "Add smaller learning rates.")
    few = [f"{count} {name}" for name, count in _judged(report.settings.get("images")).items() if count < IMAGES]
    if few:
        yield Flag(
            "images", f"few images judge the attacks: {' and '.join(few)}, {IMAGES} are wanted",
            "Give more held-out images; the numbers are noisier than the bounds say.",
        )  # fmt: skip
    yield from _choice(report)


def _trains(attack: str) -> bool:
    """Whether the attack trains the network; of another package's attack that is not here, that is believed."""
    return not is_attack(attack) or find_attack(attack).whole_network


def _of_others(attack: str) -> bool:
    return is_attack(attack) and find_attack(attack).of_others


def _ignores_weights(attack: str) -> bool:
    return is_attack(attack) and find_attack(attack).ignores_model


def _edges(report: LeakageReport, points: Any) -> Iterator[Flag]:
    """The winning attack took the longest effort or a rate at the end of the grid in most draws."""
    told = report.settings.get("audit")
    seen = []
    for point in points:
        place = ("scrubbed", "source_subset", point.dataset, point.budget, point.attack)
        runs = [r for r in report.piggyback if (r.model, r.axis, r.dataset, r.budget, r.attack) == place]
        half = len(runs) / 2
        if sum(bool(r.curve) and r.effort == r.curve[-1][0] for r in runs) > half:
            seen.append(f"{point.attack} at {point.budget} with the most steps")
        name = "lora_learning_rates" if point.attack.startswith("lora") else "full_learning_rates"
        rates = told.get(name) if isinstance(told, Mapping) and _trains(point.attack) else None
        if isinstance(rates, (list, tuple)) and len(rates) > 1:
            ends = {min(rates): "smallest", max(rates): "largest"}
            seen += [
                f"{point.attack} at {point.budget} with the {end} learning rate"
                for rate, end in ends.items()
                if sum(r.learning_rate == rate for r in runs) > half
            ]
    if seen:
        yield Flag("edge", f"an end of the grid won ({'; '.join(seen)})", "More steps or further rates may get more.")


def _judged(images: Any) -> dict[str, int]:
    """Validation and test images of the attacked task, where the report tells them."""
    if isinstance(images, Mapping) and isinstance(images.get("source"), Mapping):
        images = images["source"]
    if not isinstance(images, Mapping):
        return {}
    return {name: images[name] for name in ("validation", "test") if isinstance(images.get(name), int)}


def _choice(report: LeakageReport) -> Iterator[Flag]:
    """Another attack within noise on validation gives another word, or moves the number by .1."""
    now = report.headline
    if now.mean is None:
        return
    images = _judged(report.settings.get("images")).get("validation", IMAGES)
    own = complete_points(report.piggyback, "source_subset")
    near = [[point for point in points if point.validation_accuracy >= _within(points, images)] for points in own]
    moved = [
        ratio_of([pick(points, key=lambda point: point.mean) for points in near]) for pick in (min, max)
    ]  # for all models alike
    ends = [ratio.mean for ratio in moved if ratio.mean is not None]
    others = {ratio.word for ratio in moved} - {ratio_of(pl_accuracies(report.piggyback, "source_subset")).word}
    if others or any(abs(end - now.mean) > 0.1 for end in ends) or len(ends) < len(moved):
        said = " and ".join("no number" if r.mean is None else f"{r.mean:.3f} ({r.word or 'no word'})" for r in moved)
        yield Flag(
            "choice", f"attacks that validation cannot tell apart give {said}",
            "Give more validation images; until then read the number as that range.",
        )  # fmt: skip


def _within(points: list[PLAccuracy], images: int) -> float:
    """One standard error below the best validation accuracy; draws share the validation images."""
    best = max(point.validation_accuracy for point in points)
    return best - (best * (1 - best) / images) ** 0.5
