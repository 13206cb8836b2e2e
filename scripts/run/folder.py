"""The run folder: configuration, rows, checkpoint and lock; a run that is killed goes on exactly."""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

import torch

from plasticity.scripts.config.benchmarks import completed
from plasticity.scripts.config.nested import flattened
from plasticity.scripts.config.run_config import LENGTHS, differences
from plasticity.scripts.run import atomic_files as durable
from plasticity.scripts.run import events
from plasticity.scripts.run.atomic_files import RunError, explained
from plasticity.scripts.run.random_state import random_state, set_random_state

__all__ = [
    "Experiment",
    "RunError",
    "RunFolder",
    "Stateful",
    "execute",
    "git_commit",
    "is_finished",
    "progress_made",
    "require_free",
    "require_same_config",
    "saved_config",
    "timing_of",
    "versions",
]

VERSIONED_PACKAGES = (
    "plasticity",
    "torch",
    "numpy",
    "gymnasium",
    "pybullet",
    "mujoco",
    "mujoco-warp",
    "scikit-learn",
)
"""Packages whose versions `config.json` records."""

# What torch.load and taking its result apart raise, when a file is cut short or holds something else.
_UNREADABLE = (
    OSError,
    EOFError,
    RuntimeError,
    pickle.UnpicklingError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
)


class Stateful(Protocol):
    """What a checkpoint needs of that which it holds."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers, strings and lists and dicts of them."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from there."""


class Experiment(Stateful, Protocol):
    """What a run folder needs of that which it runs."""

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""

    @property
    def diverged(self) -> bool:
        """Whether it ended because something became NaN or infinite."""

    @property
    def progress(self) -> float:
        """How far it is, in the units of its rows."""

    def next_row(self, should_stop: Callable[[], bool]) -> dict[str, Any] | None:
        """Work until the next row of metrics; None if stopped before it."""

    def take_episodes(self) -> list[dict[str, Any]]:
        """Rows of the episodes that ended since the row before; none where nothing is played."""

    def close(self) -> None:
        """End whatever processes it has."""


