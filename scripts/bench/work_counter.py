"""What a function asks of a device: operations, bytes and kernels, counted while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

# They give memory, and touch none.
_ALLOCATIONS = frozenset({"empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided"})


@dataclass(frozen=True)
class Work:
    """What was asked."""

    operations: int
    """Additions and multiplications of matrix products and convolutions; what is done number by number
    is bound by memory, and not among them."""

    bytes: int
    """Read and written, every kernel's own arguments and results counted anew. Reading one number many
    times within a kernel counts once; whatever stays in a cache between two kernels counts twice."""

    kernels: int
    """Operations of torch that compute something: views and allocations are none. A device may need
    more than one launch for one of them."""


def count_work(function: Callable[[], object]) -> Work:
    """Run a function once, and count.

    Args:
        function: Of torch operations, in eager mode: what is compiled, or replayed from a graph, is not
            seen operation by operation.
    """
    traffic = _Traffic()
    counter = FlopCounterMode(display=False)
    with counter, traffic:
        function()
    return Work(counter.get_total_flops(), traffic.bytes, traffic.kernels)


class _Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes of whatever goes into a kernel and comes out of it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0
        self.kernels = 0

    def __torch_dispatch__(
        self,
        function: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        if not _touches_nothing(function):
            self.kernels += 1
            self.bytes += _read_and_written(function, args, kwargs, result)
        return result


def _touches_nothing(function: Any) -> bool:
    return function.is_view or function._overloadpacket.__name__ in _ALLOCATIONS


def _read_and_written(
    function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
) -> int:
    total = 0
    written: set[int] = set()
    for place, argument in enumerate(function._schema.arguments):
        given = args[place] if place < len(args) else kwargs.get(argument.name)
        tensors = [each for each in tree_leaves(given) if isinstance(each, Tensor)]
        size = sum(map(_num_bytes, tensors))
        if argument.alias_info is not None and argument.alias_info.is_write:
            written.update(map(id, tensors))
            # `out=` is written over; what is changed in place is read before. (torch's fused optimizers
            # say that they write the gradients, which they do for a GradScaler alone: 32 bytes a
            # parameter are counted for Adam, where 28 are moved.)
            total += size if argument.is_out else 2 * size
        else:
            total += size
    fresh = (each for each in tree_leaves(result) if isinstance(each, Tensor))
    return total + sum(_num_bytes(each) for each in fresh if id(each) not in written)


def _num_bytes(tensor: Tensor) -> int:
    """Of the memory that is behind it: an expanded tensor repeats the same numbers."""
    if tensor.layout is not torch.strided:
        return 0
    repeated = (
        size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride == 0
    )
    count = tensor.numel()
    for size in repeated:
        count //= max(size, 1)
    return count * tensor.element_size()
