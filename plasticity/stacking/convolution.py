"""Convolutions of stacked networks as matrix products.

vmap turns a stack of convolutions into one convolution with a group for each network, which is the faster
form on a CPU (by a measured factor of 3). GPU libraries often have no good kernel for the gradient of many
small groups. Written as products of patches and weights, a stack of convolutions takes a few batched matrix
products and copies, and 9 times the memory of its inputs at a kernel size of 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import Tensor, nn
from torch.nn import functional

_OVERRIDDEN = "_conv_forward"  # the method that torch's Conv2d calls with input, weight and bias


def use_products(network: nn.Module) -> None:
    """Compute the plain two-dimensional convolutions of a network as products; changes it in place.

    Convolutions with groups, a dilation, or padding other than a given number of zeros are left unchanged.
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


@contextmanager
def as_convolutions(network: nn.Module) -> Iterator[None]:
    """Compute the convolutions as torch does inside the block, whatever `use_products` made of them."""
    own = {module: module.__dict__.get(_OVERRIDDEN) for module in network.modules()}
    use_convolutions(network)
    try:
        yield
    finally:
        for module, product in own.items():
            if product is not None:
                setattr(module, _OVERRIDDEN, product)


def _product(
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None,
) -> Tensor:
    """Convolve (batch, channels, height, width) to (batch, units, height', width'), channels last."""
    padded = functional.pad(inputs, (padding[1], padding[1], padding[0], padding[0]))
    rows = padded.unfold(2, weight.shape[2], stride[0])
    patches = rows.unfold(3, weight.shape[3], stride[1]).permute(0, 2, 3, 1, 4, 5)
    batch, height, width = patches.shape[:3]
    columns = patches.reshape(batch * height * width, -1)
    kernels = weight.flatten(1).t()
    outputs = columns @ kernels
    if bias is not None:
        # Not addmm, for which vmap also multiplies by its two factors of 1. Under autocast the output
        # has autocast's dtype, as that of an ordinary convolution.
        outputs = outputs + bias.to(outputs.dtype)
    return outputs.view(batch, height, width, -1).permute(0, 3, 1, 2)
