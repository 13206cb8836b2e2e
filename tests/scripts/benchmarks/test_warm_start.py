"""Benchmarks of datasets that arrive in parts."""

import pytest

from plasticity.scripts.config.benchmarks import BENCHMARKS


@pytest.mark.parametrize("name", ["warm-start", "warm-start-digits"])
def test_a_tenth_comes_first_with_equal_updates_and_references(name):
    config = BENCHMARKS[name].config
    assert (config.stream.num_tasks, config.stream.share) == (2, 0.1)
    assert config.stream.equal_updates
    assert config.tracking.reference_every == 1


@pytest.mark.parametrize("name", ["chunked", "chunked-digits"])
def test_ten_chunks_and_a_reference_at_the_last(name):
    config = BENCHMARKS[name].config
    assert (config.stream.num_tasks, config.stream.chunks, config.stream.cumulative) == (
        10,
        10,
        True,
    )
    assert (config.stream.num_tasks - 1) % config.tracking.reference_every == 0
