"""Specification of a network apart from its architecture, which mitigations edit before it is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn import functional

from plasticity.checks import require_integer


@dataclass(frozen=True, kw_only=True)
class LayerSpec:
    """Work of every hidden layer on the sums of its weights: normalization, activations, noise.

    Raises:
        TypeError: if an activation, or what makes a part, cannot be called.
        ValueError: if there is no activation.
    """

    activations: tuple[Callable[[Tensor], Tensor], ...] = (functional.relu,)
    """Functions of the sums, entry by entry, whose outputs are concatenated along the axis of the units.
    Defined in a module, so that the network can be pickled."""

    normalization: Callable[[tuple[int, ...]], nn.Module] | None = None
    """Makes the module that normalizes the sums before the activations, from the shape of one example's
    sums: (units,) or (channels, height, width). None: they are not normalized."""

    gate: Callable[[tuple[int, ...]], nn.Module] | None = None
    """Makes the module that maps the sums, once normalized, to factors of each activation's outputs; from the
    shape of one example's sums, as `normalization`. None: there are no factors."""

    noise: Callable[[], nn.Module] | None = None
    """Makes the module that acts on the outputs of the activations, such as a dropout. None: none does."""

    keep_units: bool = False
    """Whether the width of a layer is its number of units, so that several activations multiply its
    outputs. Otherwise the width is the number of outputs, which the activations share."""

    dense: Callable[[int, int, LayerSpec, bool], nn.Linear] | None = None
    """Makes a hidden dense layer with all this work, from the size of its inputs, its width, this spec, and
    whether it is the first of the network's dense layers. None: a linear layer, whose sums are worked on."""

    def __post_init__(self) -> None:
        if not self.activations:
            raise ValueError("A layer needs at least one activation: activations=(relu,).")
        for each in (*self.activations, self.normalization, self.gate, self.noise, self.dense):
            if each is not None and not callable(each):
                raise TypeError(f"{each!r} cannot be called: give a function or a class.")

    def units(self, width: int) -> int:
        """Return the number of units of a layer of some width.

        Raises:
            ValueError: if the activations cannot share the outputs evenly.
        """
        parts = 1 if self.keep_units else len(self.activations)
        if width % parts:
            raise ValueError(
                f"A layer of width {width} cannot be shared by {parts} activations: give a multiple of"
                f" {parts}, or keep the units (keep_units)."
            )
        return width // parts

    def outputs(self, width: int) -> int:
        """Return the number of outputs of a layer of some width; raises as `units`."""
        return self.units(width) * len(self.activations)


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """Specification of a network, apart from what its architecture decides.

    Raises:
        TypeError: if a size is not an integer.
        ValueError: if a size is under 1.
    """

    input_shape: tuple[int, ...]
    """Shape of one input: (channels, height, width) of an image, (size,) of an observation."""

    output_size: int
    """Number of outputs, to which the layer spec does not apply: they are sums of the last layer."""

    layer: LayerSpec = field(default_factory=LayerSpec)
    """Work of every hidden layer."""

    def __post_init__(self) -> None:
        for size in self.input_shape:
            require_integer("a size of input_shape", size, minimum=1)
        require_integer("output_size", self.output_size, minimum=1)
