"""Dispose of a source task, attack what is left, and save the scrubbed model with its leakage report.

    accelerate launch scripts/dtl_finetune.py
    accelerate launch scripts/dtl_finetune.py --methods gradient_collision,negative_ce,uniform_fooling
    accelerate launch scripts/dtl_finetune.py --model_name_or_path google/vit-base-patch16-224 \
        --source_dataset "cifar10[cat,dog]" --target_dataset "./my_photos" --novel_dataset "cifar100[0-9]"

Two processes on a machine without a GPU:

    accelerate launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no \
        scripts/dtl_finetune.py --use_cpu True

Without arguments it runs on embedded data, offline: MNIST digits 0-5 are the source task, 6-9 the target task. Start
it again with the same options to continue an interrupted run.
"""

import transformers

from hf_dtl.command_line import end_processes, run_script, show_reports
from hf_dtl.dtl import DTLJob, DTLOptions
from hf_dtl.results import Scrubbed, audit, write_outputs


def main(options: DTLOptions) -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()  # of reading and writing weights
    job = DTLJob(options)
    pretrained = job.pretrain()
    undisposed, tl_model = job.adapt(pretrained)
    references = job.references(undisposed)
    scrubbed = [(choice, job.dispose(choice, tl_model)) for choice in job.choices]
    results = [
        Scrubbed(choice, model, audit(job, choice, model, undisposed, references, tl_model))
        for choice, model in scrubbed
    ]
    if job.state.is_main_process:
        write_outputs(job, results, undisposed)
        show_reports([result.report for result in results], job.run.folder)
    end_processes(job.state)


if __name__ == "__main__":
    run_script(DTLOptions, main)
