"""A small convolutional network from random weights: what the images alone teach, whatever was published."""

from collections.abc import Hashable, Iterator, Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy

from hf_dtl.audit.attacks.answers import Copies, better_answer, copy_of
from hf_dtl.audit.attacks.attack import Attack, TrainedAttack, Unit
from hf_dtl.audit.attacks.choice import Choice, share_right
from hf_dtl.audit.attacks.context import AttackContext, undisturbed
from hf_dtl.audit.attacks.readings import ROOM
from hf_dtl.audit.attacks.registry import register_attack
from hf_dtl.audit.attacks.stack import Stopped
from hf_dtl.audit.classifiers import LabelledImages
from hf_dtl.audit.config import AttackConfig
from hf_dtl.functional import Augmentation, augment, framed

SIDE = 32
"""Larger images are averaged down to so many pixels along each side."""
WIDTH = 16
"""Channels of the first layers; the next have two and three times as many."""
BATCH, RATE, WEIGHT_DECAY = 32, 3e-3, 0.05


@register_attack(
    "network_affine", "A small convolutional network from random weights, on shifted, turned and stretched images.",
    augmentation="affine",
)  # fmt: skip
@register_attack(
    "network_crop_flip", "A small convolutional network from random weights, on shifted and mirrored images.",
    augmentation="crop_flip",
)  # fmt: skip
@register_attack(
    "network_photometric", "As network_affine, on images whose contrast, polarity and noise change.",
)  # fmt: skip
class FreshNetwork(Attack):
    """A small convolutional network, trained from random weights on the attacker's images alone.

    Whoever has these images can leave the published weights alone. Five layers of 3×3 with batch normalisation, from
    images of at most 32 pixels, each standardised; AdamW with a one-cycle schedule. The same for every model, and
    trained once for all of them.

    Args:
        augmentation: of the training images.
        length: training steps.
        answers: copies of an image to be classified that are looked at beside it, where validation says so.
    """

    augmentation: Augmentation = "photometric"
    length: int = 400
    answers: int = 8

    ignores_model: ClassVar[bool] = True
    source: ClassVar[str] = "Smith, Topin, Super-Convergence, 2018, for the schedule; the network is ours"

    def standard(self, images: Tensor) -> Tensor:
        """Images as the network sees them: each with mean 0 and deviation 1."""
        images = reduced(images)
        centred = images - images.mean((1, 2, 3), keepdim=True)
        return centred / centred.square().mean((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-6)

    def network(self, channels: int, classes: int) -> nn.Module:
        """The network before training."""
        return small_network(channels, classes)

    def _seen(self, context: AttackContext, split: LabelledImages) -> Copies:
        """A split as the network sees it, once for all attacks that see it so."""

        def make() -> Copies:
            parts = [
                self.standard(batch.float()) for batch in split.pixel_values.split(context.config.eval_batch_size)
            ]
            return Copies(torch.cat(parts), split.labels)

        return context.once((self._view, id(split)), make)

    def _copy(self, context: AttackContext, split: LabelledImages, number: int) -> Tensor:
        """A copy of a split, once for all draws where there is room."""

        def make() -> list[Tensor]:
            return [copy_of(self._seen(context, split), self.augmentation, number).pixel_values]

        return context.once((self._view, self.augmentation, id(split), number), make, room=ROOM)[0]

    @property
    def _view(self) -> Hashable:
        """What the network sees of an image depends on no more."""
        return type(self).__name__

    def steps(self, config: AttackConfig, images: int) -> int:
        return self.length

    def train(self, context: AttackContext, units: Sequence[Unit]) -> Iterator[TrainedAttack]:
        validation = context.task.validation
        for unit in units:
            images, labels = context.images(unit)
            network = self._trained(context, self.standard(images.float()), labels, unit.seed)
            classify = partial(_answers, context, network)

            def plain(split: LabelledImages, classify=classify) -> Tensor:
                return classify(self._seen(context, split).pixel_values)

            def copies(split: LabelledImages, number: int, classify=classify) -> Tensor:
                return classify(self._copy(context, split, number))

            reached = share_right(plain(validation), validation.labels)
            answer, reached = better_answer(plain, copies, self.answers, validation, reached)
            yield unit, Choice(RATE, reached, {}), answer

    def _trained(self, context: AttackContext, images: Tensor, labels: Tensor, seed: int) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        with undisturbed():
            torch.default_generator.manual_seed(seed)
            network = self.network(images.shape[1], context.num_classes)
        network.to(context.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]  # a third faster
        optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=self.length, pct_start=0.1)
        for _ in range(self.length):
            if context.stop is not None and context.stop.is_set():
                raise Stopped
            rows = torch.randint(len(images), (BATCH,), generator=generator)
            logits = network(augment(images[rows], self.augmentation, generator))
            optimizer.zero_grad()
            cross_entropy(logits, labels[rows]).backward()
            optimizer.step()
            schedule.step()
        return network.eval()


