"""`plasticity run` and `plasticity sweep`: runs, their folders and their processes."""
