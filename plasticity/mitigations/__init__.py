"""Mitigations: ways to keep a network plastic, each a frozen dataclass of settings in a file of its own."""

from plasticity.mitigations.base import MITIGATIONS, PLAIN, Mitigation, mitigation
from plasticity.mitigations.method import (
    METHOD_SEPARATOR,
    method_name,
    mitigation_names,
    network_mitigations,
    network_spec,
    regularizer_settings,
    require_compatible,
)

# In the order in which lists and reports have them.
# isort: off
from plasticity.mitigations.weight_decay import WeightDecay
from plasticity.mitigations.syre import Syre
from plasticity.mitigations.l2_init import L2Init
from plasticity.mitigations.shift import Shift
# isort: on

__all__ = [
    "METHOD_SEPARATOR",
    "MITIGATIONS",
    "PLAIN",
    "L2Init",
    "Mitigation",
    "Shift",
    "Syre",
    "WeightDecay",
    "method_name",
    "mitigation",
    "mitigation_names",
    "network_mitigations",
    "network_spec",
    "regularizer_settings",
    "require_compatible",
]
