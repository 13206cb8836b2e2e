"""Run folder, as it is written: configuration, rows, checkpoint and lock; a killed run continues exactly."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from plasticity.metrics.row_file import encoded
from plasticity.random_state import random_state
from plasticity.scripts.config.nested import flattened, setting_at
from plasticity.scripts.config.run_config import MADE_BY, RunConfig
from plasticity.scripts.run import atomic_files, events, locks
from plasticity.scripts.run.atomic_files import explained, reason
from plasticity.scripts.run.saved_run import (
    Checkpoint,
    is_finished,
    load_checkpoint,
    require_same_config,
    saved_config,
    saved_length,
)
from plasticity.scripts.run.versions import made_by
from plasticity.scripts.trackers.base import TrackedRun
from plasticity.scripts.trackers.mirror import Mirror

FAILURE = "failure.txt"
"""Name of the file with the error that ended a run, until it continues."""


class RunFolder:
    """Run on disk, locked while it is open.

    Args:
        path: `<out>/<benchmark>/<method>/seed_<n>`; created if it does not exist.
        config: Configuration of the run.

    Raises:
        RunError: if the folder cannot be written, is in use, or holds another configuration.
    """

    def __init__(self, path: Path, config: RunConfig) -> None:
        self.path = path
        self.config = config
        self._metrics = path / "metrics.jsonl"
        self._episodes = path / "episodes.jsonl"
        self._timings = path / "timings.jsonl"
        self._failure = path / FAILURE
        self._events = path / "tensorboard" / events.FILE_NAME
        self._lock: locks.Lock | None = None
        self._mirrors: list[Mirror] = []

    def __enter__(self) -> RunFolder:
        with explained(self.path):
            self._events.parent.mkdir(parents=True, exist_ok=True)
            self._lock = locks.locked(self.path / "lock")
        try:
            with explained(self.path):
                self._settle_config()
                self._failure.unlink(missing_ok=True)
            self._mirrors = [
                Mirror(name, self._tracked_run(), self.config.axes[-1])
                for name in self.config.track
            ]
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._lock is None:
            return
        try:
            if isinstance(error, Exception):
                with suppress(OSError):  # such as a full disk, which may be what the error is about
                    atomic_files.write_whole(self._failure, f"{reason(error)}\n".encode())
            for mirror in self._mirrors:
                mirror.close(finished=is_finished(self.path, self.config))
        finally:
            self._lock.close()

    def _tracked_run(self) -> TrackedRun:
        return TrackedRun(
            folder=self.path,
            benchmark=self.config.benchmark,
            method=self.config.method_name,
            seed=self.config.seed,
            settings=flattened(self.config.to_json()),
        )

    def _settle_config(self) -> None:
        """Write the configuration, or raise a RunError if the folder holds another one.

        Once there is a checkpoint, the code that began the run stays named.
        """
        saved = saved_config(self.path)
        require_same_config(self.path, saved, self.config)
        length = setting_at(self.config, self.config.length_path)
        is_begun = (self.path / "checkpoint.pt").exists()
        if saved is not None and is_begun and saved_length(self.path, saved, self.config) >= length:
            return
        begun = {key: saved[key] for key in MADE_BY if key in saved} if saved and is_begun else {}
        written = {**self.config.to_json(), **made_by(), **begun}
        content = json.dumps(written, indent=2).encode() + b"\n"
        atomic_files.write_whole(self.path / "config.json", content)

    def resume(self) -> Checkpoint | None:
        """Return the latest checkpoint, None if there is none, and truncate the rows to match it.

        Raises:
            RunError: if the checkpoint cannot be read, or rows that it recorded are missing.
        """
        checkpoint = load_checkpoint(self.path)
        lengths = {} if checkpoint is None else checkpoint.lengths
        with explained(self.path):
            for name, file in self._appended().items():
                # The timings and TensorBoard's copy of the rows may have been deleted.
                if file.exists():
                    os.truncate(file, min(atomic_files.size(file), lengths.get(name, 0)))
        return checkpoint

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the checkpoint of a run with this state: to a temporary name, flushed, renamed."""
        saved = {
            "experiment": state,
            "random": random_state(),
            "lengths": {name: atomic_files.size(file) for name, file in self._appended().items()},
        }
        # In memory first: torch's error about a full disk says only that a write failed.
        content = io.BytesIO()
        torch.save(saved, content)
        with explained(self.path):
            self._require_held()
            atomic_files.write_whole(self.path / "checkpoint.pt", content.getbuffer())

    def append(
        self,
        row: Mapping[str, Any],
        timing: Mapping[str, float],
        episodes: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Append a row, its timing, its episodes and its TensorBoard events to their files.

        Trackers get the row as well.
        """
        axes = self.config.axes
        numbers = {name: value for name, value in row.items() if name not in axes}
        points = [(int(row[axes[-1]]), numbers)]
        points += [
            (int(each["step"]), {f"episode/{name}": each[name] for name in each if name != "step"})
            for each in episodes
        ]
        with explained(self.path):
            self._require_held()
            atomic_files.append(self._metrics, _line(row))
            atomic_files.append(self._timings, _line(timing))
            if episodes:
                atomic_files.append(self._episodes, b"".join(_line(each) for each in episodes))
            first = atomic_files.size(self._events) == 0
            atomic_files.append(self._events, events.encoded(points, first=first))
        for mirror in self._mirrors:
            mirror.update()

    def _require_held(self) -> None:
        if self._lock is not None:
            self._lock.require_held()

    def _appended(self) -> dict[str, Path]:
        return {
            "metrics": self._metrics,
            "episodes": self._episodes,
            "timings": self._timings,
            "events": self._events,
        }


def _line(row: Mapping[str, Any]) -> bytes:
    return encoded(row) + b"\n"


def require_free(paths: Sequence[Path]) -> None:
    """Create run folders, and raise an error unless they can be written and no other process uses one.

    Raises:
        RunError: if one cannot be used after `LOCK_PATIENCE_SECONDS`, which is the wait for all in sum.
    """
    deadline = time.monotonic() + locks.LOCK_PATIENCE_SECONDS
    for path in paths:
        with explained(path):
            path.mkdir(parents=True, exist_ok=True)
            patience = max(0.0, deadline - time.monotonic())
            locks.locked(path / "lock", patience).close()
