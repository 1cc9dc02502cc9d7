"""What a run leaves in its output folder: models, reports, cards, tables and plots, each replaced in one step."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hf_dtl.audit import LeakageReport, comparison_markdown, markdown_table, plot_comparison
from hf_dtl.audit.plots.disposal import plot_disposal
from hf_dtl.hub import add_evidence, weights_sha256
from hf_dtl.hub.staging import REPORT
from hf_dtl.methods.by_name import MethodChoice
from hf_dtl.pipeline.job import Job
from hf_dtl.pipeline.stages import fresh_folder, replace_folder, write_atomically
from hf_dtl.pipeline.transfer import keep_labels


@dataclass(frozen=True)
class Scrubbed:
    """One method's result."""

    choice: MethodChoice
    model: Any
    report: LeakageReport


def write_method(job: Job, result: Scrubbed, folder: Path, reports: Sequence[LeakageReport] = ()) -> LeakageReport:
    """Write what one method leaves to be published, the plots and the report beside it, each in one step.

    Returns:
        The report, with the hashes of the weights that were written.
    """
    scrubbed = fresh_folder(folder / "scrubbed")
    job.save(result.model, scrubbed)
    keep_labels(job, result.choice, scrubbed)
    report = replace(result.report, weights=weights_sha256(scrubbed))
    add_evidence(scrubbed, report, base_model=job.options.model)

    plots = shutil.copytree(scrubbed / "plots", fresh_folder(folder / "plots"), dirs_exist_ok=True)
    stage = job.run.folder / "stages" / job.disposal_stage(result.choice)
    log = json.loads((stage / "log.json").read_text(encoding="utf-8"))
    plot_disposal(log, f"Disposal by {result.choice.text}", plots / "disposal.png")
    if len(reports) > 1:
        plot_comparison(reports, plots / "comparison")

    replace_folder(plots, folder / "plots")
    replace_folder(scrubbed, folder / "scrubbed")
    job.keep(result.choice, result.model, folder)
    report.save(folder / REPORT)
    return report


def write_outputs(job: Job, results: Sequence[Scrubbed], references: Mapping[str, Any]) -> list[LeakageReport]:
    """Write the output folder: the first method at its top, the others under `methods/`.

    The first method's report is written last: where a first run's report stands, everything beside it is complete.

    Args:
        job: the run.
        results: one a method.
        references: by role; `undisposed` and, where there is one, `retrained` are kept.

    Returns:
        The reports as they were written, in the order of the methods.
    """
    output = job.run.folder
    for name in ("undisposed", "retrained"):
        if name in references:
            new = fresh_folder(output / name)
            job.save(references[name], new)
            replace_folder(new, output / name)
    others = [write_method(job, result, output / "methods" / result.choice.folder) for result in results[1:]]
    reports = [result.report for result in results]
    if len(reports) > 1:
        write_atomically(output / "comparison.md", comparison_markdown(reports))
    write_atomically(output / "tables.md", "\n".join(markdown_table(report) for report in reports))
    return [write_method(job, results[0], output, reports=reports), *others]
