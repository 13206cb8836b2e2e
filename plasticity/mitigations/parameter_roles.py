"""Roles of a network's parameters: weights, biases, factors and offsets, each of its layer."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from torch import nn

from plasticity.optim.fan_in import Layout, model_layouts
from plasticity.units.flow import UnitFlow

Kind = Literal["weight", "bias", "scale", "offset", "other"]


class AsideLinear(nn.Linear):
    """Linear layer beside a network, which no pass runs, as that of a penalty: its weights are "other"."""


@dataclass(frozen=True)
class ParameterRole:
    """Role of a parameter in its network."""

    kind: Kind
    """Kind of the parameter. "weight": of a linear layer, a convolution or an attention, (units, inputs, …).
    "bias": that of such a layer. "scale" and "offset": factors and offsets of a normalization, 1 and 0 at
    first. "other": embeddings, tokens, layer scales, layers beside the network, and what is not known."""

    layer: str
    """Name of the module that it belongs to."""

    fan_in: int
    """Inputs of one unit of the layer; 1 for a normalization, 0 where nothing has units."""

    is_output: bool
    """Whether the layer's units are part of the model's output."""


def parameter_roles(model: nn.Module, outputs: Collection[str]) -> dict[str, ParameterRole]:
    """Return the role of each parameter of a model, by name.

    Args:
        model: The model.
        outputs: Names of the layers whose units are part of its output (`output_layers`), or of their
            parameters.
    """
    layouts = model_layouts(model)
    found = {}
    for name, parameter in model.named_parameters():
        layout, layer = layouts[parameter], name.rpartition(".")[0]
        is_aside = isinstance(model.get_submodule(layer), AsideLinear)
        kind = "other" if is_aside else _kind(layout)
        is_output = layer in outputs or name in outputs
        found[name] = ParameterRole(kind, layer, layout.fan_in, is_output)
    return found


def _kind(layout: Layout) -> Kind:
    if layout.kind == "weight":
        return "weight"
    if layout.kind == "normalization":
        return "offset" if layout.is_bias else "scale"
    return "bias" if layout.kind == "vector" and layout.is_bias else "other"


def output_layers(flow: UnitFlow) -> set[str]:
    """Return the names of the layers whose units are part of the model's output.

    A layer without a module of its own has the names of its weight and bias.

    Raises:
        ValueError: if there is none, so that the output goes through operations that cannot be followed.
    """
    outputs = [each for each in flow.layers if each.is_output]
    found = {each.name for each in outputs}
    found |= {each.bias for each in outputs if each.bias and each.name == each.weight}
    if not found:
        raise ValueError(
            "It cannot be told which layer makes the model's output, and a mitigation needs to know: name in"
            " readers={LAYER: READER} which layers read which; a reader that nobody reads is an output."
        )
    return found
