"""Figures and tables of the papers as experiments: a file for each."""

import plasticity.scripts.reproduce.continual_mnist
import plasticity.scripts.reproduce.teacher_student  # noqa: F401
