"""Units of hidden layers as mitigations use them: their own weights, and the weights that read them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from plasticity.units.flow import Reader, UnitFlow, UnitLayer


@dataclass(frozen=True, eq=False)
class UnitReader:
    """Layer that reads units."""

    layer: str
    """Name of the layer, whose input holds the features."""

    weight: str
    """Name of its weight."""

    axis: int
    """Axis of the weight along which it reads."""

    columns: Tensor
    """Positions along this axis that each unit feeds, int64. Shape: (units, positions)."""

    owners: Tensor
    """Unit that feeds each position; the number of units where none does, int64. Shape: (columns,)."""

    in_order: bool
    """Whether the columns are all positions, in their order."""

    reads_map: bool
    """Whether the layer is a convolution, in whose input the channels are behind the batch."""

    def by_unit(self, inputs: Tensor, lead: int) -> Tensor:
        """Return the layer's inputs by the units that feed them, each position as a sample.

        Args:
            inputs: Shape: (..., batch, ..., columns), or (..., batch, columns, ...) of a convolution.
            lead: Number of leading dimensions.

        Returns:
            Shape: (..., samples, units).
        """
        if self.reads_map:
            inputs = inputs.movedim(lead + 1, -1)
        rows = inputs.flatten(lead, -2)
        if not self.in_order:
            rows = rows.index_select(-1, self.columns.flatten())
        units, positions = self.columns.shape
        if positions == 1:
            return rows
        by_position = rows.view(*rows.shape[:-1], units, positions).mT
        return by_position.flatten(lead, -2)

    def by_entry(self, inputs: Tensor, lead: int) -> Tensor:
        """Return the layer's inputs by the entries that each unit feeds, a view if the columns are in order.

        An entry is a position of the weight, such as an output of a CReLU, at a place of a convolution's map.

        Args:
            inputs: As in `by_unit`.
            lead: Number of leading dimensions.

        Returns:
            Shape: (..., rows, units, positions, places).
        """
        entries = (
            inputs.flatten(lead + 2) if self.reads_map else inputs.flatten(lead, -2).unsqueeze(-1)
        )
        if not self.in_order:
            entries = entries.index_select(lead + 1, self.columns.flatten())
        before, after = entries.shape[: lead + 1], entries.shape[lead + 2 :]
        return entries.reshape(*before, *self.columns.shape, *after)

    def fed_by(self, chosen: Tensor) -> Tensor:
        """Return the positions that chosen units feed; of numbers, that of the unit that feeds each, or 0.

        Shape: (..., units) to (..., columns).
        """
        with_none = torch.cat([chosen, chosen.new_zeros(*chosen.shape[:-1], 1)], -1)
        return with_none.index_select(-1, self.owners)


@dataclass(frozen=True, eq=False)
class HiddenUnits:
    """Units of a hidden layer."""

    count: int
    """Number of units: output features or channels."""

    weight: str
    """Name of the weight that makes them."""

    axis: int
    """Axis of the weight that holds them."""

    bias: str | None
    """Name of the bias, if there is one."""

    scales: tuple[str, ...]
    """Names of factors of normalizations of the units, 1 at the beginning. Shape of each: (units, …)."""

    offsets: tuple[str, ...]
    """Names of offsets of normalizations, 0 at the beginning, likewise."""

    readers: tuple[UnitReader, ...]
    """Layers that read them; the first one's inputs are their features."""


def hidden_units(
    flow: UnitFlow, model: nn.Module, layers: Sequence[str] | None = None
) -> dict[str, HiddenUnits]:
    """Return the hidden layers that a probe pass found, by name, from input to output.

    Args:
        flow: Connections between the layers.
        model: The model, as it was traced.
        layers: Names of the layers that are wanted. None: all whose units do not belong to the output.

    Raises:
        KeyError: if there is no layer of a name.
        ValueError: if the units of a layer cannot be reset one by one; the message says why.
    """
    hidden = _hidden(flow, model)
    wanted = hidden if layers is None else [flow[name] for name in layers]
    found, faults = _followed(wanted, model)
    if faults:
        raise ValueError(
            "\n".join(faults.values()) + f"\nThose that can: layers={list(found)}."
            " Name these, or the layer that reads each layer's units, in readers={LAYER: READER}."
        )
    return found


def resettable_units(
    flow: UnitFlow, model: nn.Module
) -> tuple[dict[str, HiddenUnits], dict[str, str]]:
    """Return the hidden layers whose units can be reset one by one, and why those of others cannot."""
    return _followed(_hidden(flow, model), model)


def _hidden(flow: UnitFlow, model: nn.Module) -> list[UnitLayer]:
    """Return the layers whose units are no outputs, but for those with a buffer as their weight."""
    buffers = {name for name, _ in model.named_buffers()}
    return [each for each in flow.layers if not each.is_output and each.weight not in buffers]


