"""Run by every process of a launcher (see test_distributed.py): train for three steps and save what came out.

python tests/distributed_checks.py OUTPUT
torchrun --nproc_per_node 2 tests/distributed_checks.py OUTPUT
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from toy_tasks import OPTIONS, source, target, two_headed

from hf_dtl import methods

CASES = {
    "gc": ("GradientCollision", {}),
    "gc_random": ("GradientCollision", {"chunking": "random", "weight_decay": 0.01}),
    "ngc_finite_difference": ("GradientCollision", {"normalize": True, "create": "finite_difference"}),
    "gc_checkpointed": ("GradientCollision", {"activation_checkpointing": True}),
    "gc_bf16": ("GradientCollision", {"bf16": True}),
    "gc_accumulated": ("GradientCollision", {"gradient_accumulation_steps": 2, "num_chunks": 4}),
    "gc_resnet": ("GradientCollision", {}),
    "random_fooling_dinov2": ("RandomFooling", {}),
}


def architecture(case: str) -> str:
    """The model that a case trains."""
    return next((name for name in ("resnet", "dinov2") if name in case), "vit")


def main(output: Path) -> None:
    """Train every case with 32 forget images and 4 chunks a step, whatever the number of processes."""
    for case, (method, options) in CASES.items():
        config = getattr(methods, f"{method}Config")
        world = config(output_dir=str(output), use_cpu=True).world_size
        accumulation = options.get("gradient_accumulation_steps", 1)
        args = config(
            output_dir=str(output),
            **OPTIONS | options | {"per_device_train_batch_size": 32 // (world * accumulation)},
        )
        trainer = getattr(methods, f"{method}Trainer")(
            model=two_headed(architecture(case)), args=args, forget_dataset=source(), retain_dataset=target()
        )
        trainer.train()
        logs = [e for e in trainer.state.log_history if "disposal_value" in e]
        state = {n: v.detach().clone().contiguous() for n, v in trainer.model.state_dict().items()}
        for key in ("disposal_value", "retain_loss", "source_loss", "mean_cosine"):
            if key in logs[0]:
                state[f"log.{key}"] = torch.tensor([e[key] for e in logs], dtype=torch.float64)
        state["world_size"] = torch.tensor(trainer.accelerator.num_processes)
        save_file(state, output / f"{case}-rank{trainer.args.process_index}.safetensors")
    trainer.end()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
