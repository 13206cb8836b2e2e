"""Chains of tasks of the DeepMind Control Suite, each within one domain."""
