"""Commands `plasticity probe` and `plasticity strip` on saved models."""
