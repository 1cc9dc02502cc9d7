"""The comparison of unlearning methods as tables, as a file of results, and as a picture."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from hf_dtl.audit.cells import Cells
from hf_dtl.audit.plots.look import COLOURS, GUIDE, MARKERS, plain, save
from hf_dtl.audit.report import library_version, without_folders
from study.summary import Average
from study.unlearn_cells import Outcome
from study.unlearn_settings import UNLEARN_SETTINGS

SCHEMA_VERSION = 1
GOAL_GAP, GOAL_COST = 0.02, 0.05
"""The goal: at most so far from the retrained model on average, in at most that share of retraining's time."""
SPLITS = ("forget", "retain", "test")


@dataclass(frozen=True, kw_only=True)
class Reference:
    """One model on one request, over training seeds: the one before, or the one that was trained again.

    Args:
        name: the model's role.
        accuracy: on forget, retain and test images, in 0..1.
        gap: mean distance of these to the retrained model's.
        mia: AUC of telling forgotten from unseen images by their loss; 0.5 is guessing.
        learned: PL accuracy under the strongest attack, averaged over budgets.
        new_head: the same under the strongest attack with a new head.
        cpu: seconds of its training.
        memory: MiB that this took beyond what was there before.
    """

    name: str
    accuracy: dict[str, Average]
    gap: Average
    mia: Average
    learned: Average
    new_head: Average
    cpu: Average
    memory: Average


@dataclass(frozen=True, kw_only=True)
class Row(Reference):
    """One method on one request, over training seeds.

    Args:
        name: the method at its strength, as a command line names it; other fields as of `Reference`.
        leakage: over the retrained model.
        cost: CPU seconds over those of retraining.
        tried: average gap in tuning, by strength; None where the training diverged.
        diverged: training seeds on which it diverged.
    """

    leakage: Average
    cost: Average
    tried: dict[float, float | None]
    diverged: int

    @property
    def goal(self) -> bool | None:
        """Whether it comes close enough in little enough time on the mean; None when that is not known."""
        if self.diverged or self.gap.mean is None or self.cost.mean is None:
            return None
        return self.gap.mean <= GOAL_GAP and self.cost.mean <= GOAL_COST


def method_row(name: str, found: Sequence[Outcome | None], tried: dict[float, float | None]) -> Row:
    """Sum up the outcomes of a method's training seeds, None where it diverged."""
    kept = [one for one in found if one is not None]
    return Row(
        name=name,
        **_numbers("scrubbed", kept, [one.unlearning.cost["scrubbed"] for one in kept]),
        leakage=Average.of(one.leakage.over_retrained.mean for one in kept),
        cost=Average.of(one.unlearning.relative_cost for one in kept),
        tried=tried,
        diverged=len(found) - len(kept),
    )


def reference_row(name: str, found: Sequence[Outcome], costs: Sequence[dict[str, float] | None]) -> Reference:
    """Sum up a reference over training seeds, from the outcomes of any method and the costs of its own training."""
    return Reference(name=name, **_numbers(name, found, costs))


def _numbers(model: str, found: Sequence[Outcome], costs: Sequence[dict[str, float] | None]) -> dict[str, Any]:
    return {
        "accuracy": {s: Average.of(one.unlearning.accuracy[s][model] for one in found) for s in SPLITS},
        "gap": Average.of(one.unlearning.average_gap(model) for one in found),
        "mia": Average.of(_mia(one, model) for one in found),
        "learned": Average.of(_learned(one, model) for one in found),
        "new_head": Average.of(_new_head(one, model) for one in found),
        "cpu": Average.of(cost and cost["cpu"] for cost in costs),
        "memory": Average.of(cost and cost.get("peak_mib") for cost in costs),
    }


@dataclass(frozen=True)
class Comparison:
    """All methods on one request."""

    request: str
    images: dict[str, int]
    seeds: tuple[int, ...]
    references: tuple[Reference, ...]
    rows: tuple[Row, ...]
    failed: dict[str, str]


def _mia(found: Outcome, model: str) -> float | None:
    auc = [row["auc"] for row in found.membership if (row["model"], row["attack"]) == (model, "loss")]
    return auc[-1] if auc else None


def _learned(found: Outcome, model: str) -> float | None:
    points = [point.mean for point in found.leakage.pl_accuracy if point.model == model]
    return sum(points) / len(points) if points else None


