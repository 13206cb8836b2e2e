"""Tasks of stream 7 that fail wholly."""

from __future__ import annotations

from formatting import table
from measures import Stream, comparison_of, last_task, values_in_task


def failures_table(stream: Stream, least: float) -> list[str]:
    """Return how many tasks after the first, and runs with such tasks, have a return below the least."""
    arms = comparison_of(stream.file, stream).arms
    found = {}
    for arm in arms:
        failed = [
            seed
            for task in range(1, last_task(arm) + 1)
            for seed, value in values_in_task(arm, stream.metric, task).items()
            if value is not None and value < least
        ]
        found[arm.label] = len(failed), len(set(failed))
    rows = [
        [f"`{label}`", *map(str, found[label])] for label in sorted(found, key=found.__getitem__)
    ]
    num_runs = len(arms[0].started)
    tasks = f"tasks below {least:g}, of {num_runs * last_task(arms[0])}"
    return table(["method", tasks, f"runs with one, of {num_runs}"], rows)
