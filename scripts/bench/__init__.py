"""Implementation of `plasticity bench`: measurements of speed and memory against alternatives."""
