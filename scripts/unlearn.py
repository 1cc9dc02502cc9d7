"""Make an image classifier forget a class, single images or a part of its training data, and attack the result.

    python scripts/unlearn.py --forget class=0 --reference retrain
    python scripts/unlearn.py --forget random=10% --methods projected_gradient,salun --reference retrain
    python scripts/unlearn.py --model_name_or_path user/classifier --dataset user/photos --forget person=ann
    python scripts/unlearn.py --model_name_or_path ./classifier --dataset ./photos --forget rows.txt

Two processes on a machine without a GPU:

    accelerate launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no \
        scripts/unlearn.py --use_cpu True --forget class=0

Without a model a small ViT is first trained on the data, which are by default the embedded Fashion-MNIST. With
--reference retrain the same architecture is trained again without the forgotten images: what forgetting should look
like. Start it again with the same options to continue an interrupted run.
"""

import sys

import torch
import transformers
from rich.console import Console
from transformers import HfArgumentParser

from hf_dtl.audit import comparison_table, table
from hf_dtl.errors import DTLError
from hf_dtl.results import Scrubbed
from hf_dtl.unlearn import LAYER_INPUTS, UnlearnJob
from hf_dtl.unlearn_options import UnlearnOptions
from hf_dtl.unlearn_results import audit, write


def main(options: UnlearnOptions) -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()  # of reading and writing weights
    job = UnlearnJob(options)
    undisposed = job.train()
    references = job.references(undisposed)
    scrubbed = [(choice, job.unlearn(choice, undisposed)) for choice in job.choices]
    results = [
        Scrubbed(choice, model, audit(job, choice, {"undisposed": undisposed, "scrubbed": model, **references}))
        for choice, model in scrubbed
    ]
    if job.state.is_main_process:
        write(job, results, undisposed)
        # for a file or pipe Rich would take 80 columns and break the tables
        console = Console() if sys.stdout.isatty() else Console(width=120)
        for result in results:
            console.print(*table(result.report))
        if len(results) > 1:
            console.print(comparison_table([result.report for result in results]))
        console.print(f"Scrubbed model, card, report and plots: {job.run.folder}", highlight=False)
        if (job.run.folder / LAYER_INPUTS).exists():
            console.print(
                f"For a later request on the scrubbed model, without retain images: methods "
                f"projected_gradient:subspace_file={job.run.folder / LAYER_INPUTS}",
                highlight=False,
            )
    job.state.wait_for_everyone()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    (arguments,) = HfArgumentParser(UnlearnOptions).parse_args_into_dataclasses()
    try:
        main(arguments)
    except DTLError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit("Interrupted. Start the same command again to continue.")
