"""Dense layers on the unit sphere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from plasticity.checks import require_number
from plasticity.mitigations.base import Kind, Mitigation, mitigation
from plasticity.mitigations.context import Context
from plasticity.mitigations.fixed_weights import MASK
from plasticity.modules.hyperspherical import HypersphericalLayer, on_sphere
from plasticity.network_spec import NetworkSpec

SCALE = "sphere_scale.factor"
"""Name of the factors of a hyperspherical layer, by which its weight is found."""


@mitigation("hyperspherical")
@dataclass(frozen=True, kw_only=True)
class Hyperspherical(Mitigation):
    """Hidden dense layers with weights and features of norm 1 (after SimBaV2, Lee et al., 2025).

    Each computes ``unit(activation(scale * (W x)))``: the rows of W have norm 1, `scale` has a learned factor
    for each unit, and there are no biases. The first layer's inputs are ``unit((x, shift))``, so that their
    own scale is not lost. After every optimizer step, and after resets in it, W is projected; the optimizer's
    moments stay. So neither weights nor features can grow, and the effective learning rate stays.

    Differences from SimBaV2: the layers are a chain, as the network has them, with its activation after each,
    instead of blocks whose outputs are mixed into their inputs; the layer of the outputs stays as it is, free
    and with a bias, instead of two hyperspherical ones; and the initial weights are those of the network's
    scheme, then projected (orthogonal ones, as there, by `--initialization orthogonal`). SimBaV2 also
    normalizes observations and scales rewards. Convolutions are left as they are: the first dense layer
    takes the features of the last convolution as its inputs. A network without hidden dense layers in a row
    is refused. Features of a layer depend on all its units: where one is reset, all change a little.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    kind: ClassVar[Kind] = "network"
    reads_gradients: ClassVar[bool] = False
    claims: ClassVar[str | tuple[str, ...]] = ("the normalization", "the projection")
    comes_last: ClassVar[bool] = True

    shift: float = 3.0
    """Entry that is appended to the inputs of the first layer, above 0."""

    def __post_init__(self) -> None:
        if require_number("shift", self.shift, minimum=0.0) == 0:
            raise ValueError("shift must be above 0: with 0, the scale of the inputs is lost.")

    def network(self, spec: NetworkSpec) -> NetworkSpec:
        """Return the specification with hyperspherical dense layers."""
        made = partial(HypersphericalLayer, shift=self.shift)
        return replace(spec, layer=replace(spec.layer, dense=made))

    @torch.no_grad()
    def initial_weights(self, network: nn.Module, seed: int) -> None:
        """Project the initial weights.

        Raises:
            ValueError: if the network was built without hyperspherical layers.
        """
        layers = [each for each in network.modules() if isinstance(each, HypersphericalLayer)]
        if not layers:
            raise ValueError(
                f"{type(network).__name__} was built without {self.name}, which needs hidden dense layers in"
                " a row: choose another architecture, such as mlp, or leave it out."
            )
        for layer in layers:
            layer.weight.copy_(on_sphere(layer.weight))

    def initial_state(self, context: Context) -> dict[str, Tensor]:
        """Return no state.

        Raises:
            ValueError: if weights have fixed entries, which a projection would change.
        """
        fixed = [name for name in context.buffers if name.rpartition(".")[2] == MASK]
        if fixed:
            raise ValueError(
                f"{self.name} scales whole weights, but some entries of {fixed[0].rpartition('.')[0]!r} are"
                " fixed: leave one of the two mitigations out."
            )
        return {}

    def after_step(self, context: Context) -> None:
        """Project the weights."""
        for weight in _weights(context):
            weight.copy_(on_sphere(weight))

    def boundary(self, context: Context) -> None:
        """Project the weights, which another mitigation may have changed between two tasks."""
        self.after_step(context)


def _weights(context: Context) -> Iterator[Tensor]:
    """Yield the weights of hyperspherical layers. Shape of each: (..., units, inputs)."""
    for name in context.parameters:
        if name.endswith(SCALE):
            yield context.parameters[f"{name.removesuffix(SCALE)}weight"]
