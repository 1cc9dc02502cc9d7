"""Run by every process of a launcher (see test_distributed.py): train for three steps and save what came out.

torchrun --nproc_per_node 2 tests/distributed_checks.py OUTPUT
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from toy_tasks import OPTIONS, source, target, two_headed

from hf_dtl.methods import (
    GradientCollisionConfig,
    GradientCollisionTrainer,
    ProjectedGradientConfig,
    ProjectedGradientTrainer,
    RandomFoolingConfig,
    RandomFoolingTrainer,
)
from hf_dtl.methods.noise_then_distil import NoiseThenDistilConfig, NoiseThenDistilTrainer
from hf_dtl.methods.non_fine_tunable import NonFineTunableConfig, NonFineTunableTrainer
from hf_dtl.methods.registry import find_method
from hf_dtl.methods.weight_distortion import WeightDistanceRegularisationConfig, WeightDistanceRegularisationTrainer
from hf_dtl.trainers.config import UnlearningConfig


def pair(name):
    trainer = find_method(name)
    return trainer.config_class, trainer


GC = (GradientCollisionConfig, GradientCollisionTrainer)
RANDOM = (RandomFoolingConfig, RandomFoolingTrainer)
NOISE = (NoiseThenDistilConfig, NoiseThenDistilTrainer)
DISTANCE = (WeightDistanceRegularisationConfig, WeightDistanceRegularisationTrainer)
PROJECTED = (ProjectedGradientConfig, ProjectedGradientTrainer)
NON_FINE_TUNABLE = (NonFineTunableConfig, NonFineTunableTrainer)
LABELS = {"target_ce_weight": 1.0, "num_chunks": 4, "learning_rate": 0.1}

CASES = {
    "gc": (GC, {}),
    "gc_random": (GC, {"chunking": "random", "weight_decay": 0.01}),
    "ngc_finite_difference": (GC, {"normalize": True, "create": "finite_difference"}),
    "gc_checkpointed": (GC, {"activation_checkpointing": True}),
    "gc_bf16": (GC, {"bf16": True}),
    "gc_accumulated": (GC, {"gradient_accumulation_steps": 2, "num_chunks": 4}),
    "gc_resnet": (GC, {}),
    "gc_every_image_both_ways": (GC, {"retain_inputs": "both", "retain_augmentation": "affine_flip"}),
    "random_fooling_dinov2": (RANDOM, {}),
    "noise_then_distil": (NOISE, {}),
    "noise_then_distil_resnet": (NOISE, {"alpha": 1.0, "retain_inputs": "both"}),
    "distance_accumulated_resnet": (DISTANCE, {"gradient_accumulation_steps": 2}),
    "projected_gradient": (
        PROJECTED,
        {"threshold": 0.3, "stop": "retain_drop", "retain_margin": 1.0, "check_every": 1},
    ),
    "projected_gradient_accumulated_resnet": (PROJECTED, {"threshold": 0.3, "gradient_accumulation_steps": 2}),
    "non_fine_tunable": (NON_FINE_TUNABLE, {"inner_steps": 2}),
    "retrain_resnet": (pair("retrain"), LABELS),
    "neg_grad_plus": (pair("neg_grad_plus"), LABELS),
    "bad_teaching": (pair("bad_teaching"), {"num_chunks": 4}),
    "scrub_accumulated": (
        pair("scrub"),
        LABELS | {"gradient_accumulation_steps": 2, "min_phase": 1, "max_phase": 1, "max_until": 1.0},
    ),
    "salun": (pair("salun"), LABELS | {"optim": "adamw_torch", "weight_decay": 0.1, "learning_rate": 1e-2}),
    "ssd": (pair("ssd"), {"num_chunks": 4, "alpha": 1.1, "fisher_images": 33}),
    "unseen_label": (
        pair("unseen_label"),
        LABELS | {"forget_task": "target", "wrong_share": 0.6, "learning_rate": 0.5},
    ),
}


def architecture(case: str) -> str:
    """The model that a case trains."""
    return next((name for name in ("resnet", "dinov2") if name in case), "vit")


def main(output: Path) -> None:
    """Train every case with 32 forget images and 4 chunks a step, whatever the number of processes."""
    for case, ((config, trainer_class), options) in CASES.items():
        world = UnlearningConfig(output_dir=str(output), use_cpu=True).world_size
        accumulation = options.get("gradient_accumulation_steps", 1)
        args = config(
            output_dir=str(output),
            **OPTIONS | options | {"per_device_train_batch_size": 32 // (world * accumulation)},
        )
        trainer = trainer_class(
            model=two_headed(architecture(case)), args=args,
            forget_dataset=target() if args.forget_task == "target" else source(), retain_dataset=target(),
            eval_dataset=target(),
        )  # fmt: skip
        trainer.train()
        logs = [e for e in trainer.state.log_history if {"retain_loss", "disposal_value"} & e.keys()]
        state = {n: v.detach().clone().contiguous() for n, v in trainer.model.state_dict().items()}
        for key in (
            "disposal_value",
            "retain_loss",
            "source_loss",
            "mean_cosine",
            "attack_cross_entropy",
            "forget_accuracy",
        ):
            found = [e[key] for e in logs if key in e]
            if found:
                state[f"log.{key}"] = torch.tensor(found, dtype=torch.float64)
        state["world_size"] = torch.tensor(trainer.accelerator.num_processes)
        save_file(state, output / f"{case}-rank{trainer.args.process_index}.safetensors")
    trainer.end()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
