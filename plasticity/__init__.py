"""Keep networks plastic over many tasks: regularize any torch optimizer, measure lost plasticity."""

from plasticity.metrics.activations import Activations, unit_matrix
from plasticity.metrics.capture import capture
from plasticity.metrics.dormancy import dead_fraction, dead_units, dormant_fraction, dormant_units
from plasticity.metrics.gradients import (
    gradient_covariance_rank,
    neural_tangent_kernel,
    ntk_rank,
    per_sample_gradients,
)
from plasticity.metrics.norms import (
    anchor_distance,
    feature_norm,
    gradient_norm,
    parameter_snapshot,
    update_norm,
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
from plasticity.metrics.tracker import Tracker
from plasticity.metrics.trainability import Trainability, trainability
from plasticity.optim.muon_groups import muon_parameter_groups
from plasticity.optim.optimizer import RegularizedOptimizer, anchor
from plasticity.optim.parameter_groups import describe_groups, parameter_groups
from plasticity.optim.regularizers import regularized
from plasticity.optim.shifted_model import ShiftedModel
from plasticity.optim.stacked_optimizer import StackedOptimizer
from plasticity.stacking.networks import (
    StackedNetworks,
    clip_stacked_gradients_,
    stacked_gradient_norms,
)
from plasticity.symmetry.distances import (
    attention_heads,
    degree_of_symmetry,
    double_rotation_degree,
    neuron_swap_projector,
    neuron_vectors,
    permutation_distance,
    rescaling_distance,
    rotation_eigenvalues,
    sign_flip_distance,
    split_heads,
)
from plasticity.symmetry.projectors import (
    broken_projector,
    expected_group_escape,
    group_escape_gradient,
    group_projector,
    reflection_matrix,
    reflection_projector,
    reflection_removal,
    swap_projector,
    symmetry_distance,
)
from plasticity.symmetry.report import SymmetryReport, symmetry_distances, symmetry_report
from plasticity.units.flow import Reader, UnitFlow, UnitLayer, trace_units

__all__ = [
    "DEFAULT_METRICS",
    "METRICS",
    "Activations",
    "Metric",
    "Reader",
    "RegularizedOptimizer",
    "ShiftedModel",
    "StackedNetworks",
    "StackedOptimizer",
    "SymmetryReport",
    "Tracker",
    "Trainability",
    "UnitFlow",
    "UnitLayer",
    "anchor",
    "anchor_distance",
    "approximate_rank",
    "attention_heads",
    "broken_projector",
    "capture",
    "clip_stacked_gradients_",
    "dead_fraction",
    "dead_units",
    "degree_of_symmetry",
    "describe_groups",
    "dormant_fraction",
    "dormant_units",
    "double_rotation_degree",
    "effective_rank",
    "expected_group_escape",
    "feature_norm",
    "feature_rank",
    "gradient_covariance_rank",
    "gradient_norm",
    "group_escape_gradient",
    "group_projector",
    "muon_parameter_groups",
    "neural_tangent_kernel",
    "neuron_swap_projector",
    "neuron_vectors",
    "ntk_rank",
    "numerical_rank",
    "parameter_groups",
    "parameter_snapshot",
    "per_sample_gradients",
    "permutation_distance",
    "rank_summary",
    "reflection_matrix",
    "reflection_projector",
    "reflection_removal",
    "regularized",
    "rescaling_distance",
    "rotation_eigenvalues",
    "sign_flip_distance",
    "split_heads",
    "srank",
    "stable_rank",
    "stacked_gradient_norms",
    "swap_projector",
    "symmetry_distance",
    "symmetry_distances",
    "symmetry_report",
    "trace_units",
    "trainability",
    "unit_matrix",
    "update_norm",
    "weight_norm",
]
