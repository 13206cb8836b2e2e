"""Losses of learning without labels."""
