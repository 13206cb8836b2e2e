"""Deep Fourier features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from plasticity.mitigations.base import mitigation
from plasticity.mitigations.concatenated import Concatenated


@mitigation("fourier-features")
@dataclass(frozen=True, kw_only=True)
class FourierFeatures(Concatenated):
    """Deep Fourier features (Lewandowski et al., 2025) in place of the activation: sin(z) beside cos(z).

    Where one of a unit's two outputs is flat, the other is nearly linear: the derivatives (cos z, -sin z)
    have norm 1 for every sum z, and no unit can be dead. The features of a layer of n units have norm
    sqrt(n). The paper uses them in all layers, together with a regularizer of the weights
    (`fourier-features+weight-decay`). The initial weights stay those of the network's scheme: the paper's
    scale is not verified. By default layers keep their number of outputs and have half the units, as `crelu`.

    Raises:
        TypeError: if a value has the wrong type.
    """

    activations: ClassVar = (torch.sin, torch.cos)
