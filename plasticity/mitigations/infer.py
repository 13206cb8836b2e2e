"""InFeR: a penalty that keeps the last features able to predict what the first ones did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from plasticity.checks import require_integer, require_number
from plasticity.initialization import torch_default
from plasticity.mitigations.base import Kind, Mitigation, mitigation
from plasticity.mitigations.context import Context
from plasticity.mitigations.kept_parameters import copies
from plasticity.mitigations.parameter_roles import AsideLinear
from plasticity.seeds import child_seed

MODULE = "infer"
"""Name of the functionals, as a part of the output layer."""

FIRST = "first/"
"""Prefix of the first parameters and buffers, in the state."""


@mitigation("infer")
@dataclass(frozen=True, kw_only=True)
class InFeR(Mitigation):
    """Penalty on the features' loss of random functionals of the first features (Lyle et al., 2022).

    See "Understanding and Preventing Capacity Loss in Reinforcement Learning". The network gets `heads`
    linear functionals gᵢ of its last features φ, the inputs of its output layer, which learn with it. With φ₀
    and gᵢ₀ the network and the functionals at the beginning, which are held fixed, the loss gets

        strength · mean over i and the batch of (gᵢ(φ(x)) - scale · gᵢ₀(φ₀(x)))².

    Only the targets are scaled, so that the penalty is not 0 at the beginning, unless `scale` is 1.

    What is decided here:

    - The functionals have no offsets, and are drawn as torch draws a linear layer.
    - The mean over them, not the sum: a strength means the same for any number.
    - Both passes are in evaluation mode: without dropout, the first one with the first running statistics.
    - Values are those of a public implementation; the paper's own are not verified.

    A step costs a second pass forward and backward, and a third one forward. The state holds a copy of the
    network.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    kind: ClassVar[Kind] = "penalty"
    claims: ClassVar[str] = "what the features tell of the first ones"
    search: ClassVar[Mapping[str, tuple[float, ...]]] = {"strength": (0.001, 0.01, 0.05, 0.1)}
    reads_roles: ClassVar[bool] = True

    strength: float = 0.05
    """Factor of the penalty."""

    scale: float = 175.0
    """Factor of the targets."""

    heads: int = 10
    """Number of functionals."""

    def __post_init__(self) -> None:
        for name in ("strength", "scale"):
            require_number(name, getattr(self, name), minimum=0.0)
        require_integer("heads", self.heads, minimum=1)

    def initial_weights(self, network: nn.Module, seed: int) -> None:
        """Add the functionals to the last linear layer of a network.

        Raises:
            ValueError: if there is none, or it has functionals already.
        """
        linear = [each for each in network.modules() if isinstance(each, nn.Linear)]
        if not linear:
            raise ValueError(
                "infer reads the features of the last linear layer, but there is none."
            )
        last = linear[-1]
        if any(hasattr(each, MODULE) for each in linear):
            raise ValueError(
                "The network has functionals of infer already: attach it to a new one."
            )
        with torch.random.fork_rng(devices=[]):  # overwritten below, and no draw of the run's
            functionals = AsideLinear(last.in_features, self.heads, bias=False)
        generator = torch.Generator().manual_seed(child_seed(seed, MODULE))
        with torch.no_grad():
            torch_default(last.in_features).draw_(functionals.weight, generator)
        # A part of that layer: a network may run all layers of its own, whatever they are.
        last.add_module(MODULE, functionals.to(last.weight.device, last.weight.dtype))

    def initial_state(self, context: Context) -> dict[str, Tensor]:
        """Return the parameters and the buffers.

        Raises:
            ValueError: if the functionals' layer is no output layer.
        """
        _, layer = _weight_and_layer(context)
        outputs = {role.layer for role in context.roles.values() if role.is_output}
        if layer not in outputs:
            raise ValueError(
                f"infer took {layer!r}, the last linear layer of the model, for its output layer, but that is"
                f" {sorted(outputs)}: define this one last."
            )
        return copies({**context.parameters, **context.buffers}, FIRST)

    def penalty(self, context: Context) -> Tensor:
        """Return the penalty on the features of the batch at hand."""
        names = (*context.parameters, *context.buffers)
        first = {name: context.state[f"{FIRST}{name}"] for name in names}
        found = _outputs(context, context.parameters)
        with torch.no_grad():
            wanted = _outputs(context, first)
            wanted = wanted * context.per_run(self.scale, wanted)
        distances = (found - wanted).square().flatten(len(context.lead)).mean(-1)
        return context.per_run(self.strength, distances) * distances


def _outputs(context: Context, tensors: Mapping[str, Tensor]) -> Tensor:
    """Return the functionals of the inputs, with these parameters. Shape: (..., samples, heads)."""
    weight, layer = _weight_and_layer(context)
    _, found = context.forward_with_inputs_of([layer], context.inputs, tensors)
    return found[layer].flatten(len(context.lead), -2) @ tensors[weight].mT


def _weight_and_layer(context: Context) -> tuple[str, str]:
    """Return the name of the functionals' weight, and that of the layer whose inputs they read."""
    suffix = f"{MODULE}.weight"
    weight = next(name for name in context.parameters if f".{name}".endswith(f".{suffix}"))
    return weight, weight.removesuffix(suffix).removesuffix(".")
