"""Networks of one architecture as one: parameters stacked along a leading axis."""

from plasticity.stacking.networks import Replicas, clip_replica_gradients_, replica_gradient_norms

__all__ = ["Replicas", "clip_replica_gradients_", "replica_gradient_norms"]
