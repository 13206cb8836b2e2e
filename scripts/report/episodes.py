"""Reader of `episodes.jsonl`, a row per episode of a run, and the mean return of each task."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any


def read_episodes(file: Path) -> Iterator[Mapping[str, float | None]]:
    """Yield the task and the return of every episode, in the order in which they ended.

    Args:
        file: `episodes.jsonl` of a run. The run may still be going on: an incomplete last line is skipped.

    Yields:
        Rows with `task` and `episode_return`.

    Raises:
        ValueError: if the file cannot be read, or any other line is broken; the message names the line.
    """
    try:
        # Read line by line: the file can hold the episodes of millions of steps.
        with file.open(encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, start=1):
                if line.endswith("\n"):
                    yield _parse(line, f"{file}, line {number}")
    except OSError as error:
        raise ValueError(f"Cannot read {file}: {error.strerror}.") from error


def _parse(line: str, where: str) -> Mapping[str, float | None]:
    try:
        content: Any = json.loads(line)
    except ValueError as error:
        raise ValueError(
            f"{where}, is not JSON ({error}): restore the file, or remove it (the returns of"
            " tasks are then taken from metrics.jsonl)."
        ) from error
    row = content if isinstance(content, dict) else {}
    task, value = row.get("task"), row.get("episode_return")
    if isinstance(task, bool) or not isinstance(task, int):
        raise ValueError(f"{where}: 'task' must be an integer, not {task!r}.")  # noqa: TRY004  (a broken file)
    if isinstance(value, bool) or not isinstance(value, (int, float, type(None))):
        raise ValueError(f"{where}: 'episode_return' must be a number or null, not {value!r}.")  # noqa: TRY004
    return {"task": task, "episode_return": value}


def task_means(rows: Iterable[Mapping[str, float | None]]) -> dict[int, float]:
    """Compute the mean return of the episodes of each task, in the order of the tasks.

    Args:
        rows: Rows of episodes; or of a run's metrics, each being the mean over its number of `episodes`.
            Rows without a finite return are left out.
    """
    totals: dict[int, list[float]] = {}
    for row in rows:
        task, value, count = row["task"], row.get("episode_return"), row.get("episodes", 1)
        if task is not None and value is not None and math.isfinite(value) and count:
            total = totals.setdefault(int(task), [0.0, 0.0])
            total[0] += count * value
            total[1] += count
    return {task: total / count for task, (total, count) in sorted(totals.items())}
