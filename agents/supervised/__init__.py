"""Classifiers that learn one task after another."""
