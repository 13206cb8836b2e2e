"""Networks that begin with cloned units."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from plasticity.mitigations.hidden_units import HiddenUnits, UnitReader, hidden_units
from plasticity.units import trace_units


@torch.no_grad()
def clone_units(network: nn.Module, share: float, input_shape: tuple[int, ...]) -> None:
    """Make the last units of every hidden layer copies of its first ones.

    A copy has the incoming weights and bias of its original, and both have the mean of their outgoing
    weights. They then compute the same, and get the same gradient: without noise, gradient descent keeps them
    equal for ever, and the network learns as a narrower one.

    Args:
        network: The network, at its beginning.
        share: Share of the units of each layer that become copies, at least 0 and below 1.
        input_shape: Shape of one input.

    Raises:
        ValueError: if the units of a layer cannot be followed through the network; the message says why.
    """
    was_training = network.training
    network.eval()
    flow = trace_units(network, torch.zeros(1, *input_shape))
    network.train(was_training)
    parameters = dict(network.named_parameters())
    for units in hidden_units(flow, network).values():
        copies = min(round(share * units.count), units.count - 1)
        originals = torch.arange(units.count)
        originals[units.count - copies :] = torch.arange(copies) % (units.count - copies)
        _clone(parameters, units, originals)


def _clone(parameters: Mapping[str, Tensor], units: HiddenUnits, originals: Tensor) -> None:
    """Give each unit what its original has."""
    own = [name for name in (units.bias, *units.scales, *units.offsets) if name is not None]
    for name, axis in ((units.weight, units.axis), *((each, 0) for each in own)):
        parameters[name].copy_(parameters[name].index_select(axis, originals))
    for reader in units.readers:
        _average(parameters[reader.weight], reader, originals)


def _average(weight: Tensor, reader: UnitReader, originals: Tensor) -> None:
    """Give the columns of an original and its copies their mean, position by position."""
    columns = weight.movedim(reader.axis, 0)[reader.columns]  # (units, positions, …)
    sums = torch.zeros_like(columns).index_add_(0, originals, columns)
    counts = torch.bincount(originals, minlength=len(originals)).clamp(min=1)
    means = sums / counts.view(-1, *[1] * (columns.dim() - 1))
    weight.movedim(reader.axis, 0)[reader.columns] = means[originals]
