"""The nearest class mean of what frozen weights give at every depth, in closed form."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import linear

from hf_dtl.audit.attacks.attack import Attack, TrainedAttack, Unit
from hf_dtl.audit.attacks.choice import Choice, share_right
from hf_dtl.audit.attacks.context import AttackContext, Head
from hf_dtl.audit.attacks.readings import split_readings, training_readings
from hf_dtl.audit.attacks.registry import register_attack
from hf_dtl.audit.classifiers import LabelledImages
from hf_dtl.functional import Augmentation, nearest_mean


@register_attack("class_means", "The nearest class mean of frozen features of every depth.")
@register_attack(
    "class_means_affine", "As class_means, of shifted, turned and stretched copies too.", augmentation="affine",
)  # fmt: skip
@register_attack(
    "class_means_crop_flip", "As class_means, of shifted and mirrored copies too.", augmentation="crop_flip",
)  # fmt: skip
class ClassMeans(Attack):
    """The nearest class mean of standardised features of every depth; the depth is chosen on validation images.

    Args:
        augmentation: of three copies of every image, which count towards the means; none means no copy.
    """

    augmentation: Augmentation = "none"

    version: ClassVar[int] = 3
    source: ClassVar[str] = "Mensink et al., Distance-Based Image Classification, TPAMI 2013; the readings are ours"

    def train(self, context: AttackContext, units: Sequence[Unit]) -> Iterator[TrainedAttack]:
        validation = context.task.validation
        for unit in units:
            readings, labels = training_readings(context, unit, self.augmentation)
            heads = [nearest_mean(values, labels, context.num_classes) for values in readings]
            reached = [
                share_right(_classify(context, reading, head, validation), validation.labels)
                for reading, head in enumerate(heads)
            ]
            best = max(range(len(heads)), key=reached.__getitem__)
            state = dict(zip(("weight", "bias"), heads[best], strict=True))
            yield unit, Choice(0.0, reached[best], state), partial(_classify, context, best, heads[best])


def _classify(context: AttackContext, reading: int, head: Head, split: LabelledImages) -> Tensor:
    return linear(split_readings(context, split)[reading].double(), *head)
