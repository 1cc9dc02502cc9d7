"""Options of multi-task unlearning, and what each strategy makes of those that are left open."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from hf_dtl.errors import ConfigError
from hf_dtl.functional import Augmentation
from hf_dtl.functional.orthogonal import Orthogonalisation
from hf_dtl.functional.subspace import Criterion
from hf_dtl.trainers.batch_statistics import BatchStatisticsConfig
from hf_dtl.trainers.request import Kind, Request
from hf_dtl.trainers.streams import Chunking

Strategy = Literal[
    "interference_aware", "retrain", "fine_tune", "neg_grad_plus", "scrub", "salun", "pcgrad", "orthograd"
]
RetainGradients = Literal["per_sample", "mini_batch"]

_NEGATIVE = 0.05 / 0.95  # the weight of NegGrad+, a beta of 0.95
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
class MultiTaskUnlearningConfig(BatchStatisticsConfig):
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

    kinds: ClassVar[frozenset[Kind]] = frozenset({"tasks"})

    strategy: Strategy = field(
        default="interference_aware",
        metadata={
            "help": "'interference_aware' is the method; to compare with: 'retrain', 'fine_tune', 'neg_grad_plus', "
            "'scrub', 'salun', 'pcgrad' (NegGrad+ by gradient surgery) and 'orthograd' (NegGrad+ orthogonal to "
            "retained images)."
        },
    )
    forget_until: Literal["steps", "unseen"] = field(
        default="steps",
        metadata={
            "help": "How long a task is forgotten: in all steps ('steps'), or as long as its images to forget are "
            "named better than held-out ones were by the given model ('unseen'; needs eval_dataset)."
        },
    )
    check_every: int = field(default=5, metadata={"help": "Steps between two measurements of 'unseen', >= 1."})
    task_projection: bool = field(
        default=True,
        metadata={
            "help": "Keep the update in the span of the forgotten tasks' output gradients and out of that of the "
            "untouched tasks'. Only of interference_aware, as the next options."
        },
    )
    criterion: Criterion = field(
        default="energy", metadata={"help": "What such a span holds a share of: 'energy' (squares) or 'sigma'."}
    )
    forgotten_share: float = field(
        default=0.99, metadata={"help": "That share for each forgotten task, in (0, 1]: larger forgets more."}
    )
    untouched_share: float = field(
        default=0.9, metadata={"help": "That share for each untouched task, in (0, 1]: larger protects more."}
    )
    subspace_images: int = field(
        default=1024, metadata={"help": "Most images that the spans are measured on, drawn by the seed, >= 1."}
    )
    orthogonalisation: Literal["none", "full", "conflict"] = field(
        default="full",
        metadata={
            "help": "Take out of the forget gradient the span of the retained gradients ('full'), or of those alone "
            "whose loss it would raise ('conflict')."
        },
    )
    retain_gradients: RetainGradients = field(
        default="per_sample",
        metadata={
            "help": "The retained gradients: of every retain image of a step ('per_sample': as many copies of the "
            "weights), or of every chunk of them ('mini_batch': num_chunks copies). Also of orthograd."
        },
    )
    delta: float = field(default=0.05, metadata={"help": "Bound of the forget loss, > 0."})
    entropy_weight: float = field(default=0.2, metadata={"help": "Weight of its entropy term, >= 0."})
    min_phase: int = field(default=2, metadata={"help": "scrub: min steps before each phase of max steps, >= 1."})
    max_phase: int = field(default=1, metadata={"help": "scrub: max steps in a row, >= 1."})
    max_until: float = field(
        default=0.5, metadata={"help": "scrub: share of the steps after which only min steps follow, in (0, 1]."}
    )
    saliency: float = field(default=0.5, metadata={"help": "salun: share of the weights that may change, in (0, 1]."})
    forget_weight: float | None = field(
        default=None,
        metadata={
            "help": "Weight of the forget loss against the retention loss, > 0; default: 1, for neg_grad_plus, pcgrad "
            "and orthograd 0.05 / 0.95, and always 0 for retrain and fine_tune."
        },
    )
    max_forget_grad_norm: float = field(
        default=0.0, metadata={"help": "Bound on the norm of the forget gradient, before its weight; 0: no bound."}
    )
    target_ce_weight: float | None = field(
        default=None,
        metadata={"help": "Weight of the cross-entropy on labels, >= 0; default: 0 for interference_aware, else 1."},
    )
    distillation_weight: float | None = field(
        default=None,
        metadata={
            "help": "Weight of the distillation from the frozen original model, >= 0; default: 1 for "
            "interference_aware, which is to leave other answers as they were rather than better, else 0."
        },
    )
    retain_augmentation: Augmentation = field(
        default="none",
        metadata={"help": "Random transforms of the retain images; they may change what a task asks for (slant)."},
    )
    chunking: Chunking = field(
        default="random", metadata={"help": "Must be 'random': a class is a class of one task."}
    )
    forget_task: str = field(default="", metadata={"help": "Without effect: the pairs say what is forgotten."})
    retain_task: str = field(default="", metadata={"help": "Without effect: all tasks are retained and saved."})

    @classmethod
    def for_request(cls, request: Request, given: Mapping[str, Any]) -> dict[str, Any]:
        """As in `UnlearningConfig`, and a strategy that forgets does so until images are as unseen ones."""
        chosen = super().for_request(request, given)
        if "forget_until" not in given and _WEIGHTS.get(given.get("strategy", cls.strategy)):
            chosen["forget_until"] = "unseen"
        return chosen

    def __post_init__(self):
        if self.strategy not in get_args(Strategy):
            raise ConfigError(f"strategy={self.strategy!r} is unknown; use one of: {', '.join(get_args(Strategy))}.")
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
        for name, allowed in (
            ("orthogonalisation", ("none", *get_args(Orthogonalisation))),
            ("retain_gradients", get_args(RetainGradients)),
            ("criterion", get_args(Criterion)),
            ("forget_until", ("steps", "unseen")),
            ("chunking", ("random",)),
            ("retain_inputs", ("target",)),
        ):
            self._refuse(name, getattr(self, name) in allowed, f"one of: {', '.join(allowed)}")
        for name in ("forgotten_share", "untouched_share", "max_until", "saliency"):
            self._refuse(name, 0 < getattr(self, name) <= 1, "in (0, 1]")
        for name in ("check_every", "subspace_images", "min_phase", "max_phase"):
            self._refuse(name, getattr(self, name) >= 1, ">= 1")
        self._refuse("delta", self.delta > 0, "> 0")
        self._refuse("entropy_weight", self.entropy_weight >= 0, ">= 0")
        self._refuse(
            "distillation_weight", not (self.distillation_weight and self.strategy == "retrain"), "0 to retrain"
        )
        if self.turns and self.retain_gradients == "per_sample":
            for name in ("activation_checkpointing", "bf16"):
                if getattr(self, name) or (name == "bf16" and os.environ.get("ACCELERATE_MIXED_PRECISION") == "bf16"):
                    raise ConfigError(
                        f"{name} cannot be combined with the gradient of every image (torch.func); use "
                        "retain_gradients='mini_batch'."
                    )

    def _refuse(self, name: str, fine: Any, wanted: str) -> None:
        if not fine:
            raise ConfigError(f"{name}={getattr(self, name)!r} must be {wanted}.")

    @property
    def projects(self) -> bool:
        """Whether updates are projected by tasks."""
        return self.strategy == "interference_aware" and self.task_projection

    @property
    def turns(self) -> Orthogonalisation | None:
        """How the forget gradient is turned away from the retained ones, None for not at all."""
        if self.strategy == "orthograd":
            return "full"
        if self.strategy != "interference_aware" or self.orthogonalisation == "none":
            return None
        return self.orthogonalisation
