"""Steps that are prepared once and then run many times: CUDA graphs, and torch.compile on a CPU.

A small network's training step is about a hundred tiny kernels, and launching them takes the host longer
than the GPU needs to run them. A CUDA graph launches all of them at once. A CPU launches no kernels; there,
torch.compile fuses the forward pass and its gradient. For networks as small as the benchmarks' this does
not pay off (measured: 1.2 to 1.3 times the time of an eager step), but it shows that the two agree.

A capture is fixed: the memory it reads and writes, the Python numbers it was given, the shapes. Each shape
therefore gets its own capture, changed numbers trigger a new one, and after loading a state, which may
replace tensors, call `forget`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from plasticity.containers import mapped

__all__ = ["CompiledStep", "GraphedFunction", "optimizer_constants"]

WARM_UP_CALLS = 3
"""Calls of each shape that run eagerly before one is captured, while libraries initialize, optimizers create
their state and anchors are drawn. They are real calls: nothing is done twice."""

MOST_SHAPES = 8
"""Maximum number of input shapes captured side by side; each capture holds its own memory."""

Signature = tuple[tuple[torch.Size, torch.dtype, torch.device], ...]


@dataclass(frozen=True)
class _Capture:
    """Captured call: the graph, and the tensors it reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    outputs: Any

    def replay(self, inputs: Sequence[Tensor]) -> Any:
        for static, given in zip(self.inputs, inputs, strict=True):
            static.copy_(given)
        self.graph.replay()
        return self.outputs


