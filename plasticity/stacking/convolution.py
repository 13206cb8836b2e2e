"""Convolutions of stacked networks as matrix products.

A stack of convolutions is one convolution with a group for each replica: that is what vmap makes of it,
and on a CPU it is the faster form (measured: 3 times). Libraries for GPUs have often no good kernel for
the gradient of many small groups. As products of patches with weights, a stack of convolutions is a few
batched matrix products and copies, for 9 times the memory of its inputs at a kernel size of 3.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn import functional

_OVERRIDDEN = "_conv_forward"  # what torch's Conv2d calls with its input, weight and bias


def use_products(network: nn.Module) -> None:
    """Have the plain two-dimensional convolutions of a network computed as products, in place.

    Left as they are: those with groups, a dilation, or a padding other than by a number of zeros.
    """
    for module in network.modules():
        if (
            isinstance(module, nn.Conv2d)
            and type(module)._conv_forward is nn.Conv2d._conv_forward
            and module.groups == 1
            and module.dilation == (1, 1)
            and module.padding_mode == "zeros"
            and not isinstance(module.padding, str)
        ):
            setattr(module, _OVERRIDDEN, partial(_product, module.stride, module.padding))


def use_convolutions(network: nn.Module) -> None:
    """Undo `use_products`."""
    for module in network.modules():
        module.__dict__.pop(_OVERRIDDEN, None)


def _product(
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None,
) -> Tensor:
    """Shape: (batch, channels, height, width) to (batch, units, height', width'), channels last."""
    padded = functional.pad(inputs, (padding[1], padding[1], padding[0], padding[0]))
    rows = padded.unfold(2, weight.shape[2], stride[0])
    patches = rows.unfold(3, weight.shape[3], stride[1]).permute(0, 2, 3, 1, 4, 5)
    batch, height, width = patches.shape[:3]
    columns = patches.reshape(batch * height * width, -1)
    kernels = weight.flatten(1).t()
    outputs = columns @ kernels
    if bias is not None:  # vmap makes more of an addmm: it multiplies by its two factors of 1
        outputs = outputs + bias.to(
            outputs.dtype
        )  # autocast's, as an ordinary convolution's output
    return outputs.view(batch, height, width, -1).permute(0, 3, 1, 2)
