"""Make the small example pair of the Space by running the main job on embedded data with a very small model.

    python scripts/make_space_example.py

It takes a few minutes on one CPU core and rewrites `space/example/`: `scrubbed/` with card, plots and leakage report
as it would be published, `undisposed/`, and the report once more beside them. With the versions of `constraints.txt`
on the same kind of machine the numbers repeat.
"""

import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import transformers
from transformers import AutoModelForImageClassification, PreTrainedModel, ViTConfig

from hf_dtl.command_line import end_processes, run_script, show_reports
from hf_dtl.data import embedded_processor
from hf_dtl.dtl import DTLJob, DTLOptions
from hf_dtl.options import option
from hf_dtl.pipeline.stages import fresh_folder, replace_folder
from hf_dtl.results import REPORT, Scrubbed, audit, write_outputs

EXAMPLE = Path(__file__).parent.parent / "space" / "example"
COMMAND = "python scripts/make_space_example.py"


@dataclass(kw_only=True)
class ExampleOptions(DTLOptions):
    """The main job's options, with defaults for a very small model."""

    methods: str = option("representation_erasure", "The disposal method.")
    target_images_per_class: int = option(20, "Target training images a class.")
    adapt_epochs: float = option(100, "Passes over the target data in adaptation.")
    retrain_epochs: float = option(200, "Passes over the target data of the retrained reference.")
    max_eval_images: int | None = option(400, "Cap on the images of each validation and test split.")
    output_dir: str = option("", "Folder of the run, which a repeated call continues; default: a temporary one.")


class ExampleJob(DTLJob):
    """The main job on a Vision Transformer of 65 thousand parameters."""

    def small_model(self, num_labels: int) -> PreTrainedModel:
        config = ViTConfig(
            hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96,
            image_size=28, patch_size=7, num_labels=num_labels,
        )  # fmt: skip
        self.processor = embedded_processor(28)
        transformers.set_seed(self.options.seed)
        return AutoModelForImageClassification.from_config(config)


def main(options: ExampleOptions) -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()  # of reading and writing weights
    with tempfile.TemporaryDirectory() as temporary:
        options.output_dir = options.output_dir or temporary
        job = ExampleJob(options)
        undisposed, tl_model = job.adapt(job.pretrain())
        references = job.references(undisposed)
        (choice,) = job.choices
        model = job.dispose(choice, tl_model)
        report = audit(job, choice, model, undisposed, references, tl_model)
        report = replace(report, settings=report.settings | {"command": COMMAND})
        write_outputs(job, [Scrubbed(choice, model, report)], undisposed)
        show_reports([report], EXAMPLE)
        _publish(job.run.folder)
        end_processes(job.state)


def _publish(run: Path) -> None:
    """Keep what the Space shows: both models, the report, and of the pictures those that the card shows."""
    new = fresh_folder(EXAMPLE)
    for name in ("scrubbed", "undisposed"):
        shutil.copytree(run / name, new / name, ignore=shutil.ignore_patterns("*.svg"))
    shutil.copy(run / REPORT, new / REPORT)
    replace_folder(new, EXAMPLE)


if __name__ == "__main__":
    run_script(ExampleOptions, main)
