"""Figures and tables of the papers as experiments: a file for each."""

import plasticity.scripts.reproduce.identical_neurons
import plasticity.scripts.reproduce.ntk_rank
import plasticity.scripts.reproduce.teacher_student  # noqa: F401
