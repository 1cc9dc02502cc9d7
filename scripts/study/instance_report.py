"""The study of instance-wise unlearning as tables, as a file of results, and as a picture."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from hf_dtl.audit.cells import Cells
from hf_dtl.audit.plots.look import COLOURS, GUIDE, MARKERS, note, plain, save
from hf_dtl.audit.report import without_folders
from study.instance_cells import MEASURED_ON
from study.instance_settings import ADVERSARIES_A_STEP, RATES
from study.settings import without_option
from study.summary import Average
from study.unlearn_report import about, ending, number
from study.unlearn_settings import UNLEARN_SETTINGS

SCHEMA_VERSION = 1
TOGETHER = ", cumulative"
"""After the name of a variant that serves each request together with all earlier ones."""


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """One model on one request, over training seeds.

    Args:
        name: the variant at its strength, or undisposed.
        accuracy: on forgotten, retained and test images, in 0..1.
        mia: AUC of telling forgotten from unseen images by their loss; 0.5 is guessing, and below it the forgotten
            images stand out as damaged.
        relearned: accuracy on the forgotten images after relearning from retained ones, under the strongest attack.
    """

    name: str
    accuracy: dict[str, Average]
    mia: Average
    relearned: Average


@dataclass(frozen=True, kw_only=True)
class Row(Numbers):
    """One variant on one request, over training seeds.

    Args:
        lost: points of test accuracy lost against the undisposed model of the seed.
        steps: until everything was forgotten, or the most that were allowed; of several requests the sum.
        served: share of the images that are misnamed when their own request is done.
        kept: share of the images of earlier requests that are misnamed after the last; for several requests.
        cpu: seconds of unlearning; of several requests with the making of adversaries.
        adversaries: CPU seconds of making them, where variants share them.
        tried: accuracy on forget and validation images in tuning by strength, None where the training diverged; none
            where another request's tuning is used.
        diverged: training seeds on which it diverged.
    """

    lost: Average
    steps: Average
    served: Average
    kept: Average
    cpu: Average
    adversaries: Average
    tried: dict[float, dict[str, float] | None]
    diverged: int


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
    undisposed: Numbers
    rows: tuple[Row, ...]
    failed: dict[str, str]

    @property
    def title(self) -> str:
        """The requests in words."""
        several = f"{len(self.sizes)} requests one after another of " if len(self.sizes) > 1 else ""
        return f"{several}k = {self.sizes[0]}"


def numbers_of(name: str, found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Fields of `Numbers`, from the results of each seed's cell."""
    attacks = found[0]["relearned"] if found else {}
    by_attack = [Average.of(one["relearned"][attack] for one in found) for attack in attacks]
    return {
        "name": name,
        "accuracy": {split: Average.of(one["accuracy"][split] for one in found) for split in MEASURED_ON},
        "mia": Average.of(one["mia"] for one in found),
        "relearned": max(by_attack, key=lambda one: one.mean or 0.0, default=Average.of([])),
    }


