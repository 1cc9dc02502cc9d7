"""Projected-gradient unlearning: forget by updates to which what is retained is blind, without the retain data.

Source: Hoang, Rana, Gupta and Venkatesh, "Learn to Unlearn for Deep Neural Networks: Minimizing Unlearning
Interference with Gradient Projection", arXiv 2312.04095. Its code knows two convolutional networks; this works on any
linear and convolutional layer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedModel

from hf_dtl.errors import ConfigError
from hf_dtl.functional import GradientSubspace, bounded_forgetting
from hf_dtl.functional.subspace import Criterion
from hf_dtl.methods.registry import register_method
from hf_dtl.models.heads import MultiHeadClassifier
from hf_dtl.trainers.config import UnlearningConfig
from hf_dtl.trainers.projection import ProjectingTrainer
from hf_dtl.trainers.request import Request
from hf_dtl.trainers.stopping import StopRule, StopWhenForgotten
from hf_dtl.trainers.streams import Chunking
from hf_dtl.trainers.subspaces import LAYER_INPUTS, fingerprints


@dataclass
class ProjectedGradientConfig(UnlearningConfig):
    """Options of projected-gradient unlearning.

    Parameters that control the method:
        subspace_file, criterion, threshold, goal, delta, entropy_weight, stop, retain_margin, check_every,
        check_images, and from `UnlearningConfig` forget_weight and max_forget_grad_norm. There is no retention loss:
        its options do nothing.
    """

    retains: ClassVar[bool] = False
    wants_layer_inputs: ClassVar[bool] = True

    subspace_file: str | None = field(
        default=None,
        metadata={
            "help": "Moments of the layer inputs on ALL data that the model was trained on, as `save_subspace` writes "
            "them; those of the forget images are subtracted. No retain images are needed then."
        },
    )
    criterion: Criterion = field(
        default="energy",
        metadata={"help": "What the protected directions hold a share of: 'energy' (squares) or 'sigma' (as PGU)."},
    )
    threshold: float = field(
        default=0.9, metadata={"help": "That share, in (0, 1]: larger protects more and forgets less."}
    )
    goal: Literal["remove", "depoison"] = field(
        default="remove",
        metadata={"help": "'remove' makes forgotten images uncertain, 'depoison' gives them another class."},
    )
    delta: float = field(
        default=0.05, metadata={"help": "Bound of the forget loss, > 0; 0.1 for depoison in the paper."}
    )
    entropy_weight: float = field(default=0.2, metadata={"help": "Weight of the entropy term, >= 0."})
    stop: StopRule = field(
        default="steps",
        metadata={
            "help": "When to stop: after max_steps ('steps'), once forget accuracy has come down to that of held-out "
            "images ('validation_accuracy', for random images), or once that has fallen by retain_margin "
            "('retain_drop', for a class or poison; the best weights before are kept)."
        },
    )
    retain_margin: float = field(default=0.05, metadata={"help": "Margin of stop='retain_drop', in 0..1."})
    check_every: int = field(default=10, metadata={"help": "Steps between two measurements for stop, >= 1."})
    check_images: int = field(
        default=512, metadata={"help": "Most forget images, and held-out images, that a measurement looks at, >= 1."}
    )
    chunking: Chunking = field(default="random", metadata={"help": "How chunks are formed: 'random' or 'class'."})
    learning_rate: float = field(default=0.1, metadata={"help": "Learning rate, of SGD unless optim says otherwise."})
    optim: str = field(default="sgd", metadata={"help": "Optimizer; whatever it is, the update is projected last."})

    @classmethod
    def for_request(cls, request: Request, given: Mapping[str, Any]) -> dict[str, Any]:
        """As in `UnlearningConfig`, and the rule to stop by for a part of the data."""
        chosen = super().for_request(request, given)
        if request.kind == "part" and "stop" not in given:
            class_or_poison = request.whole_classes or given.get("goal") == "depoison"
            chosen["stop"] = "retain_drop" if class_or_poison else "validation_accuracy"
        return chosen

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.threshold <= 1:
            raise ConfigError(f"threshold={self.threshold} must be in (0, 1].")
        if not 0 <= self.retain_margin <= 1 or min(self.check_every, self.check_images) < 1:
            raise ConfigError(
                f"retain_margin={self.retain_margin} must be in 0..1, check_every={self.check_every} and "
                f"check_images={self.check_images} at least 1."
            )
        for name, low, strict in (("delta", 0, True), ("entropy_weight", 0, False)):
            value = getattr(self, name)
            if not (value > low or (value == low and not strict)):
                raise ConfigError(f"{name}={value} must be {'>' if strict else '>='} {low}.")
        for name, allowed in (
            ("criterion", get_args(Criterion)),
            ("goal", ("remove", "depoison")),
            ("stop", get_args(StopRule)),
        ):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name}={getattr(self, name)!r} is unknown; use one of: {', '.join(allowed)}.")


@register_method("projected_gradient")
class ProjectedGradientTrainer(ProjectingTrainer):
    """Minimise the bounded forget loss by updates outside the span of the retained layer inputs.

    See `ProjectingTrainer` for what is projected, and when.

    Args:
        retain_dataset: what to keep; None where `args.subspace_file` or `subspace` is given.
        subspace: moments on the retained images alone, for those who collected them.
        **: as for `UnlearningTrainer`.

    Raises:
        ConfigError: neither retain images nor moments are given, or the moments do not belong to this model or these
            images.
    """

    config_class = ProjectedGradientConfig

    subspace: GradientSubspace

    def __init__(
        self,
        model: MultiHeadClassifier | PreTrainedModel,
        args: ProjectedGradientConfig,
        forget_dataset: Dataset,
        retain_dataset: Dataset | None = None,
        *,
        subspace: GradientSubspace | None = None,
        **kwargs: Any,
    ):
        given = sum(x is not None for x in (subspace, args.subspace_file, retain_dataset))
        if not given or (subspace is not None and args.subspace_file is not None):
            raise ConfigError(
                "Give the images to retain (retain_dataset), or the moments of the layer inputs: subspace_file (on "
                "all training data) or subspace (on the retained data)."
            )
        self._subspace = subspace
        # no retain image is shown in a step; the streams need a data set all the same
        shown = forget_dataset if retain_dataset is None else retain_dataset
        super().__init__(model, args, forget_dataset, shown, **kwargs)
        if args.stop != "steps":
            self.add_callback(
                StopWhenForgotten(self, args.stop, args.retain_margin, args.check_every, args.check_images)
            )

    def prepare(self) -> None:
        args = self.args
        given = self._subspace
        self.subspace = self.retained_moments(args.subspace_file) if given is None else given
        self.protect(self.subspace, args.criterion, args.threshold)

    def shown(self) -> tuple[bool, bool]:
        """Forget images alone; retain images, where there are any, are not looked at."""
        return False, True

    def forget_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        args = self.args
        return bounded_forgetting(
            logits, labels, delta=args.delta, entropy_weight=args.entropy_weight, depoison=args.goal == "depoison"
        )

    def save_artifacts(self, folder: Path) -> None:
        """The moments, see `save_subspace`."""
        self.save_subspace(folder / LAYER_INPUTS)

    def save_subspace(self, path: str | Path) -> None:
        """Write the moments on the retained images beside the model as it is now, for the next forget request."""
        if self.args.should_save:
            model = self.accelerator.unwrap_model(self.model)
            self.subspace.save(path, **fingerprints(model, self.retain_task, self.processing_class))
