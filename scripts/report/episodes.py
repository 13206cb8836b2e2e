"""Reading `episodes.jsonl`, a row per episode of a run, and the mean return of each task."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any


def read_episodes(file: Path) -> Iterator[Mapping[str, float | None]]:
    """The task and the return of every episode, in the order in which they ended.

    Args:
        file: `episodes.jsonl` of a run, which may still go on: a half-written last line is left out.

    Yields:
        Rows with `task` and `episode_return`.

    Raises:
        ValueError: if another line is broken; the message names it.
    """
    try:
        # Episodes of millions of steps: they are not held all at once.
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
            f"{where}, is not JSON ({error}): restore the file, or remove it; the returns of tasks"
            " are then taken from metrics.jsonl."
        ) from error
    row = content if isinstance(content, dict) else {}
    task, value = row.get("task"), row.get("episode_return")
    if isinstance(task, bool) or not isinstance(task, int):
        raise ValueError(f"{where}: 'task' must be a whole number, not {task!r}.")  # noqa: TRY004  (a broken file)
    if isinstance(value, bool) or not isinstance(value, (int, float, type(None))):
        raise ValueError(f"{where}: 'episode_return' must be a number or null, not {value!r}.")  # noqa: TRY004
    return {"task": task, "episode_return": value}


def task_means(rows: Iterable[Mapping[str, float | None]]) -> dict[int, float]:
    """Mean return of the episodes of each task, in the order of the tasks.

    Args:
        rows: Of episodes; or of a run's metrics, where each is the mean of its `episodes`. Those
            without a finite return are left out.
    """
    totals: dict[int, list[float]] = {}
    for row in rows:
        task, value, count = row["task"], row.get("episode_return"), row.get("episodes", 1)
        if task is not None and value is not None and math.isfinite(value) and count:
            total = totals.setdefault(int(task), [0.0, 0.0])
            total[0] += count * value
            total[1] += count
    return {task: total / count for task, (total, count) in sorted(totals.items())}
