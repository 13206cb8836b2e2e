"""Measures of plasticity from features, weights and gradients, and the tracker that records them."""

from plasticity.metrics.activations import Activations, unit_matrix
from plasticity.metrics.activity import active_fraction, linearized_fraction, linearized_units
from plasticity.metrics.alignment import kernel_alignment
from plasticity.metrics.capture import capture
from plasticity.metrics.churn import churn_of_outputs
from plasticity.metrics.dormancy import dead_fraction, dead_units, dormant_fraction, dormant_units
from plasticity.metrics.gradients import (
    gradient_covariance_rank,
    neural_tangent_kernel,
    ntk_rank,
    per_sample_gradients,
)
from plasticity.metrics.hessian import hessian_rank
from plasticity.metrics.isometry import deviation_from_isometry, isometry_deviation
from plasticity.metrics.linear_probe import linear_probe_accuracy
from plasticity.metrics.norms import (
    anchor_distance,
    feature_norm,
    gradient_norm,
    parameter_snapshot,
    update_norm,
    update_to_weight_ratio,
    weight_norm,
)
from plasticity.metrics.ranks import (
    approximate_rank,
    effective_rank,
    feature_rank,
    numerical_rank,
    rank_summary,
    srank,
    stable_rank,
)
from plasticity.metrics.registry import DEFAULT_METRICS, METRICS, Metric
from plasticity.metrics.spectra import covariance_eigenvalues
from plasticity.metrics.tracker import Tracker
from plasticity.metrics.trainability import Trainability, trainability

__all__ = [
    "DEFAULT_METRICS",
    "METRICS",
    "Activations",
    "Metric",
    "Tracker",
    "Trainability",
    "active_fraction",
    "anchor_distance",
    "approximate_rank",
    "capture",
    "churn_of_outputs",
    "covariance_eigenvalues",
    "dead_fraction",
    "dead_units",
    "deviation_from_isometry",
    "dormant_fraction",
    "dormant_units",
    "effective_rank",
    "feature_norm",
    "feature_rank",
    "gradient_covariance_rank",
    "gradient_norm",
    "hessian_rank",
    "isometry_deviation",
    "kernel_alignment",
    "linear_probe_accuracy",
    "linearized_fraction",
    "linearized_units",
    "neural_tangent_kernel",
    "ntk_rank",
    "numerical_rank",
    "parameter_snapshot",
    "per_sample_gradients",
    "rank_summary",
    "srank",
    "stable_rank",
    "trainability",
    "unit_matrix",
    "update_norm",
    "update_to_weight_ratio",
    "weight_norm",
]