class GraphedFunction:
    """Function of tensors on a CUDA device, captured into a CUDA graph and replayed.

    The first `WARM_UP_CALLS` calls of each shape run eagerly, on a separate stream, and the next one is
    captured. From then on, a call copies the inputs on the device and replays the graph. Only the capture
    itself waits for the device.

    Args:
        function: Takes tensors and returns tensors in any container, or None. It may change other tensors
            (weights, gradients, optimizer state, sums), which must stay at the same address. It must not
            wait for the device, nor do anything in Python that a later call depends on: Python runs it
            only until it is captured.
        device: A CUDA device.
        constants: Returns the Python numbers that `function` reads, such as learning rates. They are
            compared before every call, and any change drops all captures. See `optimizer_constants`.

    Raises:
        ValueError: if the device is not CUDA.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        device: str | torch.device,
        constants: Callable[[], Hashable] = tuple,
    ) -> None:
        if _kind(device) != "cuda":
            raise ValueError(
                f"A CUDA graph (compile) needs a CUDA device, not {device}: leave out compile."
            )
        self._device = torch.empty(0, device=device).device  # with its index
        self._function = function
        self._constants = constants
        self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._held_constants: Hashable = None
        self._captures: dict[Signature, _Capture] = {}
        self._warm_ups: dict[Signature, int] = {}

    def __call__(self, *inputs: Tensor) -> Any:
        """Run the function.

        Args:
            *inputs: Tensors on the device. They are copied, so they may be changed right after the call.

        Returns:
            The function's outputs. Their tensors live in the capture's memory: the next call with the same
            shapes overwrites them.

        Raises:
            ValueError: if an input is not on the device, or has a new shape when `MOST_SHAPES` are in use.
        """
        constants = self._constants()
        if constants != self._held_constants:
            self.forget()
            self._held_constants = constants
        signature = tuple([(each.shape, each.dtype, each.device) for each in inputs])
        capture = self._captures.get(signature)
        if capture is not None:
            return capture.replay(inputs)
        self._require_fitting(signature, inputs)
        calls = self._warm_ups.get(signature, 0)
        if calls < WARM_UP_CALLS:
            self._warm_ups[signature] = calls + 1
            return self._run(inputs)
        capture = self._captures[signature] = self._capture(inputs)
        return capture.replay(inputs)

    def forget(self) -> None:
        """Drop all captures. Call this after tensors that the function uses were replaced."""
        self._captures.clear()
        self._warm_ups.clear()

    def _require_fitting(self, signature: Signature, inputs: Sequence[Tensor]) -> None:
        for index, each in enumerate(inputs):
            if each.device != self._device:
                raise ValueError(
                    f"Input {index} is on {each.device}, but the graph is on {self._device}: move the input"
                    " there, so that a replay need not wait for it."
                )
        if signature not in self._warm_ups and len(self._warm_ups) == MOST_SHAPES:
            raise ValueError(
                f"Inputs of shapes {[tuple(shape) for shape, *_ in signature]} would need capture number"
                f" {MOST_SHAPES + 1}, and each capture holds memory: use fewer batch sizes."
            )

    def _run(self, inputs: Sequence[Tensor]) -> Any:
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            outputs = self._function(*inputs)
        current.wait_stream(self._stream)
        return outputs

    def _capture(self, inputs: Sequence[Tensor]) -> _Capture:
        static = tuple(each.detach().clone() for each in inputs)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            outputs = self._function(*static)
        return _Capture(graph, static, outputs)


class CompiledStep:
    """Training step behind one switch: a CUDA graph of the whole step, or a compiled forward pass on a CPU.

    Args:
        forward: Takes the inputs and returns a tuple of tensors, or of dicts of tensors. It must be pure. On
            a CPU, torch.compile must see it as one graph; each new batch size is compiled again.
        update: Takes the outputs of `forward`, and then the inputs; clears the gradients, runs backward and
            steps the optimizer.
        device: A CPU or a CUDA device.
        constants: As in `GraphedFunction`, for both `update` and `forward`.

    Raises:
        ValueError: for other devices.
    """

    def __init__(
        self,
        forward: Callable[..., tuple[Any, ...]],
        update: Callable[..., None],
        *,
        device: str | torch.device,
        constants: Callable[[], Hashable] = tuple,
    ) -> None:
        kind = _kind(device)
        if kind not in ("cpu", "cuda"):
            raise ValueError(f"compile works on cpu and cuda, not on {kind}: leave it out.")
        self._forward = forward if kind == "cuda" else _compiled(forward)
        self._update = update
        self._graphed = (
            GraphedFunction(self._step, device=device, constants=constants)
            if kind == "cuda"
            else None
        )

    def __call__(self, *inputs: Tensor) -> tuple[Any, ...]:
        """Do one step.

        Returns:
            The outputs of `forward`, detached. Tensors are new ones, which later calls do not overwrite; the
            next call overwrites those in dicts.
        """
        if self._graphed is None:
            return self._step(*inputs)
        outputs = self._graphed(*inputs)
        return tuple([each.clone() if isinstance(each, Tensor) else each for each in outputs])

    def forget(self) -> None:
        """Drop all captures. Call this after loading a state, which may have replaced tensors."""
        if self._graphed is not None:
            self._graphed.forget()

    def _step(self, *inputs: Tensor) -> tuple[Any, ...]:
        outputs = self._forward(*inputs)
        self._update(*outputs, *inputs)
        return tuple([mapped(Tensor.detach, output) for output in outputs])


def optimizer_constants(optimizer: torch.optim.Optimizer) -> Hashable:
    """Return all settings in an optimizer's groups, without the parameters: a captured step holds them fixed.

    Numbers are compared by value, and tensors (such as a learning rate on the device, whose changes a graph
    sees) by identity.
    """
    return tuple(
        [
            tuple(
                [
                    id(value) if isinstance(value, Tensor) else _hashable(value)
                    for name, value in group.items()
                    if name != "params"
                ]
            )
            for group in optimizer.param_groups
        ]
    )


def _kind(device: str | torch.device) -> str:
    return torch.device(device).type


def _hashable(value: Any) -> Hashable:
    return tuple(value) if isinstance(value, list) else value


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function with a specialized version for each shape and without falling back to Python.

    The numbers computed for one shape then do not depend on the shapes seen before it, so a resumed run
    computes the same numbers.
    """

    def call(*inputs: Tensor) -> Any:
        return function(*inputs)

    # torch counts compiled versions per code object and refuses the ninth, so every function gets its own
    # code object.
    own = FunctionType(
        call.__code__.replace(), call.__globals__, call.__name__, None, call.__closure__
    )
    compiled: Callable[..., Any] = torch.compile(own, dynamic=False, fullgraph=True)
    return compiled
