"""Rows of runs with some of their metrics, where all of them are more than can be published."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path

from plasticity.scripts.report.metric_names import resolve
from plasticity.scripts.report.run_folders import Run, find_runs


def keep_metrics(folder: Path, metrics: Sequence[str]) -> int:
    """Remove all other metrics, and the single episodes, from the runs of a folder.

    What a row covers and what its task is, stays, and whether the run diverged.

    Args:
        folder: Folder of runs, at any depth, whose files are written anew.
        metrics: Names of metrics, or families, of which all layers stay: `effective_rank`.

    Returns:
        The number of runs with rows that have none of these metrics.

    Raises:
        ValueError: if no run has one of the metrics, or a file is broken; nothing has been written then.
    """
    runs = find_runs(folder)
    known = list(dict.fromkeys(name for run in runs for name in run.metrics))
    kept = resolve(metrics, known)
    for run in runs:
        _write(run, [name for name in run.metrics if name not in kept])
    return sum(bool(run.rows) and not set(kept) & set(run.metrics) for run in runs)


def _write(run: Run, removed: Collection[str]) -> None:
    file = run.path / "metrics.jsonl"
    if file.exists():
        # errors="replace": the half-written last line, which is left out, may end within a character.
        text = file.read_text(encoding="utf-8", errors="replace")
        lines = text.splitlines()[: len(run.rows)]
        rows = [
            {name: value for name, value in json.loads(line).items() if name not in removed}
            for line in lines
        ]
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    (run.path / "episodes.jsonl").unlink(missing_ok=True)
