"""U-LiRA: a membership test fitted to each image, by shadow models that were trained on it and unlearned it, or not.

It costs the training and the unlearning of every shadow model, which the caller does; the audit only reads them.
"""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from hf_dtl.audit.classifiers import Classifier, LabelledImages
from hf_dtl.audit.membership import SMALLEST_GROUP, MembershipResult, check_images, check_labels, judge, logits_of
from hf_dtl.errors import ConfigError, DataError

Variance = Literal["auto", "image", "global"]

SHADOWS_FOR_OWN_VARIANCE = 32
"""From this many shadow models on each side an image's own variance is better known than the one over all images."""


def shadow_splits(count: int, shadows: int, seed: int = 0) -> Tensor:
    """Draw which images each shadow model is trained on and unlearns, so that each image is in half of the models.

    Args:
        count: number of images, forget and held-out ones together.
        shadows: number of shadow models, even, at least 4.
        seed: of the draw.

    Returns:
        (shadows, count) bool; every column holds shadows / 2 times True.

    Raises:
        ConfigError: no image, or a number of shadow models that is odd or below 4.

    Source:
        Carlini et al., "Membership Inference Attacks From First Principles" (LiRA), arXiv 2112.03570.

    Example:
        >>> shadow_splits(5, shadows=4).sum(0)
        tensor([2, 2, 2, 2, 2])
    """
    if count < 1 or shadows < 4 or shadows % 2:
        raise ConfigError(
            f"Cannot split {count} images over {shadows} shadow models: give images, and an even number from 4 on."
        )
    order = torch.rand(shadows, count, generator=torch.Generator().manual_seed(seed)).argsort(0)
    return order < shadows // 2


