"""Runs of `plasticity run` and `plasticity sweep`, their folders and their processes."""