def _new_head(found: Outcome, model: str) -> float | None:
    own = {attack: by for attack, by in found.leakage.accuracy_by_attack.items() if not attack.endswith("_published")}
    return max((by[model].mean for by in own.values() if model in by), default=None)


def results(
    options: Any, shared: dict[str, Any], found: Sequence[Comparison], trained: dict[str, Any]
) -> dict[str, Any]:
    """Everything that is known of the comparison, as JSON values; folders of local paths are cut off."""
    values = {
        "schema_version": SCHEMA_VERSION,
        **about(options, "compare_unlearning", UNLEARN_SETTINGS[options.setting].title, trained),
        "goal": {"average_gap": GOAL_GAP, "cost": GOAL_COST},
        "options": shared,
        "comparisons": [{**asdict(one), "goal": {row.name: row.goal for row in one.rows}} for one in found],
    }
    return json.loads(json.dumps(without_folders(values)))


def about(options: Any, script: str, title: str, trained: Mapping[str, Any]) -> dict[str, Any]:
    """What the results of a study begin with: its setting, the command that repeats it, when and where it was run.

    Args:
        options: of the study.
        script: its name.
        title: of the setting.
        trained: result of a cell that trains.
    """
    return {
        "library_version": library_version(),
        "setting": options.setting,
        "title": title,
        "command": command(options, script),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": trained["machine"],
        "parameters": trained["parameters"],
        "tuning_seed": options.tuning_seed,
    }


def command(options: Any, script: str) -> str:
    """The command that repeats a study, with the options that differ from their defaults."""
    words = ["python", f"scripts/{script}.py", "--setting", options.setting]
    for own in fields(options):
        value = getattr(options, own.name)
        if own.name not in ("setting", "output_dir") and value != own.default:
            words += [f"--{own.name}", str(value)]
    return without_folders(shlex.join(words))


def markdown(values: dict[str, Any], found: Sequence[Comparison]) -> str:
    """Write the comparison as Markdown.

    Args:
        values: see `results`.
        found: the numbers.
    """
    o, seeds = values["options"], found[0].seeds
    parts = [
        f"# Unlearning: {values['title']}",
        f"A model of {values['parameters'] / 1e6:.2f} M parameters is trained for {o['train_epochs']:g} passes, and "
        "again from other random weights without what is to be forgotten (*retrained*). Each method then unlearns in "
        f"at most {o['unlearn_steps']} steps. Every number is a mean ± deviation over {len(seeds)} training seeds "
        f"({', '.join(map(str, seeds))}). The strength of every method was chosen on a seed of its own "
        f"({values['tuning_seed']}), by the average gap on forget, retain and validation images. *Gap*: mean distance "
        "of forget, retain and test accuracy to the retrained model's, in points. *MIA*: AUC of telling forgotten "
        "from unseen images by their loss; the retrained model's is the goal. *PL*: accuracy after relearning from "
        f"{o['budgets']} images a class (attacks {o['attacks']}, attack seeds {o['audit_seeds']}), under the "
        "strongest one and under the strongest with a new head. *Leakage* is over the retrained model: 1 leaks all, "
        "0 nothing.",
        "![Gap to the retrained model and leakage of every method](gap.png)",
    ]
    for one in found:
        counts = f"{one.images['forget']:,} images forgotten, {one.images['retain']:,} retained"
        parts += [f"## {one.request}", f"{counts}.", cells(one).markdown(), _tuning(one).markdown()]
        parts += [f"`{method}` has no row: {reason}." for method, reason in one.failed.items()]
    parts += ending(values)
    return "\n\n".join(parts) + "\n"


def ending(values: Mapping[str, Any]) -> list[str]:
    """What every study's Markdown ends with: how to repeat it, and what it was made with."""
    machine = values["machine"]
    versions = ", ".join(f"{name} {machine[name]}" for name in ("python", "torch", "transformers"))
    return [
        "## To repeat it",
        f"```bash\n{values['command']}\n```",
        f"Made on {values['date']} with hf_dtl {values['library_version']} on {machine['device']}, "
        f"{machine['threads']} thread(s) a process, {versions}. All options and values are in `results.json`.",
    ]


