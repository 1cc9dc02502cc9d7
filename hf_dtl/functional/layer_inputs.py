"""What enters the weights of linear and convolutional layers, as rows: gradients of a weight lie in their span.

For y = W x the gradient of W is a sum of outer products (dL/dy) x^T, so each of its rows is a combination of inputs x.
For a convolution x is the patch that the kernel visits, by its own stride, padding, dilation and groups.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Layer = nn.Linear | nn.Conv2d


def projectable(model: nn.Module) -> dict[str, Layer]:
    """Layers whose weights an update can be projected for, by name: `nn.Linear` and `nn.Conv2d`."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}


def plain(layer: Layer) -> bool:
    """Whether what a layer is called with is what its weight is multiplied by.

    One with a forward of its own may pad it (TensorFlow's "same", Perceiver) or standardise the weight (BiT, NFNet):
    then an update outside the span of the inputs changes what the layer does on them all the same.
    """
    return type(layer).forward in (nn.Linear.forward, nn.Conv2d.forward)


def input_rows(layer: Layer, inputs: Tensor) -> Tensor:
    """Arrange a layer's inputs so that its output is a product of matrices.

    Args:
        layer: an `nn.Linear` or `nn.Conv2d`.
        inputs: what it is called with: (..., in_features), or (batch, channels, height, width).

    Returns:
        (groups, rows, width) in float32 or float64; groups is 1 for an `nn.Linear`. The product with
        `weight_rows(layer, layer.weight)`, transposed, is the layer's output without its bias.
    """
    if not torch.is_floating_point(inputs) or inputs.dtype in (torch.float16, torch.bfloat16):
        inputs = inputs.float()
    if isinstance(layer, nn.Linear):
        return inputs.reshape(1, -1, layer.in_features)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = F.pad(inputs, _pads(layer), mode=mode)
    patches = F.unfold(
        padded, layer.kernel_size, layer.dilation, 0, layer.stride
    )  # (batch, channels * kernel, places)
    patches = patches.unflatten(1, (layer.groups, -1))
    return patches.permute(1, 0, 3, 2).flatten(1, 2)


def weight_rows(layer: Layer, weight: Tensor) -> Tensor:
    """A layer's weight, or an update of it, as (groups, outputs / groups, width)."""
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    return weight.reshape(groups, len(weight) // groups, -1)


def rows_of_an_image(layer: Layer, inputs: Tensor) -> int:
    """Numbers that `input_rows` holds for one image of a batch: patches are much larger than what they come from."""
    if isinstance(layer, nn.Linear):
        return inputs[0].numel()
    places = 1
    left, right, top, bottom = _pads(layer)
    for size, pad, kernel, dilation, stride in zip(
        inputs.shape[2:], (top + bottom, left + right), layer.kernel_size, layer.dilation, layer.stride, strict=True
    ):
        places *= (size + pad - dilation * (kernel - 1) - 1) // stride + 1
    return places * layer.in_channels * layer.kernel_size[0] * layer.kernel_size[1]


def same_rows(one: Layer, other: Layer) -> bool:
    """Whether two layers make the same rows of the same input."""
    if isinstance(one, nn.Linear) or isinstance(other, nn.Linear):
        return isinstance(one, nn.Linear) and isinstance(other, nn.Linear)
    names = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    return all(getattr(one, name) == getattr(other, name) for name in names)


def _pads(layer: nn.Conv2d) -> tuple[int, int, int, int]:
    """Left, right, top and bottom."""
    if layer.padding == "valid":
        return 0, 0, 0, 0
    if layer.padding == "same":
        (h, w) = (d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True))
        return w // 2, w - w // 2, h // 2, h - h // 2
    height, width = (int(pad) for pad in layer.padding)
    return width, width, height, height
