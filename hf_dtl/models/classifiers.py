"""What a Hub image classifier needs to have so that its head can be exchanged, and a word for those that lack it."""

import copy
import inspect
from typing import get_args

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from hf_dtl.errors import ModelError

AVERAGED = {
    "DeiTForImageClassificationWithTeacher",
    "LevitForImageClassificationWithTeacher",
    "SwiftFormerForImageClassification",
    "VisionTransformerDistilled",
    "LevitDistilled",
}
"""Modules, of transformers and timm, whose logits are the mean of two linear heads: one learned from a teacher."""
HALF = (torch.float16, torch.bfloat16)
_UNFIT = {
    "input_ids": "takes text or colour clusters",
    "spatial_shapes": "takes patches of images of any shape (NaFlex)",
}


def check_interface(model: PreTrainedModel) -> None:
    """Refuse a model that does not make logits of images alone.

    Raises:
        ModelError: it takes something else, or gives no logits.
    """
    signature = inspect.signature(model.forward)
    unfit = [said for name, said in _UNFIT.items() if name in signature.parameters]
    returned = signature.return_annotation
    outputs = [t for t in (get_args(returned) or (returned,)) if inspect.isclass(t) and issubclass(t, ModelOutput)]
    if not unfit and "pixel_values" not in signature.parameters:
        unfit = ["takes no pixel_values"]
    if not unfit and outputs and not any(hasattr(output, "logits") for output in outputs):
        unfit = ["gives no logits"]
    if unfit:
        raise ModelError(
            f"{type(model).__name__} {unfit[0]}: a classifier is needed that makes logits of pixel_values. Use "
            "another architecture; docs/architectures.md lists those that work."
        )


def locate_classifiers(model: PreTrainedModel) -> tuple[str, ...]:
    """Name the final classifier of an image classifier: the one module whose shape depends on the number of labels.

    The model is rebuilt on the meta device (no memory, no weights) with one label more; what changed shape is the
    classifier. Neither module names nor sizes are guessed, so a hidden size equal to the number of labels is harmless.

    Args:
        model: any `AutoModelForImageClassification`.

    Returns:
        The path of an `nn.Linear`, as `model.get_submodule` takes it; of both where logits are the mean of two.

    Raises:
        ModelError: the model has no classifier, several, or one that is not an `nn.Linear`.
    """
    check_interface(model)
    config = copy.deepcopy(model.config)
    config.num_labels = (model.config.num_labels or 0) + 1
    with torch.device("meta"):
        wider = dict(type(model)(config).named_parameters())
    changed = {n.rpartition(".")[0] for n, p in model.named_parameters() if n in wider and p.shape != wider[n].shape}
    name, paths = type(model).__name__, tuple(sorted(changed))
    averaged = len(paths) == 2 and AVERAGED & {type(module).__name__ for module in model.modules()}
    if len(paths) != 1 and not averaged:
        found = f"several ({', '.join(paths)})" if paths else "none"
        if any(isinstance(module, nn.Identity) for path, module in model.named_modules() if f"{path}.weight" in wider):
            found += " (a trainer or a MultiHeadClassifier has it: give that one, or load the model anew)"
        raise ModelError(
            f"{name} must have exactly one final classifier, found {found}. Use a model that "
            "`AutoModelForImageClassification` loads with a single classification head."
        )
    for path in paths:
        classifier = model.get_submodule(path)
        if not isinstance(classifier, nn.Linear):
            raise ModelError(
                f"The final classifier of {name}, `{path}`, is a {type(classifier).__name__}; only `nn.Linear` "
                "classifiers can be exchanged. Use another architecture."
            )
    return paths


class _Side(nn.Module):
    """In place of one of two averaged classifiers: the mean of both is then what enters them, side by side."""

    def __init__(self, position: int):
        super().__init__()
        self.position = position

    def forward(self, features: Tensor) -> Tensor:
        sides = [torch.zeros_like(features)] * 2
        sides[self.position] = 2 * features
        return torch.cat(sides, dim=-1)


def take_head(model: PreTrainedModel, paths: tuple[str, ...]) -> nn.Linear:
    """Take the classifier out of a model, whose logits are then what entered it; of two averaged ones, both as one."""
    heads = [model.get_submodule(path) for path in paths]
    for position, path in enumerate(paths):
        model.set_submodule(path, _Side(position) if len(paths) == 2 else nn.Identity())
    first = heads[0]
    assert isinstance(first, nn.Linear)
    if len(heads) == 1:
        return first
    bias = first.bias is not None
    whole = nn.Linear(2 * first.in_features, first.out_features, bias, first.weight.device, first.weight.dtype)
    with torch.no_grad():
        whole.weight.copy_(torch.cat([head.weight for head in heads], dim=1) / 2)  # type: ignore[misc]
        if bias:
            whole.bias.copy_((heads[0].bias + heads[1].bias) / 2)  # type: ignore[operator]
    return whole


def put_head(model: PreTrainedModel, paths: tuple[str, ...], head: nn.Linear) -> None:
    """Put a head in a model as its classifier: the reverse of `take_head`."""
    if len(paths) == 1:
        model.set_submodule(paths[0], copy.deepcopy(head))
        return
    for path, weight in zip(paths, head.weight.detach().chunk(2, dim=1), strict=True):
        bias = head.bias is not None
        side = nn.Linear(weight.shape[1], len(weight), bias, weight.device, weight.dtype)
        with torch.no_grad():
            side.weight.copy_(2 * weight)
            if bias:
                side.bias.copy_(head.bias)
        model.set_submodule(path, side)


class _Fresh(dict):
    """A cache that keeps nothing."""

    def __contains__(self, key: object) -> bool:
        return False

    def __getitem__(self, key: object) -> Tensor:
        return self.pop(key)


def drop_caches(model: nn.Module) -> None:
    """Let LeViT and its kin look up their attention biases anew: in evaluation mode they keep those of old weights."""
    for module in model.modules():
        if "attention_bias_cache" in vars(module):
            module.attention_bias_cache = _Fresh()  # type: ignore[assignment]
