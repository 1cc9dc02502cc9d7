"""Dispose of a source task, attack what is left, and save the scrubbed model with its leakage report.

    accelerate launch scripts/dtl_finetune.py
    accelerate launch scripts/dtl_finetune.py --methods gradient_collision,negative_ce,uniform_fooling
    accelerate launch scripts/dtl_finetune.py --model_name_or_path google/vit-base-patch16-224 \
        --source_dataset "cifar10[cat,dog]" --target_dataset "./my_photos" --novel_dataset "cifar100[0-9]"

Two processes on a machine without a GPU:

    accelerate launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no \
        scripts/dtl_finetune.py --use_cpu True

It is `hf-dtl forget` with a folder of its own. Without arguments it runs offline on rendered glyphs: their style
(regular, italic, bold, bold italic) is the source task, the letters N, Q, R and T are the target task. Start it again
with the same options to continue an interrupted run.
"""

import sys

from hf_dtl.cli import forget

if __name__ == "__main__":
    forget.start(sys.argv[1:], prog="dtl_finetune.py", defaults={"output_dir": "outputs/dtl"})