class RunFolder:
    """One run on disk, locked while it is open.

    Args:
        path: `<out>/<benchmark>/<method>/seed_<n>`; made if it is not there.
        config: The configuration, as `RunConfig.to_json` gives it.

    Raises:
        RunError: if the folder cannot be written, is in use, or holds another configuration.
    """

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self.path = path
        self._config = dict(config)
        self._metrics = path / "metrics.jsonl"
        self._episodes = path / "episodes.jsonl"
        self._timings = path / "timings.jsonl"
        self._events = path / "tensorboard" / events.FILE_NAME
        self._checkpoint = path / "checkpoint.pt"
        self._lock: IO[bytes] | None = None

    def __enter__(self) -> RunFolder:
        with explained(self.path):
            self._events.parent.mkdir(parents=True, exist_ok=True)
            self._lock = durable.locked(self.path / "lock")
        try:
            with explained(self.path):
                self._settle_config()
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
        if self._lock is not None:
            self._lock.close()

    def _settle_config(self) -> None:
        """Refuse a folder of another configuration; write this one."""
        saved = saved_config(self.path)
        require_same_config(self.path, saved, self._config)
        if saved is not None and _length(saved) >= _length(self._config):
            return
        written = {**self._config, **_made_by()}
        content = json.dumps(written, indent=2).encode() + b"\n"
        durable.write_whole(self.path / "config.json", content)

    # ---- continuing -----------------------------------------------------------------------------

    def resume(self, experiment: Stateful) -> None:
        """Bring the experiment to the latest checkpoint, and the rows back to what it knew.

        Raises:
            RunError: if the checkpoint cannot be read, or rows that it knew are gone.
        """
        saved = _load_checkpoint(self.path)
        lengths: dict[str, int] = {}
        if saved is not None:
            lengths = saved["lengths"]
            try:
                experiment.load_state_dict(saved["experiment"])
                set_random_state(saved["random"])
            except _UNREADABLE as error:
                raise _unreadable(self._checkpoint, error) from error
        _require_rows(self._metrics, lengths.get("metrics"))
        with explained(self.path):
            for name, file in self._appended().items():
                # Whoever clears away the timings, or TensorBoard's copy of the rows, may go on.
                if file.exists():
                    os.truncate(file, min(durable.size(file), lengths.get(name, 0)))

    def save(self, experiment: Stateful) -> None:
        """Write the checkpoint: to a temporary name, flushed, renamed."""
        saved = {
            "experiment": experiment.state_dict(),
            "random": random_state(),
            "lengths": {name: durable.size(file) for name, file in self._appended().items()},
        }
        # In memory first: of a full disk, torch says no more than that a write failed.
        content = io.BytesIO()
        torch.save(saved, content)
        with explained(self.path):
            durable.write_whole(self._checkpoint, content.getbuffer())

    def append(
        self,
        row: Mapping[str, Any],
        timing: Mapping[str, float],
        episodes: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Add a row to `metrics.jsonl`, episodes and wall-clock figures beside it; numbers to TensorBoard."""
        numbers = {name: value for name, value in row.items() if name not in LENGTHS}
        points = [(int(row.get("step", row["task"])), numbers)]
        points += [
            (int(each["step"]), {f"episode/{name}": each[name] for name in each if name != "step"})
            for each in episodes
        ]
        with explained(self.path):
            durable.append(self._metrics, _line(row))
            durable.append(self._timings, _line(timing))
            if episodes:
                durable.append(self._episodes, b"".join(_line(each) for each in episodes))
            first = durable.size(self._events) == 0
            durable.append(self._events, events.encoded(points, first=first))

    def _appended(self) -> dict[str, Path]:
        return {
            "metrics": self._metrics,
            "episodes": self._episodes,
            "timings": self._timings,
            "events": self._events,
        }


def execute(
    folder: RunFolder,
    experiment: Experiment,
    should_stop: Callable[[], bool],
) -> bool:
    """Run an experiment to its end in an open folder, from wherever it was left.

    Args:
        folder: Open.
        experiment: As new.
        should_stop: Asked often; True writes a checkpoint and leaves.

    Returns:
        Whether it is finished.

    Raises:
        RunError: if the folder cannot be read or written; what the last checkpoint holds is safe.
    """
    folder.resume(experiment)
    while not experiment.finished:
        begun, started = experiment.progress, time.perf_counter()
        row = experiment.next_row(should_stop)
        if row is None:
            folder.save(experiment)
            return False
        timing = timing_of(row, time.perf_counter() - started, experiment.progress - begun)
        folder.append(row, timing, experiment.take_episodes())
        folder.save(experiment)
    return True


def timing_of(row: Mapping[str, Any], seconds: float, progress: float) -> dict[str, float]:
    """What `timings.jsonl` says of a row.

    Args:
        row: Of metrics.
        seconds: That it took.
        progress: Tasks, or steps, that were done in them.
    """
    place = {axis: row[axis] for axis in LENGTHS if axis in row}
    speed = f"{list(place)[-1]}s_per_second"  # of tasks, or of steps
    return {**place, "seconds": seconds, speed: progress / seconds}


# ---- what a folder holds ------------------------------------------------------------------------


def saved_config(path: Path) -> dict[str, Any] | None:
    """Read the configuration of a run folder; None if it has none.

    Raises:
        RunError: if the file cannot be read or is no configuration, or if there are rows without it.
    """
    file = path / "config.json"
    remedy = f"remove the folder {path} to start this run anew, or give another --out"
    if not os.path.lexists(file):
        if os.path.lexists(path / "metrics.jsonl") or os.path.lexists(path / "checkpoint.pt"):
            raise RunError(f"{path} holds a run, but not its config.json: {remedy}.")
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{file} cannot be read ({error.strerror}): {remedy}.") from error
    except ValueError as error:
        raise RunError(f"{file} is not JSON ({error}): {remedy}.") from error
    if not isinstance(content, dict):
        raise RunError(f"{file} holds no JSON object: {remedy}.")
    flat = flattened(content)
    for key in LENGTHS.values():
        length = flat.get(key, 0)
        if isinstance(length, bool) or not isinstance(length, int):
            raise RunError(f"{file}: {key} must be a whole number, not {length!r}: {remedy}.")
    return content


def _length(config: Mapping[str, Any]) -> int:
    flat = flattened(config)
    return max(int(flat.get(key, 0)) for key in LENGTHS.values())


def require_same_config(
    path: Path, saved: Mapping[str, Any] | None, wanted: Mapping[str, Any]
) -> None:
    """Refuse to continue a run under another configuration.

    Raises:
        RunError: if any key differs that a continued run may not change; all of them are named.
    """
    if saved is None:
        return
    try:
        changed = differences(completed(saved), wanted)
    except (ValueError, TypeError) as error:
        raise RunError(
            f"{path / 'config.json'}: {error} Restore the file, or give another --out."
        ) from error
    if changed:
        raise RunError(
            f"{path} holds a run of another configuration: {'; '.join(changed)}. Give another --out,"
            " or the same settings as before (--config takes its config.json)."
        )


def require_free(paths: Sequence[Path]) -> None:
    """Make run folders, and see that they can be written and that no other process holds one.

    Raises:
        RunError: if not; other processes are given `LOCK_PATIENCE_SECONDS` in all to let go.
    """
    deadline = time.monotonic() + durable.LOCK_PATIENCE_SECONDS
    for path in paths:
        with explained(path):
            path.mkdir(parents=True, exist_ok=True)
            patience = max(0.0, deadline - time.monotonic())
            durable.locked(path / "lock", patience).close()


def is_finished(path: Path, length: int) -> bool:
    """Whether a run has all its rows, or diverged, and its checkpoint knows of every one of them.

    Args:
        path: Its folder.
        length: Tasks, or steps, that it is to have.

    Raises:
        RunError: if the checkpoint cannot be read, or rows that it knew are gone.
    """
    saved = _load_checkpoint(path)
    metrics = path / "metrics.jsonl"
    known = None if saved is None else saved["lengths"]["metrics"]
    _require_rows(metrics, known)
    if not known or durable.size(metrics) != known:
        return False
    try:
        last = json.loads(metrics.read_bytes().splitlines()[-1])
        return bool(last.get("diverged")) or _reached(path, last) >= length
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise RunError(
            f"The last line of {metrics} is no row ({error}): restore the file, or remove the"
            f" folder {path} to start this run anew."
        ) from error


def progress_made(path: Path) -> int:
    """How many tasks, or steps, a run's rows tell of; 0 if it has not begun."""
    file = path / "metrics.jsonl"
    lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
    whole = [line for line in lines if line.endswith(b"\n")]
    try:
        return _reached(path, json.loads(whole[-1])) if whole else 0
    except (ValueError, LookupError, TypeError):
        return 0  # a broken file: who continues the run is told


def _reached(path: Path, row: Mapping[str, Any]) -> int:
    """How far a run is by its last row. One at a change of friction, between two others, ends no run."""
    if "step" not in row:
        return int(row["task"]) + 1
    every = int(flattened(saved_config(path) or {}).get("tracking.measure_every", 1))
    return int(row["step"]) // every * every


def _load_checkpoint(path: Path) -> dict[str, Any] | None:
    file = path / "checkpoint.pt"
    if not os.path.lexists(file):
        return None
    try:
        saved = torch.load(file, map_location="cpu", weights_only=True)
        lengths = {str(name): int(length) for name, length in saved["lengths"].items()}
        return {"experiment": saved["experiment"], "random": saved["random"], "lengths": lengths}
    except _UNREADABLE as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: BaseException) -> RunError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    if isinstance(error, pickle.UnpicklingError):
        reason = "no checkpoint, or a damaged one"  # torch's own words advise to trust the file
    if isinstance(error, KeyError):
        reason = f"it lacks {reason}; another version of this program may have written it"
    return RunError(
        f"{file} cannot be read ({reason}): remove the folder {file.parent} to start this run anew."
    )


