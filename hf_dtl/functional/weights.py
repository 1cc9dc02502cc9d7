"""Operations on a model's weights: mix them, disturb them, push them away, and adapt them as an attacker would."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hf_dtl.functional.collision import dot


def mix_weights(weights: Sequence[Tensor], fresh: Sequence[Tensor], alpha: float) -> list[Tensor]:
    """Move weights a share of the way to fresh ones, (1 - alpha) w + alpha w'.

    Args:
        weights: tensors of a trained model.
        fresh: tensors of the same shapes; they take the device and dtype of `weights`.
        alpha: the share in [0, 1]; 0 and 1 give the one or the other exactly.

    Returns:
        New tensors shaped like `weights`, without a gradient.

    Source:
        "Distillation Robustifies Unlearning" (UNDO), arXiv 2506.06278. Its released code mixes in a tenth of Xavier
        noise and shrinks biases and scales toward zero; here everything moves toward a real initialisation.
    """
    pairs = zip(weights, fresh, strict=True)
    return [torch.lerp(w.detach(), f.detach().to(w.device, w.dtype), alpha) for w, f in pairs]


def add_noise(
    weights: Sequence[Tensor], sigma: float, generator: torch.Generator | None = None, *, relative: bool = True
) -> list[Tensor]:
    """Add Gaussian noise to weights.

    Args:
        weights: tensors of a model.
        sigma: deviation of the noise, >= 0, as a multiple of each tensor's own root mean square or, without
            `relative`, absolute. A tensor of zeros gets no relative noise.
        generator: of the draws, on the CPU; None for the global one.
        relative: see sigma.

    Returns:
        New tensors shaped like `weights`, without a gradient.

    Source:
        Weight Distortion, arXiv 2505.22310; its released code adds noise of one absolute deviation (0.02) to every
        parameter. The relative form is this project's: one absolute deviation does not fit every architecture.
    """
    noisy = []
    for w in weights:
        w = w.detach()
        size = w.float().square().mean().sqrt() if relative else 1.0
        noise = torch.randn(w.shape, generator=generator, dtype=torch.float32).to(w.device)
        noisy.append((w + sigma * size * noise).to(w.dtype))
    return noisy


class Push(NamedTuple):
    """Value and gradients of the push away from a model, and how far away the weights are."""

    value: Tensor
    """-min(distance, limit), a scalar."""
    gradients: list[Tensor]
    """Its gradients, shaped like the weights; zero at the origin itself and beyond the limit."""
    distance: Tensor
    """|theta - theta_0| / |theta_0|, a scalar >= 0."""


def push_away(weights: Sequence[Tensor], origin: Sequence[Tensor], *, limit: float) -> Push:
    """Push weights away from those of a model, -min(|theta - theta_0| / |theta_0|, limit), with analytic gradients.

    Args:
        weights: theta, all tensors together.
        origin: theta_0, tensors of the same shapes, not all zero.
        limit: largest relative distance that is pushed for, > 0.

    Returns:
        A `Push`.

    Source:
        Weight Dist Reg, arXiv 2505.22310; its released code minimises -sqrt(mean((theta - theta_0)^2)), the same up to
        the constant |theta_0| / sqrt(number of weights). The limit is this project's.
    """
    with torch.no_grad():
        difference = [w - o for w, o in zip(weights, origin, strict=True)]
        tiny = torch.finfo(torch.float32).tiny
        norm, scale = dot(difference, difference).sqrt(), dot(origin, origin).sqrt()
        distance = norm / scale.clamp_min(tiny)
        slope = (distance < limit) / (norm * scale).clamp_min(tiny)
        return Push(-distance.clamp_max(limit), [-(d * slope).to(d.dtype) for d in difference], distance)


def simulate_fine_tuning(
    loss: Callable[[Sequence[Tensor]], Tensor], weights: Sequence[Tensor], *, steps: int, learning_rate: float
) -> list[Tensor]:
    """Adapt weights as an attacker would, by gradient descent, so that a loss of the result has first-order gradients.

    Args:
        loss: the attacker's loss as a function of tensors shaped like `weights`.
        weights: where the attack starts.
        steps: of plain gradient descent, >= 0.
        learning_rate: > 0.

    Returns:
        The adapted weights. Their derivative with respect to `weights` is taken to be the identity: the gradient of a
        loss at the adapted weights reaches `weights` unchanged, and no graph of the attack is kept.

    Source:
        First-order MAML, arXiv 1703.03400.
    """
    adapted = [w.detach() for w in weights]
    for _ in range(steps):
        leaves = [w.detach().requires_grad_() for w in adapted]
        gradients = torch.autograd.grad(loss(leaves), leaves, allow_unused=True, materialize_grads=True)
        adapted = [w.detach() - learning_rate * g for w, g in zip(leaves, gradients, strict=True)]
    return [w + (a - w).detach() for w, a in zip(weights, adapted, strict=True)]


def inverse_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Inverse cross-entropy, -log(1 - p_y), averaged over the batch: small where the true class is not named.

    Args:
        logits: (batch, labels), at least two labels.
        labels: (batch,), the true classes.

    Returns:
        A scalar >= 0, finite for finite logits.

    Source:
        The name is SOPHON's, arXiv 2404.12699; the formula is a **reconstruction** (the released code takes the
        cross-entropy of 1 - logits).
    """
    logits = logits.float()
    others = logits.scatter(-1, labels.unsqueeze(-1), float("-inf"))
    return (logits.logsumexp(-1) - others.logsumexp(-1)).mean()
