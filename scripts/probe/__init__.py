"""`plasticity probe` and `plasticity strip`: saved models, measured and freed from this package."""
