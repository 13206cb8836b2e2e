"""Resets of units: new incoming weights, zero outgoing weights, cleared moments of both.

Over the whole network, in two phases: all incoming weights are drawn before any outgoing weight is set to 0.
Layer by layer, a unit of the next layer that is drawn anew would refill what was just set to 0.

Everything has leading dimensions `...`: none for one network, (R,) for R stacked ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from plasticity.initialization import Constant
from plasticity.mitigations.hidden_units import HiddenUnits
from plasticity.mitigations.trained import Initial, Trained

Draw = Callable[[Initial, Tensor], None]
"""Function that fills a tensor of shape (..., units, *shape) from a distribution, each network by itself."""


@torch.no_grad()
def reset_units(
    networks: Trained, chosen: Mapping[str, Tensor], draw: Draw, *, keep_outgoing: bool = False
) -> None:
    """Reset units of any number of layers.

    Args:
        networks: Networks, changed in place, with the moments of their optimizer.
        chosen: Units to reset, by layer. Bool. Shape of each: (..., units).
        draw: Function that draws new weights.
        keep_outgoing: Leave the outgoing weights, and their moments, as they are.
    """
    for layer, mask in chosen.items():
        units = networks.units[layer]
        for name, axis, distribution in _incoming(networks, units):
            _draw_entries(networks, name, axis, mask, distribution, draw)
    if keep_outgoing:
        return
    for layer, mask in chosen.items():
        for reader in networks.units[layer].readers:
            _fill_entries(networks, reader.weight, reader.axis, reader.fed_by(mask), 0.0)


def _incoming(networks: Trained, units: HiddenUnits) -> list[tuple[str, int, Initial]]:
    """Return name, axis and distribution of the parameters that make these units."""
    found: list[tuple[str, int, Initial]] = [
        (units.weight, units.axis, networks.initialization[units.weight])
    ]
    if units.bias is not None:
        found.append((units.bias, 0, Constant(0.0)))
    found += [(name, 0, Constant(1.0)) for name in units.scales]
    found += [(name, 0, Constant(0.0)) for name in units.offsets]
    return found


def _draw_entries(
    networks: Trained, name: str, axis: int, mask: Tensor, distribution: Initial, draw: Draw
) -> None:
    if isinstance(distribution, Constant):
        _fill_entries(networks, name, axis, mask, distribution.value)
        return
    parameter, lead = networks.parameters[name].detach(), len(networks.lead)
    # Drawn with the units first, as the distributions expect.
    fresh = torch.empty_like(
        parameter.movedim(lead + axis, lead), memory_format=torch.contiguous_format
    )
    draw(distribution, fresh)
    along = _along(mask, parameter, lead + axis)
    parameter.copy_(torch.where(along, fresh.movedim(lead, lead + axis), parameter))
    for moment in networks.moments(name):
        moment.masked_fill_(along, 0.0)


def _fill_entries(networks: Trained, name: str, axis: int, mask: Tensor, value: float) -> None:
    written, moments = networks.tensor(name)
    along = _along(mask, written, len(networks.lead) + axis)
    written.masked_fill_(along, value)
    for moment in moments:
        moment.masked_fill_(along, 0.0)


def _along(mask: Tensor, like: Tensor, axis: int) -> Tensor:
    """Return a mask whose last axis lies along one axis of a tensor. Shape: that of `like`, or ones."""
    return mask.view(
        *mask.shape[:-1], *[1] * (axis - mask.dim() + 1), -1, *[1] * (like.dim() - axis - 1)
    )


@torch.no_grad()
def replace_entries(networks: Trained, name: str, chosen: Tensor, values: Tensor) -> None:
    """Replace entries of a parameter, and set their moments to 0.

    Args:
        networks: As in `reset_units`.
        name: Name of the parameter.
        chosen: Which entries. Bool, broadcast to the parameter. Shape: (..., *shape).
        values: New values. Shape: likewise.
    """
    written, moments = networks.tensor(name)
    written.copy_(torch.where(chosen, values, written))
    for moment in moments:
        moment.masked_fill_(chosen, 0.0)


@torch.no_grad()
def reset_some_units(
    networks: Trained, chosen: Mapping[str, Tensor], at_most: int, draw: Draw
) -> dict[str, Tensor]:
    """Reset units as `reset_units`, but only up to `at_most` of a layer, whose weights alone are touched.

    For resets at every step: drawing whole layers anew costs more than the step itself.

    Args:
        networks: As in `reset_units`.
        chosen: As in `reset_units`; of more than `at_most` units of a layer, those with the lowest indices.
        at_most: Number of units of each layer, at least 1.
        draw: As in `reset_units`.

    Returns:
        The units that were reset, as `chosen`.
    """
    found = {}
    done = {}
    for layer, mask in chosen.items():
        units = mask.shape[-1]
        # No two are equal: what topk makes of equals differs between devices.
        first = torch.where(mask, torch.arange(units, 0, -1, device=mask.device), 0)
        values, indices = first.topk(min(at_most, units), dim=-1)
        found[layer] = values > 0, indices
        done[layer] = torch.zeros_like(mask).scatter_(-1, indices, values > 0)
    for layer, (valid, indices) in found.items():
        for name, axis, distribution in _incoming(networks, networks.units[layer]):
            _write_entries(networks, name, axis, valid, indices, distribution, draw)
    for layer, (valid, indices) in found.items():
        for reader in networks.units[layer].readers:
            columns = reader.columns[indices].flatten(-2)
            fed = valid.repeat_interleave(reader.columns.shape[1], dim=-1)
            _write_entries(networks, reader.weight, reader.axis, fed, columns, Constant(0.0), draw)
    return done


def _write_entries(
    networks: Trained,
    name: str,
    axis: int,
    valid: Tensor,
    indices: Tensor,
    distribution: Initial,
    draw: Draw,
) -> None:
    """Write new numbers to the entries with these indices along an axis, where they are valid."""
    written, moments = networks.tensor(name)
    lead = len(networks.lead)
    for tensor in (written, *moments):
        by_unit = tensor.movedim(lead + axis, lead)
        rest = by_unit.shape[lead + 1 :]
        index = indices.view(*indices.shape, *[1] * len(rest)).expand(*indices.shape, *rest)
        old = by_unit.gather(lead, index)
        new = torch.zeros_like(old, memory_format=torch.contiguous_format)
        if tensor is written:
            draw(distribution, new)
        by_unit.scatter_(lead, index, torch.where(_along(valid, old, lead), new, old))
