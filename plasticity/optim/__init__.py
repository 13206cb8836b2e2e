"""Decay toward an anchor, for any torch optimizer and any parameter group."""

from plasticity.optim.muon_groups import muon_parameter_groups
from plasticity.optim.optimizer import RegularizedOptimizer, anchor
from plasticity.optim.parameter_groups import describe_groups, parameter_groups
from plasticity.optim.regularizers import regularized
from plasticity.optim.settings import RegularizerSettings
from plasticity.optim.shifted_model import ShiftedModel
from plasticity.optim.stacked_optimizer import StackedOptimizer

__all__ = [
    "RegularizedOptimizer",
    "RegularizerSettings",
    "ShiftedModel",
    "StackedOptimizer",
    "anchor",
    "describe_groups",
    "muon_parameter_groups",
    "parameter_groups",
    "regularized",
]
