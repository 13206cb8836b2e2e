"""Data that random functions generate, without files."""
