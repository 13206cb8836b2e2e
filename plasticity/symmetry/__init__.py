"""Symmetries of networks: distances from symmetric states, degrees, projectors, matching by permutation."""

from plasticity.symmetry.attention_weights import query_key_weights
from plasticity.symmetry.barriers import along_line, barrier, interpolate
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
    tie_neurons_,
)
from plasticity.symmetry.matching import match_units, permute_units
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

__all__ = [
    "SymmetryReport",
    "along_line",
    "attention_heads",
    "barrier",
    "broken_projector",
    "degree_of_symmetry",
    "double_rotation_degree",
    "expected_group_escape",
    "group_escape_gradient",
    "group_projector",
    "interpolate",
    "match_units",
    "neuron_swap_projector",
    "neuron_vectors",
    "permutation_distance",
    "permute_units",
    "query_key_weights",
    "reflection_matrix",
    "reflection_projector",
    "reflection_removal",
    "rescaling_distance",
    "rotation_eigenvalues",
    "sign_flip_distance",
    "split_heads",
    "swap_projector",
    "symmetry_distance",
    "symmetry_distances",
    "symmetry_report",
    "tie_neurons_",
]