def logit_scaled_confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute φ = log(p_y / (1 − p_y)) = z_y − log Σ_{j≠y} exp(z_j), which is near to normally distributed.

    Args:
        logits: (images, classes) z, at least 2 classes.
        labels: (images,) y in 0..classes-1.

    Returns:
        (images,) float64; finite even where p_y rounds to 1.

    Source:
        LiRA, arXiv 2112.03570.

    Example:
        >>> logit_scaled_confidence(torch.tensor([[3.0, 1.0]]), torch.tensor([0]))
        tensor([2.], dtype=torch.float64)
    """
    z = logits.double()
    own = labels[:, None]
    return z.gather(1, own).squeeze(1) - z.scatter(1, own, -torch.inf).logsumexp(1)


def u_lira_scores(observed: Tensor, shadows: Tensor, members: Tensor, variance: Variance = "auto") -> Tensor:
    """Compute the log likelihood ratio of each image's confidence: trained on and unlearned, against never seen.

        log N(φ; μ_with, σ²_with) − log N(φ; μ_without, σ²_without)

    Each image has its own means. The variance of a side is the image's own (`image`), or the one within images, pooled
    over all of them (`global`), which a small number of shadow models needs.

    Args:
        observed: (images,) φ of the attacked model.
        shadows: (shadow models, images) φ of the shadow models.
        members: (shadow models, images) bool, True where the model was trained on the image and unlearned it. Every
            image needs at least two models on both sides.
        variance: `image`, `global`, or `auto`: `image` from 32 models on both sides of every image.

    Returns:
        (images,) float64; above 0 the image is rather a member.

    Raises:
        ConfigError: an unknown `variance`.
        DataError: shapes that do not fit, values that are not finite, an image with fewer than two models on a side,
            or models that do not vary.

    Source:
        LiRA, arXiv 2112.03570 (its variance over all images also counts the spread between images; this one does
        not), on unlearned models: Kurmanji et al., arXiv 2302.09880, and U-LiRA of Hayes et al., arXiv 2403.01218.

    Example:
        >>> shadows = torch.tensor([[1.0], [3.0], [-1.0], [-3.0]])
        >>> u_lira_scores(torch.tensor([1.0]), shadows, shadows > 0)  # N(1; 2, 2) over N(1; -2, 2): (9 - 1) / 4
        tensor([2.], dtype=torch.float64)
    """
    if variance not in ("auto", "image", "global"):
        raise ConfigError(f"variance={variance!r} is unknown; use auto, image or global.")
    if members.dtype != torch.bool or members.shape != shadows.shape or shadows.shape[1:] != observed.shape:
        raise DataError(
            f"Need observed (images,), shadows and bool members (shadow models, images); got {tuple(observed.shape)}, "
            f"{tuple(shadows.shape)} and {members.dtype} {tuple(members.shape)}."
        )
    if not (torch.isfinite(observed).all() and torch.isfinite(shadows).all()):
        raise DataError("The confidences of U-LiRA hold values that are not finite. Leave broken shadow models out.")
    phi, x = shadows.double(), observed.double()
    sides = (members, ~members)
    fewest = min(int(side.sum(0).min()) for side in sides)
    if fewest < 2:
        image = next(int(side.sum(0).argmin()) for side in sides if int(side.sum(0).min()) == fewest)
        raise DataError(
            f"Image {image} has {fewest} shadow models on one side; U-LiRA needs at least 2 that were trained on it "
            "and 2 that were not. Draw the members with shadow_splits."
        )
    own = variance == "image" or (variance == "auto" and fewest >= SHADOWS_FOR_OWN_VARIANCE)
    likelihoods = []
    for side in sides:
        number = side.sum(0)
        mean = (phi * side).sum(0) / number
        squares = ((phi - mean) ** 2 * side).sum(0)
        spread = squares / (number - 1) if own else (squares.sum() / (number - 1).sum()).expand_as(mean)
        if not (spread > 0).all():
            raise DataError(
                "The shadow models answer alike to the last digit, so their spread is not known. Train them apart: "
                'own seeds and own members. For a few images alone, use variance="global".'
            )
        likelihoods.append(-((x - mean) ** 2) / (2 * spread) - spread.log() / 2)
    return likelihoods[0] - likelihoods[1]


def u_lira(
    model: Classifier,
    images: LabelledImages,
    members: Tensor,
    shadows: Iterable[tuple[Classifier, Tensor]],
    *,
    variance: Variance = "auto",
    name: str = "scrubbed",
    batch_size: int = 256,
) -> MembershipResult:
    """Attack a scrubbed model with U-LiRA.

    Every shadow model must come about as the attacked one did: trained on the retain data and on its members, which
    the same method with the same settings then unlearns. Shadow models are asked one by one, so an iterator that loads
    them keeps one in memory.

    Args:
        model: a Hub classifier, or a function from (batch, channels, height, width) to logits (batch, classes).
        images: forget images and held-out images together, drawn alike, at least 10 of both.
        members: (images,) bool, True for the forget images: the model was trained on them and unlearned them.
        shadows: pairs of a classifier and its (images,) bool members, as a row of `shadow_splits`; 4 or more.
        variance: see `u_lira_scores`.
        name: name of the attacked model in the result.
        batch_size: images a forward pass.

    Returns:
        The result, its calibration being `shadow_models`.

    Raises:
        ConfigError: an unknown `variance`.
        DataError: too few images or shadow models, masks that do not fit, or labels outside the head.
        ModelError: logits that are not finite, of the model or of a shadow model.

    Source:
        Hayes et al., arXiv 2403.01218; Kurmanji et al., arXiv 2302.09880.
    """
    check_images("attacked", images)
    labels = images.labels.cpu()
    _check_mask("members", members, len(labels))
    members = members.cpu()
    if min(int(members.sum()), int((~members).sum())) < SMALLEST_GROUP:
        raise DataError(
            f"U-LiRA needs {SMALLEST_GROUP} forget and {SMALLEST_GROUP} held-out images, got {int(members.sum())} "
            f"and {int((~members).sum())}."
        )

    def confidence(classifier: Classifier) -> Tensor:
        logits = logits_of(classifier, images.pixel_values, batch_size)
        check_labels("attacked", labels, logits.shape[-1])
        return logit_scaled_confidence(logits, labels)

    observed = confidence(model)
    values, masks = [], []
    for number, (classifier, mask) in enumerate(shadows):
        _check_mask(f"the members of shadow model {number}", mask, len(labels))
        values.append(confidence(classifier))
        masks.append(mask.cpu())
    if len(values) < 4:
        raise DataError(f"U-LiRA needs at least 4 shadow models, got {len(values)}.")
    scores = u_lira_scores(observed, torch.stack(values), torch.stack(masks), variance).numpy()
    truth = members.numpy()
    return judge(scores[truth], scores[~truth], name, "u_lira", "shadow_models", shadow_models=len(values))


def _check_mask(title: str, mask: Tensor, count: int) -> None:
    if mask.dtype != torch.bool or mask.shape != (count,):
        raise DataError(f"{title} must be a bool tensor of shape ({count},), got {mask.dtype} {tuple(mask.shape)}.")
