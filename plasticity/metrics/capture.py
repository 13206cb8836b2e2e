"""Capture of a network's activations inside a `with` block, without changing the network.

Outputs of modules are captured by forward hooks, functional activations (``F.relu`` in a ``forward``, which
has no hook) by a `TorchFunctionMode`. Both exist only inside the block.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from plasticity.metrics.activations import Activations, Axes, Origin, given_layout
from plasticity.metrics.layer_names import (
    ACTIVATION_MODULES,
    FUNCTIONAL_ACTIVATIONS,
    OTHER_SPELLINGS,
    Wanted,
    module_names,
    named_tensors,
    part_of,
    require_axes,
    require_known,
)
from plasticity.units.numbers import UnitLayout
from plasticity.units.tracer import UnitTracer, hook_calls
from plasticity.units.weights import geometry
from plasticity.wrappers import bypassed, raw_module

__all__ = ["capture"]


@contextmanager
def capture(
    model: nn.Module,
    layers: Iterable[str] | None = None,
    *,
    units: Mapping[str, Axes] | None = None,
    layouts: Mapping[str, UnitLayout] | None = None,
) -> Iterator[Activations]:
    """Fill a dictionary with the activations of the forward passes inside the block.

    ::

        with capture(model) as activations:
            model(probe)
        print(effective_rank(activations.units("relu")))

    Names: a module has its name in the model (``trunk.0``, without a wrapper's ``_orig_mod`` or
    ``module``), a functional activation that of its function (``relu`` for ``F.relu``, ``torch.relu_``,
    ``x.relu()`` …), wherever in the model it is called; a function that a torch module calls internally
    (``nn.ReLU`` calls ``F.relu``) belongs to the module, and counts once. The second output with the same
    name in a forward pass is ``relu#2``: of a module called twice, a shared one, a repeated function, or a
    function named like a module.

    Each forward pass of the model (a call of the model itself, not of a submodule) resets the counts and
    the dictionary: only the last pass is kept. Its activations are not affected by later in-place
    operations: each is copied at once, at the cost of about one additional activation. Blocks can be nested.

    A compiled model, or one with compiled parts, runs eagerly inside the block, and compiled again after
    it. An activation that is written out by hand (``x.clamp(min=0)``) is not captured; if it contains an
    activation (a tanh approximation of GELU), that one is. Calls of ``model.forward`` that bypass
    ``model(...)`` are not captured.

    Inside `torch.vmap` the whole activation is captured, with the mapped axis at torch's position for it.

    For a module that returns several tensors, name the part: ``lstm[0]`` (the outputs of an LSTM) or
    ``lstm[1][0]`` of a tuple or list, ``encoder.last_hidden_state`` of a dictionary, a dataclass, a named
    tuple or a Hugging Face output, ``lstm#2[0]`` of the second call.

    Args:
        model: Any module. Calls of it from other threads are not supported inside the block.
        layers: Names of the outputs to keep: of modules, of parts of their outputs, or of functional
            activations. None keeps every elementwise activation, module or functional.
        units: Axis that holds a layer's units, by name, where `Activations.units` would have to guess:
            ``{"relu": 1, "relu#2": -1}``; a tuple, ``(1, 3)``, where several axes hold them jointly.
        layouts: Layouts that an earlier capture of the same calls found (`Activations.layouts`). The
            operations are then not followed, which saves most of a capture's time; a layer that is missing
            here has no layout, and the origins of the outputs are unknown (`Activations.origins`,
            `Activations.ran`).

    Yields:
        The dictionary, filled by each forward pass, in the order of execution. Detached; no gradient.

    Raises:
        ValueError: at entry, if a name can be neither a module nor a functional activation; in the forward
            pass, if a module's output has no such part, or a layer has no such axis; at exit, if the model
            was never called, or a named layer never ran (unless another exception was raised).
        TypeError: at entry, as in `raw_module`, if `layers` is a single string or `units` is not a mapping to
            integers; in the forward pass, if a named output is not a single tensor (naming its parts).

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> with capture(model) as activations:
        ...     outputs = model(torch.randn(8, 4))
        >>> activations["1"].shape
        torch.Size([8, 3])
    """
    given, model = model, raw_module(model)
    axes = require_axes(model, layers, units)
    recorder = _Recorder(model, require_known(model, layers), axes, layouts)
    with ExitStack() as block:
        if recorder.tracer is not None:
            recorder.tracer.attach(block)
        recorder.attach(block)
        block.enter_context(bypassed(given))
        block.enter_context(_FunctionalCalls(recorder))
        yield recorder.activations
    recorder.require_all_seen()


class _Recorder:
    """State that the hooks and the mode of one `capture` share."""

    def __init__(
        self,
        model: nn.Module,
        wanted: tuple[Wanted, ...] | None,
        axes: Mapping[str, Axes],
        layouts: Mapping[str, UnitLayout] | None,
    ) -> None:
        self.tracer = UnitTracer(model) if layouts is None else None
        self._layouts = layouts or {}
        self._level = _transform_level()
        self.activations = Activations(model)
        self._model = model
        self._wanted = wanted
        self._axes = axes
        self._used_axes: set[str] = set()  # names in `_axes` that were captured
        self._called = False
        self._seen: dict[str, None] = {}  # an ordered set
        self._counts: Counter[str] = Counter()
        self._running = 0  # depth of calls of the model: functions called outside it are ignored
        self._inside = (
            0  # depth of calls of activation modules, whose functions count as the module
        )
        self._functions: list[str] = []  # activation functions that an activation module called
        self._memory: dict[str, object] = {}  # location in memory of each output

    def attach(self, block: ExitStack) -> None:
        hook_calls(block, self._model, self._start, self._stop)
        for module, name in module_names(self._model).items():
            activation = isinstance(module, ACTIVATION_MODULES)
            if activation:
                hook_calls(block, module, self._enter, self._leave)
            if activation or self._names(name):
                block.callback(module.register_forward_hook(self._module_hook(name)).remove)

    def require_all_seen(self) -> None:
        if not self._called:
            raise ValueError(
                f"{type(self._model).__name__} was not called in the block, so nothing was captured. Only "
                "calls of the model itself, model(...), are captured: not those of a part of it, nor of a "
                "method such as .forward or .predict; pass capture the module that is called"
            )
        for wanted in self._wanted or ():
            if wanted.output not in self._seen:
                ran = ", ".join(map(repr, self._seen)) or "none"
                raise ValueError(f"layer {wanted.name!r} did not run inside the block. Ran: {ran}.")
        for name in self._axes:
            if name not in self._used_axes:
                ran = ", ".join(map(repr, self.activations)) or "none"
                raise ValueError(f"units names {name!r}, which was not captured. Captured: {ran}.")

    def after_function(self, name: str, result: object) -> None:
        if not self._running or not isinstance(result, Tensor):
            return
        name = OTHER_SPELLINGS.get(name, name)
        if name in FUNCTIONAL_ACTIVATIONS:
            if self._inside:
                self._functions.append(name)
            else:
                self._record(name, result, name)

    def _start(self, _module: nn.Module, _args: Any) -> None:
        self._called = True
        if self._running == 0:
            self._counts.clear()
            self.activations.clear()
            self.activations.layouts.clear()
            self.activations.origins.clear()
            self._memory.clear()
        self._running += 1

    def _stop(self, _module: nn.Module, _args: Any, output: Any) -> None:
        self._running -= 1
        if not self._running and self.tracer is not None:
            self.activations.ran = tuple(self.tracer.record.executed)
            outputs = {geometry(tensor) for _, tensor in named_tensors(output)}
            for name, origin in self.activations.origins.items():
                is_output = self._memory[name] in outputs
                self.activations.origins[name] = replace(origin, is_output=is_output)

    def _enter(self, _module: nn.Module, _args: Any) -> None:
        if not self._inside:
            self._functions.clear()
        self._inside += 1

    def _leave(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        self._inside -= 1

    def _module_hook(self, name: str) -> Any:
        def hook(module: nn.Module, _args: Any, output: object) -> None:
            if self._running:
                activation = isinstance(module, ACTIVATION_MODULES)
                one = activation and len(self._functions) == 1
                self._record(name, output, self._functions[0] if one else None)

        return hook

    def _names(self, base: str) -> bool:
        return any(wanted.base == base for wanted in self._wanted or ())

    def _record(self, base: str, output: object, function: str | None) -> None:
        self._counts[base] += 1
        count = self._counts[base]
        name = base if count == 1 else f"{base}#{count}"
        self._seen[name] = None
        wanted = self._wanted if self._wanted is not None else (Wanted(name, name),)
        for each in wanted:
            if each.output == name:
                known = module_names(self._model).values()
                self._keep(each.name, part_of(output, each, known), function)

    def _within_block(self, tensor: Tensor) -> Tensor:
        """Unwrap a tensor from transforms that began in the block: it then holds all samples of a vmap."""
        functorch = torch._C._functorch
        while (
            functorch.is_functorch_wrapped_tensor(tensor)
            and functorch.maybe_get_level(tensor) > self._level
        ):
            tensor = functorch.get_unwrapped(tensor)
        return tensor

    def _keep(self, name: str, output: Tensor, function: str | None) -> None:
        output = self._within_block(output)
        layout = self._layouts.get(name) if self.tracer is None else self.tracer.layout(output)
        if name in self._axes:
            self._used_axes.add(name)
            try:
                layout = given_layout(self._axes[name], output.ndim)
            except ValueError as error:
                raise ValueError(
                    f"units={{{name!r}: {self._axes[name]!r}}}, for an output of shape "
                    f"{tuple(output.shape)}: {error}"
                ) from error
        if layout is not None:
            self.activations.layouts[name] = layout
        if self.tracer is not None:
            self._memory[name] = geometry(output)
            layers, position = self.tracer.layers_of(output), len(self.tracer.record.executed)
            self.activations.origins[name] = Origin(function, layers, position)
        # A copy, as a later layer may modify the same memory in place.
        self.activations[name] = output.detach().clone()


def _transform_level() -> int:
    """Return the depth of the running `torch.func` transforms, such as `torch.vmap`; 0 outside."""
    level: int | None = torch._C._functorch.maybe_current_level()
    return 0 if level is None else level


class _FunctionalCalls(TorchFunctionMode):
    """Function mode that passes the result of each torch function to a recorder."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        # By name, as one function is many objects: F.relu, torch.relu, torch.relu_, Tensor.relu, aten.relu.
        name = getattr(func, "__name__", "").partition(".")[0]
        if not name.startswith("__"):
            name = name.strip("_")
        self._recorder.after_function(name, result)
        return result
