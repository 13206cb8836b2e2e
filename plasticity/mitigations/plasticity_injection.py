"""Plasticity injection: a new head that begins at zero, beside the old one, which is frozen."""

from __future__ import annotations

import copy
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from plasticity.checks import require_integer
from plasticity.mitigations.base import Kind, Mitigation, mitigation
from plasticity.mitigations.context import Context

CHILD = "injection"
"""Name of an `InjectedHead` in the output layer."""


@mitigation("plasticity-injection")
@dataclass(frozen=True, kw_only=True)
class PlasticityInjection(Mitigation):
    """Head that is frozen once, and learns on as the difference of two new ones (Nikishin et al., 2023).

    See "Deep Reinforcement Learning with Plasticity Injection". The head h, which is the last layers of the
    network, computes from some step on

        h(x; θ) + h(x; θ₁) - h(x; θ₂),

    where θ is frozen as it is, θ₁ is drawn anew and trained, and θ₂ is θ₁ as it was drawn, frozen. The
    outputs are at first what they were, and as many weights are trained as before. Gradients reach the layers
    before the head through all three.

    What is decided here:

    - θ₁ takes the place of θ in the network's own parameters, so that the optimizer knows it from the
      beginning; its moments are then 0, and its count of steps stays. The frozen weights are buffers, which
      no decay or momentum moves, and are there from the beginning, so that all checkpoints are of one shape.
      The head costs three times as much, also before the injection.
    - Where a unit before the head is reset, the frozen heads no longer read it either.
    - It happens once. With a single layer as the head it would do no more than clear its moments, since the
      three then add up to one layer.
    - The head is a row of layers, each of which reads just what the one before it returns: linear layers of
      the benchmarks' networks with their activations, or the end of an `nn.Sequential`. A resnet and a
      transformer have a head of one layer.
    - In PPO, actor and critic have an injection each. A decay toward the first weights goes on toward those.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    kind: ClassVar[Kind] = "weight reset"
    claims: ClassVar[str] = "the fixed weights"

    layers: int = 2
    """Number of linear layers in the head, the output layer included."""

    task: int = 1
    """Index of the task at whose beginning the head is frozen, at least 1."""

    step: int | None = None
    """Optimizer steps after which it is frozen, in place of a task. None: a task decides."""

    outputs: tuple[str, ...] = ()
    """Names of the output layers, with a head each, for a model with several. Empty: the last linear layer.
    """

    def __post_init__(self) -> None:
        for name in ("layers", "task"):
            require_integer(name, getattr(self, name), minimum=1)
        if self.step is not None:
            require_integer("step", self.step, minimum=1)
        if not isinstance(self.outputs, tuple):
            raise TypeError(f"outputs must be a tuple of names of layers, not {self.outputs!r}.")

    @property
    def cadence(self) -> int:
        """Optimizer steps from one call of `after_step` to the next."""
        return self.step or sys.maxsize

    def initial_weights(self, network: nn.Module, seed: int) -> None:
        """Add the frozen heads, which are not in use yet; no weight changes.

        Raises:
            ValueError: if the network has no head of so many layers.
        """
        linear = [
            name for name, each in network.named_modules() if name and isinstance(each, nn.Linear)
        ]
        outputs = self.outputs or linear[-1:]
        if not outputs:
            raise ValueError(
                f"{type(network).__name__} has no linear layer inside: {self.name} needs a head of these."
            )
        for output in outputs:
            layers = _head(network, output, self.layers)
            head = InjectedHead(layers)
            head.follow(layers)
            network.get_submodule(output).add_module(CHILD, head)

    def after_step(self, context: Context) -> None:
        """Freeze the heads, unless they are frozen."""
        _inject(context)

    def boundary(self, context: Context) -> None:
        """Freeze the heads, unless they are frozen, if the task has come."""
        if self.step is None and context.task >= self.task:
            _inject(context)


def _head(network: nn.Module, output: str, count: int) -> dict[str, nn.Module]:
    """Return the modules of a head by their names in the module that has them, from input to output.

    Args:
        network: The network.
        output: Name of its output layer.
        count: Number of linear layers.

    Raises:
        ValueError: if there are fewer.
    """
    parent, _, last = output.rpartition(".")
    owner = network.get_submodule(parent)
    names = list(owner._modules)
    before = names[: names.index(last) + 1]
    linear = [name for name in before if isinstance(owner.get_submodule(name), nn.Linear)]
    if len(linear) < count:
        raise ValueError(
            f"plasticity-injection has layers={count}, but there are {len(linear)} linear layers in a row up"
            f" to {output!r}: give at most that."
        )
    if isinstance(owner, nn.Sequential):
        linear = before[before.index(linear[-count]) :]
        count = len(linear)
    return {name: owner.get_submodule(name) for name in linear[-count:]}


class InjectedHead(nn.Module):
    """Two frozen copies of a head, whose difference is added to its outputs once they are in use.

    Args:
        layers: Modules of the head by name, from input to output.
    """

    is_used: Tensor
    """Whether the copies are in use. Bool. Shape: ()."""

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.frozen, self.start = (
            nn.Sequential(
                OrderedDict((name, _without_parameters(each)) for name, each in layers.items())
            )
            for _ in range(2)
        )
        like = next(self.frozen.buffers())
        self.register_buffer("is_used", torch.zeros((), dtype=torch.bool, device=like.device))
        self._inputs: Any = None
        self._latest: Any = None

    def follow(self, layers: Mapping[str, nn.Module]) -> None:
        """Add the difference to the outputs of a head, at each of its calls."""
        first, *_, last = modules = list(layers.values())
        first.register_forward_pre_hook(self._begin)
        for each in modules:
            each.register_forward_pre_hook(self._enter)
            each.register_forward_hook(self._leave)
        last.register_forward_hook(self._end)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return what is added to the outputs of the head, from its inputs."""
        return torch.where(self.is_used, self.frozen(inputs) - self.start(inputs), 0)

    def _begin(self, _layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._inputs = self._latest = inputs[0]

    def _enter(self, _layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        if self._latest is not inputs[0]:
            raise ValueError(
                f"The layers {[*self.frozen._modules]} are no head, since one of them does not read just what"
                " the one before it returns: give fewer layers, or put the head into an nn.Sequential."
            )

    def _leave(self, _layer: nn.Module, _inputs: tuple[Any, ...], outputs: Tensor) -> None:
        self._latest = outputs

    def _end(self, _layer: nn.Module, _inputs: tuple[Any, ...], outputs: Tensor) -> Tensor:
        inputs, self._inputs, self._latest = self._inputs, None, None
        added: Tensor = self(inputs)
        return outputs + added


def _without_parameters(layer: nn.Module) -> nn.Module:
    """Return a copy whose parameters are buffers."""
    own = copy.deepcopy(layer)
    for module in own.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                del module._parameters[name]
                module.register_buffer(name, parameter.detach())
    return own


def _inject(context: Context) -> None:
    """Freeze the heads of the networks in which none is frozen, and draw them anew."""
    used = {}
    for frozen, start, own, use in _copies(context):
        used[use] = is_used = context.buffers[use]
        source = context.parameters.get(own, context.buffers.get(own))
        assert source is not None
        ones = [1] * (source.dim() - is_used.dim())
        is_open = ~is_used.view([*is_used.shape, *ones])
        context.replace(frozen, is_open, source)
        if own in context.parameters:
            source = context.fresh(own)
            context.replace(own, is_open, source)
        context.replace(start, is_open, source)
    for is_used in used.values():
        is_used.fill_(True)


def _copies(context: Context) -> Iterator[tuple[str, str, str, str]]:
    """Yield the names of each frozen buffer, of its like in `start`, of its origin, and of `is_used`."""
    for name in context.buffers:
        output, found, own = name.partition(f".{CHILD}.frozen.")
        if found:
            parent, _, _ = output.rpartition(".")
            prefix = f"{output}.{CHILD}"
            yield name, f"{prefix}.start.{own}", f"{parent}.{own}".lstrip("."), f"{prefix}.is_used"
