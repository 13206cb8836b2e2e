"""NaP: normalize, and project the weights to the norms that they had at first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from plasticity.mitigations.base import mitigation
from plasticity.mitigations.layer_norm import LayerNorm
from plasticity.mitigations.norm_projection import NormProjection
from plasticity.network_spec import NetworkSpec


@mitigation("nap")
@dataclass(frozen=True, kw_only=True)
class NaP(NormProjection):
    """Layer normalization, and projection of each weight to its first norm (Lyle et al., 2024).

    See "Normalization and Effective Learning Rates in Reinforcement Learning". The network gets a layer
    normalization before each activation, and loses the biases that it would make idle; after a step, W
    becomes W * rho / |W|, with its Frobenius norm at first, rho. With its norm fixed, a weight's effective
    learning rate is the optimizer's alone, so that a schedule of it is the more important. The output layer
    has its weights projected, too, and keeps its bias.

    The factors and offsets of the normalizations are free to learn; the paper has other choices:
    `rescale_affine`, and, with `affine=False`, none. For models that cannot be changed, there is
    `norm-projection`.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    claims: ClassVar[str | tuple[str, ...]] = ("the normalization", "the projection")

    affine: bool = True
    """Whether each normalized sum has a factor and a shift that are learned, at first 1 and 0."""

    epsilon: float = 1e-5
    """Addend of the variance, above 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._layer_norm()  # which checks the values

    def _layer_norm(self) -> LayerNorm:
        return LayerNorm(affine=self.affine, epsilon=self.epsilon)

    def network(self, spec: NetworkSpec) -> NetworkSpec:
        """Return the specification with a layer normalization."""
        return self._layer_norm().network(spec)

    def initial_weights(self, network: nn.Module, seed: int) -> None:
        """Remove the biases of the layers whose sums are normalized."""
        for layer in network.modules():
            if isinstance(getattr(layer, "normalization", None), nn.Module):
                layer.register_parameter("bias", None)