def row_of(
    name: str,
    found: Sequence[Mapping[str, Any]],
    before: Sequence[Mapping[str, Any]],
    adversaries: Sequence[float | None],
    tried: dict[float, dict[str, float] | None],
) -> Row:
    """Sum up a variant.

    Args:
        name: the variant at its strength.
        found: the results of each seed's cell.
        before: those of the undisposed model, in the same order.
        adversaries: CPU seconds of making shared ones, likewise.
        tried: see `Row`.
    """
    kept = [number for number, one in enumerate(found) if "diverged" not in one]
    own, old = [found[n] for n in kept], [before[n] for n in kept]
    earlier = [_mean([1 - share for share in one["after"][-1][:-1]]) for one in own]
    lost = [100 * (b["accuracy"]["test"] - o["accuracy"]["test"]) for o, b in zip(own, old, strict=True)]
    return Row(
        **numbers_of(name, own),
        lost=Average.of(lost),
        steps=Average.of(float(sum(one["steps"])) for one in own),
        served=Average.of(_mean([1 - shares[-1] for shares in one["after"]]) for one in own),
        kept=Average.of(earlier),
        cpu=Average.of(one["cpu"] for one in own),
        adversaries=Average.of(adversaries[n] for n in kept),
        tried=tried,
        diverged=len(found) - len(own),
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def results(study: Any, found: Sequence[Requests], trained: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that is known of the study, as JSON values; folders of local paths are cut off.

    Args:
        study: see `study.instance_run.InstanceStudy`.
        found: the numbers.
        trained: result of a cell that trains.
    """
    options = study.options
    values = {
        "schema_version": SCHEMA_VERSION,
        **about(options, "study_instances", UNLEARN_SETTINGS[options.setting].title, trained),
        "images": trained["images"],
        "seeds": study.seeds,
        "tuned_sizes": study.tuned,
        "adversaries": {name: getattr(options, name) for name in ("examples", "epsilon", "step_size", "attack_steps")},
        "adversaries_a_step": ADVERSARIES_A_STEP,
        "options": study.shared,
        "requests": [asdict(one) for one in found],
    }
    return json.loads(json.dumps(without_folders(values)))


def markdown(values: Mapping[str, Any], found: Sequence[Requests]) -> str:
    """Write the study as Markdown.

    Args:
        values: see `results`.
        found: the numbers.
    """
    o, made, seeds = values["options"], values["adversaries"], values["seeds"]
    parts = [
        f"# Forgetting single images: {values['title']}",
        f"A model of {values['parameters'] / 1e6:.2f} M parameters is trained once a seed for {o['train_epochs']:g} "
        f"passes over {values['images']['forget'] + values['images']['retain']:,} images. It is then to misname k of "
        "them that are drawn at random, with nothing but the model and these images (`instancewise`, goal "
        f"misclassify), in at most {o['unlearn_steps']} steps of {o['unlearn_batch_size']} images and "
        f"{values['adversaries_a_step']} adversaries or collages, stopping when all are misnamed. Every number is a "
        f"mean ± deviation over {len(seeds)} training seeds ({', '.join(map(str, seeds))}). The learning rate of "
        f"every variant was chosen of several on a seed of its own ({values['tuning_seed']}), for k = "
        f"{' and '.join(map(str, values['tuned_sizes']))}; another k takes over that of the nearest. "
        "Of those that forget everything it is the one with the best validation accuracy; where none does, the one "
        "that forgets most. "
        f"Adversaries: {made['examples']} an image, L2 distance {made['epsilon']:g}, {made['attack_steps']} steps of "
        f"{made['step_size']:g}.",
        "*D_f*, *D_r*, *test*: accuracy on forgotten images (0 is wanted), on retained training images, and on test "
        "images. *Lost*: points of test accuracy. *MIA*: AUC of telling forgotten from unseen images by their loss; "
        "0.5 is guessing, and far below it the forgotten images stand out as damaged. *Relearned*: accuracy on the "
        f"forgotten images after relearning from {o['budgets']} retained images a class, under the strongest of the "
        f"attacks {o['attacks']} (attack seeds {o['audit_seeds']}); a model that never saw the images would name "
        "about as many of them as of test images.",
        "![Accuracy on forgotten images, test accuracy lost, and accuracy after relearning, by k](instances.png)",
    ]
    for one in found:
        parts += [f"## {one.title}", cells(one).markdown()]
        parts += [f"`{variant}` has no row: {reason}." for variant, reason in one.failed.items()]
    parts += [
        "## Tuning",
        _tuning(found).markdown(),
        *ending(values),
    ]
    return "\n\n".join(parts) + "\n"


def cells(found: Requests) -> Cells:
    """The variants side by side, and the undisposed model below them."""
    several = len(found.sizes) > 1
    rows = []
    for row in found.rows:
        own = [number(row.lost, 1), number(row.steps, 0), number(row.cpu, 1)]
        own += [number(row.served, 3), number(row.kept, 3)] if several else [number(row.adversaries, 1)]
        rows.append((row.name, *_common(row), *own))
    rows.append(("(undisposed)", *_common(found.undisposed), *[""] * (5 if several else 4)))
    columns = (
        *("variant", "D_f", "D_r", "test", "MIA", "relearned", "lost, points", "steps", "CPU s"),
        *(("forgotten when served", "earlier still forgotten") if several else ("CPU s of adversaries",)),
    )
    notes = []
    if several:
        notes.append(
            "CPU s: with the adversaries, which every request needs anew. D_f: the images of all requests, after the "
            "last. The learning rate is the one of a single request of that size."
        )
    if any(row.name.endswith(TOGETHER) for row in found.rows):
        notes.append(
            "Cumulative: each request is served together with all earlier ones, on the model before the first; else "
            "alone, on the model that the one before left."
        )
    diverged = [f"{row.name} on {row.diverged} seed(s)" for row in found.rows if row.diverged]
    if diverged:
        notes.append(f"Diverged, so without values there: {', '.join(diverged)}.")
    return Cells(found.title, columns, tuple(rows), tuple(notes))


def _common(row: Numbers) -> tuple[str, ...]:
    accuracy = (number(row.accuracy[split], 3) for split in MEASURED_ON)
    return (*accuracy, number(row.mia, 3), number(row.relearned, 3))


def _tuning(found: Sequence[Requests]) -> Cells:
    rows = []
    for one in found:
        for row in one.rows:
            tried = ", ".join(
                f"{strength:g}: " + ("diverged" if a is None else f"{a['forget']:.3f} / {a['validation']:.3f}")
                for strength, a in row.tried.items()
            )
            if tried:
                rows.append((one.title, row.name, tried))
    columns = ("request", "chosen", "accuracy on D_f / validation images of the tuning seed, by learning rate")
    return Cells("Tuning", columns, tuple(rows))


def plot_instances(found: Sequence[Requests], path: str | Path, title: str) -> list[Path]:
    """Draw a line a variant over the size of single requests: D_f before and after relearning, and what is lost.

    Bars are deviations over training seeds; the dotted line is the undisposed model. A hollow marker stands where not
    everything was forgotten.

    Args:
        found: the numbers.
        path: of the picture without its ending; `.png` and `.svg` are added.
        title: of the picture.

    Returns:
        The files.
    """
    single = sorted((one for one in found if len(one.sizes) == 1), key=lambda one: one.sizes)
    figure = Figure(figsize=(14, 5.4), layout="constrained")
    figure.suptitle(title, fontsize=12)
    panels = figure.subplots(1, 3)
    names = list(dict.fromkeys(_variant(row) for one in single for row in one.rows))
    shown = {
        "accuracy on D_f, 0 is wanted": lambda row: row.accuracy["forget"],
        "test accuracy lost, points": lambda row: row.lost,
        "accuracy on D_f after relearning": lambda row: row.relearned,
    }
    for panel, label in zip(panels, shown, strict=True):
        plain(panel)
        panel.grid(color="0.93", linewidth=0.8)
        panel.set_xscale("log", base=2)
        panel.set_xticks([one.sizes[0] for one in single], [str(one.sizes[0]) for one in single])
        panel.minorticks_off()
        panel.set_xlabel("images to forget, k")
        panel.set_ylabel(label)
    handles = []
    for position, name in enumerate(names):
        look = {"color": COLOURS[position % len(COLOURS)], "marker": MARKERS[position % len(MARKERS)]}
        look["linestyle"] = "-" if position < len(COLOURS) else "--"
        chosen = [(one.sizes[0], row) for one in single for row in one.rows if _variant(row) == name]
        chosen = [(k, row) for k, row in chosen if row.lost.mean is not None]
        side = 2 ** (0.03 * (position - len(names) / 2))  # side by side
        for panel, value in zip(panels, shown.values(), strict=True):
            points = [(k * side, value(row)) for k, row in chosen]
            line = panel.errorbar(
                [x for x, _ in points], [y.mean for _, y in points], [y.deviation or 0 for _, y in points], capsize=3,
                linewidth=1.3, elinewidth=1, markersize=6, **look,
            )  # fmt: skip
            left = [point for point, (_, row) in zip(points, chosen, strict=True) if row.accuracy["forget"].mean]
            hollow = {**look, "linestyle": "none", "markerfacecolor": "white", "zorder": 3}
            panel.plot([x for x, _ in left], [y.mean for _, y in left], markersize=6, **hollow)
        handles.append(line)
    panels[1].axhline(0, color=GUIDE, linewidth=1, linestyle=":")
    sizes = [one.sizes[0] for one in single]
    panels[0].plot(sizes, [one.undisposed.accuracy["forget"].mean for one in single], color=GUIDE, linestyle=":")
    before = [one.undisposed.relearned.mean for one in single]
    handles += panels[2].plot(sizes, before, color=GUIDE, linestyle=":")
    for panel in (panels[0], panels[2]):  # a bar may leave what an accuracy can be
        low, high = panel.get_ylim()
        panel.set_ylim(max(low, -0.03), min(high, 1.05))
    handles.append(note("hollow: not all forgotten"))
    labels = [*names, "undisposed", "hollow: not all forgotten"]
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return save(figure, path, title)


def _variant(row: Row) -> str:
    """The variant without its strength, which differs from k to k."""
    return without_option(row.name, RATES.option)
