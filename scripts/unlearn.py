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

It is `hf-dtl forget` with a folder of its own. Without a model a small ViT is first trained on the data, by default
the embedded Fashion-MNIST. With --reference retrain the same architecture is trained again without the forgotten
images: what forgetting should look like. Start it again with the same options to continue an interrupted run.
"""

import sys

from hf_dtl.cli import forget

if __name__ == "__main__":
    forget.start(sys.argv[1:], prog="unlearn.py", defaults={"output_dir": "outputs/unlearn"}, required=("forget",))
