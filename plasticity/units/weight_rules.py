"""Rules for operations with weights: products, convolutions, embeddings, recurrent layers, attention."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from plasticity.units.numbers import collapsed, collapsed_everywhere, numbered, tensors_in
from plasticity.units.operation import Operation
from plasticity.units.record import Read, Source
from plasticity.units.weights import Weight

CONTRACTIONS = {
    "mm": (0, 1),
    "bmm": (0, 1),
    "addmm": (1, 2),
    "baddbmm": (1, 2),
    "_addmm_activation": (1, 2),
}
"""Matrix products, with the argument indices of their factors; an added bias comes first."""

USUAL_NAMES = ("weight", "weight_v", "weight_orig")
"""Names of the weight in a module that has one, also under torch's two kinds of weight normalisation."""


def contraction(operation: Operation, result: Tensor) -> bool:
    """Follow a matrix product."""
    left, right = (operation.args[index] for index in CONTRACTIONS[operation.name])
    (left_numbers, left_weight), (right_numbers, right_weight) = (
        operation.lookup(left),
        operation.lookup(right),
    )
    if left_weight is not None and right_weight is not None:
        operation.record.add_product(result)
    if left_weight is not None and right_weight is not None and left_weight.is_buffer:
        left_weight = None
    elif left_weight is not None and right_weight is not None and right_weight.is_buffer:
        right_weight = None
    bias = operation.args[0] if CONTRACTIONS[operation.name][0] else None
    if right_weight is not None and right_numbers is None:
        _read(operation, left, left_numbers, -1, right, right_weight, -2, -1)
        _made(operation, result, result.ndim - 1, right, right_weight, -1, bias)
        return True
    if left_weight is not None and left_numbers is None:
        _read(operation, right, right_numbers, -2, left, left_weight, -1, -2)
        _made(operation, result, result.ndim - 2, left, left_weight, -2, bias)
        return True
    if operation.summaries or (left_numbers is not None and right_numbers is not None):
        operation.not_followed(result, "its output is multiplied with another layer's")
        return True
    numbers = left_numbers if left_numbers is not None else right_numbers
    axis = -1 if left_numbers is not None else -2
    if numbers is None:
        return True
    along = collapsed(numbers, [numbers.ndim + axis])
    if along is None:
        operation.not_followed(result, "its output is multiplied with data")
        return True
    # Mixed over positions (attention): units keep their numbers, at the positions of the other factor.
    operation.set_expanded(result, along)
    varying = [n for n, size in enumerate(collapsed_everywhere(along).shape) if size != 1]
    if any(n < along.ndim - 2 for n in varying):
        operation.record.make_unequal(numbers, "its units are equal within a head only")
    return True


def convolution(operation: Operation, result: Tensor) -> bool:
    """Follow a convolution, including transposed and grouped ones."""
    data, tensor, bias = operation.args[:3]
    transposed, groups = operation.args[6], operation.args[8]
    numbers, _ = operation.lookup(data)
    _, weight = operation.lookup(tensor)
    if weight is None:
        return numbers is None
    into, out = (0, 1) if transposed else (1, 0)
    _read(operation, data, numbers, 1, tensor, weight, into, out, groups)
    _made(operation, result, 1, tensor, weight, out, bias)
    if groups > 1:
        if transposed:  # its output axis covers one group only
            operation.record.sources[-1].axis = None
        reason = f"convolution {_owner(operation, weight, out)[0]!r} has {groups} groups"
        if numbers is not None:
            operation.record.make_unequal(numbers, f"{reason}, which read it")
        operation.record.unequal.setdefault(_owner(operation, weight, out)[0], reason)
    return True


def embedding(operation: Operation, result: Any) -> bool:
    """Follow an embedding lookup."""
    table = operation.args[0]
    _, weight = operation.lookup(table)
    first = next(iter(tensors_in(result)))
    if weight is not None:
        _made(operation, first, first.ndim - 1, table, weight, 1)
    return weight is not None


def recurrent(operation: Operation, result: Any) -> bool:
    """Follow a fused recurrent layer, whose readers are unknown."""
    weight = next((each for each in operation.weights if each is not None), None)
    layer = "a recurrent layer" if weight is None else repr(_module(operation, weight))
    for numbers in operation.numbers:
        if numbers is not None:
            operation.refuse_all(numbers, f"it is read by {layer}, which is recurrent")
    outputs = [each for each in tensors_in(result) if each.is_floating_point() and each.ndim]
    if weight is None or not outputs:
        return False
    width = outputs[0].shape[-1]
    module = _module(operation, weight)
    key = (module, weight.names[0], width)
    source = operation.record.made.get(key)
    if source is None:
        source = Source(operation.record.next_number, width, frozenset({module}))
        operation.record.made[key] = source
        operation.record.add_source(source)
    operation.record.not_followed.setdefault(module, "it is recurrent: it reads itself")
    operation.record.executed.append(module)
    for output in outputs:
        if output.shape[-1] == width and output.numel():
            operation.record.assign(output, numbered(output.shape, output.ndim - 1, source.first))
    return True


