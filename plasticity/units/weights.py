"""Recognition of weights by their storage, whatever view of it a layer multiplies with."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from plasticity.wrappers import named_modules

Axes = tuple[tuple[int, int] | None, ...]
"""Weight axis that each axis of a view runs along, with its start on that axis; None where it runs along
none, or along several."""


@dataclass(frozen=True)
class Weight:
    """View of a parameter (or buffer) of the model."""

    layers: tuple[str, ...]
    """Names of the modules that own it; several where it is tied."""

    names: tuple[str, ...]
    """Name in each of these modules."""

    shape: tuple[int, ...]
    """Shape of the whole parameter."""

    is_buffer: bool

    axes: Axes
    """Weight axes that the axes of the view run along."""

    @property
    def identity(self) -> Hashable:
        """Key that is equal for views of the same parameter."""
        return self.layers, self.names


@dataclass(frozen=True)
class _Stored:
    weight: Weight
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    storage: Any  # kept so that its address is not reused

    def holds(self, tensor: Tensor) -> bool:
        first, last = _extent(tensor.shape, tensor.stride(), int(tensor.storage_offset()))
        own_first, own_last = _extent(self.shape, self.strides, self.offset)
        return own_first <= first and last <= own_last


class WeightViews:
    """Parameters and buffers of a model, recognised in any view of their memory."""

    def __init__(self, model: nn.Module) -> None:
        self._stored: dict[int, list[_Stored]] = {}
        owners: dict[Hashable, tuple[Tensor, list[str], list[str], bool]] = {}
        for layer, name, tensor, is_buffer in _owned(model):
            key = geometry(tensor)
            if key is not None and tensor.numel():
                _, layers, names, _ = owners.setdefault(key, (tensor, [], [], is_buffer))
                layers.append(layer)
                names.append(name)
        for tensor, layers, names, is_buffer in owners.values():
            shape = tuple(tensor.shape)
            axes = tuple((axis, 0) for axis in range(len(shape)))
            self.add(tensor, Weight(tuple(layers), tuple(names), shape, is_buffer, axes))

    def add(self, tensor: Tensor, weight: Weight) -> None:
        """Register another tensor as a view of a weight, such as a copy in another dtype or a masked one."""
        key = storage_key(tensor)
        if key is not None:
            shape, strides = tuple(tensor.shape), tensor.stride()
            offset, storage = int(tensor.storage_offset()), tensor.untyped_storage()
            self._stored.setdefault(key, []).append(
                _Stored(weight, shape, strides, offset, storage)
            )

    def find(self, tensor: Tensor) -> Weight | None:
        """Return the weight that a tensor is a view of, or None if it is not one."""
        key = storage_key(tensor)
        for stored in self._stored.get(key, ()) if key is not None else ():
            # Several weights can share memory: an LSTM's on a GPU, the parts of a flat parameter.
            if stored.holds(tensor):
                return replace(stored.weight, axes=_view_axes(tensor, stored))
        return None


def _extent(shape: Sequence[int], strides: Sequence[int], offset: int) -> tuple[int, int]:
    reach = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    return offset, offset + reach


def _owned(model: nn.Module) -> Iterator[tuple[str, str, Tensor, bool]]:
    for path, module in named_modules(model):
        # A parametrized weight belongs to the layer whose attribute it is.
        layer, _, attribute = path.partition(".parametrizations.")
        if path.startswith("parametrizations."):
            layer, attribute = "", path.removeprefix("parametrizations.")
        for tensors, is_buffer in ((module._parameters, False), (module._buffers, True)):
            for name, tensor in tensors.items():
                if tensor is not None:
                    yield layer, attribute or name, tensor, is_buffer


def _view_axes(tensor: Tensor, stored: _Stored) -> Axes:
    starts = dict.fromkeys(range(len(stored.shape)), 0)
    rest = int(tensor.storage_offset()) - stored.offset
    # The largest stride first, like the digits of a number.
    for axis in sorted(starts, key=lambda each: -stored.strides[each]):
        if stored.shape[axis] > 1 and stored.strides[axis] > 0:
            starts[axis], rest = divmod(rest, stored.strides[axis])
    found: list[int | None] = []
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        along = [
            axis
            for axis, start in starts.items()
            if stored.strides[axis] == stride and 1 < size <= stored.shape[axis] - start
        ]
        found.append(along[0] if len(along) == 1 else None)
    # The stride of an axis of size 1 says nothing: match the remaining axes in order.
    single = [axis for axis, size in enumerate(tensor.shape) if size == 1]
    left = [axis for axis in starts if axis not in found]
    if len(single) == len(left):
        for axis, own in zip(single, left, strict=True):
            found[axis] = own
    axes: list[tuple[int, int] | None] = []
    for base in found:
        of_weight = None if base is None else stored.weight.axes[base]
        axes.append(
            None
            if base is None or of_weight is None
            else (of_weight[0], of_weight[1] + starts[base])
        )
    return tuple(axes)


def storage_key(tensor: Tensor) -> int | None:
    """Return the address of a tensor's memory, or None if it has none (under `torch.func`)."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):
        return None


def geometry(tensor: Tensor) -> Hashable | None:
    """Return a key that views of the same entries in memory share; None as in `storage_key`."""
    if tensor.layout != torch.strided:
        return None
    key = storage_key(tensor)
    if key is None:
        return None
    return key, tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset())
