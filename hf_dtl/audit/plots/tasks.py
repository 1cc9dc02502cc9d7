"""Scores of several tasks."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from hf_dtl.audit.plots.look import COLOURS, MARKERS, STYLES, defaults, plain, save, wrapped
from hf_dtl.audit.report import LeakageReport
from hf_dtl.audit.task_tables import table_models
from hf_dtl.audit.tasks import SPLITS
from hf_dtl.errors import DataError


def plot_tasks(reports: Sequence[LeakageReport], path: str | Path) -> list[Path]:
    """Draw every model's score of every task on forgotten, retained and unseen images, one panel each.

    Args:
        reports: of one model or of several methods on the same request; the references are those of the first.
        path: the files' path without suffix.

    Returns:
        The files written: a PNG (150 dots an inch) and an SVG.

    Raises:
        DataError: there is no report, or one of them is not on several tasks.
    """
    return save(draw_tasks(reports), path, "Scores of every task")


@defaults
def draw_tasks(reports: Sequence[LeakageReport]) -> Figure:
    """The figure of `plot_tasks`."""
    if not reports or reports[0].tasks is None:
        raise DataError("There is no report on several tasks to draw.")
    names, models = list(reports[0].tasks), table_models(reports)
    forgotten = [name for name, task in reports[0].tasks.items() if task.forgotten]
    figure = Figure(figsize=(4 + 1.1 * len(names), 6.5), layout="constrained")
    figure.suptitle(wrapped(f"Scores after unlearning for {', '.join(forgotten)}", 60, lines=2), fontsize=11)
    panels = figure.subplots(len(SPLITS), 1, sharex=True, sharey=True)
    references = [STYLES[role][:2] for _, role, _ in models if role != "scrubbed"]
    others = [own for own in zip(COLOURS, MARKERS, strict=False) if own not in references]
    styles = iter(others * len(reports))
    look = [STYLES[role][:2] if role != "scrubbed" else next(styles) for _, role, _ in models]
    apart = min(0.2, 0.6 / (len(models) - 1))
    for panel, split in zip(panels, SPLITS, strict=True):
        for i, (report, role, model) in enumerate(models):
            assert report.tasks is not None
            places = [place + (i - (len(models) - 1) / 2) * apart for place in range(len(names))]
            heights = [report.tasks[name].scores[split][role] for name in names]
            colour, marker = look[i]
            panel.plot(places, heights, linestyle="none", markersize=7, marker=marker, color=colour,
                       label=wrapped(model, 40))  # fmt: skip
        panel.set_ylabel(f"{split} score")
        panel.grid(axis="y", color="0.93", linewidth=0.8)
        plain(panel)
    ticks = [wrapped(name, 14) + ("\n(to forget)" if name in forgotten else "") for name in names]
    panels[-1].set_xticks(range(len(names)), ticks, fontsize=9)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False,
                  fontsize=8.5)  # fmt: skip
    return figure