def cells(found: Comparison) -> Cells:
    """The methods side by side, and the references as rows below them."""
    rows = []
    for row in found.rows:
        mark = " ✓" if row.goal else ""
        end = (number(row.leakage, 2), number(row.cpu, 1), _percent(row.cost), number(row.memory, 0))
        rows.append((row.name + mark, *_common(row), *end))
    for reference in found.references:
        end = ("", number(reference.cpu, 1), "", number(reference.memory, 0))
        rows.append((f"({reference.name})", *_common(reference), *end))
    columns = (
        *("method", "forget", "retain", "test", "gap, points", "MIA", "PL", "PL, new head", "leakage"),
        *("CPU s", "of retraining", "memory, MiB"),
    )
    goal = f"✓: gap at most {100 * GOAL_GAP:g} points in at most {100 * GOAL_COST:g} % of retraining's CPU time."
    memory = "Memory: beyond what was there before; on a CPU memory that was freed earlier is used again."
    notes = [goal, memory]
    diverged = [f"{row.name} on {row.diverged} seed(s)" for row in found.rows if row.diverged]
    if diverged:
        notes.append(f"Diverged, so without values there: {', '.join(diverged)}.")
    undefined = [f"{row.name} on {row.leakage.missing}" for row in found.rows if row.leakage.missing]
    if undefined:
        notes.append(
            "Leakage undefined, because the undisposed model is relearned no better than the retrained one beyond "
            f"noise (number of seeds; the mean is over the others): {', '.join(undefined)}."
        )
    return Cells(f"Forget {found.request}", columns, tuple(rows), tuple(notes))


def _common(row: Reference) -> tuple[str, ...]:
    accuracy = [number(row.accuracy[split], 3) for split in SPLITS]
    return (
        *accuracy,
        number(row.gap, 1, 100),
        number(row.mia, 3),
        *(number(a, 3) for a in (row.learned, row.new_head)),
    )


def _tuning(found: Comparison) -> Cells:
    rows = []
    for row in found.rows:
        tried = ", ".join(f"{s:g}: {'diverged' if g is None else f'{100 * g:.1f}'}" for s, g in row.tried.items())
        rows.append((row.name, tried))
    return Cells("Tuning", ("chosen", "average gap in points on the tuning seed, by strength"), tuple(rows))


def number(found: Average, digits: int, factor: float = 1.0) -> str:
    """Write a number with its deviation, a dash where there is none."""
    if found.mean is None:
        return "–"
    text = f"{factor * found.mean:.{digits}f}"
    return text if found.deviation is None else f"{text} ± {factor * found.deviation:.{digits}f}"


def _percent(found: Average) -> str:
    return "–" if found.mean is None else f"{100 * found.mean:.1f} %"


def plot_gap(found: Sequence[Comparison], path: str | Path, title: str) -> list[Path]:
    """Draw every method at its gap to the retrained model and its leakage after relearning, one panel a request.

    Bars are deviations over training seeds. A method whose leakage is undefined stands below the panel's zero line.

    Args:
        found: the numbers.
        path: of the picture without its ending; `.png` and `.svg` are added.
        title: of the picture.

    Returns:
        The files.
    """
    figure = Figure(figsize=(1.2 + 4.4 * len(found), 5.2), layout="constrained")
    figure.suptitle(title, fontsize=12)
    handles: dict[str, Any] = {}
    for panel, one in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        plain(panel)
        panel.grid(color="0.93", linewidth=0.8)
        panel.axvspan(0, 100 * GOAL_GAP, color="#009E73", alpha=0.1, zorder=0)
        for height in (0, 1):
            panel.axhline(height, color=GUIDE, linewidth=1, linestyle=":", zorder=1)
        for number, row in enumerate(one.rows):
            if row.gap.mean is None:
                continue
            colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
            height = row.leakage.mean
            place = 100 * row.gap.mean, -0.15 if height is None else height
            panel.errorbar(*place, xerr=100 * (row.gap.deviation or 0), yerr=row.leakage.deviation or 0, color=colour,
                           elinewidth=1.1, capsize=3)  # fmt: skip
            (point,) = panel.plot(*place, color=colour, marker=marker, markersize=8, linestyle="none",
                                  markerfacecolor="none" if height is None else colour)  # fmt: skip
            handles.setdefault(row.name.split(":")[0], point)
        panel.set_xlim(left=0)
        panel.set_title(f"forget {one.request}", fontsize=10)
        panel.set_xlabel("average gap to the retrained model, points")
        panel.set_ylabel("leakage over the retrained model")
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return save(figure, path, title)
