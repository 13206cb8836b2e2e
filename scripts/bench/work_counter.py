"""Work that a function gives to a device: operations, bytes and kernels, counted while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

# These allocate memory without touching it.
_ALLOCATIONS = frozenset({"empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided"})


@dataclass(frozen=True)
class Work:
    """Amount of work that a function gave to a device."""

    operations: int
    """Additions and multiplications of matrix products and convolutions; elementwise work, which is bound by
    memory, is not included."""

    bytes: int
    """Bytes read and written, each kernel's arguments and results counted anew. A number that one kernel
    reads many times counts once; a number that stays in a cache between two kernels counts twice."""

    kernels: int
    """Operations of torch that compute something, which views and allocations do not. A device may need
    more than one launch for one of them."""


def count_work(function: Callable[[], object]) -> Work:
    """Run a function once, and count its work.

    Args:
        function: Function of torch operations in eager mode: code that is compiled, or replayed from a
            graph, is not seen operation by operation.
    """
    traffic = _Traffic()
    counter = FlopCounterMode(display=False)
    with counter, traffic:
        function()
    return Work(counter.get_total_flops(), traffic.bytes, traffic.kernels)


class _Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Dispatch mode that counts the kernels, and adds up the bytes that go into and come out of each."""

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
    for position, argument in enumerate(function._schema.arguments):
        value = args[position] if position < len(args) else kwargs.get(argument.name)
        tensors = [each for each in tree_leaves(value) if isinstance(each, Tensor)]
        size = sum(map(_num_bytes, tensors))
        if argument.alias_info is not None and argument.alias_info.is_write:
            written.update(map(id, tensors))
            # `out=` is overwritten; an argument changed in place is read first. (torch's fused optimizers
            # declare that they write the gradients, which they do only for a GradScaler: for Adam, 32
            # bytes per parameter are counted where 28 are moved.)
            total += size if argument.is_out else 2 * size
        else:
            total += size
    fresh = (each for each in tree_leaves(result) if isinstance(each, Tensor))
    return total + sum(_num_bytes(each) for each in fresh if id(each) not in written)


def _num_bytes(tensor: Tensor) -> int:
    """Return the bytes of the memory behind a tensor: an expanded one repeats the same numbers."""
    if tensor.layout is not torch.strided:
        return 0
    repeated = (
        size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride == 0
    )
    count = tensor.numel()
    for size in repeated:
        count //= max(size, 1)
    return count * tensor.element_size()
