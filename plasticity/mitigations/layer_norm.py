"""Layer normalization before the activations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

from torch import nn

from plasticity.checks import require_bool, require_number
from plasticity.mitigations.base import Kind, Mitigation, mitigation
from plasticity.network_spec import NetworkSpec


@mitigation("layer-norm")
@dataclass(frozen=True, kw_only=True)
class LayerNorm(Mitigation):
    """Layer normalization (Ba et al., 2016) of every hidden layer's sums, before the activation.

    The sums of one example have mean 0 and variance 1 over all units of the layer, and over all positions of
    a convolution, so that neither the scale of the weights nor a shift of all sums matters (Lyle et al.,
    2023, on plasticity). The outputs of the network are not normalized, and no decay acts on the affine
    parameters. A unit's normalized sum depends on all units: where one is reset, all change a little.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    kind: ClassVar[Kind] = "network"
    claims: ClassVar[str] = "the normalization"

    affine: bool = True
    """Whether each normalized sum has a factor and a shift that are learned, at first 1 and 0."""

    epsilon: float = 1e-5
    """Addend of the variance, above 0."""

    def __post_init__(self) -> None:
        require_bool("affine", self.affine)
        if require_number("epsilon", self.epsilon, minimum=0.0) == 0:
            raise ValueError("epsilon must be above 0: 0. Sums that are all equal would give NaN.")

    def network(self, spec: NetworkSpec) -> NetworkSpec:
        """Return the specification with a layer normalization of all axes but the batch's."""
        made = partial(nn.LayerNorm, eps=self.epsilon, elementwise_affine=self.affine)
        return replace(spec, layer=replace(spec.layer, normalization=made))
