"""Walkers on floors whose friction changes: what ants and humanoids have in common."""
