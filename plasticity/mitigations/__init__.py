"""Mitigations: ways to keep a network plastic, each a frozen dataclass of settings in a file of its own."""

from plasticity.mitigations.base import MITIGATIONS, PLAIN, Mitigation, mitigation
from plasticity.mitigations.method import (
    METHOD_SEPARATOR,
    PLAIN_METHOD,
    SeededMethod,
    method_name,
    mitigation_names,
    network_spec,
    regularizer_settings,
    require_compatible,
)

# A line for each mitigation, in the order in which lists and reports have them.
# isort: off
from plasticity.mitigations.weight_decay import WeightDecay as WeightDecay
from plasticity.mitigations.syre import Syre as Syre
from plasticity.mitigations.l2_init import L2Init as L2Init
from plasticity.mitigations.shift import Shift as Shift
from plasticity.mitigations.redo import ReDo as ReDo
from plasticity.mitigations.snr import SNR as SNR
from plasticity.mitigations.continual_backprop import ContinualBackprop as ContinualBackprop
from plasticity.mitigations.regrama import ReGraMa as ReGraMa
from plasticity.mitigations.cpr import CPR as CPR
from plasticity.mitigations.layer_norm import LayerNorm as LayerNorm
from plasticity.mitigations.crelu import CReLU as CReLU
from plasticity.mitigations.w_asymmetric import WAsymmetric as WAsymmetric
from plasticity.mitigations.sigma_asymmetric import SigmaAsymmetric as SigmaAsymmetric
from plasticity.mitigations.dropout import Dropout as Dropout
from plasticity.mitigations.w_fix import WFix as WFix
# isort: on

__all__ = [
    "METHOD_SEPARATOR",
    "MITIGATIONS",
    "PLAIN",
    "PLAIN_METHOD",
    "Mitigation",
    "SeededMethod",
    "method_name",
    "mitigation",
    "mitigation_names",
    "network_spec",
    "regularizer_settings",
    "require_compatible",
]
