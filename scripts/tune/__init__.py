"""Search of each method's settings, and fair comparisons."""