@register_attack(
    "network_framed", "A convolutional network from random weights, on objects of one contrast, place and size.",
)  # fmt: skip
@register_attack(
    "network_framed_200", "As network_framed, smaller and half as long.", length=200, answers=4, enlarge=1.0
)
class FramedNetwork(FreshNetwork):
    """A network that sees every image with its ground and contrast evened, its object in the middle and enlarged.

    It is trained on objects that are turned, sheared, mirrored and drawn thicker or thinner.

    Args:
        enlarge: factor of the images' height and width.
    """

    augmentation: Augmentation = "shape"
    enlarge: float = 1.5

    source: ClassVar[str] = "an outsider's attack on this audit, 2026"

    @property
    def _view(self) -> Hashable:
        return type(self).__name__, self.enlarge

    def standard(self, images: Tensor) -> Tensor:
        return framed(reduced(images), self.enlarge)

    def network(self, channels: int, classes: int) -> nn.Module:
        return small_network(channels, classes) if self.enlarge == 1 else sharp_network(channels, classes)


def sharp_network(channels: int, classes: int) -> nn.Module:
    """Five layers of 3×3, at full size first, and a linear head on mean and maximum over places."""
    layers: list[nn.Module] = []
    for width, stride in ((1, 1), (2, 2), (2, 1), (4, 2), (4, 1)):
        own = WIDTH * width
        layers += [nn.Conv2d(channels, own, 3, stride, 1, bias=False), nn.BatchNorm2d(own), nn.ReLU()]
        channels = own
    return nn.Sequential(*layers, MeanAndMaximum(), nn.Linear(2 * channels, classes))


class MeanAndMaximum(nn.Module):
    """Over the places of a map, (n, channels, height, width) to (n, 2 * channels)."""

    def forward(self, maps: Tensor) -> Tensor:
        return torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], 1)


def small_network(channels: int, classes: int) -> nn.Module:
    """Five layers of 3×3, the second and the fourth at half the size, and a linear head on a grid of 3×3."""
    layers: list[nn.Module] = []
    for depth, width in enumerate((WIDTH, WIDTH, 2 * WIDTH, 2 * WIDTH, 3 * WIDTH)):
        layers += [nn.Conv2d(channels, width, 3, 1 + depth % 2, 1, bias=False), nn.BatchNorm2d(width), nn.GELU()]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(9 * channels, classes))


def reduced(images: Tensor) -> Tensor:
    """At most `SIDE` pixels along each side."""
    height, width = images.shape[2:]
    return adaptive_avg_pool2d(images, (min(height, SIDE), min(width, SIDE))) if max(height, width) > SIDE else images


@torch.no_grad()
def _answers(context: AttackContext, network: nn.Module, images: Tensor) -> Tensor:
    """Probabilities (images, classes)."""
    batches = images.split(context.config.eval_batch_size)
    return torch.cat([network(batch.to(context.device)).softmax(1) for batch in batches])
