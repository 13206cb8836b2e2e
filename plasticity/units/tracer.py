"""Trace unit numbers through one forward pass, operation by operation.

A `TorchDispatchMode` sees every operation below autograd, as torch decomposes it: a linear layer is a `view`,
an `addmm` and a `view`, attention is `bmm`, softmax, `bmm`. An operation with a weight gives its result new
numbers; one that only moves entries is repeated on the numbers; element-wise functions and normalisations
leave the numbers as they are; where two numbered tensors are combined (a residual sum, a gate), each pair of
units that meet is a unit of the result, and the two are joined. At any other operation the numbers end, and
for the layers that it read, the reason why their readers are unknown is recorded.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from plasticity.units.entry_rules import (
    NORMALISATION,
    SOFTMAX,
    gated,
    normalisation,
    pointwise,
    softmax,
)
from plasticity.units.layout_rules import (
    CUMULATIVE,
    FACTORIES,
    LAYOUT,
    REDUCTIONS,
    RESHAPING,
    SHIFTING,
    moved,
    pooled,
    reduced,
    reshaped,
    summary_moved,
)
from plasticity.units.numbers import UnitLayout, layout_of, tensors_in
from plasticity.units.operation import COPIES, UNCHANGED, Operation
from plasticity.units.record import UnitRecord
from plasticity.units.weight_rules import (
    CONTRACTIONS,
    attention,
    contraction,
    convolution,
    embedding,
    recurrent,
)
from plasticity.units.weights import Weight
from plasticity.wrappers import named_modules


class UnitTracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Recorder of the unit numbers of a model's last forward pass; see `plasticity.units.flow`."""

    supports_higher_order_operators = True
    record: UnitRecord

    def __init__(self, model: nn.Module, *, check_equality: bool = False) -> None:
        """Create a tracer of a model.

        Args:
            model: Module whose calls are traced.
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
        """Return True: the compiler may ignore this mode, which only observes."""
        return True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Skipping would import the compiler, which takes seconds; a capture runs eagerly anyway.
        return False

    def _begin(self) -> None:
        # Anew for each call, as torch.func.functional_call swaps the parameters.
        self.record = UnitRecord(self._model, check_equality=self._check_equality)

    def attach(self, block: ExitStack) -> None:
        """Trace the model's calls until the block ends."""
        hook_calls(block, self._model, self._start, self._stop)
        tied = {id(parameter) for parameter, count in _use_counts(self._model).items() if count > 1}
        for path, module in named_modules(self._model):
            if any(id(each) in tied for each in module._parameters.values()):
                # Only the call shows which of the layers that share a weight is running.
                hook_calls(block, module, self._entering(path), self._leaving)
            if isinstance(module, nn.utils.parametrize.ParametrizationList):
                hook_calls(block, module, self._parametrizing, self._parametrized)
        # Torch's fused encoder layer is one opaque operation.
        block.callback(
            torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled()
        )
        torch.backends.mha.set_fastpath_enabled(False)
        block.enter_context(self)

    def layout(self, tensor: Tensor) -> UnitLayout | None:
        """Return the layout of a tensor's units, or None if it is unknown."""
        with _unseen():
            numbers = self.record.find(tensor)
            return None if numbers is None else layout_of(numbers)

    def layers_of(self, tensor: Tensor) -> frozenset[str]:
        """Return the layers whose units a tensor holds."""
        with _unseen():
            numbers = self.record.find(tensor)
            return frozenset() if numbers is None else self.record.layers(numbers)

    def _start(self, _module: nn.Module, _args: Any) -> None:
        if self._depth == 0:
            self._begin()
        self._depth += 1

    def _stop(self, _module: nn.Module, _args: Any, output: Any) -> None:
        self._depth -= 1
        if self._depth == 0:
            for tensor in tensors_in(output):
                numbers = self.record.find(tensor)
                if numbers is not None:
                    self.record.outputs |= self.record.layers(numbers)
                self.record.refuse(
                    self.record.summary(tensor), "its units are summed up in the model's output"
                )

    def _entering(self, path: str) -> Callable[..., None]:
        def enter(_module: nn.Module, _args: Any) -> None:
            self.record.running.append(path)

        return enter

    def _leaving(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        self.record.running.pop()

    def _parametrizing(self, _module: nn.Module, _args: Any) -> None:
        self._suspended += 1

    def _parametrized(self, module: nn.Module, _args: Any, output: Any) -> None:
        self._suspended -= 1
        original = next(iter((*module._parameters.values(), *module._buffers.values())), None)
        weight = None if original is None else self.record.weights.find(original)
        if self._depth and weight is not None and isinstance(output, Tensor):
            shape = tuple(output.shape)
            axes = tuple((axis, 0) for axis in range(len(shape)))
            self.record.weights.add(output, Weight(weight.layers, weight.names, shape, False, axes))

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
            # Autograd decomposes composite operations; without it they arrive whole.
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        with _unseen():
            operation = Operation(self.record, func, args, kwargs)
        result = func(*args, **kwargs)
        with _unseen():
            _note(operation, result)
        return result


def hook_calls(
    block: ExitStack, module: nn.Module, before: Callable[..., None], after: Callable[..., None]
) -> None:
    """Hook a module's calls until the block ends; `after` runs after a call that fails, too."""
    for handle in (
        module.register_forward_pre_hook(before, prepend=True),
        module.register_forward_hook(after, always_call=True),
    ):
        block.callback(handle.remove)


def _note(operation: Operation, result: Any) -> None:
    if operation.is_of_weights() and operation.name not in CONTRACTIONS:
        for tensor in tensors_in(result):
            operation.record.add_product(tensor)
    if not (
        any(n is not None for n in operation.numbers)
        or any(operation.weights)
        or operation.summaries
    ):
        if operation.name == "native_batch_norm" or NORMALISATION.search(operation.name):
            normalisation(operation, result)
        return
    if operation.is_derived_weight(result):
        return
    try:
        known = _known(operation, result)
    except (RuntimeError, IndexError, TypeError, ValueError):
        known = False  # a form of the operation that the rules do not cover
    if not known:
        operation.not_followed(result)


def _known(operation: Operation, result: Any) -> bool:
    """Number the result, and return whether the operation is known."""
    if operation.record.check_equality and not _only_selects(operation):
        for numbers in operation.carried():
            operation.record.make_partial_unequal(
                numbers, f"only some of its units go through {operation.name}"
            )
    for applies, follow in _RULES:
        if applies(operation):
            return follow(operation, result)
    return not operation.carried()


def _only_selects(operation: Operation) -> bool:
    """Return whether the operation leaves the entries unchanged, or reads them with a weight."""
    if operation.name in CONTRACTIONS or operation.name == "convolution":
        return any(operation.weights)
    return operation.name in COPIES | FACTORIES | RESHAPING | (LAYOUT - SHIFTING)


# The first rule that applies is used.
_RULES: tuple[tuple[Callable[[Operation], bool], Callable[[Operation, Any], bool]], ...] = (
    (lambda each: each.name in CONTRACTIONS, contraction),
    (lambda each: each.name == "convolution", convolution),
    (lambda each: each.name in ("embedding", "_embedding_bag"), embedding),
    (lambda each: re.search("rnn|lstm|gru", each.name) is not None, recurrent),
    (lambda each: each.name.startswith("_scaled_dot_product"), attention),
    (
        lambda each: bool(each.summaries) and not (each.pointwise or each.name in UNCHANGED),
        summary_moved,
    ),
    (lambda each: each.name in FACTORIES, lambda *_: True),
    (lambda each: each.name in RESHAPING, reshaped),
    (lambda each: each.name in LAYOUT, moved),
    (lambda each: NORMALISATION.search(each.name) is not None, normalisation),
    (lambda each: each.name in SOFTMAX, softmax),
    (lambda each: each.pointwise or each.name in UNCHANGED, pointwise),
    (lambda each: each.name == "glu", gated),
    (lambda each: each.name in REDUCTIONS or each.name in CUMULATIVE, reduced),
    (lambda each: "pool" in each.name or "upsample" in each.name, pooled),
)


@contextmanager
def _unseen() -> Iterator[None]:
    """Hide operations on the numbers from other modes, such as a second tracer's or a capture's."""
    with torch._C.DisableTorchFunction(), torch._C._DisableTorchDispatch():
        yield


def _without_autograd(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    inference = torch.is_inference_mode_enabled()
    return inference or any(tensor.is_inference() for tensor in tensors_in((args, kwargs)))


def _use_counts(model: nn.Module) -> Counter[nn.Parameter]:
    owned = chain.from_iterable(module._parameters.values() for module in model.modules())
    return Counter(parameter for parameter in owned if parameter is not None)