def _require_rows(metrics: Path, known: int | None) -> None:
    """Refuse to go on, and to cut rows away, where files have been lost.

    Args:
        metrics: The rows.
        known: Bytes that the checkpoint knew; None without one. A first row may be there before the
            first checkpoint is.
    """
    remedy = f"Restore the file, or remove the folder {metrics.parent} to start this run anew."
    if known is None and metrics.exists() and metrics.read_bytes().count(b"\n") > 1:
        raise RunError(f"{metrics} holds rows, but there is no checkpoint.pt beside it. {remedy}")
    if known is not None and durable.size(metrics) < known:
        raise RunError(
            f"{metrics} has {durable.size(metrics)} bytes, its checkpoint remembers {known}: rows"
            f" were lost. {remedy}"
        )


def _line(row: Mapping[str, Any]) -> bytes:
    # JSON has no NaN and no infinity.
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }
    return json.dumps(finite, allow_nan=False).encode() + b"\n"


# ---- where a result comes from ------------------------------------------------------------------


@cache
def _made_by() -> dict[str, Any]:
    """What a process of runs is made of, asked for once: it stays the code of the process's beginning."""
    return {"versions": versions(), "git_commit": git_commit()}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    found = {"python": sys.version.split()[0]}
    for package in VERSIONED_PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # an optional one
            continue
    return found


def git_commit() -> str | None:
    """Commit of the checkout that this file belongs to, "-dirty" if changed; None outside of one."""
    here = Path(__file__).resolve()
    # An installed copy may lie inside the checkout of something else, which does not track it.
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return None
    return _git(here.parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(folder: Path, *arguments: str) -> str | None:
    # A git hook that starts us names its own repository in the environment.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
            env=environment,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