def _followed(
    layers: Sequence[UnitLayer], model: nn.Module
) -> tuple[dict[str, HiddenUnits], dict[str, str]]:
    found: dict[str, HiddenUnits] = {}
    faults: dict[str, str] = {}
    for each in layers:
        try:
            found[each.name] = _units_of(each, model)
        except ValueError as fault:
            faults[each.name] = str(fault)
    return found, faults


def _units_of(layer: UnitLayer, model: nn.Module) -> HiddenUnits:
    _require_followed(layer, _shared(layer, model))
    assert layer.weight is not None
    assert layer.axis is not None
    return HiddenUnits(
        layer.units,
        layer.weight,
        layer.axis,
        layer.bias,
        layer.scales,
        layer.offsets,
        tuple(_reader_of(layer.name, each, model) for each in layer.readers),
    )


def _shared(layer: UnitLayer, model: nn.Module) -> str | None:
    """Return the name of a weight, of units or of a reader, that other modules have too, if any."""
    every = dict(model.named_parameters(remove_duplicate=False))
    names = [layer.weight, *(each.weight for each in layer.readers)]
    counts = Counter(every.values())
    return next((name for name in names if name in every and counts[every[name]] > 1), None)


def _require_followed(layer: UnitLayer, shared: str | None) -> None:
    reason = layer.not_followed
    if reason is None and layer.is_output:
        reason = "its units are outputs of the model"
    elif reason is None and (layer.weight is None or layer.axis is None):
        reason = "its units have no weight of their own"
    elif reason is None and layer.joined:
        reason = f"its units are added to those of {', '.join(layer.joined)}"
    elif reason is None and not layer.readers:
        reason = "no layer reads it"
    elif reason is None and shared is not None:
        reason = f"other layers also use {shared!r}"
    elif reason is None and any(
        each.groups > 1 or bool((each.columns < 0).any()) for each in layer.readers
    ):
        reason = layer.unequal
    if reason is not None:
        raise ValueError(f"The units of {layer.name!r} cannot be reset one by one: {reason}.")


def _reader_of(name: str, reader: Reader, model: nn.Module) -> UnitReader:
    try:
        module = model.get_submodule(reader.layer)
    except AttributeError:
        raise ValueError(
            f"The features of {name!r} are read by {reader.weight!r}, which is no module of its own, so that"
            " they cannot be recorded: make it the weight of a module."
        ) from None
    owner, _, own = reader.weight.rpartition(".")
    weight = getattr(model.get_submodule(owner), own)  # which may be a buffer
    return unit_reader(reader.layer, reader.weight, reader.axis, reader.columns, weight, module)


def unit_reader(
    layer: str, weight_name: str, axis: int, columns: Tensor, weight: Tensor, module: nn.Module
) -> UnitReader:
    """Return the reader of units with these columns, on the device of its weight."""
    size = weight.shape[axis]
    units, positions = columns.shape
    owners = torch.full((size,), units)
    owners[columns.flatten()] = torch.arange(units).repeat_interleave(positions)
    return UnitReader(
        layer,
        weight_name,
        axis,
        columns.to(weight.device),
        owners.to(weight.device),
        in_order=torch.equal(columns.flatten(), torch.arange(size)),
        reads_map=isinstance(module, nn.modules.conv._ConvNd),
    )


def named_readers(model: nn.Module, pairs: Mapping[str, str]) -> dict[str, HiddenUnits]:
    """Return hidden layers whose readers a user names, for a model that cannot be followed.

    A layer feeds the inputs of its reader in order; after a convolution, each channel feeds an equal share
    of a linear layer's inputs, as `flatten` gives them.

    Args:
        model: The model.
        pairs: Name of the reader, by the name of the layer; both linear layers or convolutions.

    Raises:
        ValueError: if a layer is neither, or the inputs of a reader are no multiple of the units.
    """
    found: dict[str, HiddenUnits] = {}
    for name, reader_name in pairs.items():
        layer, reader = (_weighted(model, each) for each in (name, reader_name))
        units, inputs = layer.weight.shape[0], reader.weight.shape[1]
        if inputs % units:
            raise ValueError(
                f"{reader_name!r} has {inputs} inputs, no multiple of the {units} units of {name!r}, which it"
                " should read: name another reader."
            )
        columns = torch.arange(inputs).view(units, -1)
        made = unit_reader(reader_name, f"{reader_name}.weight", 1, columns, reader.weight, reader)
        bias = None if layer.bias is None else f"{name}.bias"
        found[name] = HiddenUnits(units, f"{name}.weight", 0, bias, (), (), (made,))
    return found


def _weighted(model: nn.Module, name: str) -> nn.Linear | nn.modules.conv._ConvNd:
    module = dict(model.named_modules()).get(name)
    is_plain = isinstance(module, nn.Linear | nn.modules.conv._ConvNd) and not (
        isinstance(module, nn.modules.conv._ConvNd) and (module.groups > 1 or module.transposed)
    )
    if not is_plain:
        raise ValueError(
            f"{name!r} must be the name of a linear layer, or of a convolution without groups, not"
            f" {type(module).__name__}."
        )
    return module  # type: ignore[return-value]
