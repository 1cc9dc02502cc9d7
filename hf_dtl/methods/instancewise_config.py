"""Options of instance-wise unlearning, and what each strategy makes of those that are left open."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from torch.utils.data import Dataset

from hf_dtl.errors import ConfigError
from hf_dtl.functional.augmentation import Augmentation
from hf_dtl.functional.subspace import Criterion
from hf_dtl.trainers.config import WholeBatchConfig
from hf_dtl.trainers.request import Kind, Request
from hf_dtl.trainers.streams import PairedStreams

Goal = Literal["misclassify", "relabel"]
Strategy = Literal["collages", "l2ul"]

_DEFAULTS: dict[Strategy, dict[str, Any]] = {
    "collages": {
        "adversarial": False,
        "importance": False,
        "margin": 0.05,
        "forget_weight": 0.3,
        "target_ce_weight": 0.0,
        "distillation_weight": 1.0,
        "optim": "adamw_torch",
        "learning_rate": 5e-5,
        "lr_scheduler_type": "linear",
        "max_steps": 600,
    },
    "l2ul": {
        "adversarial": True,
        "importance": True,
        "margin": 0.0,
        "forget_weight": 0.125,  # batches of 32 and 256 in the paper's code, all images alike
        "target_ce_weight": 1.0,
        "distillation_weight": 0.0,
        "optim": "sgd",
        "optim_args": "momentum=0.9",
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "max_steps": 1000,
    },
}


@dataclass
class InstanceUnlearningConfig(WholeBatchConfig):
    """Options of instance-wise unlearning. Those whose default is None have one that depends on the strategy.

    Parameters that control what is forgotten, and when to stop:
        goal, margin, delta, stop_when_forgotten, check_every, max_steps, and forget_weight of `UnlearningConfig`.
    Parameters that control what is retained, on collages or adversaries: from `UnlearningConfig`
        target_ce_weight, distillation_weight, temperature and per_device_retain_batch_size.
    Parameters that control the adversarial regularisation (l2ul):
        adversarial, examples, epsilon, step_size, attack_steps, adversaries_folder.
    Parameters that control the weight importance:
        importance, importance_weight.
    Parameters that control the projection:
        project, criterion, threshold.
    """

    retains: ClassVar[bool] = False  # each kind of retention can be switched off
    kinds: ClassVar[frozenset[Kind]] = frozenset({"part"})

    strategy: Strategy = field(
        default="collages",
        metadata={
            "help": "'collages' pushes each image only over the nearest boundary, and keeps the original model's "
            "answers on collages of the images; 'l2ul' is the paper's method, with adversarial examples and weight "
            "importance."
        },
    )
    goal: Goal = field(
        default="misclassify",
        metadata={
            "help": "'misclassify' makes the model give each image any other label than its own, 'relabel' a given "
            "one, or one that the seed draws."
        },
    )
    margin: float | None = field(
        default=None,
        metadata={
            "help": "> 0: push an image only until its label is this far, in logits, from being given (or given, with "
            "goal=relabel). 0: the cross-entropy of the paper. Default: 0.05 for collages, 0 for l2ul."
        },
    )
    delta: float = field(
        default=0.0,
        metadata={
            "help": "Without margin and with goal=misclassify, > 0, such as 0.05, takes -log(1 + delta - p_y) in "
            "place of log p_y: images that are still remembered push most, and forgotten ones no more. 0: the paper's "
            "loss, which does the opposite."
        },
    )
    stop_when_forgotten: bool = field(
        default=True, metadata={"help": "Stop as soon as every image is misnamed or renamed."}
    )
    check_every: int = field(default=1, metadata={"help": "Steps between two looks at what is forgotten, >= 1."})
    adversarial: bool | None = field(
        default=None,
        metadata={
            "help": "Retain the original model's answers on adversarial examples of the images. Default: with l2ul; "
            "collages does it on collages."
        },
    )
    examples: int = field(
        default=20, metadata={"help": "Adversarial examples of an image, >= 1; 200 for 100 classes and more."}
    )
    epsilon: float = field(
        default=4.0, metadata={"help": "L2 distance of an example from its image, in pixels of range 0..1, > 0."}
    )
    step_size: float = field(default=0.1, metadata={"help": "Step (alpha) of the search for them, likewise, > 0."})
    attack_steps: int = field(default=100, metadata={"help": "Steps of that search, >= 1."})
    adversaries_folder: str | None = field(
        default=None,
        metadata={
            "help": "Folder to keep the examples in and find them again. They look like what is to be forgotten: "
            "delete it in the end."
        },
    )
    importance: bool | None = field(
        default=None,
        metadata={"help": "Anchor weights that matter little to the outputs on the images. Default: with l2ul."},
    )
    importance_weight: float = field(default=1.0, metadata={"help": "Weight (lambda) of these anchors, >= 0."})
    project: bool = field(
        default=False,
        metadata={
            "help": "Keep every update outside the span of the layer inputs of the adversarial examples, or collages."
        },
    )
    criterion: Criterion = field(
        default="energy",
        metadata={"help": "What the protected directions hold a share of: 'energy' (squares) or 'sigma'."},
    )
    threshold: float = field(
        default=0.9, metadata={"help": "That share, in (0, 1]: larger protects more and forgets less."}
    )
    forget_weight: float | None = field(
        default=None,
        metadata={
            "help": "Weight of the loss on the images against that of the retention, >= 0; default: 0.3 for collages; "
            "0.125 for l2ul, the ratio of the two batches of the paper's code, all of whose images weigh alike."
        },
    )
    target_ce_weight: float | None = field(
        default=None,
        metadata={
            "help": "Weight of the cross-entropy on the labels of the examples, >= 0; default: 1 for l2ul. Collages "
            "have no labels of their own."
        },
    )
    distillation_weight: float | None = field(
        default=None,
        metadata={
            "help": "Weight of a distillation of the original model on the examples or collages, >= 0; default: 1 for "
            "collages, 0 for l2ul."
        },
    )
    retain_augmentation: Augmentation = field(
        default="none", metadata={"help": "Set to 'none': an adversarial example is one as it is."}
    )
    optim: str | None = field(
        default=None, metadata={"help": "Optimizer; default: adamw_torch for collages, sgd for l2ul."}
    )
    optim_args: str | None = field(
        default=None,
        metadata={"help": "Options of the optimizer, where it has them; default: momentum=0.9 for l2ul's sgd."},
    )
    learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate; default: 5e-5 for collages, 1e-3 for l2ul."}
    )
    lr_scheduler_type: str | None = field(
        default=None,
        metadata={"help": "Schedule of the learning rate; default: linear for collages, constant for l2ul."},
    )
    max_steps: int | None = field(
        default=None,
        metadata={
            "help": "Most steps; training stops when everything is forgotten. Default: 600 for collages, 1000 for "
            "l2ul."
        },
    )

    def __post_init__(self):
        self.retain_augmentation = "none"
        if self.strategy not in get_args(Strategy):
            raise ConfigError(f"strategy={self.strategy!r} is unknown; use one of: {', '.join(get_args(Strategy))}.")
        for name, value in _DEFAULTS[self.strategy].items():
            if getattr(self, name) is None and (name != "optim_args" or self.optim == "sgd"):
                setattr(self, name, value)
        super().__post_init__()
        for name, low, strict in (
            ("margin", 0, False), ("delta", 0, False), ("check_every", 1, False), ("examples", 1, False),
            ("epsilon", 0, True), ("step_size", 0, True), ("attack_steps", 1, False), ("importance_weight", 0, False),
        ):  # fmt: skip
            value = getattr(self, name)
            if not (value > low or (value == low and not strict)):
                raise ConfigError(f"{name}={value} must be {'>' if strict else '>='} {low}.")
        for name, allowed in (("goal", get_args(Goal)), ("criterion", get_args(Criterion))):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name}={getattr(self, name)!r} is unknown; use one of: {', '.join(allowed)}.")
        if not 0 < self.threshold <= 1:
            raise ConfigError(f"threshold={self.threshold} must be in (0, 1].")
        if self.margin and self.delta:
            raise ConfigError(f"margin={self.margin:g} and delta={self.delta:g} are two losses; set one of them to 0.")
        if self.strategy == "collages":
            self._check_collages()
        elif self.project and not self.adversarial:
            raise ConfigError("project=True protects layer inputs of adversarial examples: set adversarial=True.")
        elif self.adversarial and not (self.target_ce_weight or self.distillation_weight or self.project):
            raise ConfigError(
                "adversarial=True, but nothing uses the examples: raise target_ce_weight or distillation_weight, set "
                "project=True, or set adversarial=False."
            )

    def _check_collages(self) -> None:
        if self.adversarial:
            raise ConfigError("adversarial=True belongs to strategy='l2ul'; strategy='collages' retains on collages.")
        if self.target_ce_weight:
            raise ConfigError(
                f"target_ce_weight={self.target_ce_weight:g} needs labels, which collages do not have: set it to 0, "
                "and distillation_weight above 0."
            )
        if not (self.distillation_weight or self.project):
            raise ConfigError("Nothing uses the collages: raise distillation_weight, or set project=True.")

    @classmethod
    def for_request(cls, request: Request, given: Mapping[str, Any]) -> dict[str, Any]:
        """As in `UnlearningConfig`, but as many steps as the strategy takes, and l2ul has a rate of its own."""
        own = {"max_steps"} | ({"learning_rate"} if given.get("strategy") == "l2ul" else set())
        return {name: value for name, value in super().for_request(request, given).items() if name not in own}

    @property
    def gives_new_labels(self) -> bool:
        return self.goal == "relabel"

    def streams(self, forget: Dataset, retain: Dataset) -> PairedStreams:
        """As in `UnlearningConfig`, but a step does not show few images several times over."""
        streams = super().streams(forget, retain)
        streams.chunk_size = min(streams.chunk_size, -(-len(forget) // self.num_chunks))  # type: ignore[arg-type]
        return streams
