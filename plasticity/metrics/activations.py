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
"""The axis of an activation along which its units lie, or the axes along which they lie jointly."""

# Models and the layers whose unit axis was guessed, so that each is told once.
_told: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Origin:
    """What made an activation."""

    function: str | None
    """Name of the activation function, such as "relu". None: a module that is no activation, or one that
    calls none or several."""

    layers: frozenset[str]
    """Names of the layers (as in `trace_units`) whose units these are; several behind a sum."""

    place: int
    """Number of layers that had run before it, repeated ones included."""

    is_output: bool = False
    """Whether it is part of the model's output."""


class Activations(dict[str, Tensor]):
    """Outputs by layer name, in the order in which the network made them.

    Each is a detached copy, on its device and in its dtype.
    """

    layouts: dict[str, UnitLayout]
    """Where the units lie, for each name where the operations tell (or the user did)."""

    origins: dict[str, Origin]
    """What made each."""

    ran: tuple[str, ...]
    """Names of the layers with weights that ran (as in `trace_units`), in order; repeated ones again."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.ran = ()
        self.layouts = {}
        self.origins = {}
        self._model = model

    def units(self, name: str) -> Tensor:
        """The output of one layer as a feature matrix: a row per sample and position, a column per unit.

        Which axes hold the units is known from the operations that made the output: ``(batch, heads,
        positions, head_dim)`` of a linear layer of 32 units is a matrix of 32 columns, and a flattened
        convolution map one of its channels. Where it is not known (an operation that cannot be followed,
        an activation of the inputs), it is guessed by `unit_matrix`, and a warning says so, once for each
        model and layer; `capture` takes the axis.

        Raises:
            ValueError: if the axis is not known and cannot be guessed, as in `unit_matrix`.
        """
        return self.matrix(name, self[name])

    def matrix(self, name: str, values: Tensor) -> Tensor:
        """Arrange other numbers as `units` arranges an output: a mask of its entries, say.

        Args:
            name: Of the layer.
            values: Shape: that of the layer's output.

        Raises:
            ValueError: as `units`.
        """
        layout = self.layouts.get(name)
        if layout is not None:
            return layout.matrix(values)
        try:
            matrix = unit_matrix(values)
        except ValueError as error:
            raise ValueError(f"layer {name!r}: {error}") from error
        told = _told.setdefault(self._model, set())
        if values.ndim > 2 and name not in told:
            told.add(name)
            axis = guessed_axis(values)
            warnings.warn(
                f"which axis of layer {name!r}, of shape {tuple(values.shape)}, holds the units is a "
                f"guess: axis {axis}, as the operations that made it could not be followed. Give it: "
                f"units={{{name!r}: {axis}}}",
                stacklevel=2,
            )
        return matrix


def unit_matrix(activation: Tensor, axis: Axes | None = None) -> Tensor:
    """An activation as a feature matrix: a row per sample and position, a column per unit.

    A convolution map counts one unit per channel, not one per pixel: its rows are samples × positions.

    Args:
        activation: Output of one layer for a batch. Shape: (batch, units), (batch, *positions, units),
            (batch, units, *positions), or any with `axis`.
        axis: Along which the units lie; negative ones count from the end. Several, as in (1, 3) for
            (batch, heads, positions, head_dim): each of their combinations is a unit. None takes the last
            of two or three axes, as a linear layer makes of a sequence, and axis 1 of four or five, as
            convolutions do. An output of a one-dimensional convolution needs 1.

    Returns:
        A view where possible. Shape: (rows, units).

    Raises:
        ValueError: if the activation has no such axis; without `axis`, if it has fewer than two or more
            than five axes.
        TypeError: if the axis is no integer.
    """
    if axis is None:
        axis = guessed_axis(activation)
    return given_layout(axis, activation.ndim).matrix(activation)


def guessed_axis(activation: Tensor) -> int:
    """Return the axis that `unit_matrix` takes, from the number of axes."""
    if not 2 <= activation.ndim <= 5:
        raise ValueError(
            f"an activation of shape {tuple(activation.shape)} cannot be split into samples and units; "
            "expected (batch, units), (batch, positions, units) or (batch, channels, *positions). "
            "Feed a batch, or name other layers."
        )
    return 2 if activation.ndim == 3 else 1


def given_layout(axis: Axes, rank: int) -> UnitLayout:
    """Return the layout of units along given axes of an activation.

    Raises:
        ValueError: if it has no such axis.
        TypeError: if an axis is no integer.
    """
    axes = axis if isinstance(axis, tuple) else (axis,)
    for each in axes:
        require_integer("axis", each, minimum=-rank, maximum=rank - 1)
    found = tuple(sorted({each % rank for each in axes}))
    if len(found) != len(axes) or not found:
        raise ValueError(f"axis {axis!r} names an axis twice, or none, of {rank}")
    return UnitLayout(found)
