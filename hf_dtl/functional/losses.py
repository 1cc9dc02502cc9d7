"""Losses of disposal and retention, as pure functions of logits."""

import torch
from torch import Tensor
from torch.nn import functional as F


def classification_loss(logits: Tensor, labels: Tensor, *, multi_label: bool = False, mean: bool = True) -> Tensor:
    """Cross-entropy over classes; of a head of sigmoids, binary cross-entropy, averaged over its labels.

    Args:
        logits: (batch, labels).
        labels: (batch,), the class of each image, which is the one label that holds.
        multi_label: whether the head is one of sigmoids.
        mean: over the batch, or the sum.

    Returns:
        A scalar >= 0.
    """
    if not multi_label:
        return F.cross_entropy(logits.float(), labels, reduction="mean" if mean else "sum")
    targets = F.one_hot(labels, logits.shape[-1]).float()
    losses = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none").mean(-1)
    return losses.mean() if mean else losses.sum()


def distillation(student: Tensor, teacher: Tensor, temperature: float = 1.0, *, multi_label: bool = False) -> Tensor:
    """Knowledge distillation, T^2 KL(softmax(teacher/T) || softmax(student/T)), averaged over the batch.

    Args:
        student: logits (batch, labels) that are trained.
        teacher: logits (batch, labels) of the frozen model; no gradient flows into them.
        temperature: T > 0; larger values weigh the smaller logits more.
        multi_label: of heads of sigmoids: the divergence of each label's, averaged over the labels.

    Returns:
        A scalar >= 0, zero when both outputs agree.

    Source:
        Hinton, Vinyals, Dean, arXiv 1503.02531. Its use as the retention term of DTL is a reconstruction of
        arXiv 2308.09971.
    """
    if multi_label:
        own, other = student.float() / temperature, teacher.detach().float() / temperature
        cross, entropy = (F.binary_cross_entropy_with_logits(z, other.sigmoid()) for z in (own, other))
        return temperature**2 * (cross - entropy)
    log_p = F.log_softmax(student.float() / temperature, dim=-1)
    log_q = F.log_softmax(teacher.detach().float() / temperature, dim=-1)
    return temperature**2 * F.kl_div(log_p, log_q, log_target=True, reduction="batchmean")


def negative_cross_entropy(logits: Tensor, labels: Tensor, cap: float = 10.0) -> Tensor:
    """Capped negative cross-entropy, -mean(min(CE, cap)): an image stops pushing once its loss reached the cap.

    Args:
        logits: (batch, labels).
        labels: (batch,), the true classes.
        cap: largest cross-entropy of one image, in nats.

    Returns:
        A scalar in [-cap, 0].
    """
    return -F.cross_entropy(logits.float(), labels, reduction="none").clamp_max(cap).mean()


def uniform_fooling(logits: Tensor) -> Tensor:
    """Cross-entropy to the uniform distribution, CE(f(x), 1/C), averaged over the batch.

    Args:
        logits: (batch, labels).

    Returns:
        A scalar >= log(labels), reached by uniform outputs.
    """
    return -F.log_softmax(logits.float(), dim=-1).mean(dim=-1).mean()


def random_fooling(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Cross-entropy to targets drawn uniformly for every image, CE(f(x), y~).

    Args:
        logits: (batch, labels).
        generator: of the targets, on the CPU; None for the global one.

    Returns:
        A scalar >= 0.
    """
    targets = torch.randint(logits.shape[-1], logits.shape[:-1], generator=generator)
    return F.cross_entropy(logits.float(), targets.to(logits.device))


def margin_loss(logits: Tensor, labels: Tensor, *, margin: float = 0.05, toward: bool = False) -> Tensor:
    """Push an answer only until it is another one: mean relu(z_y - max_{j != y} z_j + margin), z being logits.

    Args:
        logits: (batch, labels), at least two.
        labels: (batch,), the answers y to leave, or to reach.
        margin: by how much the logit of y is to stay below the largest, or above the next, >= 0.
        toward: reach y instead of leaving it.

    Returns:
        A scalar >= 0, zero when every image is as it should be.
    """
    own = logits.float().gather(-1, labels[:, None]).squeeze(-1)
    other = logits.float().scatter(-1, labels[:, None], float("-inf")).amax(-1)
    return F.relu((other - own if toward else own - other) + margin).mean()


def bounded_forgetting(
    logits: Tensor, labels: Tensor, *, delta: float = 0.05, entropy_weight: float = 0.2, depoison: bool = False
) -> Tensor:
    """Forgetting that limits itself: -mean log(1 + delta - p_y) - entropy_weight * mean H(p).

    Its gradient is bounded, 1 / delta at most where p_y = 1, and dies away as p_y falls.

    Args:
        logits: (batch, labels).
        labels: (batch,), the classes to forget, of each image.
        delta: > 0.
        entropy_weight: w >= 0.
        depoison: labels are poison; the entropy of the other classes is made small instead, so that one of them wins.

    Returns:
        A scalar; its first part is in [-log(1 + delta), -log(delta)].

    Source:
        Projected-Gradient Unlearning, arXiv 2312.04095.
    """
    log_p = F.log_softmax(logits.float(), dim=-1)
    own = log_p.gather(-1, labels[:, None]).squeeze(-1)
    forgetting = -torch.log(1 + delta - own.exp()).mean()
    if depoison:
        others = logits.float().scatter(-1, labels[:, None], float("-inf"))
        log_p = F.log_softmax(others, dim=-1)
        log_p = log_p.masked_fill(torch.isinf(log_p), 0.0)
        p = log_p.exp().scatter(-1, labels[:, None], 0.0)
        return forgetting - entropy_weight * (p * log_p).sum(-1).mean()
    return forgetting + entropy_weight * (log_p.exp() * log_p).sum(-1).mean()
