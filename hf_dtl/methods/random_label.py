"""Random labelling, and SalUn, which lets only the salient weights take part in it.

Sources: wrong labels for the forget images beside the right ones for the others, as in Amnesiac unlearning, arXiv
2010.10981; Fan, Liu, Zhang, Wong, Wei and Liu, "SalUn: Empowering Machine Unlearning via Gradient-based Weight
Saliency in Both Image Classification and Generation", arXiv 2310.12508.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_dtl.functional import average_loss, saliency_mask, wrong_labels
from hf_dtl.methods.registry import register_method
from hf_dtl.trainers import Chunk, UnlearningConfig, UnlearningTrainer, WholeBatchConfig, labels_of, option, refused

_OFFSET = 7_368_787


@dataclass
class RandomLabelConfig(WholeBatchConfig):
    """Options of random labelling: those of `UnlearningConfig`."""

    multi_label: ClassVar[bool] = True

    distillation_weight: float = 0.0


@register_method("random_label")
class RandomLabelTrainer(UnlearningTrainer):
    """Minimise CE(retain) + forget_weight * CE(f(x), y~), y~ being ONE wrong label an image for the whole run.

    It is drawn uniformly among the other classes by the seed, the same on every process. (`random_fooling` draws a new
    one every time.)

    Raises:
        ConfigError: the head has one class only.
    """

    config_class: ClassVar[type[UnlearningConfig]] = RandomLabelConfig

    wrong: Tensor
    """What the loss of each forget image is about, on the CPU: (forget images,), the wrong label of each."""

    def prepare(self) -> None:
        super().prepare()
        self.wrong = self.draw_wrong(torch.Generator().manual_seed(self.args.seed + _OFFSET))

    def draw_wrong(self, generator: torch.Generator) -> Tensor:
        """The wrong label of each forget image."""
        labels = torch.as_tensor(labels_of(self.train_dataset.forget))
        with refused(remedy="Use a model with more classes, or another method."):
            return wrong_labels(labels, self.model.heads[self.forget_task].out_features, generator)

    def forget_loss(self, outputs: Any, chunk: Chunk) -> Tensor:
        return self.label_loss(outputs, self.wrong.to(chunk.rows.device)[chunk.rows])


@dataclass
class SaliencyOptions:
    """Options that say how many weights may change."""

    saliency: float = option(
        0.5,
        "salun: share of the weights that may change, those most salient, in (0, 1].",
        above=0,
        high=1,
        says="in (0, 1]; 1 is random_label",
    )


@dataclass
class SalUnConfig(SaliencyOptions, RandomLabelConfig):
    """Options of SalUn: those of `UnlearningConfig`, and saliency."""


@register_method("salun")
class SalUnTrainer(RandomLabelTrainer):
    """Random labelling that moves only the weights which the forget images' own cross-entropy depends on most.

    Salient are those with the largest |gradient| of CE on all forget images with their true labels, at the given
    weights, ranked over all that are trained. After every step of the optimizer, whichever it is, the others are set
    back to the given values: momentum and weight decay cannot move them.
    """

    config_class: ClassVar[type[UnlearningConfig]] = SalUnConfig

    mask: list[Tensor]
    """One boolean tensor a trained parameter, True where it may change."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        assert isinstance(self.args, SaliencyOptions)
        self.mask = saliency_mask(self.forget_gradient(), self.args.saliency)

    def forget_gradient(self) -> list[Tensor]:
        """A multiple of the gradient of CE on all forget images, of each trained parameter, over all processes."""
        self.model.eval()

        def loss(images: Tensor, labels: Tensor) -> Tensor:
            return self.label_loss(self.outputs(self.model, images), labels, mean=False)

        losses = (partial(loss, *batch) for batch in self.batches(self.train_dataset.forget, "saliency"))
        return average_loss(losses, self.trained, reduce=self.reduce).gradients

    @torch.no_grad()
    def constrain(self) -> None:
        """Set the weights outside the mask back to the given ones."""
        for mine, given, mask in zip(self.trained, self.initial_weights, self.mask, strict=True):
            mine.copy_(torch.where(mask, mine, given))
