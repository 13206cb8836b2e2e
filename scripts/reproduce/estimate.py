"""Time that a figure's runs will take, from the first steps of one run of each arm."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from plasticity.scripts.config.run_config import RunConfig
from plasticity.scripts.reproduce.arms import Arm
from plasticity.scripts.reproduce.config import FigureConfig
from plasticity.scripts.run.experiment import Experiment, experiment_class
from plasticity.scripts.run.jobs import Job

SECONDS = 3.0
"""Seconds for which one run of each arm is trained; its first step, which takes longer, comes before."""


@dataclass(frozen=True)
class ArmTime:
    """Time of the runs of one arm."""

    arm: Arm
    """The arm."""

    num_runs: int
    """Number of its runs, one for each seed."""

    seconds: float
    """Seconds of one run, without reading, writing and starting a process."""


def estimate_times(planned: Sequence[tuple[Arm, Sequence[Job]]]) -> list[ArmTime]:
    """Train one run of each arm for some seconds, without a folder, and return how long each run will take.

    Args:
        planned: Arms with their runs.
    """
    return [ArmTime(arm, len(jobs), _seconds(jobs[0].config)) for arm, jobs in planned]


def _seconds(config: RunConfig) -> float:
    kind = experiment_class(config)
    kind.require_runnable([config])
    experiment = kind([config], stacked=not kind.can_be_alone(config))
    try:
        experiment.rehearse()
        begun, progress = time.perf_counter(), experiment.progress
        deadline = begun + SECONDS
        while not _is_past(deadline, experiment, progress):
            experiment.next_rows(lambda: _is_past(deadline, experiment, progress))
            if experiment.is_finished(0):
                break
        rate = (experiment.progress - progress) / (time.perf_counter() - begun)
        return config.length / rate + _measuring(config, experiment, rate)
    finally:
        experiment.close()


def _is_past(deadline: float, experiment: Experiment, progress: float) -> bool:
    """Return whether the time is over and there is any progress."""
    return time.perf_counter() > deadline and experiment.progress > progress


def _measuring(config: RunConfig, experiment: Experiment, rate: float) -> float:
    """Return the seconds of the measurements of a run whose rows are rarer than the steps that were timed."""
    if not isinstance(config, FigureConfig):
        return 0.0
    begun = time.perf_counter()
    experiment.rehearse()
    return (time.perf_counter() - begun - 1 / rate) * (
        config.length // config.tracking.measure_every
    )
