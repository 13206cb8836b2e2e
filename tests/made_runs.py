"""Runs that are written by hand, for tests of the report's page."""

import json

from plasticity.scripts.report.sources import open_sources, runs_by_benchmark


def by_benchmark(root):
    """Read the runs of one folder."""
    with open_sources([root]) as sources:
        return runs_by_benchmark(sources)


def write_run(root, benchmark, method, seed, rows, *, tasks=None, settings=None):
    """Write the folder of one run of a benchmark of tasks, with these rows; other arguments as below."""
    folder = root / benchmark / method / f"seed_{seed}"
    folder.mkdir(parents=True)
    config = {
        "benchmark": benchmark,
        "method": {} if method == "none" else {method: settings or {}},
        "seed": seed,
        "stream": {"num_tasks": len(rows) if tasks is None else tasks},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_runs(
    root, benchmark, values, *, metric="test_accuracy", tasks=None, diverged=(), settings=None
):
    """Write run folders of a benchmark of tasks.

    Args:
        values: By method: a list per seed of values by metric's task; None where the run diverged.
        metric: Name of the metric in the rows.
        tasks: Planned number of tasks. None: those that there are.
        settings: Settings of the methods but "none".
        diverged: Pairs of method and seed whose last row is that of a diverged run.
    """
    for method, of_seeds in values.items():
        for seed, row_values in enumerate(of_seeds):
            last = len(row_values) - 1
            rows = [
                {
                    "task": task,
                    metric: value,
                    "effective_rank/fc1": 10.0 + task + seed,
                    "effective_rank/fc2": 20.0 - task,
                    "diverged": (method, seed) in diverged and task == last,
                }
                for task, value in enumerate(row_values)
            ]
            write_run(root, benchmark, method, seed, rows, tasks=tasks, settings=settings)
