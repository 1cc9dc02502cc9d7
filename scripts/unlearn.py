"""Make an image classifier forget a class, single images or a part of its training data, and attack the result.

    python scripts/unlearn.py --forget class=0 --reference retrain
    python scripts/unlearn.py --forget random=10% --methods projected_gradient,salun --reference retrain
    python scripts/unlearn.py --model_name_or_path user/classifier --dataset user/photos --forget person=ann
    python scripts/unlearn.py --model_name_or_path ./classifier --dataset ./photos --forget rows.txt

Of a model of several tasks, forget images for some tasks and keep them for the others:

    python scripts/unlearn.py --dataset glyphs --methods multitask --forget_tasks letter,case --forget random=5%

Two processes on a machine without a GPU:

    accelerate launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no \
        scripts/unlearn.py --use_cpu True --forget class=0

Without a model a small ViT is first trained on the data, which are by default the embedded Fashion-MNIST. With
--reference retrain the same architecture is trained again without the forgotten images: what forgetting should look
like. Start it again with the same options to continue an interrupted run.
"""

import transformers

from hf_dtl import multitask_results
from hf_dtl.command_line import console, end_processes, run_script, show_reports
from hf_dtl.multitask_job import MultiTaskJob
from hf_dtl.multitask_results import Result
from hf_dtl.results import Scrubbed
from hf_dtl.unlearn import LAYER_INPUTS, UnlearnJob
from hf_dtl.unlearn_options import UnlearnOptions
from hf_dtl.unlearn_results import audit, measure, write


def main(options: UnlearnOptions) -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()  # of reading and writing weights
    if options.multitask:
        unlearn_tasks(options)
    else:
        unlearn_images(options)


def unlearn_images(options: UnlearnOptions) -> None:
    job = UnlearnJob(options)
    undisposed = job.train()
    references = {"undisposed": undisposed, **job.references(undisposed)}
    scrubbed = [(choice, job.unlearn(choice, undisposed)) for choice in job.choices]
    before = measure(job, references)
    results = [Scrubbed(choice, model, audit(job, choice, model, references, before)) for choice, model in scrubbed]
    if job.state.is_main_process:
        write(job, results, undisposed)
        show_reports([result.report for result in results], job.run.folder)
        kept = job.run.folder / LAYER_INPUTS
        if kept.exists():
            print(
                "For a later request on the scrubbed model, without retain images: "
                f"--methods projected_gradient:subspace_file={kept}"
            )
    end_processes(job.state)


def unlearn_tasks(options: UnlearnOptions) -> None:
    job = MultiTaskJob(options)
    original = job.train()
    results = [Result("original", original)]
    results += [Result("unlearned", job.unlearn(choice, original), choice) for choice in job.choices]
    retrained = job.retrained()
    if retrained is not None:
        results.append(Result("retrained", retrained))
    notes = multitask_results.measure(job, results)
    multitask_results.relearn(job, results)
    if job.state.is_main_process:
        multitask_results.write(job, results, notes)
        shown = console()
        shown.print(multitask_results.tables(job, results, notes).rich())
        shown.print(f"Scrubbed model, report and plot: {job.run.folder}", highlight=False)
    end_processes(job.state)


if __name__ == "__main__":
    run_script(UnlearnOptions, main)
