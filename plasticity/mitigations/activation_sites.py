"""Activations of a model's hidden layers: modules that a conversion can replace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd

from plasticity.units.flow import UnitFlow, flow_of, traced
from plasticity.units.tracer import UnitTracer, hook_calls

ACTIVATIONS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Softsign, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid),
)
"""Modules that are functions of each entry, without parameters, buffers or noise."""

WEIGHTED = (nn.Linear, _ConvNd)
"""Layers that have units."""


@dataclass(frozen=True)
class ActivationSite:
    """Activation of hidden layers."""

    layers: tuple[str, ...]
    """Layers whose units it gets; several if their outputs are added."""

    shape: tuple[int, ...]
    """Shape of one example's sums, the units first: (units,), or (channels, *positions) of a convolution."""

    axis: int
    """Axis of the units, counted from the last."""


def activation_sites(
    model: nn.Module, inputs: tuple[Any, ...], layers: Sequence[str] | None
) -> tuple[UnitFlow, dict[str, ActivationSite]]:
    """Find the activations behind hidden layers, in one pass that leaves no trace.

    Args:
        model: The model, without wrappers.
        inputs: Its inputs.
        layers: Names of the layers. None: all linear layers and convolutions before the outputs.

    Returns:
        The connections between the layers, and the activations by their paths.

    Raises:
        KeyError: if there is no layer of a name.
        ValueError: if no activation that can be replaced follows a layer.
    """
    calls: Counter[str] = Counter()
    sites: dict[str, ActivationSite] = {}

    def note(tracer: UnitTracer, path: str, _module: nn.Module, args: tuple[Any, ...]) -> None:
        calls[path] += 1
        site = _site(model, tracer, args[0])
        if site is not None:
            sites[path] = site

    def run(inner: nn.Module, tracer: UnitTracer) -> None:
        with ExitStack() as block:
            for path, module in inner.named_modules():
                if isinstance(module, ACTIVATIONS):
                    hook_calls(block, module, partial(note, tracer, path), lambda *_: None)
            inner(*inputs)

    flow = flow_of(traced(model, run))
    sites = {path: site for path, site in sites.items() if calls[path] == 1}
    wanted = _hidden_layers(model, flow) if layers is None else [flow[name].name for name in layers]
    followed = {name for site in sites.values() for name in site.layers}
    for name in wanted:
        if name not in followed:
            raise ValueError(
                f"Layer {name!r} cannot be converted: no activation follows it that is a module and is called"
                " once. Make functions modules (nn.ReLU()), one for each layer, or name the layers to"
                f" convert; those that can be: layers={[each for each in wanted if each in followed]}."
            )
    return flow, {path: site for path, site in sites.items() if set(site.layers) & set(wanted)}


def _site(model: nn.Module, tracer: UnitTracer, sums: Any) -> ActivationSite | None:
    """Return the site of an activation; None if no single axis of its input holds units."""
    layers, layout = tuple(sorted(tracer.layers_of(sums))), tracer.layout(sums)
    if not layers or layout is None or len(layout.axes) != 1 or layout.repeats > 1:
        return None
    axis = layout.axes[0] - sums.dim()
    is_map = isinstance(model.get_submodule(layers[0]), _ConvNd)
    return ActivationSite(
        layers, tuple(sums.shape[axis:] if is_map else sums.shape[axis:][:1]), axis
    )


def _hidden_layers(model: nn.Module, flow: UnitFlow) -> list[str]:
    modules = dict(model.named_modules())
    hidden = [each.name for each in flow.layers if not each.is_output]
    return [name for name in hidden if isinstance(modules.get(name), WEIGHTED)]
