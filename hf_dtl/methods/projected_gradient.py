"""Projected-gradient unlearning: forget by updates to which what is retained is blind, without the retain data.

Source: Hoang, Rana, Gupta and Venkatesh, "Learn to Unlearn for Deep Neural Networks: Minimizing Unlearning
Interference with Gradient Projection", arXiv 2312.04095. Its code knows two convolutional networks; this works on any
linear and convolutional layer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedModel

from hf_dtl.errors import ConfigError
from hf_dtl.functional import GradientSubspace, bounded_forgetting
from hf_dtl.methods.registry import register_method
from hf_dtl.models.heads import MultiHeadClassifier
from hf_dtl.trainers import (
    RETENTION,
    Chunk,
    Chunking,
    ProjectingTrainer,
    ProtectionOptions,
    Request,
    StopRule,
    StopWhenForgotten,
    UnlearningConfig,
    option,
)
from hf_dtl.trainers.projection import LAYER_INPUTS, fingerprints


@dataclass
class ProjectedGradientConfig(ProtectionOptions, UnlearningConfig):
    """Options of projected-gradient unlearning.

    Parameters that control the method:
        subspace_file, criterion, threshold, goal, delta, entropy_weight, stop, retain_margin, check_every,
        check_images, and from `UnlearningConfig` forget_weight and max_forget_grad_norm. There is no retention loss.
    """

    adapts: ClassVar[bool] = False

    retains: ClassVar[bool] = False
    unused: ClassVar[frozenset[str]] = RETENTION
    wants_layer_inputs: ClassVar[bool] = True

    subspace_file: str | None = option(
        None,
        "Moments of the layer inputs on ALL data that the model was trained on, as `save_subspace` writes them; those "
        "of the forget images are subtracted. No retain images are needed then.",
    )
    goal: Literal["remove", "depoison"] = option(
        "remove", "'remove' makes forgotten images uncertain, 'depoison' gives them another class."
    )
    delta: float = option(0.05, "Bound of the forget loss, > 0; 0.1 for depoison in the paper.", above=0)
    entropy_weight: float = option(0.2, "Weight of the entropy term, >= 0.", low=0)
    stop: StopRule = option(
        "steps",
        "When to stop: after max_steps ('steps'), once forget accuracy has come down to that of held-out images "
        "('validation_accuracy', for random images), or once that has fallen by retain_margin ('retain_drop', for a "
        "class or poison; the best weights before are kept).",
    )
    retain_margin: float = option(0.05, "Margin of stop='retain_drop', in 0..1.", low=0, high=1)
    check_every: int = option(10, "Steps between two measurements for stop, >= 1.", low=1)
    check_images: int = option(
        512, "Most forget images, and held-out images, that a measurement looks at, >= 1.", low=1
    )
    chunking: Chunking = "random"
    learning_rate: float = 0.1
    optim: str = "sgd"

    @classmethod
    def for_request(cls, request: Request, user_options: Mapping[str, Any]) -> dict[str, Any]:
        """As in `UnlearningConfig`, and the rule to stop by for a part of the data."""
        chosen = super().for_request(request, user_options)
        if request.kind == "part" and "stop" not in user_options:
            class_or_poison = request.whole_classes or user_options.get("goal") == "depoison"
            chosen["stop"] = "retain_drop" if class_or_poison else "validation_accuracy"
        return chosen


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
    args: ProjectedGradientConfig

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
            rule = (args.stop, args.retain_margin, args.check_every, args.check_images)
            self.add_callback(StopWhenForgotten(self, *rule))

    def prepare(self) -> None:
        args, given = self.args, self._subspace
        self.subspace = self.retained_moments(args.subspace_file) if given is None else given
        self.protect(self.subspace, args.criterion, args.threshold)

    def active_streams(self) -> tuple[bool, bool]:
        """Forget images alone; retain images, where there are any, are not looked at."""
        return False, True

    def forget_loss(self, outputs: Tensor, chunk: Chunk) -> Tensor:
        args, depoison = self.args, self.args.goal == "depoison"
        return bounded_forgetting(
            outputs, chunk.labels, delta=args.delta, entropy_weight=args.entropy_weight, depoison=depoison
        )

    def save_artifacts(self, folder: Path) -> None:
        """The moments, see `save_subspace`."""
        self.save_subspace(folder / LAYER_INPUTS)

    def save_subspace(self, path: str | Path) -> None:
        """Write the moments on the retained images beside the model as it is now, for the next forget request."""
        if self.args.should_save:
            model = self.accelerator.unwrap_model(self.model)
            self.subspace.save(path, **fingerprints(model, self.retain_task, self.processing_class))
