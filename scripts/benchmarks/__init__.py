"""Benchmarks: a file for each family, and a line for it here."""

from plasticity.scripts.benchmarks import (
    class_incremental,
    classic_control,
    dmc_chain,
    permuted_images,
    random_labels,
    slippery_ant,
)

FAMILIES = (
    permuted_images.BENCHMARKS,
    random_labels.BENCHMARKS,
    class_incremental.BENCHMARKS,
    slippery_ant.BENCHMARKS,
    classic_control.BENCHMARKS,
    dmc_chain.BENCHMARKS,
)
"""Benchmarks of each family, in the order in which lists have them."""
