"""Measures of docs/comparison.md: the primary one of a stream's runs, and differences of methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from plasticity.scripts.report.aggregates import holm, sign_flip_test
from plasticity.scripts.report.arms import Arm, values_at
from plasticity.scripts.report.comparison import Comparison, Criterion, compare
from plasticity.scripts.report.metric_names import factor_of, is_better_lower, is_percent
from plasticity.scripts.report.sources import open_sources, runs_by_benchmark
from plasticity.scripts.report.statistics import paired_estimate

FOLDER = Path(__file__).parent
SYRE = "syre"


@dataclass(frozen=True)
class Stream:
    """One stream of the finals."""

    number: int
    """Its number in the protocol."""

    metric: str = "online_accuracy"
    """Metric of the primary measure."""

    skip: int = 1
    """Number of tasks at its beginning that the primary measure leaves out."""

    @property
    def file(self) -> str:
        """Name of the file of its runs."""
        return f"finals_{self.number}"


STREAMS = (Stream(1), Stream(2), Stream(3), Stream(4, "online_loss"), Stream(7, "episode_return"))

ABRUPT_AND_GRADUAL = Stream(6, skip=10)
"""Stream of two forms, whose tasks have ten segments each; methods are not compared over streams on it."""

Values = Mapping[int, float]
"""A value for each seed."""


@cache
def comparison_of(file: str, stream: Stream) -> Comparison:
    """Return the runs of a file, each method at its settings."""
    with open_sources([FOLDER / f"{file}.tar.xz"]) as sources:
        (runs,) = runs_by_benchmark(sources).values()
        by = Criterion((stream.metric,), "average", skip=stream.skip)
        return compare(runs, None, 0.95, by, benchmark=file)


def primary(stream: Stream, file: str | None = None) -> dict[str, Values]:
    """Return the primary measure, averaged over all tasks but the first, by the label of the arm and seed.

    A run that diverged has the worst value of its stream.
    """
    found = comparison_of(file or stream.file, stream)
    factor = factor_of(stream.metric)
    values = {
        arm.label: values_at(arm, stream.metric, "average", arm.positions) for arm in found.arms
    }
    known = [value for each in values.values() for value in each.values() if value is not None]
    worst_of = max if is_better_lower(stream.metric) else min
    worst = 0.0 if is_percent(stream.metric) else worst_of(known)
    return {
        label: {seed: factor * (worst if value is None else value) for seed, value in each.items()}
        for label, each in values.items()
    }


@dataclass(frozen=True)
class Difference:
    """Difference of two methods, paired by seed."""

    mean: float
    """Mean over seeds."""

    low: float
    """Lower end of the 95 % t interval."""

    high: float
    """Upper end of the 95 % t interval."""

    p_value: float
    """P-value of the sign-flip test."""


def difference(ours: Values, theirs: Values) -> Difference:
    """Compare two methods at the seeds that both have."""
    found = paired_estimate(ours, theirs)
    assert found is not None
    assert found.t is not None
    each = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    return Difference(found.mean, *found.t, sign_flip_test(each))


def over_streams(pair: Callable[[Stream], tuple[Values, Values] | None]) -> dict[int, Difference]:
    """Return the difference on each stream, with p-values adjusted for their number (Holm)."""
    pairs = {stream.number: pair(stream) for stream in STREAMS}
    found = {number: difference(*each) for number, each in pairs.items() if each is not None}
    adjusted = holm({str(number): each.p_value for number, each in found.items()})
    return {number: replace(each, p_value=adjusted[str(number)]) for number, each in found.items()}


def to(first: str, second: str) -> dict[int, Difference]:
    """Return the differences of two methods on all streams."""
    return over_streams(lambda stream: (primary(stream)[first], primary(stream)[second]))


def span_of(arm: Arm) -> str:
    """Return which tasks the primary measure is an average of."""
    return f"tasks 1 to {last_task(arm)}"


def last_task(arm: Arm) -> int:
    """Return the index of the last task that all runs have ended."""
    run = arm.started[0]
    return run.axis.done_at(arm.positions[-1]) // run.task_length - 1


def first_and_last_task(arm: Arm, metric: str) -> list[list[float | None]]:
    """Return the values of all runs in the first task and in the last one, of steps the mean over them."""
    return [list(values_in_task(arm, metric, task).values()) for task in (0, last_task(arm))]


def values_in_task(arm: Arm, metric: str, task: int) -> dict[int, float | None]:
    """Return the value of each run in one task, of steps the mean over them."""
    axis, length = arm.started[0].axis, arm.started[0].task_length
    until = [each for each in arm.positions if axis.done_at(each) <= (task + 1) * length]
    return values_at(replace(arm, skip=task * length), metric, "average", until)
