"""Conversion of a model that exists: mitigations that change networks, put into it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from plasticity.initialization import torch_default
from plasticity.mitigations.activation_sites import WEIGHTED, ActivationSite, activation_sites
from plasticity.mitigations.base import Mitigation
from plasticity.mitigations.method import SeededMethod, network_spec
from plasticity.mitigations.stacked_settings import overrides
from plasticity.modules.hidden_work import HiddenActivation
from plasticity.network_spec import LayerSpec, NetworkSpec
from plasticity.preserve_state import preserve_state
from plasticity.seeds import child_seed
from plasticity.units.flow import UnitFlow, UnitLayer
from plasticity.units.numbers import tensors_in
from plasticity.wrappers import raw_module


def convert(
    model: nn.Module,
    *mitigations: Mitigation,
    inputs: Any,
    layers: Sequence[str] | None = None,
    seed: int = 0,
) -> nn.Module:
    """Return a copy of a model whose hidden layers have what mitigations of networks would build them with.

    ::

        from plasticity import convert
        from plasticity.mitigations import CReLU, Dropout

        model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 2))
        model = convert(model, CReLU(), Dropout(probability=0.1), inputs=torch.zeros(1, 8))

    The activation behind each hidden layer, which must be a module (`nn.ReLU`) that is called once, becomes
    one with the normalization, the activations and the noise of the mitigations. Where an activation has
    several outputs, layers keep their width and have fewer units, or have more outputs, and the layers that
    read them more inputs, as the mitigation's `keep_units` says. Layers whose shape changes are drawn anew,
    as torch draws linear layers and convolutions; others keep their weights. Make the optimizer afterwards.

    Args:
        model: The model, wrapped or not; the copy is not. It stays as it is.
        *mitigations: Settings of mitigations that change networks, from `plasticity.mitigations`.
        inputs: Example of the model's input, or a tuple of its inputs.
        layers: Names of the hidden layers to convert. None: all linear layers and convolutions before the
            outputs.
        seed: Seed of new weights, and of all that the mitigations draw.

    Raises:
        TypeError: if one is not a mitigation, such as the module of the same name.
        KeyError: if there is no layer of a name in `layers`.
        ValueError: if a mitigation does not change networks or builds layers of its own, two claim the same,
            or a layer cannot be converted; the message names it, and says why.

    Examples:
        >>> from plasticity.mitigations import LayerNorm
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> convert(model, LayerNorm(), inputs=torch.randn(8, 4))(torch.randn(8, 4)).shape
        torch.Size([8, 2])
    """
    for each in mitigations:
        _require_network_mitigation(each)
    method = SeededMethod(mitigations, anchor_seed=child_seed(seed, "anchor"))
    inner = raw_module(model)
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    flow, sites = activation_sites(inner, inputs, layers)
    converted = copy.deepcopy(inner)
    generator = torch.Generator().manual_seed(child_seed(seed, "converted"))
    resized: dict[str, _Size] = {}
    for path, site in sites.items():
        spec = _layer_spec(mitigations, converted.get_submodule(path))
        units = _new_units(site, spec, flow, inner, resized)
        shape = (units, *site.shape[1:])
        like = next(converted.get_submodule(site.layers[0]).parameters())
        _put(converted, path, HiddenActivation(spec, shape, site.axis).to(like.device, like.dtype))
    for name, size in resized.items():
        _resize(converted.get_submodule(name), size, generator)
    method.prepare(converted)
    _require_same_outputs(inner, converted, inputs)
    return converted


def _require_network_mitigation(each: object) -> None:
    if not isinstance(each, Mitigation):
        raise TypeError(
            f"{type(each).__name__} is not a mitigation: give the settings, from plasticity.mitigations."
        )
    if not overrides(each, "network"):
        raise ValueError(
            f"{each.name} does not change networks: attach it to the model (attach), or leave it out."
        )
    if each.network(NetworkSpec(input_shape=(1,), output_size=1)).layer.dense is not None:
        raise ValueError(
            f"{each.name} builds layers of its own, which cannot be put into a model: build the network"
            " with them."
        )


@dataclass
class _Size:
    """Change of a layer's shape."""

    units: int | None = None
    """New number of units. None: as it was."""

    more_inputs: int = 0
    """Inputs that it has more than before."""


