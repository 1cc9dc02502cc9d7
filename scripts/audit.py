"""Audit any two image classifiers: how well can the scrubbed one be taught again what it was to forget?

    python scripts/audit.py --scrubbed user/scrubbed --undisposed user/original --source_dataset "cifar10[cat,dog]" \
        --target_dataset "cifar10[car,ship]" --output_dir outputs/audit
    python scripts/audit.py --scrubbed ./scrubbed --undisposed ./undisposed --source_dataset "mnist[0-5]" \
        --attacks all --retrained ./retrained --resume

Two processes on a machine without a GPU:

    accelerate launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no \
        scripts/audit.py --use_cpu True --scrubbed ./scrubbed --undisposed ./undisposed --source_dataset "mnist[0-5]"

Does a published model hold what its own report says? The weights are compared by hash, the attacks are run again:

    python scripts/audit.py --verify user/scrubbed
    python scripts/audit.py --verify ./scrubbed --attacks full --budgets 5 --source_dataset "./photos[cat,dog]"

It is `hf-dtl audit`, and with --verify `hf-dtl verify`, whose status says whether the report holds.
"""

import sys

from hf_dtl.cli import audit, verify

if __name__ == "__main__":
    checks = any(word.partition("=")[0] == "--verify" for word in sys.argv[1:])
    (verify if checks else audit).start(sys.argv[1:], prog="audit.py")
