"""Units of a network: the layer that makes them, the layers that read them, and the axis that holds them."""

from plasticity.units.flow import Reader, UnitFlow, UnitLayer, trace_units

__all__ = ["Reader", "UnitFlow", "UnitLayer", "trace_units"]
