"""Commands `plasticity report` and `plasticity tune`: results of runs, and the best settings of a sweep."""
