"""Benchmarks of labels that are noisy at first."""

import pytest

from plasticity.scripts.config.benchmarks import BENCHMARKS


@pytest.mark.parametrize("name", ["noisy-to-clean", "noisy-to-clean-digits"])
def test_the_last_task_is_clean_and_has_a_reference(name):
    config = BENCHMARKS[name].config
    assert (config.stream.noise, config.stream.phases, config.stream.num_tasks) == (0.8, 5, 5)
    assert config.tracking.reference_every == config.stream.num_tasks - 1