def _module(operation: Operation, weight: Weight) -> str:
    return _owner(operation, weight, 0)[1].rpartition(".")[0] or "the model"


def attention(operation: Operation, result: Any) -> bool:
    """Follow fused attention."""
    query, key, value = operation.args[:3]
    for tensor in (query, key):
        numbers, _ = operation.lookup(tensor)
        if numbers is not None:
            operation.refuse_all(
                numbers, "its output is multiplied with another layer's (attention)"
            )
    numbers, _ = operation.lookup(value)
    first = next(iter(tensors_in(result)))
    if numbers is None:
        return True
    along = collapsed(numbers, [numbers.ndim - 2])
    if along is None:
        return False
    if any(size != 1 for size in collapsed_everywhere(along).shape[:-2]):
        operation.record.make_unequal(numbers, "its units are equal within a head only")
    operation.set_expanded(first, along)
    return True


def _read(
    operation: Operation,
    data: Tensor,
    numbers: Tensor | None,
    axis: int,
    tensor: Tensor,
    weight: Weight,
    weight_axis: int,
    units_axis: int,
    groups: int = 1,
) -> None:
    """Record that a weight read data along these axes, and makes units along another."""
    record = operation.record
    layer, path = _owner(operation, weight, units_axis)
    record.refuse(
        record.summary(data), f"its units are summed up, and the sum is read by {layer!r}"
    )
    along = weight.axes[weight_axis]
    if numbers is None:
        record.input_reads.add((weight.identity, None if along is None else along[0]))
        return
    axis %= numbers.ndim
    columns = collapsed(numbers, [each for each in range(numbers.ndim) if each != axis])
    per_batch = (
        tensor.ndim == 3
        and operation.name == "bmm"
        and tensor.shape[0] > 1
        and tensor.stride(0) > 0
    )
    if columns is None:
        operation.refuse_all(
            numbers, f"{layer!r} reads it along an axis other than that of its units"
        )
    elif along is None or per_batch:
        operation.refuse_all(
            numbers, f"the weight of {layer!r} that reads it has no axis for its units"
        )
    else:
        units = columns.expand(
            *(numbers.shape[n] if n == axis else 1 for n in range(numbers.ndim))
        ).flatten()
        record.reads.append(Read(units, layer, path, weight, along[0], along[1], groups))


def _made(
    operation: Operation,
    result: Tensor,
    axis: int,
    tensor: Tensor,
    weight: Weight,
    weight_axis: int,
    bias: object = None,
) -> None:
    """Number the units of a result, along one of its axes."""
    record = operation.record
    layer, path = _owner(operation, weight, weight_axis)
    count = result.shape[axis]
    batched = operation.name in ("bmm", "baddbmm") and tensor.shape[0] > 1 and tensor.stride(0) > 0
    along = None if batched else weight.axes[weight_axis]
    # A layer that runs again makes the same units again.
    key = (layer, along, tuple(result.shape[:1]) if batched else (), count)
    source = record.made.get(key)
    if source is None:
        units = count * result.shape[0] if batched else count
        source = Source(record.next_number, units, frozenset({layer}), weight, path=path)
        if along is not None:
            source.axis, source.start = along
        record.made[key] = source
        record.add_source(source)
    if isinstance(bias, Tensor):
        adopt_bias(operation, source, bias)
    numbers = numbered(result.shape, axis, source.first)
    if batched:  # one weight per entry of the batch: an ensemble, experts
        numbers = numbers + numbered(result.shape, 0, 0) * count
    record.executed.append(layer)
    record.assign(result, numbers)


def _owner(operation: Operation, weight: Weight, units_axis: int) -> tuple[str, str]:
    """Return the names of the layer and the weight. A module with several weights is several layers."""
    module, name = next(
        (
            pair
            for running in reversed(operation.record.running)
            for pair in zip(weight.layers, weight.names, strict=True)
            if pair[0] == running
        ),
        (weight.layers[0], weight.names[0]),
    )
    path = f"{module}.{name}" if module else name
    label = module if module and name in USUAL_NAMES else path
    # A matrix that is used transposed (a tied decoder) makes separate units.
    along = weight.axes[units_axis]
    axis = None if along is None else along[0]
    usual = operation.record.usual_axis.setdefault(label, axis)
    return (label if axis == usual else f"{path}.T"), path


def adopt_bias(operation: Operation, source: Source, bias: Tensor) -> None:
    """Record that a vector is the bias of a layer, if it belongs to the same module."""
    found = operation.record.weights.find(bias)
    if found is None or len(found.shape) != 1 or source.bias or source.path is None:
        return
    module = source.path.rpartition(".")[0]
    for layer, name in zip(found.layers, found.names, strict=True):
        if layer == module:
            source.bias = f"{module}.{name}" if module else name
