"""Figures and tables of the papers as experiments: a file for each."""
