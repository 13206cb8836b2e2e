"""Benchmarks of gradual changes."""

from dataclasses import replace

import pytest

from plasticity.mitigations import L2Init
from plasticity.scripts.config.benchmarks import BENCHMARKS
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.run.supervised_experiment import SupervisedExperiment


@pytest.mark.parametrize("name", ["gradual-permuted-digits", "gradual-random-labels"])
def test_whole_tasks_in_segments(name):
    stream = BENCHMARKS[name].config.stream
    assert stream.num_tasks % stream.segments == 0
    assert 0 < stream.transition < 1


def test_rows_tell_the_share_and_abrupt_runs_have_as_many_steps():
    steps = {}
    for transition in (0.0, 0.5):
        config = with_values(
            BENCHMARKS["gradual-permuted-digits"].config,
            {"stream.transition": transition, "stream.num_tasks": 6, "stream.segments": 4},
        )
        experiment = SupervisedExperiment([config], stacked=False)
        calls = iter(range(10**6))
        rows = [experiment.next_rows(lambda calls=calls: next(calls) < 0)[0] for _ in range(6)]
        steps[transition] = next(calls)
        shares = [row["share_before"] for row in rows]
        assert shares[4:] == ([0, 0] if transition == 0 else pytest.approx([2 / 3, 1 / 3]))
    assert steps[0.0] == steps[0.5]


def test_quick_is_half_of_the_random_labels():
    whole = BENCHMARKS["gradual-random-labels"]
    quick = whole.with_presets({"preset": "quick"})
    assert quick.config.stream.num_tasks == 10 * quick.config.stream.segments == 100
    assert replace(quick.config.stream, num_tasks=200) == whole.config.stream
    assert quick.config.agent == whole.config.agent
    assert quick.mitigation("l2-init") == L2Init(strength=1e-2)
