"""Options of multi-task unlearning, and what each strategy makes of those that are left open."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from hf_dtl.errors import ConfigError
from hf_dtl.functional import Augmentation
from hf_dtl.functional.orthogonal import Orthogonalisation
from hf_dtl.functional.subspace import Criterion
from hf_dtl.methods.fine_tuning import NegGradPlusConfig
from hf_dtl.methods.random_label import SaliencyOptions
from hf_dtl.methods.scrub import PhaseOptions
from hf_dtl.trainers import BatchStatisticsConfig, Chunking, Request, ScenarioKind, check_options, option

Strategy = Literal[
    "interference_aware", "retrain", "fine_tune", "neg_grad_plus", "scrub", "salun", "pcgrad", "orthograd"
]
RetainGradients = Literal["per_sample", "mini_batch"]

_NEGATIVE = NegGradPlusConfig.forget_weight
_WEIGHTS: dict[Strategy, float] = {
    "interference_aware": 1.0,
    "retrain": 0.0,
    "fine_tune": 0.0,
    "neg_grad_plus": _NEGATIVE,
    "scrub": 1.0,
    "salun": 1.0,
    "pcgrad": _NEGATIVE,
    "orthograd": _NEGATIVE,
}


@dataclass
class MultiTaskUnlearningConfig(PhaseOptions, SaliencyOptions, BatchStatisticsConfig):
    """Options of multi-task unlearning.

    Parameters that control the method:
        strategy, forget_until, check_every, and from `UnlearningConfig` forget_weight and max_forget_grad_norm.
        interference_aware: task_projection, criterion, forgotten_share, untouched_share, subspace_images,
        orthogonalisation, retain_gradients, delta, entropy_weight.
        scrub: min_phase, max_phase, max_until. salun: saliency.
    Parameters that control the retention:
        target_ce_weight, distillation_weight, temperature, retain_augmentation and per_device_retain_batch_size of
        `UnlearningConfig`. Labels and losses of a regression are in units of its labels' deviation.
    """

    adapts: ClassVar[bool] = False

    kinds: ClassVar[frozenset[ScenarioKind]] = frozenset({"tasks"})
    unused: ClassVar[frozenset[str]] = frozenset({"forget_task", "retain_task"})  # the pairs say what is forgotten

    strategy: Strategy = option(
        "interference_aware",
        "'interference_aware' is the method; to compare with: 'retrain', 'fine_tune', 'neg_grad_plus', 'scrub', "
        "'salun', 'pcgrad' (NegGrad+ by gradient surgery) and 'orthograd' (NegGrad+ orthogonal to retained images).",
    )
    forget_until: Literal["steps", "unseen"] = option(
        "steps",
        "How long a task is forgotten: in all steps ('steps'), or as long as its images to forget are named better "
        "than held-out ones were by the given model ('unseen'; needs eval_dataset).",
        choices=("steps", "unseen"),
    )
    check_every: int = option(5, "Steps between two measurements of 'unseen', >= 1.", low=1)
    task_projection: bool = option(
        True,
        "Keep the update in the span of the forgotten tasks' output gradients and out of that of the untouched "
        "tasks'. Only of interference_aware, as the next options.",
    )
    criterion: Criterion = option(
        "energy", "What such a span holds a share of: 'energy' (squares) or 'sigma'.", choices=get_args(Criterion)
    )
    forgotten_share: float = option(
        0.99, "That share for each forgotten task, in (0, 1]: larger forgets more.", above=0, high=1
    )
    untouched_share: float = option(
        0.9, "That share for each untouched task, in (0, 1]: larger protects more.", above=0, high=1
    )
    subspace_images: int = option(1024, "Most images that the spans are measured on, drawn by the seed, >= 1.", low=1)
    orthogonalisation: Literal["none", "full", "conflict"] = option(
        "full",
        "Take out of the forget gradient the span of the retained gradients ('full'), or of those alone whose loss it "
        "would raise ('conflict').",
        choices=("none", *get_args(Orthogonalisation)),
    )
    retain_gradients: RetainGradients = option(
        "per_sample",
        "The retained gradients: of every retain image of a step ('per_sample': as many copies of the weights), or of "
        "every chunk of them ('mini_batch': num_chunks copies). Also of orthograd.",
        choices=get_args(RetainGradients),
    )
    delta: float = option(0.05, "Bound of the forget loss, > 0.", above=0)
    entropy_weight: float = option(0.2, "Weight of its entropy term, >= 0.", low=0)
    forget_weight: float | None = option(
        None,
        "Weight of the forget loss against the retention loss, > 0; default: 1, for neg_grad_plus, pcgrad and "
        "orthograd 0.05 / 0.95, and always 0 for retrain and fine_tune.",
        low=0,
    )
    max_forget_grad_norm: float = 0.0
    target_ce_weight: float | None = option(
        None, "Weight of the cross-entropy on labels, >= 0; default: 0 for interference_aware, else 1.", low=0
    )
    distillation_weight: float | None = option(
        None,
        "Weight of the distillation from the frozen original model, >= 0; default: 1 for interference_aware, which is "
        "to leave other answers as they were rather than better, else 0.",
        low=0,
    )
    retain_augmentation: Augmentation = option(
        "none", "Random transforms of the retain images; they may change what a task asks for (slant)."
    )
    retain_inputs: Literal["target"] = option("target", "Must be 'target'.", choices=("target",))
    chunking: Chunking = option("random", "Must be 'random': a class is a class of one task.", choices=("random",))
    forget_task: str = ""
    retain_task: str = ""

    @classmethod
    def for_request(cls, request: Request, user_options: Mapping[str, Any]) -> dict[str, Any]:
        """As in `UnlearningConfig`, and a strategy that forgets does so until images are as unseen ones."""
        chosen = super().for_request(request, user_options)
        if "forget_until" not in user_options and _WEIGHTS.get(user_options.get("strategy", cls.strategy)):
            chosen["forget_until"] = "unseen"
        return chosen

    def __post_init__(self):
        check_options(self)
        forgets = _WEIGHTS[self.strategy] > 0
        if self.forget_weight is None or not forgets:
            self.forget_weight = _WEIGHTS[self.strategy]
        keeps = self.strategy == "interference_aware"
        if self.target_ce_weight is None:
            self.target_ce_weight = 0.0 if keeps and self.distillation_weight != 0 else 1.0
        if self.distillation_weight is None:
            self.distillation_weight = 1.0 if keeps else 0.0
        super().__post_init__()
        if forgets and not self.forget_weight:
            raise ConfigError("forget_weight=0 leaves nothing that forgets; use strategy='fine_tune' for that.")
        if self.distillation_weight and self.strategy == "retrain":
            raise ConfigError(f"distillation_weight={self.distillation_weight!r} must be 0 to retrain.")
        if self.turns and self.retain_gradients == "per_sample":
            for name in ("activation_checkpointing", "bf16"):
                if getattr(self, name) or (name == "bf16" and os.environ.get("ACCELERATE_MIXED_PRECISION") == "bf16"):
                    raise ConfigError(
                        f"{name} cannot be combined with the gradient of every image (torch.func); use "
                        "retain_gradients='mini_batch'."
                    )

    @property
    def turns(self) -> Orthogonalisation | None:
        """How the forget gradient is turned away from the retained ones, None for not at all."""
        if self.strategy == "orthograd":
            return "full"
        if self.strategy != "interference_aware" or self.orthogonalisation == "none":
            return None
        return self.orthogonalisation
