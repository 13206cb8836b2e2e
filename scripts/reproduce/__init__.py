"""Figures and tables of the papers as experiments: a file for each."""

# ruff: noqa: F401  (importing one registers it)

import plasticity.scripts.reproduce.continual_mnist
import plasticity.scripts.reproduce.feature_collapse
import plasticity.scripts.reproduce.identical_neurons
import plasticity.scripts.reproduce.introduced_symmetry
import plasticity.scripts.reproduce.layer_hierarchy
import plasticity.scripts.reproduce.mode_connectivity
import plasticity.scripts.reproduce.neural_collapse
import plasticity.scripts.reproduce.ntk_rank
import plasticity.scripts.reproduce.overhead
import plasticity.scripts.reproduce.posterior_collapse
import plasticity.scripts.reproduce.pretrained_vit
import plasticity.scripts.reproduce.reflection_objective
import plasticity.scripts.reproduce.removal_strength
import plasticity.scripts.reproduce.reparametrized_regression
import plasticity.scripts.reproduce.resnet_sigma
import plasticity.scripts.reproduce.ridge
import plasticity.scripts.reproduce.simclr
import plasticity.scripts.reproduce.slippery_ant
import plasticity.scripts.reproduce.space_quantization
import plasticity.scripts.reproduce.symmetry_to_symmetry
import plasticity.scripts.reproduce.symmetry_under_noise
import plasticity.scripts.reproduce.teacher_student
import plasticity.scripts.reproduce.universal_alignment
import plasticity.scripts.reproduce.vit
import plasticity.scripts.reproduce.width_saturation
