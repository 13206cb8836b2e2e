"""Modules for networks of your own: activations, dropout and layers that keep a network plastic.

They are the parts that the mitigations of `plasticity.mitigations` build networks from. There, the classes
of the same names are settings.
"""

from plasticity.modules.activations import CReLU, FourierFeatures, SmoothLeakyReLU
from plasticity.modules.hyperspherical import HypersphericalLayer
from plasticity.modules.noise import RandomizedLeakyReLU, SeededDropout

__all__ = [
    "CReLU",
    "FourierFeatures",
    "HypersphericalLayer",
    "RandomizedLeakyReLU",
    "SeededDropout",
    "SmoothLeakyReLU",
]
