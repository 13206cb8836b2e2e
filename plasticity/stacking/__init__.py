"""Networks of one architecture run as one, with parameters stacked along a leading axis."""

from plasticity.stacking.networks import (
    StackedNetworks,
    clip_stacked_gradients_,
    stacked_gradient_norms,
)

__all__ = ["StackedNetworks", "clip_stacked_gradients_", "stacked_gradient_norms"]
