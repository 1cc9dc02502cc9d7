"""Make the example that comes with the package by running the main job with a very small model.

    python scripts/make_example.py

It takes a few minutes on one CPU core and rewrites `hf_dtl/data/embedded/example/`, laid out as a run's output
folder: `scrubbed/` as it would be published with card, plots and report, `undisposed/`, `retrained/`, and under
`methods/` what gradient collision leaves. With the versions of `constraints.txt` on the same kind of machine the
numbers repeat.
"""

import shutil
import tempfile
from dataclasses import dataclass

from transformers import AutoConfig

from hf_dtl.audit import LeakageReport
from hf_dtl.cli.terminal import end_processes, run_script
from hf_dtl.data.sources import EXAMPLE_FOLDER
from hf_dtl.hub.card import leakage_card
from hf_dtl.hub.staging import CARD, REPORT
from hf_dtl.methods.by_name import MethodChoice
from hf_dtl.models.loading import quiet
from hf_dtl.options import option
from hf_dtl.pipeline.forget import ForgetResult, scrubbed_by
from hf_dtl.pipeline.forget_options import ForgetOptions
from hf_dtl.pipeline.stages import fresh_folder, replace_folder
from hf_dtl.pipeline.whole_task_job import WholeTaskJob

COMMAND = "python scripts/make_example.py"


@dataclass(kw_only=True)
class ExampleOptions(ForgetOptions):
    """The main job's options, with defaults for a very small model."""

    method: str | None = option(
        "representation_erasure,gradient_collision:max_steps=100", "One method that holds less, one that leaks."
    )
    novel: str | None = option("none", "Task that nobody trained; none: the example is attacked on one axis.")
    output_dir: str = option("", "Folder of the run, which a repeated call continues; default: a temporary one.")


class ExampleJob(WholeTaskJob):
    """The main job on a ResNet of 58 thousand parameters."""

    widths = (16, 32, 48)

    def command(self, choice: MethodChoice) -> str:
        return COMMAND


def main(options: ExampleOptions) -> None:
    quiet()
    with tempfile.TemporaryDirectory() as temporary:
        options.output_dir = options.output_dir or temporary
        result = scrubbed_by(ExampleJob(options))
        result.audit_all()
        _keep(result)
        end_processes(result.job.state)


def _keep(result: ForgetResult) -> None:
    """Keep the models with their reports and, of the first method, the pictures that its card shows."""
    new = fresh_folder(EXAMPLE_FOLDER)
    for name in ("scrubbed", "undisposed", "retrained"):
        shutil.copytree(result.folder / name, new / name, ignore=shutil.ignore_patterns("*.svg"))
    for choice in result.job.choices[1:]:
        published = new / "methods" / choice.name / "scrubbed"
        made = result.folder / "methods" / choice.folder / "scrubbed"
        shutil.copytree(made, published, ignore=shutil.ignore_patterns("plots"))
        labels = AutoConfig.from_pretrained(published).id2label
        leakage_card(LeakageReport.load(published / REPORT), model_labels=labels).save(published / CARD)
    replace_folder(new, EXAMPLE_FOLDER)


if __name__ == "__main__":
    run_script(ExampleOptions, main)
