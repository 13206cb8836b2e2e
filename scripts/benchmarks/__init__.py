"""Benchmarks: a file for each family, and a line for it here."""

from plasticity.scripts.benchmarks import (
    class_incremental,
    classic_control,
    label_permuted,
    permuted_images,
    random_labels,
    slippery_ant,
    slowly_changing_regression,
)

FAMILIES = (
    permuted_images.BENCHMARKS,
    label_permuted.BENCHMARKS,
    random_labels.BENCHMARKS,
    class_incremental.BENCHMARKS,
    slowly_changing_regression.BENCHMARKS,
    slippery_ant.BENCHMARKS,
    classic_control.BENCHMARKS,
)
"""Benchmarks of each family, in the order in which lists have them."""
