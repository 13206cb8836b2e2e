"""Benchmarks: a file for each family, and a line for it here."""

from plasticity.scripts.benchmarks import (
    class_incremental,
    class_pairs,
    classic_control,
    permuted_images,
    random_labels,
    slippery_ant,
    slowly_changing_regression,
)

FAMILIES = (
    permuted_images.BENCHMARKS,
    random_labels.BENCHMARKS,
    class_incremental.BENCHMARKS,
    class_pairs.BENCHMARKS,
    slowly_changing_regression.BENCHMARKS,
    slippery_ant.BENCHMARKS,
    classic_control.BENCHMARKS,
)
"""Benchmarks of each family, in the order in which lists have them."""
