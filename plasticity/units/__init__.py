"""Units of a network: which layer makes them, which layers read them, along which axis they lie."""

from plasticity.units.flow import Reader, UnitFlow, UnitLayer, trace_units

__all__ = ["Reader", "UnitFlow", "UnitLayer", "trace_units"]
