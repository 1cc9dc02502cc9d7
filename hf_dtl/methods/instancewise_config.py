"""Options of instance-wise unlearning, and what each strategy makes of those that are left open."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch.utils.data import Dataset

from hf_dtl.data.images import size_of
from hf_dtl.errors import ConfigError
from hf_dtl.functional.augmentation import Augmentation
from hf_dtl.trainers import PairedStreams, ProtectionOptions, WholeBatchConfig, check_options, option
from hf_dtl.trainers.request import Request, ScenarioKind

Goal = Literal["misclassify", "relabel"]
Strategy = Literal["collages", "l2ul"]

DEFAULTS: dict[Strategy, dict[str, Any]] = {
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
class InstanceUnlearningConfig(ProtectionOptions, WholeBatchConfig):
    """Options of instance-wise unlearning. Those whose default is None have one by the strategy, see `DEFAULTS`.

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

    adapts: ClassVar[bool] = False

    retains: ClassVar[bool] = False  # each kind of retention can be switched off
    unused: ClassVar[frozenset[str]] = frozenset({"retain_augmentation", "retain_inputs"})  # an example is as it is
    kinds: ClassVar[frozenset[ScenarioKind]] = frozenset({"part"})

    strategy: Strategy = option(
        "collages",
        "'collages' pushes each image only over the nearest boundary, and keeps the original model's answers on "
        "collages of the images; 'l2ul' is the paper's method, with adversarial examples and weight importance.",
    )
    goal: Goal = option(
        "misclassify",
        "'misclassify' makes the model give each image any other label than its own, 'relabel' a given one, or one "
        "that the seed draws.",
    )
    margin: float | None = option(
        None,
        "> 0: push an image only until its label is this far, in logits, from being given (or given, with "
        "goal=relabel). 0: the cross-entropy of the paper. Default: 0.05 for collages, 0 for l2ul.",
        low=0,
    )
    delta: float = option(
        0.0,
        "Without margin and with goal=misclassify, > 0, such as 0.05, takes -log(1 + delta - p_y) for log p_y: "
        "images that are still remembered push most, and forgotten ones no more. 0: the paper's loss, which does the "
        "opposite.",
        low=0,
    )
    stop_when_forgotten: bool = option(True, "Stop as soon as every image is misnamed or renamed.")
    check_every: int = option(1, "Steps between two looks at what is forgotten, >= 1.", low=1)
    adversarial: bool | None = option(
        None,
        "Retain the original model's answers on adversarial examples of the images. Default: with l2ul; collages does "
        "it on collages.",
    )
    examples: int = option(20, "Adversarial examples of an image, >= 1; 200 for 100 classes and more.", low=1)
    epsilon: float = option(4.0, "L2 distance of an example from its image, in pixels of range 0..1, > 0.", above=0)
    step_size: float = option(0.1, "Step (alpha) of the search for them, likewise, > 0.", above=0)
    attack_steps: int = option(100, "Steps of that search, >= 1.", low=1)
    adversaries_folder: str | None = option(
        None,
        "Folder to keep the examples in and find them again. They look like what is to be forgotten: delete it in the "
        "end.",
    )
    importance: bool | None = option(
        None, "Anchor weights that matter little to the outputs on the images. Default: with l2ul."
    )
    importance_weight: float = option(1.0, "Weight (lambda) of these anchors, >= 0.", low=0)
    project: bool = option(
        False, "Keep every update outside the span of the layer inputs of the adversarial examples, or collages."
    )
    forget_weight: float | None = None
    target_ce_weight: float | None = None
    distillation_weight: float | None = None
    retain_augmentation: Augmentation = "none"
    optim: str | None = None
    optim_args: str | None = None
    learning_rate: float | None = None
    lr_scheduler_type: str | None = None
    max_steps: int | None = None

    def __post_init__(self):
        check_options(self)
        for name, value in DEFAULTS[self.strategy].items():
            if getattr(self, name) is None and (name != "optim_args" or self.optim == "sgd"):
                setattr(self, name, value)
        super().__post_init__()
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
    def for_request(cls, request: Request, user_options: Mapping[str, Any]) -> dict[str, Any]:
        """As in `UnlearningConfig`, but as many steps as the strategy takes, and l2ul has a rate of its own."""
        own = {"max_steps"} | ({"learning_rate"} if user_options.get("strategy") == "l2ul" else set())
        return {name: value for name, value in super().for_request(request, user_options).items() if name not in own}

    @property
    def gives_new_labels(self) -> bool:
        return self.goal == "relabel"

    def streams(self, forget: Dataset, retain: Dataset) -> PairedStreams:
        """As in `UnlearningConfig`, but a step does not show few images several times over."""
        streams = super().streams(forget, retain)
        streams.chunk_size = min(streams.chunk_size, -(-size_of(forget) // self.num_chunks))
        return streams
