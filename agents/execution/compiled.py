"""Steps that are prepared once and then run many times: CUDA graphs, and torch.compile on a CPU.

A small network's training step is some hundred tiny kernels, whose launches take a GPU's host longer
than the GPU takes for the work. A CUDA graph launches all of them at once. On a CPU nothing is launched;
there torch.compile fuses the forward and its gradient, which does not pay for networks as small as the
benchmarks' (measured: 1.2 to 1.3 times the time of an eager step), and shows that the two agree.

What is captured is fixed: the memory that it reads and writes, the numbers that Python gave it, the
shapes. So shapes get a capture of their own each, changed numbers a new one, and loading a state, which
may put other tensors in place of the old ones, must be told (`forget`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

__all__ = ["CompiledStep", "GraphedFunction", "load_optimizer", "optimizer_constants"]

WARM_UP_CALLS = 3
"""Calls of each shape that run as they are before one is captured: libraries set themselves up,
optimizers make their state, anchors are drawn. They are real calls, nothing is done twice."""

MOST_SHAPES = 8
"""Shapes of inputs that are captured side by side; each keeps memory of its own."""

Signature = tuple[tuple[torch.Size, torch.dtype, torch.device], ...]


@dataclass(frozen=True)
class _Capture:
    """A captured call: the graph, and where it reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    outputs: Any

    def replay(self, inputs: Sequence[Tensor]) -> Any:
        for static, given in zip(self.inputs, inputs, strict=True):
            static.copy_(given)
        self.graph.replay()
        return self.outputs


class GraphedFunction:
    """A function of tensors on a CUDA device, captured into a CUDA graph and replayed.

    The first `WARM_UP_CALLS` calls of each shape run as they are, on a stream of their own; the next one
    is captured; from then on a call copies the inputs, on the device, and replays. Nothing waits for the
    device but the capture itself.

    Args:
        function: Takes tensors, gives tensors in any container, or None. It may change other tensors
            (weights, gradients, an optimizer's state, sums), which must stay where they are, and must not
            wait for the device, nor do anything in Python that a later call depends on. It is run by
            Python only until it is captured.
        device: A CUDA device.
        constants: The Python numbers that `function` reads, learning rates for example: compared before
            every call, and on any change all captures are forgotten. See `optimizer_constants`.

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
                f"A CUDA graph (compile) needs a CUDA device, not {device}: leave it out."
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
            *inputs: On the device. Copied, so that they may be changed at once.

        Returns:
            What the function gives. Its tensors lie in the capture's memory: the next call of the same
            shapes overwrites them.

        Raises:
            ValueError: if an input is not on the device, or has yet another shape when there are
                `MOST_SHAPES` already.
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
        """Drop all captures: to be called when tensors that the function uses were replaced."""
        self._captures.clear()
        self._warm_ups.clear()

    def _require_fitting(self, signature: Signature, inputs: Sequence[Tensor]) -> None:
        for place, each in enumerate(inputs):
            if each.device != self._device:
                raise ValueError(
                    f"Input {place} is on {each.device}, the graph on {self._device}: move it there,"
                    " which a replay would otherwise have to wait for."
                )
        if signature not in self._warm_ups and len(self._warm_ups) == MOST_SHAPES:
            raise ValueError(
                f"Inputs of shapes {[tuple(shape) for shape, *_ in signature]} would be the"
                f" {MOST_SHAPES + 1}th capture, each of which keeps memory: give fewer sizes of batches."
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
    """A training step behind one switch: a CUDA graph of all of it, or torch.compile's forward on a CPU.

    Args:
        forward: Takes the inputs, gives a tuple of tensors, the loss first. Pure: it changes nothing. On a
            CPU it must be one graph for torch.compile; another size of batch is compiled anew.
        update: Gets the loss: clears gradients, goes backward, steps the optimizer.
        device: A CPU or a CUDA device.
        constants: As in `GraphedFunction`; `update`'s and `forward`'s.

    Raises:
        ValueError: for other devices.
    """

    def __init__(
        self,
        forward: Callable[..., tuple[Tensor, ...]],
        update: Callable[[Tensor], None],
        *,
        device: str | torch.device,
        constants: Callable[[], Hashable] = tuple,
    ) -> None:
        kind = _kind(device)
        if kind not in ("cpu", "cuda"):
            raise ValueError(f"compile works on cpu and cuda, not on {kind}: leave it out there.")
        self._forward = forward if kind == "cuda" else _compiled(forward)
        self._update = update
        self._graphed = (
            GraphedFunction(self._step, device=device, constants=constants)
            if kind == "cuda"
            else None
        )

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Do one step.

        Returns:
            What `forward` gives, detached; new tensors, which stay as they are.
        """
        if self._graphed is None:
            return self._step(*inputs)
        return tuple([output.clone() for output in self._graphed(*inputs)])

    def forget(self) -> None:
        """To be called when a state was loaded, as tensors may have been replaced."""
        if self._graphed is not None:
            self._graphed.forget()

    def _step(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs = self._forward(*inputs)
        self._update(outputs[0])
        return tuple([output.detach() for output in outputs])


def optimizer_constants(optimizer: torch.optim.Optimizer) -> Hashable:
    """Everything in an optimizer's groups but the parameters: what a captured step holds fixed.

    A number counts by its value, a tensor (a learning rate on the device, whose change a graph sees) by
    which tensor it is.
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


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load an optimizer's state, but not how the saved run's device ran the step, perhaps another one."""
    names = ("fused", "foreach", "capturable")
    forms = [
        {name: group[name] for name in names if name in group} for group in optimizer.param_groups
    ]
    optimizer.load_state_dict(state)
    for group, form in zip(optimizer.param_groups, forms, strict=True):
        group.update(form)


def _kind(device: str | torch.device) -> str:
    return torch.device(device).type


def _hashable(value: Any) -> Hashable:
    return tuple(value) if isinstance(value, list) else value


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """torch.compile with a specialised version for each shape, and nothing left to plain Python.

    A shape's numbers then do not depend on which shapes came before it, as a run that continues needs.
    """

    def call(*inputs: Tensor) -> Any:
        return function(*inputs)

    # torch counts the versions of a code object, whoever made them, and refuses the ninth: each function
    # here gets a code object of its own.
    own = FunctionType(
        call.__code__.replace(), call.__globals__, call.__name__, None, call.__closure__
    )
    compiled: Callable[..., Any] = torch.compile(own, dynamic=False, fullgraph=True)
    return compiled
