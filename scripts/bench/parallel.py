"""Gain from parallel processes: four runs in two processes, against one after another."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from itertools import count
from pathlib import Path

from plasticity.scripts.bench.rows import Effort, Row, speed_row
from plasticity.scripts.bench.timing import interleaved
from plasticity.scripts.config.benchmarks import BENCHMARKS, benchmark_config
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.config.run_config import SupervisedRunConfig
from plasticity.scripts.run.jobs import Job, JobGroup
from plasticity.scripts.run.pool import run_jobs
from plasticity.tasks.vector.environments import available_cores

_BENCHMARK = "permuted-digits"
_PROCESSES = 2


def parallel(effort: Effort) -> list[Row]:
    """Measure four runs of permuted-digits in two processes against the same in one; one thread each."""
    runs, tasks = effort.size(4, 2), effort.size(10, 1)
    with tempfile.TemporaryDirectory() as folder:
        fresh = count()

        def run_all(processes: int) -> None:
            run_side_by_side(Path(folder) / str(next(fresh)), runs, processes, tasks)

        # This first use starts the server that the runs are forked from, which imports torch.
        run_side_by_side(Path(folder) / "start", runs=1, processes=1, tasks=1)
        comparison = interleaved(
            lambda: run_all(_PROCESSES),
            lambda: run_all(1),
            rounds=effort.rounds or effort.size(2, 1),
            warmup=0,
        )
    cores = available_cores()
    case = f"{runs} runs of {_BENCHMARK}: {_PROCESSES} processes vs one"
    note = "" if cores >= _PROCESSES else f"no goal: this process can use only {cores} core"
    return [speed_row("parallel", case, comparison, 1.7 if not note else None, note=note)]


def run_side_by_side(out: Path, runs: int, processes: int, tasks: int) -> None:
    """Do `runs` runs of `tasks` tasks each on the CPU, as `plasticity run` does.

    Args:
        out: Folder for the runs.
        runs: Number of runs.
        processes: Number of processes to run them in.
        tasks: Number of tasks in each run.

    Raises:
        RuntimeError: if a run did not finish; the message is the run's.
    """
    config = with_values(
        benchmark_config(_BENCHMARK, SupervisedRunConfig),
        {
            "method": (BENCHMARKS[_BENCHMARK].mitigation("syre"),),
            "stream.num_tasks": tasks,
        },
    )
    jobs = [Job(out / f"seed_{seed}", replace(config, seed=seed)) for seed in range(runs)]
    work = [JobGroup((job,)) for job in jobs]
    outcome = run_jobs(work, processes, lambda _job, _value: None)
    if outcome.interrupted_by is not None:
        raise KeyboardInterrupt
    if len(outcome.finished) < len(jobs):
        raise RuntimeError(f"A run of the benchmark did not finish: {outcome.failed}.")
