"""Public weights that a student starts from: of the architecture of the given model, and not that model."""

import torch
from torch import nn

from hf_dtl.errors import ConfigError, ModelError
from hf_dtl.models.heads import MultiHeadClassifier
from hf_dtl.models.loading import load_classifier


def load_base(name: str, model: MultiHeadClassifier, *, same: bool = False) -> nn.Module:
    """The backbone of public weights.

    Args:
        name: Hub id or folder.
        model: the given model, whose architecture they must be of.
        same: whether they may be that model, as one that learns only later what is to be forgotten.

    Raises:
        ModelError: another architecture or size, or it cannot be loaded.
        ConfigError: they are the given model.
    """
    base, own = MultiHeadClassifier(load_classifier(name, new_head=True), task="base").backbone, model.backbone
    theirs, mine = base.state_dict(), own.state_dict()
    if type(base) is not type(own) or theirs.keys() != mine.keys():
        raise ModelError(
            f"base_model={name!r} is a {type(base).__name__} with {len(theirs)} tensors, the given model a "
            f"{type(own).__name__} with {len(mine)}: the student needs the architecture of the given model. Give the "
            "public weights that it comes from, or none."
        )
    other = next((key for key, value in theirs.items() if value.shape != mine[key].shape), None)
    if other is not None:
        raise ModelError(
            f"base_model={name!r} has `{other}` of the shape {tuple(theirs[other].shape)}, the given model of "
            f"{tuple(mine[other].shape)}: another size of images or layers. Give the public weights that it comes "
            "from, or none."
        )
    if not same and all(torch.equal(value.cpu(), mine[key].cpu()) for key, value in theirs.items()):
        raise ConfigError(
            f"base_model={name!r} is the given model itself, so everything that is to be forgotten would be kept. "
            "Give the public weights that it was trained from, or none."
        )
    return base
