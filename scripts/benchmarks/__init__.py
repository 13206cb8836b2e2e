"""Benchmarks: a file for each family, and a line for it here."""

from plasticity.scripts.benchmarks import (
    class_incremental,
    class_pairs,
    classic_control,
    cloned_units,
    dmc_chain,
    games,
    gradual,
    label_permuted,
    noisy_to_clean,
    permuted_images,
    random_labels,
    slippery,
    slowly_changing_regression,
    warm_start,
)

FAMILIES = (
    permuted_images.BENCHMARKS,
    label_permuted.BENCHMARKS,
    random_labels.BENCHMARKS,
    class_incremental.BENCHMARKS,
    class_pairs.BENCHMARKS,
    warm_start.BENCHMARKS,
    noisy_to_clean.BENCHMARKS,
    gradual.BENCHMARKS,
    cloned_units.BENCHMARKS,
    slowly_changing_regression.BENCHMARKS,
    slippery.BENCHMARKS,
    classic_control.BENCHMARKS,
    dmc_chain.BENCHMARKS,
    games.BENCHMARKS,
)
"""Benchmarks of each family, in the order in which lists have them."""
