"""One operation of a forward pass: the numbers of its inputs, and methods that number its result."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from plasticity.units.numbers import tensors_in
from plasticity.units.record import UnitRecord
from plasticity.units.weights import Weight, geometry

UNCHANGED = frozenset(
    {"clone", "_to_copy", "detach", "alias", "lift_fresh", "contiguous", "native_dropout", "tril", "triu"}
    | {"hardswish", "log_sigmoid_forward", "_prelu_kernel", "rrelu_with_noise", "bernoulli", "nan_to_num"}
    | {"_softmax", "_log_softmax", "_safe_softmax", "_fused_dropout", "fill", "zero", "copy"}
)  # fmt: skip
"""Entry-wise operations that torch does not tag as such, and softmax, which treats all entries alike."""

COPIES = frozenset({"clone", "_to_copy", "detach", "alias", "lift_fresh", "contiguous", "copy"})


class Operation:
    """Call of an operation: the inputs that it read, and then the numbers of its result."""

    def __init__(
        self, record: UnitRecord, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        packet = getattr(func, "overloadpacket", func)
        spelling = getattr(packet, "__name__", str(func))
        self.in_place = spelling.endswith("_") and not spelling.startswith("__")
        self.name = spelling.rstrip("_") if self.in_place else spelling
        self.record, self.func, self.args, self.kwargs = record, func, args, kwargs
        self.pointwise = torch.Tag.pointwise in getattr(func, "tags", ())
        self.inputs = list(tensors_in((args, kwargs)))
        # Looked up before the operation, which may overwrite its inputs.
        self.numbers = [record.find(tensor) for tensor in self.inputs]
        self.weights = [record.weights.find(tensor) for tensor in self.inputs]
        self.summaries: frozenset[str] = frozenset()
        for tensor in self.inputs:
            self.summaries |= record.summary(tensor)

    def carried(self) -> list[Tensor]:
        """Return the numbers of the inputs that have some."""
        return [numbers for numbers in self.numbers if numbers is not None]

    def lookup(self, tensor: Tensor) -> tuple[Tensor | None, Weight | None]:
        """Return an input's numbers and the weight that it is a view of; None for each that it lacks."""
        for each, numbers, weight in zip(self.inputs, self.numbers, self.weights, strict=True):
            if each is tensor:
                return numbers, weight
        return None, None

    def is_derived_weight(self, result: Any) -> bool:
        """Return whether the result is a copy or an entry-wise function of weights; if so, record it."""
        record = self.record
        # Weights are normalised too, by torch's own functions (weight standardisation).
        entrywise = self.pointwise or self.name in UNCHANGED or "_norm" in self.name
        if not entrywise or any(n is not None for n in self.of_data()):
            return False
        first = next(iter(tensors_in(result)), None)
        for tensor, weight in zip(self.inputs, self.weights, strict=True):
            if weight is None and tensor.ndim and geometry(tensor) not in record.products:
                return False
        for tensor, weight in zip(self.inputs, self.weights, strict=True):
            if weight is not None and first is not None and first.shape == tensor.shape:
                record.assign(first, None)
                record.weights.add(first, weight)
                return True
        return False

    def is_of_weights(self) -> bool:
        """Return whether all inputs are weights, or computed from weights alone, such as their mean."""
        products = self.record.products
        known = [
            weight is not None or geometry(tensor) in products
            for tensor, weight in zip(self.inputs, self.weights, strict=True)
            if tensor.ndim or products
        ]
        return bool(known) and all(known) and not self.carried()

    def of_data(self) -> list[Tensor | None]:
        """Return the numbers of the inputs that are not computed from weights alone."""
        products = self.record.products
        return [
            numbers
            for tensor, numbers in zip(self.inputs, self.numbers, strict=True)
            if geometry(tensor) not in products
        ]

    def set_expanded(self, result: Tensor, numbers: Tensor) -> None:
        """Assign numbers to a result, expanded along the axes that they do not depend on."""
        self.record.assign(result, numbers.expand(*result.shape))

    def summarise(self, result: Any, layers: frozenset[str]) -> None:
        """Record that a result holds sums over the units of layers."""
        for each in tensors_in(result):
            self.record.keep_address(each)
            self.record.summaries[geometry(each)] = layers

    def refuse_all(self, numbers: Tensor, reason: str) -> None:
        """Record why the readers of all layers in these numbers are unknown."""
        self.record.refuse(self.record.layers(numbers), reason)

    def not_followed(self, result: Any, reason: str | None = None) -> None:
        """Record that the numbers end at this operation, and why."""
        if not any(isinstance(each, Tensor) for each in tensors_in(result)):
            return  # a shape or a comparison's outcome
        reason = reason or f"its output goes through {self.name}, which is not followed"
        layers = self.summaries
        for numbers in self.numbers:
            if numbers is not None:
                layers |= self.record.layers(numbers)
        self.record.refuse(layers, reason)
        for tensor in tensors_in(result):
            self.record.assign(tensor, None)
