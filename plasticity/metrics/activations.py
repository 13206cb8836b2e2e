"""Activations by layer name, and their arrangement as matrices with a column per unit."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from plasticity.checks import require_integer
from plasticity.units.numbers import UnitLayout

__all__ = ["Activations", "unit_matrix"]

Axes = int | tuple[int, ...]
"""Axis of an activation that holds its units, or the axes that hold them jointly."""

# Layers whose unit axis was guessed, by model, so that each is warned about once.
_warned: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Origin:
    """Origin of an activation: its function, its layers and its position in the network."""

    function: str | None
    """Name of the activation function, such as "relu". None: a module that is not an activation, or one that
    calls no function or several."""

    layers: frozenset[str]
    """Names of the layers (as in `trace_units`) whose units these are; several after a sum."""

    position: int
    """Number of layers that had run before it, repeated ones included."""

    is_output: bool = False
    """Whether it is part of the model's output."""


class Activations(dict[str, Tensor]):
    """Outputs by layer name, in the order in which the network computed them.

    Each is a detached copy, on its device and in its dtype.

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
        >>> with capture(model) as activations:
        ...     outputs = model(torch.randn(8, 4))
        >>> list(activations)
        ['1']
    """

    layouts: dict[str, UnitLayout]
    """Layout of the units by name, where the operations determine it (or the user gave it)."""

    origins: dict[str, Origin]
    """Origin of each output, by name."""

    ran: tuple[str, ...]
    """Names of the layers with weights that ran (as in `trace_units`), in order; repeated once per run."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.ran = ()
        self.layouts = {}
        self.origins = {}
        self._model = model

    def units(self, name: str) -> Tensor:
        """Return a layer's output as a feature matrix: a row per sample and position, a column per unit.

        The axes that hold the units follow from the operations that made the output: ``(batch, heads,
        positions, head_dim)`` of a linear layer of 32 units becomes a matrix of 32 columns, and a flattened
        convolution map a matrix with one column per channel. Where they are unknown (after an operation that
        cannot be followed, or for an activation of the inputs), `unit_matrix` guesses them, with a warning
        once for each model and layer; pass the axis to `capture` instead.

        Raises:
            ValueError: if the axis is unknown and cannot be guessed, as in `unit_matrix`.
        """
        return self.matrix(name, self[name])

    def matrix(self, name: str, values: Tensor) -> Tensor:
        """Arrange other values as `units` arranges an output, such as a mask of its entries.

        Args:
            name: Name of the layer.
            values: Values to arrange. Shape: that of the layer's output.

        Raises:
            ValueError: as in `units`.
        """
        layout = self.layouts.get(name)
        if layout is not None:
            return layout.matrix(values)
        try:
            matrix = unit_matrix(values)
        except ValueError as error:
            raise ValueError(f"layer {name!r}: {error}") from error
        warned = _warned.setdefault(self._model, set())
        if values.ndim > 2 and name not in warned:
            warned.add(name)
            axis = guessed_axis(values)
            warnings.warn(
                f"the unit axis of layer {name!r}, of shape {tuple(values.shape)}, is a guess: axis {axis}, "
                "as the operations that made the layer's output could not be followed. Pass the axis: "
                f"units={{{name!r}: {axis}}}",
                stacklevel=2,
            )
        return matrix


def unit_matrix(activation: Tensor, axis: Axes | None = None) -> Tensor:
    """Return an activation as a feature matrix: a row per sample and position, a column per unit.

    A convolution map counts one unit per channel, not one per pixel: its rows are samples × positions.

    Args:
        activation: Output of one layer for a batch. Shape: (batch, units), (batch, *positions, units),
            (batch, units, *positions), or any with `axis`.
        axis: Axis that holds the units; negative values count from the end. With several, as in (1, 3) for
            (batch, heads, positions, head_dim), each of their combinations is a unit. None takes the last
            of two or three axes, as in a linear layer's output for a sequence, and axis 1 of four or five,
            as in convolutions. The output of a one-dimensional convolution needs 1.

    Returns:
        A view where possible. Shape: (rows, units).

    Raises:
        ValueError: if the activation has no such axis; without `axis`, if it has fewer than two or more
            than five axes.
        TypeError: if the axis is not an integer.

    Examples:
        >>> unit_matrix(torch.zeros(8, 3, 5, 5)).shape  # a map of 3 channels: 8 x 5 x 5 rows
        torch.Size([200, 3])
    """
    if axis is None:
        axis = guessed_axis(activation)
    return given_layout(axis, activation.ndim).matrix(activation)


def guessed_axis(activation: Tensor) -> int:
    """Return the axis that `unit_matrix` uses by default, given the number of axes."""
    if not 2 <= activation.ndim <= 5:
        raise ValueError(
            f"an activation of shape {tuple(activation.shape)} cannot be split into samples and units; "
            "expected (batch, units), (batch, positions, units) or (batch, channels, *positions). "
            "Feed a batch, or name other layers."
        )
    return 2 if activation.ndim == 3 else 1


def given_layout(axis: Axes, rank: int) -> UnitLayout:
    """Return the layout of units along the given axes of an activation.

    Raises:
        ValueError: if it has no such axis.
        TypeError: if an axis is not an integer.
    """
    axes = axis if isinstance(axis, tuple) else (axis,)
    for each in axes:
        require_integer("axis", each, minimum=-rank, maximum=rank - 1)
    found = tuple(sorted({each % rank for each in axes}))
    if len(found) != len(axes) or not found:
        raise ValueError(
            f"axis {axis!r} names an axis twice, or none, of {rank}; name each axis once"
        )
    return UnitLayout(found)