def _layer_spec(mitigations: Sequence[Mitigation], activation: nn.Module) -> LayerSpec:
    plain = LayerSpec(activations=(activation,))
    spec = NetworkSpec(input_shape=(1,), output_size=1, layer=plain)
    return network_spec(mitigations, spec).layer


def _new_units(
    site: ActivationSite,
    spec: LayerSpec,
    flow: UnitFlow,
    model: nn.Module,
    resized: dict[str, _Size],
) -> int:
    """Return the number of units before an activation, and note which layers change their shape.

    Raises:
        ValueError: if the layer's units cannot be followed although layers have to change their shape.
    """
    width, parts = site.shape[0], len(spec.activations)
    layers = [flow[name] for name in site.layers]
    normalizations = [name for each in layers for name in (*each.scales, *each.offsets)]
    if normalizations and (spec.normalization is not None or spec.units(width) != width):
        raise ValueError(
            f"Layer {site.layers[0]!r} cannot be converted: its units have the normalization"
            f" {normalizations[0].rpartition('.')[0]!r} already. Take it out of the model first."
        )
    if parts == 1:
        return width
    layer = layers[0]
    if reason := _obstacle(layer, layers, model):
        raise ValueError(
            f"Layer {layer.name!r} cannot be converted, as its activation gets {parts} outputs for each unit:"
            f" {reason}."
        )
    units = spec.units(width)
    if units != width:
        resized.setdefault(layer.name, _Size()).units = units
    else:
        for reader in layer.readers:
            size = resized.setdefault(reader.layer, _Size())
            size.more_inputs += (parts - 1) * reader.columns.numel()
    return units


def _obstacle(layer: UnitLayer, layers: Sequence[UnitLayer], model: nn.Module) -> str | None:
    """Return why the units of a layer cannot have several outputs; None if they can."""
    if len(layers) > 1 or layer.joined:
        others = sorted({*(each.name for each in layers), *layer.joined} - {layer.name})
        return f"its units are added to those of {', '.join(others)}"
    if reason := layer.not_followed or layer.unequal:
        return reason
    for name in (layer.name, *(each.layer for each in layer.readers)):
        module = dict(model.named_modules()).get(name)
        grouped = isinstance(module, _ConvNd) and (module.groups > 1 or module.transposed)
        if not isinstance(module, WEIGHTED) or grouped or "weight" not in module._parameters:
            return f"{name!r} is not a plain linear layer or convolution with weights of its own"
    return None


def _resize(layer: Any, size: _Size, generator: torch.Generator) -> None:
    """Change the shape of a linear layer or convolution in place, and draw its weights anew."""
    old = layer.weight
    units, inputs = size.units or len(old), old.shape[1] + size.more_inputs
    weight = torch.empty(units, inputs, *old.shape[2:])
    drawn = torch_default(weight[0].numel())
    for name, fresh in (("weight", weight), ("bias", torch.empty(units))):
        parameter = getattr(layer, name)
        if parameter is not None:
            drawn.draw_(fresh, generator)
            setattr(layer, name, nn.Parameter(fresh.to(parameter), parameter.requires_grad))
    kind = "features" if isinstance(layer, nn.Linear) else "channels"
    setattr(layer, f"in_{kind}", inputs)
    setattr(layer, f"out_{kind}", units)


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module in the place of another, under all of its names."""
    old = model.get_submodule(path)
    module.train(old.training)
    for name, each in list(model.named_modules(remove_duplicate=False)):
        if each is old:
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, module)


def _output_shapes(model: nn.Module, inputs: tuple[Any, ...]) -> list[tuple[int, ...]]:
    with preserve_state(model):
        return [tuple(each.shape) for each in tensors_in(model(*inputs))]


def _require_same_outputs(model: nn.Module, converted: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Raise a ValueError unless the copy runs, with outputs of the same shape."""
    expected = _output_shapes(model, inputs)
    try:
        found: Any = _output_shapes(converted, inputs)
    except (RuntimeError, ValueError) as fault:
        found = fault
    if found != expected:
        raise ValueError(
            f"The converted model does not give outputs of the shapes {expected}, but: {found}. A layer may"
            " be read both before and after its activation, or its width be written down elsewhere. Name the"
            " layers to convert, layers=[…]."
        )
