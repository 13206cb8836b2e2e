"""Follow unit numbers through one forward pass, operation by operation.

A `TorchDispatchMode` sees every operation below autograd, as torch decomposes it: a linear layer is a `view`,
an `addmm` and a `view`, attention is `bmm`, softmax, `bmm`. An operation with a weight gives its result new
numbers; one that only moves entries about is made once more, on the numbers; element-wise functions and
normalisations leave numbers as they are; where two numbered tensors meet in one (a residual sum, a gate),
each pair of units that meet is a unit of the result, and the two are joined. What is none of these ends the
numbers, and the layers that it read are told why their readers are not known.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from plasticity.unit_numbers import (
    NO_UNIT,
    UnitLayout,
    collapsed,
    compact,
    layout_of,
    numbered,
    same_shape,
)
from plasticity.unit_weights import Weight, WeightViews, geometry, storage_key
from plasticity.wrappers import named_modules

LAYOUT = frozenset(
    {"permute", "transpose", "t", "expand", "slice", "select", "split", "split_with_sizes", "unbind"}
    | {"squeeze", "unsqueeze", "cat", "stack", "repeat", "repeat_interleave", "roll", "flip", "index"}
    | {"index_select"}
    | {"gather", "narrow", "diagonal", "unfold", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle"}
    | {"movedim", "unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk", "chunk", "swapaxes", "rot90"}
    | {"reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "im2col", "replication_pad1d"}
    | {"replication_pad2d", "replication_pad3d", "constant_pad_nd", "_unsafe_index", "masked_select"}
)  # fmt: skip
"""Operations that move entries about, made once more on the numbers. Reshaping is apart."""

RESHAPING = frozenset({"view", "_unsafe_view", "reshape", "_reshape_alias"})

UNCHANGED = frozenset(
    {"clone", "_to_copy", "detach", "alias", "lift_fresh", "contiguous", "native_dropout", "tril", "triu"}
    | {"hardswish", "log_sigmoid_forward", "_prelu_kernel", "rrelu_with_noise", "bernoulli", "nan_to_num"}
    | {"_softmax", "_log_softmax", "_safe_softmax", "_fused_dropout", "fill", "zero", "copy"}
)  # fmt: skip
"""Operations on each entry by itself that torch does not tag as such, and softmax, which treats all alike."""

NORMALISATION = re.compile(r"(batch|layer|group|instance|rms)_norm")

CONTRACTIONS = {
    "mm": (0, 1),
    "bmm": (0, 1),
    "addmm": (1, 2),
    "baddbmm": (1, 2),
    "_addmm_activation": (1, 2),
}
"""Matrix products, with the places of their factors; an added bias stands before."""

REDUCTIONS = frozenset(
    {"mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "std_mean", "logsumexp", "prod"}
    | {"linalg_vector_norm", "norm", "nansum", "median", "all", "any"}
)  # fmt: skip
"""Functions that give the same whatever the order of the entries."""

USUAL_NAMES = ("weight", "weight_v", "weight_orig")
"""Names of the weight in a module that has one (under torch's two kinds of weight normalisation, too)."""

CUMULATIVE = frozenset({"cumsum", "cumprod", "cummax", "cummin", "logcumsumexp"})


@dataclass
class Source:
    """The units that one operation made."""

    first: int
    """Their first number."""

    layers: frozenset[str]
    """The layers whose units these are; several for units that are joined; none for raw inputs."""

    weight: Weight | None = None
    axis: int | None = None
    """Axis of the weight along which the units lie. None: they do not lie along one."""

    start: int = 0
    """Position along it of the first."""

    path: str | None = None
    """Name of the weight in the model."""

    bias: str | None = None
    """Name of the bias in the model."""

    members: Tensor | None = None
    """The numbers of the units that are joined in each, sorted, -1 for none. Shape: (units, members)."""


@dataclass(frozen=True)
class Read:
    """One layer's weight that met the units."""

    units: Tensor
    """The number of the unit at each position of the weight's axis. Shape: (positions,)."""

    layer: str
    path: str
    """Name of the weight in the model."""

    weight: Weight
    axis: int
    start: int
    groups: int = 1


class UnitTracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """See `plasticity.units`: the numbers of the last forward pass of a model."""

    supports_higher_order_operators = True

    def __init__(self, model: nn.Module, *, check_equality: bool = False) -> None:
        """Prepare to follow a model.

        Args:
            model: The module whose calls are followed.
            check_equality: Whether to look for data that make units unequal, which reads values.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self._model = model
        self._check_equality = check_equality
        self._depth = 0
        self._suspended = 0  # within a parametrization: functions of weights
        self._begin()

    @classmethod
    def is_infra_mode(cls) -> bool:
        """Tell the compiler that this mode only looks on."""
        return True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Guarding against the compiler would import it, which takes seconds; a capture runs eagerly.
        return False

    def _begin(self) -> None:
        # Each time, as torch.func.functional_call exchanges the parameters.
        self._weights = WeightViews(self._model)
        self._products: set[Any] = set()
        self._numbers: dict[Any, Tensor] = {}
        self._summaries: dict[Any, frozenset[str]] = {}
        self._alive: dict[int, StorageWeakRef] = {}
        self._running: list[str] = []
        self._next = 0
        self._firsts: list[int] = []
        self.sources: list[Source] = []
        self._made: dict[Any, Source] = {}
        self._usual_axis: dict[str, int | None] = {}
        self._joints: dict[tuple[int, ...], int] = {}
        self.reads: list[Read] = []
        self.input_reads: set[tuple[Any, int | None]] = set()
        self.executed: list[str] = []
        self.not_followed: dict[str, str] = {}
        self.unequal: dict[str, str] = {}
        self.outputs: set[str] = set()
        self.output_keys: set[Any] = set()

    # ---- what a capture asks --------------------------------------------------------------------------

    def attach(self, block: ExitStack) -> None:
        """Follow the model's calls until the block ends."""

        def add(handle: torch.utils.hooks.RemovableHandle) -> None:
            block.callback(handle.remove)

        add(self._model.register_forward_pre_hook(self._start, prepend=True))
        add(self._model.register_forward_hook(self._stop, always_call=True))
        tied = {id(parameter) for parameter, count in _use_counts(self._model).items() if count > 1}
        for path, module in named_modules(self._model):
            if any(id(each) in tied for each in module._parameters.values()):
                # Which of the layers that share a weight is running, only its call tells.
                add(module.register_forward_pre_hook(self._entering(path), prepend=True))
                add(module.register_forward_hook(self._leaving, always_call=True))
            if isinstance(module, nn.utils.parametrize.ParametrizationList):
                add(module.register_forward_pre_hook(self._parametrizing, prepend=True))
                add(module.register_forward_hook(self._parametrized, always_call=True))
        # Torch's fused encoder layer is one operation, which nothing can be seen in.
        block.callback(
            torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled()
        )
        torch.backends.mha.set_fastpath_enabled(False)
        block.enter_context(self)

    def layout(self, tensor: Tensor) -> UnitLayout | None:
        """Return where the units of a tensor lie, or None if it is not known."""
        with _unseen():
            numbers = self._find(tensor)
            return None if numbers is None else layout_of(numbers)

    def layers_of(self, tensor: Tensor) -> frozenset[str]:
        """Return the layers whose units a tensor holds."""
        with _unseen():
            numbers = self._find(tensor)
            return frozenset() if numbers is None else self._layers(numbers)

    def source(self, number: int) -> Source:
        """Return what made a unit."""
        return self.sources[bisect_right(self._firsts, number) - 1]

    # ---- the model's calls ----------------------------------------------------------------------------

    def _start(self, _module: nn.Module, _args: Any) -> None:
        if self._depth == 0:
            self._begin()
        self._depth += 1

    def _stop(self, _module: nn.Module, _args: Any, output: Any) -> None:
        self._depth -= 1
        if self._depth == 0:
            for tensor in tensors_in(output):
                self.output_keys.add(geometry(tensor))
                numbers = self._find(tensor)
                if numbers is not None:
                    self.outputs |= self._layers(numbers)
                self._refuse(self._summary(tensor), "its units are summed up in the model's output")

    def _entering(self, path: str) -> Callable[..., None]:
        def enter(_module: nn.Module, _args: Any) -> None:
            self._running.append(path)

        return enter

    def _leaving(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        self._running.pop()

    def _parametrizing(self, _module: nn.Module, _args: Any) -> None:
        self._suspended += 1

    def _parametrized(self, module: nn.Module, _args: Any, output: Any) -> None:
        self._suspended -= 1
        original = next(iter((*module._parameters.values(), *module._buffers.values())), None)
        weight = None if original is None else self._weights.find(original)
        if self._depth and weight is not None and isinstance(output, Tensor):
            shape = tuple(output.shape)
            axes = tuple((axis, 0) for axis in range(len(shape)))
            self._weights.add(output, Weight(weight.layers, weight.names, shape, False, axes))

    # ---- numbers of tensors ---------------------------------------------------------------------------

    def _find(self, tensor: Tensor) -> Tensor | None:
        return self._numbers.get(geometry(tensor))

    def _summary(self, tensor: Tensor) -> frozenset[str]:
        return self._summaries.get(geometry(tensor), frozenset())

    def _set(self, result: Any, numbers: Tensor | None) -> None:
        if not isinstance(result, Tensor):
            return
        key = geometry(result)
        if key is None:
            return
        if numbers is None or not result.numel():
            self._numbers.pop(key, None)
        elif numbers.shape == result.shape:
            self._keep_address(result)
            self._numbers[key] = numbers

    def _keep_address(self, tensor: Tensor) -> None:
        # A weak reference keeps the memory's address from being used again, not the memory.
        key = storage_key(tensor)
        if key is not None and key not in self._alive:
            self._alive[key] = StorageWeakRef(  # type: ignore[no-untyped-call]
                tensor.untyped_storage()
            )

    def _new(self, source: Source, count: int) -> int:
        self.sources.append(source)
        self._firsts.append(source.first)
        self._next += count
        return source.first

    def _layers(self, numbers: Tensor) -> frozenset[str]:
        found: frozenset[str] = frozenset()
        units = torch.unique(compact(numbers))
        for index in torch.unique(self._which(units[units >= 0])).tolist():
            found |= self.sources[index].layers
        return found

    def _which(self, numbers: Tensor) -> Tensor:
        """The source of each number, as a position in the list of them."""
        firsts = torch.tensor(self._firsts or [0])
        return torch.bucketize(numbers.long(), firsts, right=True) - 1

    def members_of(self, numbers: Tensor) -> Tensor:
        """Return the layers' own units in each number; -1 fills up. Shape: (numbers, members)."""
        numbers = numbers.long()
        which = torch.where(numbers >= 0, self._which(numbers), -1)
        found = numbers[:, None]
        for index in torch.unique(which).tolist():
            members = self.sources[index].members if index >= 0 else None
            if members is not None:
                inside = which == index
                own = members[numbers[inside] - self.sources[index].first]
                if own.shape[1] > found.shape[1]:
                    found = nn.functional.pad(
                        found, (0, own.shape[1] - found.shape[1]), value=NO_UNIT
                    )
                found[inside] = nn.functional.pad(
                    own, (0, found.shape[1] - own.shape[1]), value=NO_UNIT
                )
        return found

    def joined(self, one: Tensor, other: Tensor) -> Tensor:
        """Return a number for each pair of numbers, the same for pairs that join the same units."""
        pairs = (one.long() + 1) * 2**32 + (other.long() + 1)
        found, which = torch.unique(pairs, return_inverse=True)
        members = torch.cat(
            [self.members_of(found // 2**32 - 1), self.members_of(found % 2**32 - 1)], 1
        )
        rows = [tuple(sorted(set(row) - {NO_UNIT})) for row in members.tolist()]
        new = [row for row in dict.fromkeys(rows) if len(row) > 1 and row not in self._joints]
        if new:
            width = max(map(len, new))
            table = torch.tensor([[*row, *[NO_UNIT] * (width - len(row))] for row in new])
            source = Source(self._next, self._layers(table), members=table)
            self._joints.update((row, self._next + place) for place, row in enumerate(new))
            self._new(source, len(new))
        numbers = [self._joints.get(row, row[0] if row else NO_UNIT) for row in rows]
        return torch.tensor(numbers, dtype=torch.int32)[which]

    def _refuse(self, layers: frozenset[str], reason: str) -> None:
        for layer in layers:
            self.not_followed.setdefault(layer, reason)

    def _make_unequal(self, numbers: Tensor, reason: str) -> None:
        for layer in self._layers(numbers):
            self.unequal.setdefault(layer, reason)

    # ---- operations -----------------------------------------------------------------------------------

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if not self._depth or self._suspended:
            return func(*args, **kwargs)
        if hasattr(func, "decompose") and _without_autograd(args, kwargs):
            # Autograd takes composite operations apart; without it they come as they are.
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        with _unseen():
            operation = _Operation(self, func, args, kwargs)
        result = func(*args, **kwargs)
        with _unseen():
            operation.note(result)
        return result


class _Operation:
    """One call of an operation: what it read, and then what its result is."""

    def __init__(
        self, tracer: UnitTracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        packet = getattr(func, "overloadpacket", func)
        spelling = getattr(packet, "__name__", str(func))
        self.in_place = spelling.endswith("_") and not spelling.startswith("__")
        self.name = spelling.rstrip("_") if self.in_place else spelling
        self.tracer, self.func, self.args, self.kwargs = tracer, func, args, kwargs
        self.pointwise = torch.Tag.pointwise in getattr(func, "tags", ())
        self.inputs = list(tensors_in((args, kwargs)))
        # Before the operation, as it may write over its inputs.
        self.numbers = [tracer._find(tensor) for tensor in self.inputs]
        self.weights = [tracer._weights.find(tensor) for tensor in self.inputs]
        self.summaries: frozenset[str] = frozenset()
        for tensor in self.inputs:
            self.summaries |= tracer._summary(tensor)

    def note(self, result: Any) -> None:
        if not (any(n is not None for n in self.numbers) or any(self.weights) or self.summaries):
            if self.name == "native_batch_norm" or NORMALISATION.search(self.name):
                self._normalisation(result)
            return
        if self._is_derived_weight(result):
            return
        try:
            known = self._dispatch(result)
        except (RuntimeError, IndexError, TypeError, ValueError):
            known = False  # a form of the operation that the numbers do not go through
        if not known:
            self._not_followed(result)

    def _dispatch(self, result: Any) -> bool:
        """Number the result; tell whether the operation is known."""
        for applies, follow in _RULES:
            if applies(self):
                return follow(self, result)
        return not self._carried()

    # ---- what is not followed -------------------------------------------------------------------------

    def _not_followed(self, result: Any, reason: str | None = None) -> None:
        if not any(isinstance(each, Tensor) for each in tensors_in(result)):
            return  # a shape or a comparison's outcome
        reason = reason or f"its output goes through {self.name}, which is not followed"
        layers = self.summaries
        for numbers in self.numbers:
            if numbers is not None:
                layers |= self.tracer._layers(numbers)
        self.tracer._refuse(layers, reason)
        for tensor in tensors_in(result):
            self.tracer._set(tensor, None)

    def _is_derived_weight(self, result: Any) -> bool:
        """Whether the result is a weight too: a copy, or a function of weights entry by entry."""
        tracer = self.tracer
        entrywise = self.pointwise or self.name in UNCHANGED or "weight_norm" in self.name
        if not entrywise or any(n is not None for n in self._of_data()):
            return False
        first = next(iter(tensors_in(result)), None)
        for tensor, weight in zip(self.inputs, self.weights, strict=True):
            if weight is None and tensor.ndim and geometry(tensor) not in tracer._products:
                return False
        for tensor, weight in zip(self.inputs, self.weights, strict=True):
            if weight is not None and first is not None and first.shape == tensor.shape:
                tracer._set(first, None)
                tracer._weights.add(first, weight)
                return True
        return False

    def _of_data(self) -> list[Tensor | None]:
        products = self.tracer._products
        return [
            numbers
            for tensor, numbers in zip(self.inputs, self.numbers, strict=True)
            if geometry(tensor) not in products
        ]

    # ---- operations with weights ----------------------------------------------------------------------

    def _place(self, tensor: Tensor) -> tuple[Tensor | None, Weight | None]:
        for each, numbers, weight in zip(self.inputs, self.numbers, self.weights, strict=True):
            if each is tensor:
                return numbers, weight
        return None, None

    def _contraction(self, result: Tensor) -> bool:
        left, right = (self.args[place] for place in CONTRACTIONS[self.name])
        (left_numbers, left_weight), (right_numbers, right_weight) = (
            self._place(left),
            self._place(right),
        )
        if left_weight is not None and right_weight is not None:
            self.tracer._products.add(geometry(result))
            self.tracer._keep_address(result)
        if left_weight is not None and right_weight is not None and left_weight.is_buffer:
            left_weight = None
        elif left_weight is not None and right_weight is not None and right_weight.is_buffer:
            right_weight = None
        bias = self.args[0] if CONTRACTIONS[self.name][0] else None
        if right_weight is not None and right_numbers is None:
            self._read(left, left_numbers, -1, right, right_weight, -2, -1)
            self._made(result, result.ndim - 1, right, right_weight, -1, bias)
            return True
        if left_weight is not None and left_numbers is None:
            self._read(right, right_numbers, -2, left, left_weight, -1, -2)
            self._made(result, result.ndim - 2, left, left_weight, -2, bias)
            return True
        if self.summaries or (left_numbers is not None and right_numbers is not None):
            self._not_followed(result, "its output is multiplied with another layer's")
            return True
        numbers = left_numbers if left_numbers is not None else right_numbers
        axis = -1 if left_numbers is not None else -2
        if numbers is None:
            return True
        along = collapsed(numbers, [numbers.ndim + axis])
        if along is None:
            self._not_followed(result, "its output is multiplied with data")
            return True
        # Mixed over positions (attention): a unit stays what it is, with the positions of the other factor.
        self._set_expanded(result, along)
        varying = [n for n, size in enumerate(collapsed_everywhere(along).shape) if size != 1]
        if any(n < along.ndim - 2 for n in varying):
            self.tracer._make_unequal(numbers, "its units are equal within a head only")
        return True

    def _set_expanded(self, result: Tensor, numbers: Tensor) -> None:
        self.tracer._set(result, numbers.expand(*result.shape))

    def _read(
        self,
        data: Tensor,
        numbers: Tensor | None,
        axis: int,
        tensor: Tensor,
        weight: Weight,
        weight_axis: int,
        units_axis: int,
        groups: int = 1,
    ) -> None:
        """Note that a weight met data along these axes, and makes units along another."""
        tracer = self.tracer
        layer, path = self._owner(weight, units_axis)
        tracer._refuse(
            tracer._summary(data), f"its units are summed up, and the sum is read by {layer!r}"
        )
        along = weight.axes[weight_axis]
        if numbers is None:
            tracer.input_reads.add((weight.identity, None if along is None else along[0]))
            return
        axis %= numbers.ndim
        columns = collapsed(numbers, [each for each in range(numbers.ndim) if each != axis])
        per_batch = (
            tensor.ndim == 3 and self.name == "bmm" and tensor.shape[0] > 1 and tensor.stride(0) > 0
        )
        if columns is None:
            self._refuse_all(
                numbers, f"{layer!r} reads it along another axis than that of its units"
            )
        elif along is None or per_batch:
            self._refuse_all(
                numbers, f"the weight of {layer!r} that reads it has no axis for its units"
            )
        else:
            units = columns.expand(
                *(numbers.shape[n] if n == axis else 1 for n in range(numbers.ndim))
            ).flatten()
            tracer.reads.append(Read(units, layer, path, weight, along[0], along[1], groups))

    def _refuse_all(self, numbers: Tensor, reason: str) -> None:
        self.tracer._refuse(self.tracer._layers(numbers), reason)

    def _made(
        self,
        result: Tensor,
        axis: int,
        tensor: Tensor,
        weight: Weight,
        weight_axis: int,
        bias: object = None,
        count: int | None = None,
    ) -> None:
        """Number the units of a result, along one of its axes."""
        tracer = self.tracer
        layer, path = self._owner(weight, weight_axis)
        count = result.shape[axis] if count is None else count
        batched = self.name in ("bmm", "baddbmm") and tensor.shape[0] > 1 and tensor.stride(0) > 0
        along = None if batched else weight.axes[weight_axis]
        # A layer that runs again makes the same units again.
        key = (layer, along, tuple(result.shape[:1]) if batched else (), count)
        source = tracer._made.get(key)
        if source is None:
            source = Source(tracer._next, frozenset({layer}), weight, path=path)
            if along is not None:
                source.axis, source.start = along
            tracer._made[key] = source
            tracer._new(source, count * result.shape[0] if batched else count)
        if isinstance(bias, Tensor):
            self._adopt_bias(source, bias)
        numbers = numbered(result.shape, axis, source.first)
        if batched:  # a weight for each entry of the batch: an ensemble, experts
            numbers = numbers + numbered(result.shape, 0, 0) * count
        tracer.executed.append(layer)
        tracer._set(result, numbers)

    def _owner(self, weight: Weight, units_axis: int) -> tuple[str, str]:
        """The layer's name and the weight's. A module with several weights of its own is several layers."""
        module, name = next(
            (
                pair
                for running in reversed(self.tracer._running)
                for pair in zip(weight.layers, weight.names, strict=True)
                if pair[0] == running
            ),
            (weight.layers[0], weight.names[0]),
        )
        path = f"{module}.{name}" if module else name
        label = module if module and name in USUAL_NAMES else path
        # A matrix that is used the other way round (a tied decoder) makes units of its own.
        along = weight.axes[units_axis]
        axis = None if along is None else along[0]
        usual = self.tracer._usual_axis.setdefault(label, axis)
        return (label if axis == usual else f"{path}.T"), path

    def _adopt_bias(self, source: Source, bias: Tensor) -> None:
        found = self.tracer._weights.find(bias)
        if found is None or len(found.shape) != 1 or source.bias or source.path is None:
            return
        module = source.path.rpartition(".")[0]
        for layer, name in zip(found.layers, found.names, strict=True):
            if layer == module:
                source.bias = f"{module}.{name}" if module else name

    def _convolution(self, result: Tensor) -> bool:
        data, tensor, bias = self.args[:3]
        transposed, groups = self.args[6], self.args[8]
        numbers, _ = self._place(data)
        _, weight = self._place(tensor)
        if weight is None:
            return numbers is None
        into, out = (0, 1) if transposed else (1, 0)
        self._read(data, numbers, 1, tensor, weight, into, out, groups)
        self._made(result, 1, tensor, weight, out, bias)
        if groups > 1:
            if transposed:  # whose axis of outputs is that of one group
                self.tracer.sources[-1].axis = None
            reason = f"convolution {self._owner(weight, out)[0]!r} has {groups} groups"
            if numbers is not None:
                self.tracer._make_unequal(numbers, f"{reason}, which read it")
            self.tracer.unequal.setdefault(self._owner(weight, out)[0], reason)
        return True

    def _embedding(self, result: Any) -> bool:
        table = self.args[0]
        _, weight = self._place(table)
        first = next(iter(tensors_in(result)))
        if weight is not None:
            self._made(first, first.ndim - 1, table, weight, 1)
        return weight is not None

    def _recurrent(self, result: Any) -> bool:
        weight = next((each for each in self.weights if each is not None), None)
        layer = "a recurrent layer" if weight is None else repr(self._module(weight))
        for numbers in self.numbers:
            if numbers is not None:
                self._refuse_all(numbers, f"it is read by {layer}, which is recurrent")
        outputs = [each for each in tensors_in(result) if each.is_floating_point() and each.ndim]
        if weight is None or not outputs:
            return False
        width = outputs[0].shape[-1]
        module = self._module(weight)
        key = (module, weight.names[0], width)
        source = self.tracer._made.get(key)
        if source is None:
            source = self.tracer._made[key] = Source(self.tracer._next, frozenset({module}))
            self.tracer._new(source, width)
        self.tracer.not_followed.setdefault(module, "it is recurrent: it reads itself")
        self.tracer.executed.append(module)
        for output in outputs:
            if output.shape[-1] == width and output.numel():
                self.tracer._set(output, numbered(output.shape, output.ndim - 1, source.first))
        return True

    def _module(self, weight: Weight) -> str:
        return self._owner(weight, 0)[1].rpartition(".")[0] or "the model"

    def _attention(self, result: Any) -> bool:
        query, key, value = self.args[:3]
        for tensor in (query, key):
            numbers, _ = self._place(tensor)
            if numbers is not None:
                self._refuse_all(
                    numbers, "its output is multiplied with another layer's (attention)"
                )
        numbers, _ = self._place(value)
        first = next(iter(tensors_in(result)))
        if numbers is None:
            return True
        along = collapsed(numbers, [numbers.ndim - 2])
        if along is None:
            return False
        if any(size != 1 for size in collapsed_everywhere(along).shape[:-2]):
            self.tracer._make_unequal(numbers, "its units are equal within a head only")
        self._set_expanded(first, along)
        return True

    # ---- operations without weights -------------------------------------------------------------------

    def _carried(self) -> list[Tensor]:
        return [numbers for numbers in self.numbers if numbers is not None]

    def _reshaped(self, result: Tensor) -> bool:
        carried = self._carried()
        if carried:
            numbers, shape = carried[0], list(result.shape)
            # The samples, which have no say in the numbers, need not be written out.
            if numbers.ndim and numbers.stride(0) == 0 and shape and shape[0] == numbers.shape[0]:
                self._set_expanded(result, numbers[:1].reshape(1, *shape[1:]))
            else:
                self.tracer._set(result, numbers.reshape(shape))
        return True

    def _moved(self, result: Any) -> bool:
        if not self._carried():
            return True
        exact = self.name.startswith(("reflection", "replication", "im2col"))  # not for integers

        def moved(value: Any) -> Any:
            if isinstance(value, Tensor):
                numbers, _ = self._place(value)
                if numbers is None and value.dtype in (
                    torch.int64,
                    torch.int32,
                    torch.bool,
                    torch.uint8,
                ):
                    return value.cpu()  # an index
                if numbers is None:
                    numbers = torch.full((), NO_UNIT, dtype=torch.int32).expand(value.shape)
                return numbers.double() if exact else numbers
            if isinstance(value, (list, tuple)):
                return type(value)(moved(each) for each in value)
            return value

        args = [moved(value) for value in self.args]
        if self.name == "constant_pad_nd":
            args = [args[0], self.args[1], NO_UNIT]
        numbers = self.func(*args, **{key: moved(value) for key, value in self.kwargs.items()})
        found = list(tensors_in(numbers))
        for each, of_each in zip(tensors_in(result), found, strict=True):
            self.tracer._set(each, of_each.round().to(torch.int32) if exact else of_each)
        return True

    def _normalisation(self, result: Any) -> bool:
        first = next(iter(tensors_in(result)), None)
        data = self.inputs[0] if self.inputs else None
        if first is None or data is None or first.shape != data.shape or not first.ndim:
            return False
        numbers = self.numbers[0]
        if self.numbers[0] is None and first.ndim > 1:
            # Raw inputs: their channels are units of the result, which no layer made.
            axis = first.ndim - 1 if re.search("layer_norm|rms_norm", self.name) else 1
            source = Source(self.tracer._next, frozenset())
            numbers = numbered(first.shape, axis, source.first)
            self.tracer._new(source, first.shape[axis])
        self.tracer._set(first, numbers)
        groups = self.args[6] if self.name == "native_group_norm" else 1
        if self.numbers[0] is not None and groups > 1:
            reason = f"its units are equal within a group only: a normalisation has {groups}"
            self.tracer._make_unequal(self.numbers[0], reason)
        return True

    def _pointwise(self, result: Any) -> bool:
        first = next(iter(tensors_in(result)), None)
        if first is None:
            return True
        tracer, carried = self.tracer, self._carried()
        if not carried:
            if self.summaries:
                self._summarise(result, self.summaries)
            return True
        layers: frozenset[str] = frozenset()
        for numbers in carried:
            layers |= tracer._layers(numbers)
        tracer._refuse(self.summaries - layers, "its units are summed up")
        joined = carried[0].expand(first.shape)
        for numbers in carried[1:]:
            joined = self._joined(joined, numbers, first.shape)
        if self.name.startswith("add"):
            self._note_bias(joined)
        if tracer._check_equality:
            self._compare(joined, first)
        before = tracer._find(first) if self.in_place else None
        if self.in_place and before is None and not _is_whole(first):
            # Written into a part of a tensor, whose other views do not know of it.
            self._refuse_all(joined, "its output is written into a part of another tensor")
            return True
        tracer._set(first, joined)
        return True

    def _joined(self, one: Tensor, other: Tensor, shape: torch.Size) -> Tensor:
        """Numbers of pairs of units that meet in an entry; what meets itself stays what it is."""
        first, second = same_shape([one, other], shape)
        if bool((first == second).all() or (second == NO_UNIT).all()):
            return one.expand(shape)
        if bool((first == NO_UNIT).all()):
            return other.expand(shape)
        return self.tracer.joined(first, second).expand(shape)

    def _note_bias(self, numbers: Tensor) -> None:
        units = compact(numbers)
        low, high = int(units.min()), int(units.max())
        source = self.tracer.source(low) if low >= 0 else None
        if source is not None and source.members is None and source is self.tracer.source(high):
            for tensor, weight in zip(self.inputs, self.weights, strict=True):
                if weight is not None and tensor.ndim == 1:
                    self._adopt_bias(source, tensor)

    def _compare(self, numbers: Tensor, result: Tensor) -> None:
        """Look for data that are not the same for all units: they tell the units apart."""
        shape = collapsed_everywhere(numbers).shape
        axes = [axis for axis, size in enumerate(shape) if size != 1]
        for tensor, own, weight in zip(self.inputs, self.numbers, self.weights, strict=True):
            is_parameter = weight is not None and not weight.is_buffer
            if own is not None or is_parameter or not tensor.ndim or tensor is result:
                continue
            values = tensor.detach().expand(result.shape)
            for axis in axes:
                if not bool((values == values.narrow(axis, 0, 1)).all()):
                    reason = f"its units meet data that are not the same for all, in {self.name}"
                    self.tracer._make_unequal(numbers, reason)
                    return

    def _gated(self, result: Tensor) -> bool:
        carried = self._carried()
        if not carried:
            return True
        dim = self.args[1] if len(self.args) > 1 else self.kwargs.get("dim", -1)
        values, gates = carried[0].chunk(2, dim)
        self.tracer._set(result, self._joined(values, gates, result.shape))
        return True

    def _dims(self) -> list[int]:
        """The axes that a reduction goes over."""
        rank = self.inputs[0].ndim
        for place, argument in enumerate(self.func._schema.arguments):
            if argument.name == "dim":
                given = self.args[place] if place < len(self.args) else self.kwargs.get("dim")
                given = [given] if isinstance(given, int) else given
                if given:
                    return [each % rank for each in given]
        return list(range(rank))

    def _reduced(self, result: Any) -> bool:
        numbers = self.numbers[0]
        if numbers is None:
            return True
        along = collapsed(numbers, self._dims())
        first = next(iter(tensors_in(result)))
        if along is None:
            if self.name in CUMULATIVE:
                return False
            self._summarise(result, self.tracer._layers(numbers))
            return True
        if first.ndim != numbers.ndim:
            along = along.squeeze(self._dims())
        for each in tensors_in(result):
            self._set_expanded(each, along)
        return True

    def _summarise(self, result: Any, layers: frozenset[str]) -> None:
        for each in tensors_in(result):
            self.tracer._keep_address(each)
            self.tracer._summaries[geometry(each)] = layers

    def _summary_moved(self, result: Any) -> bool:
        if any(numbers is not None for numbers in self.numbers):
            return False
        if self.name in (LAYOUT | RESHAPING | REDUCTIONS):
            self._summarise(result, self.summaries)
            return True
        return False

    def _pooled(self, result: Any) -> bool:
        carried = self._carried()
        spatial = re.search(r"(\d)d", self.name)
        if not carried or spatial is None:
            return not carried
        numbers = carried[0]
        along = collapsed(numbers, range(numbers.ndim - int(spatial[1]), numbers.ndim))
        if along is None:
            return False
        for each in tensors_in(result):
            self._set_expanded(each, along)
        return True


# In this order: the first that applies is taken.
_RULES: tuple[tuple[Callable[[_Operation], bool], Callable[[_Operation, Any], bool]], ...] = (
    (lambda each: each.name in CONTRACTIONS, _Operation._contraction),
    (lambda each: each.name == "convolution", _Operation._convolution),
    (lambda each: each.name in ("embedding", "_embedding_bag"), _Operation._embedding),
    (lambda each: re.search("rnn|lstm|gru", each.name) is not None, _Operation._recurrent),
    (lambda each: each.name.startswith("_scaled_dot_product"), _Operation._attention),
    (
        lambda each: bool(each.summaries) and not (each.pointwise or each.name in UNCHANGED),
        _Operation._summary_moved,
    ),
    (lambda each: each.name in RESHAPING, _Operation._reshaped),
    (lambda each: each.name in LAYOUT, _Operation._moved),
    (lambda each: NORMALISATION.search(each.name) is not None, _Operation._normalisation),
    (lambda each: each.pointwise or each.name in UNCHANGED, _Operation._pointwise),
    (lambda each: each.name == "glu", _Operation._gated),
    (lambda each: each.name in REDUCTIONS or each.name in CUMULATIVE, _Operation._reduced),
    (lambda each: "pool" in each.name or "upsample" in each.name, _Operation._pooled),
)


def collapsed_everywhere(numbers: Tensor) -> Tensor:
    """Return the numbers with size 1 along every axis on which they are constant."""
    found = compact(numbers)
    for axis in range(found.ndim):
        along = collapsed(found, [axis])
        found = found if along is None else along
    return found


def _unseen() -> AbstractContextManager[None]:
    """Hide what is done to the numbers from other modes, such as a second tracer's."""
    guard: AbstractContextManager[None] = torch._C._DisableTorchDispatch()
    return guard


def _without_autograd(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    inference = torch.is_inference_mode_enabled()
    return inference or any(tensor.is_inference() for tensor in tensors_in((args, kwargs)))


def _is_whole(tensor: Tensor) -> bool:
    return tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()


def _use_counts(model: nn.Module) -> dict[nn.Parameter, int]:
    counts: dict[nn.Parameter, int] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                counts[parameter] = counts.get(parameter, 0) + 1
    return counts


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested dictionaries and sequences."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for entry in value.values():
            yield from tensors_in(entry)
    elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        for entry in value:
            yield from tensors_in(entry)
