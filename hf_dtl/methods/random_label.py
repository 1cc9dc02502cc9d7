"""Random labelling, and SalUn, which lets only the salient weights take part in it.

Sources: wrong labels for the forget images beside the right ones for the others, as in Amnesiac unlearning, arXiv
2010.10981; Fan, Liu, Zhang, Wong, Wei and Liu, "SalUn: Empowering Machine Unlearning via Gradient-based Weight
Saliency in Both Image Classification and Generation", arXiv 2310.12508.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from hf_dtl.errors import ConfigError
from hf_dtl.functional import average_loss, saliency_mask, wrong_labels
from hf_dtl.methods.registry import register_method
from hf_dtl.trainers.config import WholeBatchConfig
from hf_dtl.trainers.streams import labels_of
from hf_dtl.trainers.trainer import UnlearningTrainer

_OFFSET = 7_368_787
_BATCH = 64


@dataclass
class RandomLabelConfig(WholeBatchConfig):
    """Options of random labelling: those of `UnlearningConfig`."""

    distillation_weight: float = field(
        default=0.0, metadata={"help": "Weight of the distillation from the frozen original model, >= 0."}
    )


@register_method("random_label")
class RandomLabelTrainer(UnlearningTrainer):
    """Minimise CE(retain) + forget_weight * CE(f(x), y~), y~ being ONE wrong label an image for the whole run.

    It is drawn uniformly among the other classes by the seed, the same on every process. (`random_fooling` draws a new
    one every time.)

    Raises:
        ConfigError: the head has one class only.
    """

    config_class = RandomLabelConfig

    wrong: Tensor
    """(forget images,), the wrong label of each."""

    def prepare(self) -> None:
        labels = torch.as_tensor(labels_of(self.train_dataset.forget))
        generator = torch.Generator().manual_seed(self.args.seed + _OFFSET)
        try:
            self.wrong = wrong_labels(labels, self.model.heads[self.forget_task].out_features, generator)
        except ValueError as error:
            raise ConfigError(f"{error} Use a model with more classes, or another method.") from None

    def _chunk_loss(self, pixel_values: Tensor, labels: Tensor, cell: int) -> Tensor:
        step, chunk = divmod(cell, self.train_dataset.num_chunks)
        self._aim = self.wrong[self.train_dataset.forget_indices(step)[chunk]].to(labels.device)
        return super()._chunk_loss(pixel_values, labels, cell)

    def forget_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits.float(), self._aim)


@dataclass
class SalUnConfig(RandomLabelConfig):
    """Options of SalUn: those of `UnlearningConfig`, and saliency."""

    saliency: float = field(
        default=0.5, metadata={"help": "Share of the weights that may change, those most salient, in (0, 1]."}
    )

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.saliency <= 1:
            raise ConfigError(f"saliency={self.saliency} must be in (0, 1]; 1 is random_label.")


@register_method("salun")
class SalUnTrainer(RandomLabelTrainer):
    """Random labelling that moves only the weights which the forget images' own cross-entropy depends on most.

    Salient are those with the largest |gradient| of CE on all forget images with their true labels, at the given
    weights, ranked over all that are trained. After every step of the optimizer, whichever it is, the others are set
    back to the given values: momentum and weight decay cannot move them.
    """

    config_class = SalUnConfig

    mask: list[Tensor]
    """One boolean tensor a trained parameter, True where it may change."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        pairs = zip(self.model.parameters(), self.teacher.parameters(), strict=True)
        self._trained, self._given = zip(*((mine, given) for mine, given in pairs if mine.requires_grad), strict=True)
        self.mask = saliency_mask(self.forget_gradient(), self.args.saliency)

    def forget_gradient(self) -> list[Tensor]:
        """A multiple of the gradient of CE on all forget images, of each trained parameter, over all processes."""
        args, forget = self.args, self.train_dataset.forget
        self.model.eval()
        mine = range(args.process_index, len(forget), args.world_size)
        losses = [partial(self._sum_of_losses, mine[i : i + _BATCH]) for i in range(0, len(mine), _BATCH)]
        bar = tqdm(losses, desc="saliency", unit="batch", **self.quiet)
        return average_loss(bar, self._trained, reduce=self.reduce).gradients

    def _sum_of_losses(self, rows: range) -> Tensor:
        images, labels = self.loaded(self.train_dataset.forget, rows)
        return F.cross_entropy(self.model(images, task=self.forget_task).float(), labels, reduction="sum")

    @torch.no_grad()
    def constrain(self) -> None:
        """Set the weights outside the mask back to the given ones."""
        for mine, given, mask in zip(self._trained, self._given, self.mask, strict=True):
            mine.copy_(torch.where(mask, mine, given))
