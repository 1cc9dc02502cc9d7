"""Selective synaptic dampening (SSD): shrink, without training, the weights that matter most to the forget images.

Source: Foster, Schoepf and Brintrup, "Fast Machine Unlearning Without Retraining Through Selective Synaptic
Dampening", arXiv 2308.07707. Its released code squares the gradient of a batch's mean loss; here every image's own
gradient is squared, as in the diagonal of the Fisher information.
"""

import logging
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F
from tqdm import tqdm
from transformers.trainer_utils import TrainOutput

from hf_dtl.data.images import size_of
from hf_dtl.functional import dampening_factors, squared_gradients
from hf_dtl.functional.collision import reduce_together
from hf_dtl.methods.registry import register_method
from hf_dtl.trainers import DISPOSAL, RETENTION, UnlearningTrainer, WholeBatchConfig, option

logger = logging.getLogger(__name__)

_AT_ONCE = 2**25  # numbers in the gradients of the images that are looked at together


@dataclass
class SelectiveSynapticDampeningConfig(WholeBatchConfig):
    """Options of selective synaptic dampening.

    Parameters that control the method:
        alpha, dampening, fisher_images. Nothing is trained: options of steps, batches and optimizer do nothing.
    """

    adapts: ClassVar[bool] = False

    retains: ClassVar[bool] = False
    unused: ClassVar[frozenset[str]] = DISPOSAL | RETENTION

    alpha: float = option(
        10.0,
        "A weight is dampened where its Fisher information on forget images is more than alpha times that on all "
        "training images, >= 0; it cannot be more than all images over forget images. Smaller values forget more.",
        low=0,
    )
    dampening: float = option(
        1.0,
        "Strength (lambda), >= 0: such a weight is multiplied by lambda times the information on all over that on "
        "forget images, at most by 1. Smaller values forget more.",
        low=0,
    )
    fisher_images: int = option(
        1000, "Most forget images, and most training images, that each information is measured on, >= 1.", low=1
    )


@register_method("ssd")
class SelectiveSynapticDampeningTrainer(UnlearningTrainer):
    """Multiply each weight by min(lambda I_D / I_f, 1) where I_f > alpha I_D: `train` does it, and takes no step.

    I_f and I_D are diagonals of the Fisher information, means of squared per-image gradients of CE with the true
    labels, on the forget images and on all training images, forget and retain together.
    """

    config_class = SelectiveSynapticDampeningConfig
    args: SelectiveSynapticDampeningConfig

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """Dampen the weights; what would be resumed (the arguments) does not exist. Logs the share that shrank."""
        forget, total = self.information("forget"), self.information("all")
        factors = dampening_factors(forget, total, alpha=self.args.alpha, dampening=self.args.dampening)
        with torch.no_grad():
            for weight, factor in zip(self.trained, factors, strict=True):
                weight.mul_(factor)
        dampened = sum((factor < 1).sum().item() for factor in factors)
        if not dampened:
            streams = self.train_dataset
            most = 1 + size_of(streams.retain) / size_of(streams.forget)
            logger.warning(
                "No weight was dampened, so nothing is forgotten. I_D holds the forget images too, so I_f is at most "
                "%.3g times as large; lower alpha (%g) well below that.", most, self.args.alpha,
            )  # fmt: skip
        metrics = {"dampened_share": dampened / sum(factor.numel() for factor in factors)}
        self.log(dict(metrics))
        return TrainOutput(self.state.global_step, 0.0, metrics)

    def information(self, which: str) -> list[Tensor]:
        """Fisher information of each trained parameter on images that the seed draws, the same on every process.

        Args:
            which: "forget" for the forget images, "all" for these and the retain images.
        """
        args, forget, retain = self.args, self.train_dataset.forget, self.train_dataset.retain
        names = [name for name, weight in self.model.named_parameters() if weight.requires_grad]
        total = [torch.zeros_like(weight) for weight in self.trained]
        count = size_of(forget)
        size = count + (size_of(retain) if which == "all" else 0)
        drawn = torch.randperm(size, generator=torch.Generator().manual_seed(args.seed))[: args.fisher_images]
        mine = drawn[args.process_index :: args.world_size]
        at_once = max(1, min(32, _AT_ONCE // sum(weight.numel() for weight in total)))
        self.model.eval()
        with tqdm(total=len(mine), desc=f"Fisher information, {which}", unit="image", **self.share.quiet) as bar:
            for images, rows, task in (
                (forget, mine[mine < count], self.forget_task),
                (retain, mine[mine >= count] - count, self.retain_task),
            ):
                loss = partial(self._image_loss, names, task)
                for some in rows.split(at_once) if len(rows) else ():
                    found = squared_gradients(loss, self.trained, *self.load_rows(images, some.tolist()))
                    for t, squares in zip(total, found, strict=True):
                        t += squares
                    bar.update(len(some))
        return [t / len(drawn) for t in reduce_together(total, self.reduce)]

    def _image_loss(self, names: list[str], task: str, weights: list[Tensor], image: Tensor, label: Tensor) -> Tensor:
        state = dict(zip(names, weights, strict=True))
        logits = functional_call(self.model, state, (image.unsqueeze(0),), {"task": task})
        return F.cross_entropy(logits.float(), label.unsqueeze(0))
