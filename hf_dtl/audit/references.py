"""Reference models that show what a number of the audit means."""

import copy

import torch
from transformers import PreTrainedModel

from hf_dtl.errors import ModelError

_OFFSET = 7_368_787


def scratch_model(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """Build the floor of the audit: the same architecture with fresh random weights.

    What an attacker reaches from here comes from the attack's own images alone, not from what was learned before.

    Args:
        model: the classifier whose architecture is wanted; not changed.
        seed: seed of the weights. The global random state is not touched, and equal seeds give equal weights.

    Returns:
        A model of the same class, configuration, dtype and device, in evaluation mode.

    Raises:
        ModelError: `model` is not a Hub model.
    """
    if not isinstance(model, PreTrainedModel):
        raise ModelError(
            f"Expected a Hub model (a transformers PreTrainedModel), got {type(model).__name__}. "
            "Load one with `AutoModelForImageClassification.from_pretrained`."
        )
    config = copy.deepcopy(model.config)
    with torch.random.fork_rng(devices=[]):
        # Seeds the CPU only: the weights are drawn there, so they are the same for a model on any device.
        # The offset keeps them from being the very weights that pre-training with the same seed started from.
        torch.default_generator.manual_seed(seed + _OFFSET)
        fresh = type(model)(config)
    fresh.name_or_path = fresh.config._name_or_path = ""
    fresh.to(device=model.device, dtype=model.dtype)  # type: ignore[call-arg]
    return fresh.eval()


def scratch_models(model: PreTrainedModel, count: int, seed: int = 0) -> list[PreTrainedModel]:
    """Build several draws of `scratch_model`, one for each attack seed.

    Args:
        model: the classifier whose architecture is wanted; not changed.
        count: number of draws.
        seed: the first draw is `scratch_model(model, seed)`.
    """
    return [scratch_model(model, seed + 1_000 * draw) for draw in range(count)]
