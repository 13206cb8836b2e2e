"""Figures and tables of the papers as experiments: a file for each."""

import plasticity.scripts.reproduce.ridge
import plasticity.scripts.reproduce.identical_neurons
import plasticity.scripts.reproduce.teacher_student  # noqa: F401
import plasticity.scripts.reproduce.teacher_student
import plasticity.scripts.reproduce.universal_alignment  # noqa: F401
